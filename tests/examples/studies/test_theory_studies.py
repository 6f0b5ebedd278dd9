"""Studies with a theory beside them: verdicts on made data, both ways; trainings cut short."""

import dataclasses
import importlib
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.studies import study, table
from examples.studies.many_epochs import best

# What makes a training of each study short, and the statements that made data can break.
SHORT = {
    "decay_on_the_sphere": {"STEPS": 2},
    "diagonal_linear": {"STEPS": 100, "AFTER": 50},
    "grokking_critical_decay": {"STEPS": 4, "EVERY": 2, "DECAYS": (0.0, 1.0)},
    "many_epochs": {"STEPS": 4, "SAMPLES": 128, "EPOCHS": (1, 2, 4), "EXPONENTS": (1.0, 2.0)},
    "norm_scale_decay": {"STEPS": 3},
    "plasticity": {"STEPS": 3, "TUNING_STEPS": 2, "EXPONENTS": (1.0, 2.0)},
    "product_nuclear_norm": {"STEPS": {"matrices": 50, "attention": 50}},
    "scion_lr2": {"STEPS": 40, "PEAK_STEPS": 20},
}


def module(name):
    return importlib.import_module(f"examples.studies.{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHORT)
def test_the_last_point_trains(name, monkeypatch):
    studied = module(name)
    for constant, value in {**SHORT[name], "SEEDS": 2}.items():
        monkeypatch.setattr(studied, constant, value)
    if name == "product_nuclear_norm":
        monkeypatch.setattr(studied, "WINDOWS", 5)
    rows = studied.STUDY.measure(studied.STUDY.points("tiny")[-1], "tiny")
    assert {row["seed"] for row in rows} == {0, 1}
    columns = {k for row in rows for k in row} - {"seed", "step", "exponent", "number", "lr"}
    for column in columns:
        values = [row[column] for row in rows if column in row]
        assert np.isfinite(values).all()


def test_the_gpt_reads_two_texts(monkeypatch):
    """Traced and not compiled, which takes most of the time."""
    studied, text = module("plasticity_gpt"), np.zeros(40_000, np.int32)
    monkeypatch.setattr(studied, "STEPS", 25)
    monkeypatch.setattr(studied, "TUNING_STEPS", 2)
    monkeypatch.setattr(studied, "texts", lambda: (text, text, 7))
    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    found = jax.eval_shape(studied.program.__wrapped__(), keys, 1.0)
    assert {name: loss.shape for name, loss in found.items()} == dict.fromkeys(
        ("base_loss", "start_loss", "tuned_loss"), (3,)
    )


def answer(name, measure):
    """The answer of a study whose measurements are made up."""
    studied = module(name).STUDY
    rows = [row | p for p in studied.points("tiny") for row in measure(p, "tiny")]
    return studied.summarize(rows).agrees


def noise(seed, column=0):
    """A little of it, the same for all points of a seed."""
    return float(np.random.default_rng((seed, column)).normal()) / 1_000


def sphere(order):
    def measure(point, size):
        del size
        power = order if point["projected"] else 1
        rates = 0.05 * 0.5 ** np.arange(7)
        rows = [
            {"seed": s, "lr": lr, "change": lr**power * (1 + noise(s))}
            for s, lr in itertools.product(range(5), rates)
        ]
        whole = 0.01 if point["projected"] else 0.5
        return rows + [{"seed": s, "whole": whole + noise(s), "longer": 1e-9} for s in range(5)]

    return measure


def scion(power):
    def measure(point, size):
        del size
        falls = 1 / 2 if point["coupling"] == "lr" else 0.25**power
        return [
            {"seed": s, "step": step, "norm": (1 + noise(s)) * (1.0 if step <= 1_500 else falls)}
            for s, step in itertools.product(range(5), range(100, 4_001, 100))
        ]

    return measure


def scales(after):
    def measure(point, size):
        del size
        effect = {"before": -0.01, "after": after}[point["place"]] * point["decayed"]
        return [
            {"seed": s, "loss": 1 + effect + noise(s, int(point["decayed"])), "scale": 1.0}
            for s in range(5)
        ]

    return measure


def repeated(grows):
    def measure(point, size):
        del size
        middle = np.log2(point["epochs"]) * grows
        return [
            {"seed": s, "exponent": e, "loss": 1 + (np.log2(e) - middle - noise(s)) ** 2 / 10}
            for s, e in itertools.product(range(5), module("many_epochs").EXPONENTS)
        ]

    return measure


def plastic(shift):
    tuned = ["tuned_loss", *map(module("plasticity").rate_column, (1e-3, 3e-3, 1e-2))]

    def measure(point, size):
        del size
        if not point["decayed"]:
            ends = {"exponent": 0.0, "base_loss": 2.0} | dict.fromkeys(tuned, 2.0)
            return [ends | {"seed": s} for s in range(5)]
        return [
            {
                "seed": s,
                "exponent": e,
                "base_loss": 1 + (np.log2(e) - 1 - noise(s)) ** 2 / 10,
            }
            | dict.fromkeys(tuned, 1 + (np.log2(e) - 1 - shift - noise(s, 1)) ** 2 / 10)
            for s, e in itertools.product(range(5), module("plasticity").EXPONENTS)
        ]

    return measure


def tuned_gpt(gain):
    """The base is best at E = 1; what is tuned from E = 3 is lower by the gain."""

    def measure(point, size):
        del size
        base = {0.0: 1.1, 1.0: 1.0, 3.0: 1.1, 10.0: 1.3}[point["exponent"]]
        tuned = 2 - gain * (point["exponent"] == 3)
        return [
            {"seed": s, "base_loss": base + noise(s), "tuned_loss": tuned + noise(s, 1)}
            for s in range(5)
        ]

    return measure


def products(theory):
    def measure(point, size):
        del size
        decay, case = point["decay"], point["case"]
        lasting, rate = 0.5 * (decay == 0), 2 * decay * 0.1 * theory
        targets = np.array([1.0, 0.8, 0.6, 0.4, 0.2])
        values = np.maximum(targets - theory * decay, 0)
        if case == "attention":
            values = np.ones(16)
        rank = 16 - 8 * theory * (decay > 0)
        rows = [
            {"seed": s, "step": step, "imbalance": np.exp(-rate * step) * (1 + noise(s)),
             "gap": lasting + theory * np.exp(-step) + noise(s), "rank": rank + noise(s, 1),
             "loss": 0.0}
            for s, step in itertools.product(range(5), range(40, 2_001, 40))
        ]  # fmt: skip
        rows += [
            {"seed": s, "number": i, "value": value}
            for s, (i, value) in itertools.product(range(5), enumerate(values))
        ]
        return rows

    return measure


def networks(sparse):
    def measure(point, size):
        del size
        case = point["case"]
        far = 1.0 if case == "small" else 1 - 0.5 * sparse
        rate = module("diagonal_linear").RATE * (case != "small") * (1 if sparse else 2)
        steps = range(8_000, 400_001, 8_000)
        rows = [
            {"seed": s, "step": step, "imbalance": -rate * step, "l1": far, "loss": 1.0,
             "rate": 1e-6}
            for s, step in itertools.product(range(5), steps)
        ]  # fmt: skip
        l1 = {"small": 10.0, "decay": 4.0 + sparse}.get(case, 5.0)
        return rows + [
            {"seed": s, "far": far + noise(s, len(case)), "final_l1": l1, "final_loss": 0.0}
            for s in range(5)
        ]

    return measure


def grokking(threshold):
    def measure(point, size):
        del size
        decay = point["decay"]
        train = 0.1 if decay >= 10 else 1.0
        return [
            {"seed": s, "step": step, "train_accuracy": train, "norm": 1.0,
             "test_accuracy": float(threshold <= decay < 10 and step >= 600 / max(decay, 0.3))}
            for s, step in itertools.product(range(5), range(100, 3_001, 100))
        ]  # fmt: skip

    return measure


@pytest.mark.parametrize(
    ("name", "made", "yes", "other", "otherwise"),
    [
        ("decay_on_the_sphere", sphere, 2, 1.5, "in part"),
        ("diagonal_linear", networks, 1, 0, "no"),
        ("grokking_critical_decay", grokking, 0.3, 100.0, "in part"),
        ("many_epochs", repeated, 1, -0.3, "no"),
        ("norm_scale_decay", scales, 0.01, -0.01, "in part"),
        ("plasticity", plastic, 2, -2, "no"),
        ("plasticity_gpt", tuned_gpt, 0.1, -0.1, "in part"),
        ("product_nuclear_norm", products, 1, 0, "in part"),
        ("scion_lr2", scion, 0, 1, "in part"),
    ],
)
def test_a_verdict_follows_from_the_measurements(name, made, yes, other, otherwise, tmp_path):
    studied = dataclasses.replace(module(name).STUDY, measure=made(yes))
    assert study.run(studied, "tiny", tmp_path).agrees == "yes"
    assert "nan" not in table.section(json.loads((tmp_path / f"{name}-tiny.json").read_text()))
    assert 5_000 < (tmp_path / f"{name}-tiny.png").stat().st_size <= 60 * 1024
    assert answer(name, made(other)) == otherwise


def test_the_best_exponent_of_a_parabola_is_its_vertex():
    exponents = (0.5, 1.0, 2.0, 4.0)
    bowl = (np.log2(exponents) - 0.3) ** 2
    np.testing.assert_allclose(best(exponents, np.stack([bowl, -bowl])), [0.3, 2.0])


def test_noise_in_the_labels_decays_the_imbalance_as_the_closed_form_says():
    """One step of SGD, in NumPy: u^2 - v^2 is multiplied by 1 - lr^2 r^2 x^2, exactly."""
    rng = np.random.default_rng(0)
    u, v, x = rng.normal(size=(3, 6))
    lr, r = 0.1, 1.7
    new_u, new_v = u - lr * r * x * v, v - lr * r * x * u
    np.testing.assert_allclose(new_u**2 - new_v**2, (u**2 - v**2) * (1 - (lr * r * x) ** 2))
