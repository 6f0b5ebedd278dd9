"""Studies of rounding in attention: verdicts on made data, both ways; measurements cut short."""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest

from examples.studies import attention_bias, logit_growth, mantissa_dial, study, table
from examples.studies.attention_bias import has_sign, is_within
from examples.studies.paired import Difference


def biases(cured):
    """Two maxima bias O and delta by half a unit to v's sign, and the cures do what they are to."""

    def measure(point, size):
        del point, size
        cases = itertools.product(range(5), attention_bias.MEANS, attention_bias.CASES)
        return [
            {"seed": s, "mean": mean, "form": form, "others": others, "ties": ties,
             "out": size_of("out", form, ties) * np.sign(mean) + s / 1e5,
             "delta": size_of("delta", form, ties) * np.sign(mean) + s / 1e5}
            for s, mean, (form, others, ties) in cases
        ]  # fmt: skip

    def size_of(column, form, ties):
        wrong = {"flash_bf16"} | ({"shifted"} if column == "delta" or not cured else set())
        return 0.5 * (form in wrong and ties > 1)

    return measure


def test_the_bias_is_decided_by_the_measurements(tmp_path):
    made = dataclasses.replace(attention_bias.STUDY, measure=biases(cured=True))
    assert study.run(made, "tiny", tmp_path).agrees == "yes"
    stored = json.loads((tmp_path / "attention_bias-tiny.json").read_text())
    assert "nan" not in table.section(stored)
    assert (tmp_path / "attention_bias-tiny.png").stat().st_size <= 60 * 1024
    made = dataclasses.replace(made, measure=biases(cured=False))
    summary = study.run(made, "tiny", tmp_path / "not cured")
    assert summary.agrees == "in part"
    assert "nor two under a shifted maximum: no" in summary.remark


def test_a_sign_and_a_bound_can_hold_fail_or_stay_open():
    gap = Difference(0.5, 0.4, 0.6, 5)
    assert (has_sign(gap, 1.5), has_sign(gap, -1.5)) == (True, False)
    assert has_sign(gap._replace(low=-0.1), 1.5) is None
    assert (is_within(gap, 1.0), is_within(gap, 0.3)) == (True, False)
    assert is_within(gap, 0.5) is None


def test_the_kernels_own_gradient_shows_the_wrong_delta(monkeypatch):
    monkeypatch.setattr(attention_bias, "QUERIES", 64)
    monkeypatch.setattr(attention_bias, "SEEDS", 1)
    monkeypatch.setattr(attention_bias, "MEANS", (1.5,))
    rows = attention_bias.measure({"context": 32}, "tiny")
    found = {(r["form"], r["ties"]): r for r in rows if r["others"] == "far"}
    two, delta = found["flash_bf16", 2], found["float32 delta", 2]
    assert two["out"] > 0.3
    assert two["delta"] > 0.3
    assert delta["out"] == two["out"]
    assert abs(delta["delta"]) < 0.1
    assert abs(found["float32", 2]["out"]) < 1e-3


def logits(agrees):
    """Without decay logits grow and flash_bf16 diverges at high rates, and with it not."""

    def measure(point, size):
        del size

        def row(s, decay, lr, w):
            free = decay == "none" if agrees else True
            wrong = free and agrees and point["form"] == "flash_bf16" and lr > 0.2 and w > 15
            seen = 1 + (lr if agrees else -lr) * (1 + free) + s / 1e3
            return {"seed": s, "decay": decay, "lr": lr, "step": w} | {
                "logit": seen, "log_z": seen, "loss": 1 + wrong
            }  # fmt: skip

        axes = range(5), logit_growth.DECAYS, logit_growth.RATES, range(20)
        return [row(*case) for case in itertools.product(*axes)]

    return measure


def test_the_answer_about_logits_follows_from_the_curves(tmp_path):
    made = dataclasses.replace(logit_growth.STUDY, measure=logits(agrees=True))
    summary = study.run(made, "tiny", tmp_path)
    assert summary.agrees == "yes"
    assert summary.number.endswith("float32 0 / 0, flash_bf16 10 / 0")
    stored = json.loads((tmp_path / "logit_growth-tiny.json").read_text())
    assert "nan" not in table.section(stored)
    assert (tmp_path / "logit_growth-tiny.png").stat().st_size <= 60 * 1024
    made = dataclasses.replace(made, measure=logits(agrees=False))
    assert study.run(made, "tiny", tmp_path / "not so").agrees == "no"


def test_a_loss_that_rises_or_is_not_finite_has_diverged():
    curves = np.array([[3, 2, 1], [3, 2, 2.6], [3, 2, 2.4], [3, np.nan, 2], [3, np.inf, 3]])
    assert mantissa_dial.rises(curves).tolist() == [False, True, False, True, True]


@pytest.mark.slow
def test_its_model_is_the_dials_in_float32_and_sees_its_largest_score():
    params = mantissa_dial.init(jax.random.key(0), 7)
    tokens = np.random.default_rng(0).integers(7, size=(2, mantissa_dial.CONTEXT + 1))
    loss, seen = logit_growth.loss_of(params, tokens, logit_growth.FORMS["float32"])
    np.testing.assert_allclose(loss, mantissa_dial.loss_of(params, tokens, 23), rtol=1e-5)
    rounded, _ = logit_growth.loss_of(params, tokens, logit_growth.FORMS["flash_bf16"])
    assert 0 < abs(rounded - loss) < 1e-2
    assert 0.1 < seen["logit"] < 100


@pytest.mark.slow
def test_the_last_point_of_the_logits_trains(monkeypatch):
    changed = {"STEPS": {"tiny": 20}, "SEEDS": 2, "RATES": (0.003, 0.1)}
    for name, value in changed.items():
        monkeypatch.setattr(logit_growth, name, value)
    rows = logit_growth.measure(logit_growth.points("tiny")[-1], "tiny")
    assert len(rows) == 2 * 3 * 2 * 20
    assert all(np.isfinite([row[c] for c in logit_growth.COLUMNS]).all() for row in rows)
