"""The form of the studies: rows, resuming, pictures, summaries."""

import dataclasses
import json
import pathlib

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure

from examples.studies import all as all_studies
from examples.studies import paired, study, table
from examples.studies.dose import Dose
from examples.studies.rows import Table


def squares(measured):
    """A study of x -> x^2 that notes what it measures, and can be told to die at a point."""

    def measure(point, size):
        measured.append(point["x"])
        if point["x"] == measured.dies_at:
            raise KeyboardInterrupt
        return [{"seed": s, "y": point["x"] ** 2 + s, "note": "a,b"} for s in range(2)]

    def summarize(rows):
        values = [row["y"] for row in rows]
        return study.Summary(
            question="Squares?", source="they grow", number=f"{np.mean(values):.2f}", agrees="yes",
            measured="y", numbers={"all": np.array(values), "first": values[0]}, seeds=2,
        )  # fmt: skip

    def points(size):
        return [{"x": x, "kind": "k"} for x in (1, 2, 3)]

    def dose(point, size):
        return Dose(0.1 * point["x"], 2.0)

    return study.Study("squares", points, measure, lambda rows: Figure(), summarize, dose)


class Measured(list):
    dies_at = None


def test_a_study_leaves_a_table_a_picture_and_a_summary(tmp_path, capsys):
    assert study.main(squares(Measured()), [f"--out_dir={tmp_path}"]) == 0
    files = {"results.csv", "squares-tiny.png", "squares-tiny.json"}
    assert {p.name for p in tmp_path.iterdir()} == files
    result = json.loads((tmp_path / "squares-tiny.json").read_text())
    assert result["number"] == "5.17"  # (1 + 2 + 4 + 5 + 9 + 10) / 6
    assert result["numbers"] == {"all": [1.0, 2.0, 4.0, 5.0, 9.0, 10.0], "first": 1}
    assert (result["size"], result["name"], result["seeds"]) == ("tiny", "squares", 2)
    assert (result["exponent"], result["lr_steps"]) == (pytest.approx(0.3), 2)
    assert result["doses"][1] == {"exponent": 0.2, "lr_steps": 2.0, "x": 2, "kind": "k"}
    assert result["versions"]["jax"] == jax.__version__
    assert "Squares?" in capsys.readouterr().out


def test_a_killed_study_goes_on_where_it_stopped(tmp_path):
    whole, first, second = Measured(), Measured(), Measured()
    study.run(squares(whole), "tiny", tmp_path / "whole")
    first.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        study.run(squares(first), "tiny", tmp_path / "killed")
    study.run(squares(second), "tiny", tmp_path / "killed")
    assert (whole, first, second) == ([1, 2, 3], [1, 2], [2, 3])
    tables = [Table(tmp_path / name / "results.csv") for name in ("whole", "killed")]
    for x in (1, 2, 3):
        a, b = (t.rows_of({"x": x, "kind": "k"}) for t in tables)
        assert [row | {"seconds": 0} for row in a] == [row | {"seconds": 0} for row in b]
        assert [row["y"] for row in a] == [x**2, x**2 + 1]


def test_columns_that_only_some_points_have_are_absent_in_the_others(tmp_path):
    results = Table(tmp_path / "results.csv")
    results.add({"x": 1}, [{"a": 1.5}], 1.0)
    results.add({"x": 2}, [{"b": float("nan")}], 1.0)
    again = Table(tmp_path / "results.csv")
    assert again.rows_of({"x": 1})[0]["a"] == 1.5
    assert "a" not in again.rows_of({"x": 2})[0]
    assert again.seconds == 2.0
    assert not again.has({"x": 3})


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--size=huge"], "size"),
        (["--sise=tiny"], "did you mean --size?"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(argv, message, capsys):
    assert study.main(squares(Measured()), argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_another_table_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "results.csv").write_text("a,b\n1,2\n")
    assert study.main(squares(Measured()), [f"--out_dir={tmp_path}"]) == 1
    assert "is not the table of a study" in capsys.readouterr().err
    assert (tmp_path / "results.csv").read_text() == "a,b\n1,2\n"


def answer(agrees, exponent, lr_steps=1.0):
    cells = {"question": "?", "source": "", "number": "", "measured": ""}
    summary = study.Summary(**cells, agrees=agrees, numbers={}, seeds=2)
    return study.decided(summary, [Dose(0.0, lr_steps), Dose(exponent, lr_steps)], "--size paper")


def test_a_no_without_enough_decay_is_not_tested():
    assert answer("no", 0.99).agrees == "not tested"
    assert "at most 0.99. What would tell: --size paper" in answer("no", 0.99).remark
    assert answer("no", 1.0).agrees == "no"
    assert (answer("yes", 0.1).agrees, answer("in part", 0.1).agrees) == ("yes", "in part")
    assert answer("no", None).agrees == "no"  # L2 in Adam's gradient: no exponent to judge by.


def test_a_difference_is_judged_by_the_spread_of_the_pairs():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=5)  # What a seed does to both runs, ten times the effect.
    one, other = shared + 0.01 * rng.normal(size=5), shared + 0.1
    assert paired.is_lower(one, other) is True
    assert paired.is_lower(other, one) is False
    assert paired.is_lower(shared, rng.permutation(shared)) is None
    # A spread of 0.08 excludes the source's fall of 1, and cannot see one of 0.05.
    noise = np.array([-0.1, 0.1, -0.05, 0.05, 0.0])
    assert paired.is_lower(other + noise, other, by=1.0) is False
    assert paired.is_lower(other + noise, other, by=0.05) is None
    assert paired.is_lower(one, [np.inf] * 5) is None


