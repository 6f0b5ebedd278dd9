"""The studies of one-pass pools: their answers on made-up numbers, both ways, and their task."""

import dataclasses
import importlib
import itertools
import json
import math

import jax
import numpy as np
import pytest

import wdlab
from examples.studies import lr_sensitivity, rotational_equilibrium, study, table
from examples.studies import one_pass_pool as task

NOISE = 1e-3 * np.array([-2.0, 2.0, -1.0, 1.0, 0.0])


def bowl(r, place):
    return 1 + 0.02 * (math.log2(r["timescale"]) - place) ** 2


def cautious(r, agrees):
    e = abs(math.log2((1 + r["exponent"]) / 4))
    gain = (0.05 if agrees else -0.05) * (r["decay"] == "cautious")
    return {"loss": 1 + 0.1 * abs(math.log10(r["lr"] / 3e-3)) + 0.1 * e - gain}


def lambda_schedule(r, agrees):
    return cautious(r | {"decay": "cautious" if r["decay"] == "falling" else "plain"}, agrees)


def sensitivity(r, agrees):
    slope = 0.1 if (r["decay"] == "independent") == agrees else 0.3
    return {"loss": 1 + slope * abs(math.log10(r["lr"] / lr_sensitivity.MIDDLE)), "start": 2.3}


def timescale(r, agrees):
    moved = 0 if agrees else math.log2(r["batch"] / 32) - math.log2(r["examples"] / 4096)
    return {"loss": bowl(r, 0.6 + moved)}


def power_lines(r, agrees):
    octaves, batches = math.log2(r["samples"] / 2**15), math.log2(r["batch"] / 32)
    return {"loss": bowl(r, -2 - 0.5 * octaves if agrees else -2 + 0.5 * octaves + batches)}


def transfer(r, agrees):
    gain, scaled = (0.25 - r["power"] / 2, 0.75) if agrees else (-r["power"] / 2, 0.5)
    d = r["width"]
    return {"gain": d**gain, "scaled": d**scaled, "largest": d**0.5, "loss": 1.0}


def rotation(r, agrees):
    ratio = 1.0 if agrees else 1.2
    names = ("norm", "rotation", "norm_ratio", "rotation_ratio")
    return dict.fromkeys(names, ratio) | {"predicted_norm": 1.0, "predicted_rotation": 1.0}


STUDIES = {
    "cautious": cautious,
    "lambda_schedule": lambda_schedule,
    "lr_sensitivity": sensitivity,
    "timescale": timescale,
    "power_lines": power_lines,
    "transfer_by_decay": transfer,
    "rotational_equilibrium": rotation,
}


def module(name):
    return importlib.import_module(f"examples.studies.{name}")


@pytest.fixture
def axes_of(monkeypatch):
    """The axes that a study asks ``side_by_side`` for; nothing is drawn or trained."""
    asked = {}
    monkeypatch.setattr(task, "pools", lambda *args: None)
    monkeypatch.setattr(rotational_equilibrium, "noise", lambda steps: None)
    monkeypatch.setattr(task, "side_by_side", lambda run, axes, drawn: asked.update(last=axes))

    def axes(name, point):
        module(name).STUDY.measure(point, "tiny")
        return asked["last"]

    return axes


@pytest.mark.parametrize("agrees", [True, False])
@pytest.mark.parametrize("name", STUDIES)
def test_the_answer_follows_from_the_numbers(name, agrees, axes_of, tmp_path):
    def measure(point, size):
        axes = axes_of(name, point)
        rows = []
        for values in itertools.product(*axes.values()):
            row = dict(zip(axes, values, strict=True))
            found = STUDIES[name](point | row, agrees)
            rows += [
                row | {"seed": s} | {k: v * (1 + NOISE[s]) for k, v in found.items()}
                for s in range(5)
            ]
        return rows

    made = dataclasses.replace(module(name).STUDY, measure=measure)
    summary = study.run(made, "tiny", tmp_path)
    assert summary.agrees == ("yes" if agrees else "no")
    result = json.loads((tmp_path / f"{name}-tiny.json").read_text())
    assert "nan" not in table.section(result)
    assert result["exponent"] >= 1
    assert 5_000 < (tmp_path / f"{name}-tiny.png").stat().st_size < 60 * 1024


@pytest.mark.parametrize("name", STUDIES)
def test_the_last_point_traces(name, monkeypatch):
    def pools(seeds, count, width=task.HIDDEN):
        small = task.pool(0, 32, width)
        return small._replace(
            x_NxD=jax.ShapeDtypeStruct((count, 32), np.float32),
            y_N=jax.ShapeDtypeStruct((count,), np.int32),
        )

    def traced(run, axes, drawn):
        values = {axis: jax.ShapeDtypeStruct((), np.float32) for axis in axes}
        return jax.eval_shape(run, values, drawn)

    monkeypatch.setattr(task, "pools", pools)
    monkeypatch.setattr(task, "side_by_side", traced)
    found = module(name).STUDY.measure(module(name).STUDY.points("tiny")[-1], "tiny")
    assert {scalar.shape for scalar in found.values()} == {()}


def test_seeds_have_tasks_of_their_own_and_the_labels_are_the_teachers():
    one, again, other = (task.pool(seed, 64) for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, again)
    assert not np.array_equal(one.x_NxD, other.x_NxD)
    counts = np.bincount(one.y_held, minlength=10)
    assert counts.min() > 0
    shapes = jax.eval_shape(lambda: task.task.mlp(jax.random.key(0), (32, 48, 48, 10), norm=True))
    jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), one.params, shapes)


def test_runs_side_by_side_are_those_one_at_a_time_and_learn():
    def run(values, seed):
        tx = wdlab.optimizers.adamw(values["lr"])
        return {"loss": task.one_pass_loss(tx, seed)}

    drawn = task.pools(2, 32 * 60)
    rows = task.side_by_side(run, {"lr": (0.0, 1e-2)}, drawn)
    assert [(r["seed"], r["lr"]) for r in rows] == [(0, 0.0), (0, 0.01), (1, 0.0), (1, 0.01)]
    alone = jax.jit(run)({"lr": 1e-2}, jax.tree.map(lambda a: a[1], drawn))["loss"]
    assert rows[3]["loss"] == pytest.approx(float(alone), rel=1e-4)
    assert rows[3]["loss"] < rows[2]["loss"] - 0.2


def test_lions_steps_are_as_alike_as_measured():
    rng, b1, b2 = np.random.default_rng(0), 0.9, 0.99
    m, total, steps = np.zeros(4_000), np.zeros(4_000), 600
    for _ in range(500):  # The average fills.
        m = b2 * m + (1 - b2) * rng.standard_normal(4_000)
    for _ in range(steps):
        g = rng.standard_normal(4_000)
        total += np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g
    c = rotational_equilibrium.likeness("Lion")
    assert np.mean(total**2) / steps == pytest.approx(c, rel=0.25)
