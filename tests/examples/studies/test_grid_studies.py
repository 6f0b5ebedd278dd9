"""The studies of grids: from points to summary, on trainings cut short, and their tasks."""

import dataclasses
import functools
import importlib
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from examples.studies import adafactor_parts, digits, grids, mup_width_transfer, study, table
from wdlab.sweep import Separability

SHORT = {
    "lr_wd_heatmap": {"STEPS": {"tiny": 3}, "SPACING": {"tiny": (8, 18)}, "SEEDS": {"tiny": 1}},
    "normalized_decay": {"EPOCHS": {"tiny": (1, 2, 3)}, "DECAYS": (-4, 0, 4), "SEEDS": {"tiny": 1}},
    "mup_width_transfer": {
        "BASE": 8, "WIDTHS": {"tiny": (8, 16)}, "STEPS": {"tiny": 3}, "SEEDS": {"tiny": 1},
        "RATES": (-12, -4, 8), "COUPLED": (-3, 7, 10), "INDEPENDENT": (-11, -1, 10),
    },
}  # fmt: skip


def bowl(train, grid, seeds):
    """What grids.measure returns, made up: best in the middle of every axis."""
    del train
    rng, rows = np.random.default_rng(0), []
    middles = {name: np.log2(values).mean() for name, values in grid.items()}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        loss = 1 + sum((np.log2(point[name]) - m) ** 2 for name, m in middles.items())
        noise = rng.normal(size=seeds) / 1_000
        rows += [
            point | {"seed": seed, "val_loss": float(loss + noise[seed]), "status": "ok"}
            for seed in range(seeds)
        ]
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_a_study_of_a_grid_from_points_to_summary(name, tmp_path, monkeypatch):
    module = importlib.import_module(f"examples.studies.{name}")
    monkeypatch.setattr(grids, "measure", bowl)
    summary = study.run(module.STUDY, "tiny", tmp_path)
    # The same best decay everywhere: all are as separable, and no rule of scaling holds.
    expected = {"mup_width_transfer": "in part"}
    assert summary.agrees == expected.get(name, "no")
    section = table.section(json.loads((tmp_path / f"{name}-tiny.json").read_text()))
    assert "nan" not in section
    assert "not identified" not in section
    assert (tmp_path / f"{name}-tiny.png").stat().st_size > 5_000


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_the_last_point_of_a_grid_study_trains(name, monkeypatch):
    module = importlib.import_module(f"examples.studies.{name}")
    for constant, value in SHORT[name].items():
        monkeypatch.setattr(module, constant, value)
    one = {"devices": jax.devices()[:1], "chunk": 4}  # One program, on one device.
    monkeypatch.setattr(grids, "sweep", functools.partial(grids.sweep, **one))
    rows = module.STUDY.measure(module.STUDY.points("tiny")[-1], "tiny")
    losses = {row["val_loss"] for row in rows}
    assert len(losses) == len(rows) > 1  # Every hyper-parameter has an effect.
    assert all(0 < loss < 10 for loss in losses)


def losses_of(is_good):
    """What grids.measure returns, made up: good or bad at every learning rate."""
    rng = np.random.default_rng(0)

    def measure(train, grid, seeds):
        del train
        return [
            {"learning_rate": lr, "warmup": warmup, "seed": seed, "status": "ok",
             "val_loss": (2.0 if is_good(warmup) else 3.0) + rng.normal() / 1_000}
            for lr in grid["learning_rate"]
            for warmup in grid["warmup"]
            for seed in range(seeds)
        ]  # fmt: skip

    return measure


def test_adafactors_verdict_follows_from_the_losses(tmp_path, monkeypatch):
    now = {}
    bad = [("factored", 0.0)]
    made = losses_of(lambda warmup: (now["variant"], warmup) not in bad)
    monkeypatch.setattr(grids, "measure", made)
    measure = adafactor_parts.measure

    def seen(point, size):
        now.update(point)
        return measure(point, size)

    parts = dataclasses.replace(adafactor_parts.STUDY, measure=seen)
    assert study.run(parts, "tiny", tmp_path / "paper").agrees == "yes"
    bad.clear()
    summary = study.run(parts, "tiny", tmp_path / "all alike")
    assert summary.agrees == "in part"
    assert "clipping repairs it" in summary.remark


@pytest.mark.parametrize("name", adafactor_parts.VARIANTS)
def test_adafactors_first_step_has_the_size_of_the_learning_rate(name):
    parts = adafactor_parts.VARIANTS[name]
    params = {"kernel": jnp.full((32, 16), 0.5)}
    signs = jax.random.rademacher(jax.random.key(0), (32, 16), float)
    tx = adafactor_parts.optimizer(parts, {"learning_rate": 0.25}, lambda count: 1.0)
    updates, _ = tx.update({"kernel": 3.0 * signs}, tx.init(params), params)
    expected = -0.25 * signs * (0.5 if parts.relative else 1.0)
    np.testing.assert_allclose(updates["kernel"], expected, rtol=1e-5)


def test_warmup_and_its_absence_meet_after_the_first_tenth():
    warm, cold = (adafactor_parts.schedule(10, warmup) for warmup in (True, False))
    assert [float(warm(c)) for c in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert [float(cold(c)) for c in (0, 4, 9)] == pytest.approx([1.0, 1.0, 1.0])
    assert float(warm(39)) == float(cold(39)) == pytest.approx(0.5)


def test_under_mup_the_first_outputs_of_a_wide_network_are_smaller():
    x = jnp.asarray(digits.data()[0][:200])

    def start(width):
        m = width / mup_width_transfer.BASE
        params = mup_width_transfer._init(width, jax.random.key(1))
        params = mup_width_transfer.scaled_readout(params, m**0.5)
        return params, digits.logits(mup_width_transfer.scaled_readout(params, 1 / m), x)

    (_, narrow), (_, wide) = start(64), start(1024)
    assert float(wide.std() / narrow.std()) == pytest.approx(1 / 4, rel=0.3)  # 1 / sqrt(m)


def test_the_task_needs_decay():
    def train(decay):
        def optimizer(h):
            return wdlab.optimizers.adamw(
                grids.cosine(h["learning_rate"], 600), weight_decay=decay, coupling="schedule"
            )

        task = grids.overfitting(optimizer, steps=600, batch_size=32, examples=300)
        return task({"learning_rate": 2**-4}, jax.random.key(0))["val_loss"]

    assert float(jax.jit(train)(2**-6)) < 0.9 * float(jax.jit(train)(0.0))


def test_a_table_keeps_what_diverged_apart():
    rows = [{"x": 1.0, "seed": 0, "loss": 2.0}, {"x": 2.0, "seed": 0, "loss": float("nan")}]
    table = grids.table(rows, ("x",), "loss")
    assert table["status"].tolist() == ["ok", "diverged"]
    assert table.best("loss")["x"] == 1.0
    assert optax.tree.norm(grids.powers(0, 1)) == pytest.approx(5**0.5)


def test_nearer_wants_intervals_apart():
    nearer = importlib.import_module("examples.studies.lr_wd_heatmap").nearer
    unsure, zero = Separability(-1, -2, 2, 5, 0, 0), Separability(0, -0.1, 0.1, 5, 0, 0)
    none = Separability(np.nan, np.nan, np.nan, 0, 0, 0)
    assert not nearer(zero, unsure)
    assert not nearer(zero, none)
