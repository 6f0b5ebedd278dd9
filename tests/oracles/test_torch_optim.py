"""torch.optim, live: 200 steps in float64 and float32, decays of three sizes."""

import numpy as np
import optax
import pytest

pytest.importorskip("torch")

from tests.oracles.compare import BOUNDS, DTYPES, around, deviation
from tests.oracles.run_torch import run
from tests.oracles.trajectories import DECAYS
from wdlab.conventions.adafactor_presets import PRESETS  # noqa: E402
from wdlab.optimizers import adafactor  # noqa: E402
from wdlab.preconditioners import scale_by_adam  # noqa: E402

pytestmark = pytest.mark.oracle

RADAM = {"epsilon": "hat", "rectification_threshold": 5.0}
RMSPROP = {"b1": None, "b2": 0.99, "bias_correction": False}


def centered():
    return optax.scale_by_stddev(decay=0.99, eps=1e-8, eps_in_sqrt=False)


# Name, their arguments, our direction, our coupling.
CASES = {
    "Adam": ("Adam", {}, scale_by_adam, "l2"),
    "Adam, decoupled": ("Adam", {"decoupled_weight_decay": True}, scale_by_adam, "lr"),
    "Adam, amsgrad": ("Adam", {"amsgrad": True}, lambda: scale_by_adam(amsgrad="raw"), "l2"),
    "AdamW": ("AdamW", {}, scale_by_adam, "lr"),
    "AdamW, betas, eps": (
        "AdamW",
        {"betas": (0.5, 0.95), "eps": 1e-3},
        lambda: scale_by_adam(0.5, 0.95, 1e-3),
        "lr",
    ),
    "AdamW, amsgrad": ("AdamW", {"amsgrad": True}, lambda: scale_by_adam(amsgrad="raw"), "lr"),
    "NAdam": ("NAdam", {}, lambda: scale_by_adam(first_moment="nadam"), "l2"),
    "NAdam, decoupled": (
        "NAdam",
        {"decoupled_weight_decay": True, "momentum_decay": 0.1},
        lambda: scale_by_adam(first_moment="nadam", momentum_decay=0.1),
        "lr",
    ),
    "RAdam": ("RAdam", {}, lambda: scale_by_adam(**RADAM), "l2"),
    "RAdam, decoupled": (
        "RAdam",
        {"decoupled_weight_decay": True, "betas": (0.9, 0.99), "eps": 1e-4},
        lambda: scale_by_adam(b2=0.99, eps=1e-4, **RADAM),
        "lr",
    ),
    "Adamax": (
        "Adamax",
        {},
        lambda: scale_by_adam(second_moment="max", epsilon="inside"),
        "l2",
    ),
    "Adagrad": (
        "Adagrad",
        {},
        lambda: scale_by_adam(b1=None, second_moment="sum", eps=1e-10),
        "l2",
    ),
    "Adagrad, initial value": (
        "Adagrad",
        {"initial_accumulator_value": 0.1},
        lambda: scale_by_adam(b1=None, second_moment="sum", eps=1e-10, initial_second_moment=0.1),
        "l2",
    ),
    "RMSprop": ("RMSprop", {}, lambda: scale_by_adam(**RMSPROP), "l2"),
    "RMSprop, momentum": (
        "RMSprop",
        {"momentum": 0.9},
        lambda: optax.chain(scale_by_adam(**RMSPROP), optax.trace(0.9)),
        "l2",
    ),
    "RMSprop, centered": ("RMSprop", {"centered": True}, centered, "l2"),
    "SGD": ("SGD", {}, optax.identity, "l2"),
    "SGD, momentum": ("SGD", {"momentum": 0.9}, lambda: optax.trace(0.9), "l2"),
    "SGD, nesterov": (
        "SGD",
        {"momentum": 0.9, "nesterov": True},
        lambda: optax.trace(0.9, nesterov=True),
        "l2",
    ),
}


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_equals_torch(case, dtype, weight_decay):
    name, theirs, direction, coupling = CASES[case]
    make = around(direction(), weight_decay, coupling)
    theirs = {"weight_decay": weight_decay, **theirs}
    # SGD's weights leap to 1e3 at the spike and swing back through zero: float32 keeps the
    # rounding of the leap, ours and theirs alike, so they are compared in the same dtype.
    theirs_in = dtype if name == "SGD" else np.float64
    error = deviation(run, f"torch.{name}", theirs, make, dtype, theirs_in=theirs_in)
    assert error <= BOUNDS[dtype]


ADAFACTOR = {
    "defaults": ({}, {}),
    "eps, threshold, exponent": (
        {"eps": (1e-6, 0.5), "d": 2.0, "beta2_decay": -0.5},
        {"eps1": 1e-6, "parameter_scale": 0.5, "clipping_threshold": 2.0, "beta2_exponent": 0.5},
    ),
}


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ADAFACTOR)
def test_adafactor_equals_torch(case, dtype, weight_decay):
    theirs, ours = ADAFACTOR[case]
    if "eps" not in theirs:  # Theirs is that of float64, in which it runs.
        theirs = {"eps": (float(np.finfo(dtype).eps), 1e-3), **theirs}

    def make(rate):
        arguments = {**PRESETS["torch.Adafactor"].arguments, **ours, "learning_rate": rate}
        return adafactor(weight_decay=weight_decay, **arguments)

    theirs = {"weight_decay": weight_decay, **theirs}
    assert deviation(run, "torch.Adafactor", theirs, make, dtype) <= BOUNDS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_default_epsilon_of_adafactor_is_that_of_the_dtype(dtype):
    def make(rate):
        return adafactor(**{**PRESETS["torch.Adafactor"].arguments, "learning_rate": rate})

    error = deviation(run, "torch.Adafactor", {}, make, dtype, theirs_in=dtype)
    assert error <= BOUNDS[dtype]


def test_adafactor_of_torch_decays_by_its_rate_and_not_by_its_step():
    """With zero gradients the shrink is lr * 0.3 at once, though the step falls as 1/sqrt(t)."""
    params = {"w": np.ones((3, 3))}
    zeros = [{"w": np.zeros((3, 3))}] * 50
    after = run("torch.Adafactor", {"weight_decay": 0.3}, params, zeros, [0.5] * 50, np.float64)
    np.testing.assert_allclose(after[-1]["w"], (1 - 0.15) ** 50, rtol=1e-12)
