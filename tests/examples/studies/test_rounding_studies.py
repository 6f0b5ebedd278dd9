"""Studies of rounding in attention: verdicts on made data, both ways; measurements cut short."""

import dataclasses
import itertools
import json

import numpy as np

from examples.studies import attention_bias, study, table
from examples.studies.attention_bias import every, has_sign, is_within
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
    assert (every([True, True]), every([True, None]), every([None, False])) == (True, None, False)


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
