"""``wdlab sweep``: own tasks of any axes, mistakes told in one line before anything is trained."""

import builtins
import importlib.util
import sys

import pytest

from wdlab.cli import main
from wdlab.sweep import read_csv

TASKS = """
import jax.numpy as jnp

def both(h, key):
    loss = (h["learning_rate"] - h["coupling"]["lr"]) ** 2 + h["weight_decay"]
    return {"val_loss": loss, "val_error": loss / 2}

def rate(h, key):
    return {"val_loss": (h["learning_rate"] - 1) ** 2 + 1}

def width(h, key):
    return {"val_loss": h["eps"] ** 2}

def lost(h, key):
    return {"val_loss": h["learning_rate"] / jnp.zeros([])}

def broken(h, key):
    return {"val_loss": 1 / 0}

def branches(h, key):
    if h["learning_rate"] > 0:
        return {"val_loss": 1.0}

def asserts(h, key):
    assert "x" in h
    return {}

def number(h, key):
    return 1.0
"""
FEW = "--learning-rate 0.1:10:3 --seeds 2"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder of the user's own, with tasks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks.py").write_text(TASKS)
    (tmp_path / "syntax.py").write_text("x = 1\ndef train(:\n")
    (tmp_path / "imports.py").write_text("\nimport not_installed\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    yield tmp_path
    for name in ("tasks", "syntax", "imports", "leaves"):
        sys.modules.pop(name, None)


@pytest.fixture
def run(capsys):
    """Status, output and errors of a line."""

    def run(line):
        try:
            status = main(["sweep", *line.split()])
        except SystemExit as stopped:
            status = stopped.code
        return (status, *capsys.readouterr())

    return run


def test_table_and_pictures_and_the_same_again_from_the_files(run, here):
    line = f"--task tasks:both {FEW} --weight-decay 0.1,0.2 --coupling lr --out_dir here"
    status, out, err = run(line)
    assert (status, err) == (0, "")
    assert "coupling = lr: best mean val_loss 0.1 at learning_rate 1, weight_decay 0.1" in out
    assert len(read_csv("here/results.csv")) == 12
    for name in ("heat_maps.png", "heat_maps.svg", "marginals.png", "marginals.svg"):
        assert (here / "here" / name).stat().st_size > 0
        assert name in out
    assert run(line) == (0, out, "")


@pytest.mark.parametrize(
    ("line", "axes", "pictures"),
    [
        ("--task tasks:rate", ("learning_rate",), {"marginals"}),
        ("--task tasks:width --set eps=1,2", ("eps",), set()),
        ("--task tasks:both --coupling lr", ("coupling", "learning_rate", "weight_decay"),
         {"marginals", "heat_maps"}),
        ("--task tasks:both --coupling lr --learning-rate 1",
         ("coupling", "learning_rate", "weight_decay"), {"marginals"}),
    ],
)  # fmt: skip
def test_a_task_has_the_axes_that_it_reads(run, here, line, axes, pictures):
    status, out, err = run(f"{line} --seeds 1 --out_dir out")
    assert (status, err) == (0, "")
    assert read_csv("out/results.csv").axes == axes
    assert {path.stem for path in here.glob("out/*.png")} == pictures
    assert "best mean val_loss" in out


def test_a_part_of_an_axis_that_the_task_does_not_read_is_told(run):
    status, _, err = run(f"--task tasks:both {FEW}")
    assert status == 2
    assert "never reads coupling.l2, coupling.schedule" in err


def test_where_every_run_diverged_there_is_no_best(run):
    status, out, _ = run("--task tasks:lost --seeds 1")
    assert status == 0
    assert "no best; 9 of 9 runs diverged" in out


MISTAKES = {
    "--learning-rate=-1e-3": "must be a number in [0, inf)",
    "--weight-decay 1e-3:1e-1:0": "the range is empty",
    f"--weight-decay 1e-3:1e-1:{10**12}": "1,000,000 points at most",
    f"--weight-decay 1e-3:1e-1:{10**400}": "1,000,000 points at most",
    "--coupling lr,lr3": "'lr3' is unknown",
    "--coupling lr,lr": "twice",
    "--set x": "NAME=VALUES",
    "--set learning_rate=1": "NAME=VALUES",
    "--set x=1,2": "never reads x",
    "--seeds 0": "seeds must be",
    f"--seeds {10**12}": "than the 1,000,000",
    f"--seeds {10**400}": "write a whole number",
    "--chunk 0": "chunk must be",
    "--metric val_los": "the nearest is val_loss",
    "--metric seed": "There are val_error, val_loss",
    "--out_dir /proc/nothing": "cannot write to the folder",
    "--out here": "unrecognized arguments",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_is_one_line_before_training(flags, run, monkeypatch, here):
    from wdlab.sweep import runner

    monkeypatch.setattr(runner, "compile_program", None)  # Nothing is compiled.
    status, out, err = run(f"--task tasks:both --coupling lr {flags}")
    assert (status, out) == (2, "")
    assert MISTAKES[flags] in err
    assert err.count("\n") == 1
    assert not (here / "out").exists()


FAILURES = {
    "tasks:broken": "tasks.py:18: ZeroDivisionError: division by zero",
    "tasks:branches": "tasks.py:21: train is not jittable",
    "tasks:asserts": "tasks.py:25: AssertionError",
    "tasks:width": "tasks.py:12: train reads 'eps', which the grid does not have",
    "tasks:number": "--task tasks:number: train must return a dict of metrics, got float",
    "tasks:nothing": "no attribute 'nothing'",
    "tasks:TASKS": "no attribute 'TASKS'",
    "tasks:__name__": "must be a function, got 'tasks'",
    "syntax:train": "(syntax.py, line 2)",
    "imports:train": "imports.py:2: ModuleNotFoundError: No module named 'not_installed'",
    "leaves:train": "leaves.py:1: SystemExit: 3",
    "nothing.here:train": "No module named 'nothing'",
    "cats": "write MODULE:FUNCTION",
}


@pytest.mark.parametrize("task", FAILURES)
def test_what_fails_in_a_task_is_told_with_file_and_line(task, run):
    status, out, err = run(f"--task {task} {FEW}")
    assert (status, out) == (2, "")
    assert FAILURES[task] in err
    assert err.count("\n") == 1


def test_a_task_is_needed_where_the_examples_are_not(run, monkeypatch):
    find = importlib.util.find_spec
    missing = lambda name, *a: None if name.startswith("examples") else find(name, *a)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    status, _, err = run("")
    assert status == 2
    assert "--task is missing: write MODULE:FUNCTION" in err
    assert "examples.studies.sweep:digits" in err


@pytest.mark.parametrize(
    ("package", "task"),
    [("sklearn", "examples.studies.sweep:digits"), ("matplotlib", "tasks:rate")],
)
def test_a_missing_package_is_told_before_training(package, task, run, monkeypatch):
    find, load = importlib.util.find_spec, builtins.__import__

    def missing(name, *arguments, **settings):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return load(name, *arguments, **settings)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == package else find(name, *a)
    )
    for name in [n for n in sys.modules if n.startswith(("examples.studies", "sklearn"))]:
        monkeypatch.delitem(sys.modules, name)
    status, out, err = run(f"--task {task} {FEW} --weight-decay 0.1 --coupling lr")
    assert (status, out) == (2, "")
    assert package in err
    assert "pip install 'wdlab[examples]'" in err
    assert err.count("\n") == 1


def test_the_examples_are_tasks(run):
    line = f"--task examples.studies.sweep:digits {FEW} --weight-decay 0,1 --coupling lr"
    status, out, err = run(f"{line} --metric val_error")
    assert (status, err) == (0, "")
    assert "best mean val_error 0.1" in out