def test_the_interval_covers_at_its_rate():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        gap = paired.difference(rng.normal(1.0, 2.0, 5), np.zeros(5))
        covered += gap.low <= 1.0 <= gap.high
    assert 0.93 <= covered / 300 <= 1.0


def test_all_fails_loudly_where_an_answer_changes(repository, monkeypatch, capsys):
    monkeypatch.setattr(all_studies, "studies", lambda: [squares(Measured())])
    monkeypatch.setattr(all_studies, "RESULTS", repository)
    where = [f"--out_dir={repository / 'out'}"]
    assert all_studies.main(where) == 0
    (repository / "squares-tiny.json").write_text('{"agrees": "no"}')
    assert all_studies.main(where) == 1
    assert "squares answers 'yes', stored is 'no'" in capsys.readouterr().err
    result = {"agrees": "no", "repeats": [{"agrees": "in part"}, {"agrees": "no"}]}
    (repository / "squares-tiny.json").write_text(json.dumps(result))
    assert all_studies.main(where) == 1
    assert "squares answers 'yes', stored is 'no' and 'in part'" in capsys.readouterr().err
    result["repeats"].append({"agrees": "yes"})  # On another processor, say.
    (repository / "squares-tiny.json").write_text(json.dumps(result))
    assert all_studies.main(where) == 0


def test_all_runs_each_study_that_has_the_size(repository, monkeypatch):
    small = dataclasses.replace(squares(Measured()), name="small_squares", sizes=("small",))
    monkeypatch.setattr(all_studies, "studies", lambda: [squares(Measured()), small])
    for size, name in (("tiny", "squares"), ("small", "small_squares")):
        out = repository / size
        assert all_studies.main([f"--out_dir={out}", f"--size={size}"]) == 0
        assert [folder.name for folder in out.iterdir()] == [f"{name}-{size}"]


def test_a_study_runs_at_its_own_first_size(tmp_path, capsys):
    small = dataclasses.replace(squares(Measured()), sizes=("small", "paper"))
    assert study.main(small, [f"--out_dir={tmp_path}"]) == 0
    assert (tmp_path / "squares-small.json").exists()
    assert study.main(small, ["--size=tiny"]) == 1
    assert "squares has no size tiny: small or paper" in capsys.readouterr().err


def test_all_finds_every_module_that_has_a_study():
    folder = pathlib.Path(all_studies.__file__).parent
    written = {p.stem for p in folder.glob("*.py") if "\nSTUDY = " in p.read_text()}
    found = [known.name for known in all_studies.studies()]
    assert sorted(written) == found
    assert {"sphere", "one_pass_gpt"} < set(found)


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A results folder and a page of their own."""
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(table, "PAGE", tmp_path / "README.md")
    return tmp_path


def test_a_result_is_taken_over_with_its_picture(repository):
    study.run(squares(Measured()), "tiny", repository / "out" / "squares-tiny")
    assert table.main([f"--add={repository / 'out'}"]) == 0
    assert (repository / "results" / "squares-tiny.png").exists()
    lines = (repository / "README.md").read_text().splitlines()
    assert "| `squares` | Squares? | they grow | yes | 5.17 | 0.3 | 2 | [tiny](#squares) |" in lines
    assert "| all | 5.17 ± 3.7 |" in lines
    assert "![Squares?](results/squares-tiny.png)" in lines


def test_a_repeat_is_noted_beside_the_stored_result(repository, capsys):
    run = repository / "out"
    study.run(squares(Measured()), "tiny", run)
    assert table.main([f"--repeat={run}"]) == 1
    assert "no result squares-tiny.json is stored to repeat: use --add" in capsys.readouterr().err
    assert table.main([f"--add={run}"]) == 0
    assert "Another run" not in table.PAGE.read_text()
    stored = (table.RESULTS / "squares-tiny.json").read_text()
    assert table.main([f"--repeat={run}"]) == table.main([f"--repeat={run}"]) == 0
    result = json.loads((table.RESULTS / "squares-tiny.json").read_text())
    once, twice = result.pop("repeats")
    assert once == twice == {name: result[name] for name in once}
    assert result == json.loads(stored)
    assert table.PAGE.read_text().count(f"Another run on {once['date']} (commit ") == 2


def test_a_folder_without_a_result_is_one_line_on_stderr(repository, capsys):
    assert table.main([f"--add={repository}"]) == 1
    assert "run a study first" in capsys.readouterr().err


def test_a_long_cell_is_refused():
    cells = {"question": "?" * 81, "source": "", "number": "", "measured": ""}
    with pytest.raises(ValueError, match="at most 80 characters"):
        study.Summary(**cells, agrees="yes", numbers={}, seeds=1)


RESULTS = [json.loads(path.read_text()) for path in sorted(table.RESULTS.glob("*.json"))]


def test_the_page_is_that_of_the_stored_results():
    """Otherwise: python -m examples.studies.table."""
    assert table.PAGE.read_text() == table.page(RESULTS)


def test_no_cell_of_the_page_is_long():
    lines = [line for line in table.PAGE.read_text().splitlines() if line.startswith("|")]
    assert [cell for line in lines for cell in line.split(" | ") if len(cell) > 84] == []


def test_each_stored_result_has_a_small_picture_or_says_why_not():
    for result in RESULTS:
        picture = table.RESULTS / f"{result['name']}-{result['size']}.png"
        assert picture.exists() != ("no_picture" in result), picture
        assert not picture.exists() or picture.stat().st_size <= 60 * 1024, picture
