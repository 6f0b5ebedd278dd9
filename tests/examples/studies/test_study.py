"""The form of the studies: rows, resuming, pictures, summaries."""

import json

import pytest
from matplotlib.figure import Figure

from examples.studies import study, table


def squares(measured):
    """A study of x -> x^2 that notes what it measures, and can be told to die at a point."""

    def measure(point, size):
        measured.append(point["x"])
        if point["x"] == measured.dies_at:
            raise KeyboardInterrupt
        return [{"seed": s, "y": point["x"] ** 2 + s, "note": "a,b"} for s in range(2)]

    def summarize(rows):
        mean = sum(row["y"] for row in rows) / len(rows)
        return study.Summary("Squares?", "they grow", f"{mean:.2f}", "yes")

    def points(size):
        return [{"x": x, "kind": "k"} for x in (1, 2, 3)]

    return study.Study("squares", points, measure, lambda rows: Figure(), summarize)


class Measured(list):
    dies_at = None


def test_a_study_leaves_a_table_a_picture_and_a_summary(tmp_path, capsys):
    assert study.main(squares(Measured()), [f"--out_dir={tmp_path}"]) == 0
    assert {p.name for p in tmp_path.iterdir()} == {"results.csv", "squares.png", "summary.json"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["measured"] == "5.17"  # (1 + 2 + 4 + 5 + 9 + 10) / 6
    assert summary["size"] == "tiny"
    assert summary["name"] == "squares"
    assert "Squares?" in capsys.readouterr().out


def test_a_killed_study_goes_on_where_it_stopped(tmp_path):
    whole, first, second = Measured(), Measured(), Measured()
    study.run(squares(whole), "tiny", tmp_path / "whole")
    first.dies_at = 2
    with pytest.raises(KeyboardInterrupt):
        study.run(squares(first), "tiny", tmp_path / "killed")
    study.run(squares(second), "tiny", tmp_path / "killed")
    assert (whole, first, second) == ([1, 2, 3], [1, 2], [2, 3])
    tables = [study.Table(tmp_path / name / "results.csv") for name in ("whole", "killed")]
    for x in (1, 2, 3):
        a, b = (t.rows_of({"x": x, "kind": "k"}) for t in tables)
        assert [row | {"seconds": 0} for row in a] == [row | {"seconds": 0} for row in b]
        assert [row["y"] for row in a] == [x**2, x**2 + 1]


def test_columns_that_only_some_points_have_are_absent_in_the_others(tmp_path):
    results = study.Table(tmp_path / "results.csv")
    results.add({"x": 1}, [{"a": 1.5}], 1.0)
    results.add({"x": 2}, [{"b": float("nan")}], 1.0)
    again = study.Table(tmp_path / "results.csv")
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


def test_the_results_table_has_a_row_per_study(tmp_path, capsys):
    study.run(squares(Measured()), "tiny", tmp_path / "squares-tiny")
    capsys.readouterr()
    assert table.main([f"--out_dir={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[2].startswith("| `squares` (tiny, 0 CPU min, ")
    assert table.main([f"--out_dir={tmp_path / 'nothing'}"]) == 1
    assert "run a study first" in capsys.readouterr().err
