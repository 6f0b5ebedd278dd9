"""The folder of a sweep: what is there is kept, the missing is run, the foreign is refused."""

import os
import random
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.forks import Python
from wdlab.sweep import read_csv, sweep

ONE = jax.devices()[:1]
GRID = {"learning_rate": [0.1, 0.5, 30.0e3], "coupling": ["lr", "l2, too"], "x": [0.0, 0.25]}


def train(h, key):
    shrink = 1 - h["learning_rate"] * h["coupling"]["lr"] - h["x"] * h["coupling"]["l2, too"]
    start = jax.random.normal(key)
    loss = (start * shrink ** jnp.arange(1.0, 40.0)) ** 2
    return {"loss": loss, "small": loss.astype(jnp.bfloat16), "good": loss[-1] < 1e-3}


def run(folder, **changed):
    return sweep(train, GRID, **{"seeds": 3, "out": folder, "chunk": 5, "devices": ONE} | changed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A finished sweep: its table and its file's lines."""
    folder = tmp_path_factory.mktemp("whole")
    return run(folder), (folder / "results.csv").read_bytes(), (folder / "sweep.json").read_bytes()


@pytest.fixture
def folder(whole, tmp_path):
    """A copy of the finished sweep."""
    for name, content in zip(("results.csv", "sweep.json"), whole[1:], strict=True):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def check_same(folder, whole):
    again = run(folder)
    assert (folder / "results.csv").read_bytes() == whole[1]
    for name, column in whole[0].columns.items():
        np.testing.assert_array_equal(column, again[name])
        assert column.dtype == again[name].dtype


def test_resumes_after_any_byte(folder, whole):
    for keep in random.Random(0).sample(range(len(whole[1])), 6):
        (folder / "results.csv").write_bytes(whole[1][:keep])
        check_same(folder, whole)
    read = read_csv(folder / "results.csv")
    assert read.axes == whole[0].axes
    np.testing.assert_allclose(read["loss"], whole[0]["loss"].astype(float), rtol=1e-6)
    assert read["coupling"].tolist() == whole[0]["coupling"].tolist()


@settings(max_examples=15)
@given(data=st.data())
def test_rows_lost_doubled_and_in_any_order_give_the_same_table(data, whole, tmp_path_factory):
    folder = tmp_path_factory.mktemp("changed")
    header, *rows = whole[1].splitlines(keepends=True)
    changed = data.draw(st.lists(st.sampled_from(rows), max_size=2 * len(rows)))
    (folder / "sweep.json").write_bytes(whole[2])
    (folder / "results.csv").write_bytes(b"".join([header, *changed]))
    check_same(folder, whole)


def test_only_what_is_missing_is_run(folder, monkeypatch):
    from wdlab.sweep import runner

    ran = []
    original = runner._rows

    def rows(*arguments):
        for new in original(*arguments):
            ran.extend(new)
            yield new

    monkeypatch.setattr(runner, "_rows", rows)
    lines = (folder / "results.csv").read_bytes().splitlines(keepends=True)
    (folder / "results.csv").write_bytes(b"".join(lines[:8] + lines[9:20] + lines[21:]))
    run(folder)
    assert ran == [7, 19]


DAMAGE = {
    "a foreign point": (4, b"0.3,lr,0.0,2,True,1,1,ok\n", "this point is not in the grid"),
    "a foreign seed": (4, b"0.1,lr,0.0,7,True,1,1,ok\n", "this point is not in the grid"),
    "another result": (4, b"0.1,lr,0.0,0,False,7,7,ok\n", "another result of a point"),
    "no number": (5, b"0.1,lr,0.25,0,True,half,1,ok\n", "could not convert"),
    "no number in 16 bits": (5, b"0.1,lr,0.25,0,True,1,half,ok\n", "half"),
    "no truth": (5, b"0.1,lr,0.25,0,perhaps,1,1,ok\n", "perhaps"),
    "no status": (5, b"0.1,lr,0.25,0,True,1,1,fine\n", "status must be ok or diverged"),
    "no seed": (5, b"0.1,lr,0.25,none,True,1,1,ok\n", "invalid literal"),
    "a column less": (6, b"0.1,lr,0.25,0,True,1,1\n", "7 columns, expected 8"),
    "a column more": (6, b"0.1,lr,0.25,0,True,1,1,ok,\n", "9 columns, expected 8"),
    "half a row inside": (6, b"0.1,lr\n", "2 columns, expected 8"),
    "binary": (7, bytes(range(128, 256)) + b"\n", "not text (byte 0x80)"),
    "a quote that never ends": (8, b'0.1,"lr,0.25,0,True,1,1,ok\n', "expected after"),
    "the header": (1, b"learning_rate,loss\n", "columns"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_told_with_file_and_line_and_nothing_is_lost(case, folder):
    line, row, message = DAMAGE[case]
    path = folder / "results.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = row
    path.write_bytes(b"".join(lines))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"results\.csv:") as error:
        run(folder)
    assert message in str(error.value)
    assert f"results.csv:{line}: " in str(error.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000])
def test_a_description_that_cannot_be_read_is_refused(content, folder):
    (folder / "sweep.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"sweep\.json cannot be read .* delete both"):
        run(folder)


def test_results_without_a_description_are_refused(folder):
    (folder / "sweep.json").unlink()
    with pytest.raises(ValueError, match="may belong to any sweep"):
        run(folder)


def test_a_folder_with_another_sweep_is_refused(folder):
    with pytest.raises(ValueError, match="differs in seeds"):
        run(folder, seeds=2)
    other = lambda h, key: {k: v * 2 for k, v in train(h, key).items()}  # noqa: E731
    with pytest.raises(ValueError, match="differs in metrics, program"):
        sweep(other, GRID, seeds=3, out=folder, chunk=5, devices=ONE)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to the folder"):
        run(tmp_path / "file")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a full device")
def test_a_full_disk_is_told_and_the_sweep_goes_on_later(whole, tmp_path, monkeypatch):
    from wdlab.sweep import results

    full = open("/dev/full", "ab", buffering=0)  # noqa: SIM115  Closed by the sweep.
    monkeypatch.setattr(results, "open", lambda *_, **__: full, raising=False)
    with pytest.raises(OSError, match=r"cannot write .*results\.csv: No space left"):
        run(tmp_path)
    monkeypatch.undo()
    check_same(tmp_path, whole)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no results"),
        ("x,loss,status\n1,2,ok\n", "no results"),
        ("x,seed,loss,status\n", "no results"),
        ("x,seed,loss,status\n1,0,2,ok\n1,0\n", r":3: 2 columns, expected 4"),
    ],
)
def test_a_file_that_is_no_table_is_refused(content, message, tmp_path):
    (tmp_path / "results.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "results.csv")


def long_train(h, key):
    x = jax.random.normal(key, (64,))
    step = lambda i, x: x - h["learning_rate"] * jnp.sin(x)  # noqa: E731
    x = jax.lax.fori_loop(0, 3_000, step, x)
    return {"loss": (x * x).mean()}


def run_long(folder):
    grid = {"learning_rate": [i / 100 for i in range(1, 101)]}
    return sweep(long_train, grid, seeds=4, out=folder, chunk=1, devices=jax.devices()[:1])


def test_killed_at_a_random_moment_gives_the_same_table(tmp_path):
    results = tmp_path / "killed" / "results.csv"
    program = f"from {__name__} import run_long; run_long({str(results.parent)!r})"
    killed = Python("-c", program, folder=tmp_path)
    while not (results.exists() and results.stat().st_size > 100):
        assert killed.poll() is None, killed.stderr
        time.sleep(0.01)
    time.sleep(random.SystemRandom().uniform(0, 0.1))
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert len(results.read_bytes().splitlines()) < 401
    run_long(results.parent)
    run_long(tmp_path / "whole")
    assert results.read_bytes() == (tmp_path / "whole" / "results.csv").read_bytes()
