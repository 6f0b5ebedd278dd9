"""One pass over a text or over fresh samples: the verdict on made-up losses, and a short run."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from examples.gpt import data
from examples.studies import one_pass_gpt, one_pass_mlp, study, table

HELPS = {"cosine": -0.01, "constant": 0.05, "tuned": -0.01}
MADE = {
    "the source": (HELPS, "yes"),
    "decay never helps": ({"cosine": 0.01, "constant": 0.05, "tuned": 0.01}, "in part"),
    "decay always helps": ({"cosine": -0.01, "constant": -0.01, "tuned": -0.01}, "in part"),
    "the opposite": ({"cosine": 0.01, "constant": -0.05, "tuned": 0.01}, "no"),
    "nothing": ({"cosine": 0.0, "constant": 0.0, "tuned": 0.0}, "not tested"),
}


def made_up(effects, best_lr):
    """What a point of one_pass_gpt measures: seeds differ by 0.1, pairs by thousandths."""
    noise = 1e-3 * np.array([-2.0, 2.0, -1.0, 1.0, 0.0])

    def measure(point, size):
        asked, name = point["lr"] == one_pass_gpt.ASKED_LR, point["schedule"]
        start = 1.5 + (0.0 if asked == (best_lr == one_pass_gpt.ASKED_LR) else 0.3)
        share = point["exponent"] / one_pass_gpt.ASKED if asked else -point["exponent"]

        def losses(effect):
            return start + 0.1 * np.arange(5) + share * effect + point["exponent"] * noise / 3

        columns = {"loss": losses(effects[name])}
        if name == "constant":
            columns["tuned_loss"] = losses(effects["tuned"])
        return [{"seed": s} | {k: float(v[s]) for k, v in columns.items()} for s in range(5)]

    return dataclasses.replace(one_pass_gpt.STUDY, measure=measure)


@pytest.mark.parametrize(("effects", "agrees"), MADE.values(), ids=MADE)
def test_the_verdict_follows_from_the_three_statements(effects, agrees, tmp_path):
    summary = study.run(made_up(effects, 1.2e-2), "small", tmp_path)
    assert summary.agrees == agrees
    result = json.loads((tmp_path / "one_pass_gpt-small.json").read_text())
    assert "nan" not in table.section(result)
    assert (result["exponent"], result["lr_steps"]) == (3.0, 144.0)


def test_a_gain_at_one_learning_rate_need_not_be_one_over_all(tmp_path):
    here = study.run(made_up(HELPS, 1.2e-2), "small", tmp_path / "here").numbers
    elsewhere = study.run(made_up(HELPS, 3e-3), "small", tmp_path / "elsewhere").numbers
    names = [
        f"{x}: with decay less without, cosine"
        for x in ("this learning rate", "best over learning rates")
    ]
    assert [np.mean(here[name]) < -0.005 for name in names] == [True, True]
    assert [np.mean(elsewhere[name]) < -0.005 for name in names] == [True, False]


def test_an_undecided_statement_is_not_a_yes():
    wide, narrow = np.array([-1.0, 1.0, -1.0, 1.0, 0.1]), np.zeros(5)
    lower, higher = (narrow - 1, narrow), (narrow + 1, narrow)
    of = lambda *pairs: one_pass_mlp.agreeing(dict(zip(one_pass_mlp.CASES, pairs, strict=True)))  # noqa: E731
    assert of(lower, higher, lower) == "yes"
    assert of(lower, (wide, narrow), lower) == "in part"
    assert of((wide, narrow), lower, higher) == "no"
    assert of(*[(wide, narrow)] * 3) == "not tested"


def test_no_window_is_read_twice(monkeypatch):
    monkeypatch.setattr(one_pass_gpt, "STEPS", 40)
    monkeypatch.setattr(one_pass_gpt, "HELD_OUT", 64)
    parts = one_pass_gpt.windows(jax.random.key(0), 32 * 900)
    assert [part.shape for part in parts] == [(40, 16), (10, 16), (4, 16)]
    starts = np.concatenate([np.ravel(part) for part in parts])
    assert len(set(starts.tolist())) == len(starts)
    assert (starts % 32 == 0).all()
    assert starts.max() + 33 <= 32 * 900


@pytest.mark.slow
def test_a_short_pass_learns_and_decays(monkeypatch):
    short = {"STEPS": 40, "SEEDS": 2, "HELD_OUT": 64, "LAYERS": 1, "text": data.embedded}
    for name, value in short.items():
        monkeypatch.setattr(one_pass_gpt, name, value)
    one_pass_gpt.program.cache_clear()
    point = {"schedule": "constant", "lr": 1e-2, "exponent": 0.0}
    free = one_pass_gpt.measure(point, "small")
    decayed = one_pass_gpt.measure(point | {"exponent": 3.0}, "small")
    one_pass_gpt.program.cache_clear()
    assert [row["seed"] for row in free] == [0, 1]
    assert len({row["loss"] for row in free + decayed}) == 4
    for row, other in zip(free, decayed, strict=True):
        assert row["tuned_loss"] < row["loss"] < 0.8 * np.log(103)
        assert other["norm"] < 0.5 * row["norm"]
