"""keras.optimizers with the JAX backend, live: epsilon-hat, and decay before every step."""

import numpy as np
import pytest

pytest.importorskip("keras")

from tests.oracles.compare import BOUNDS, DTYPES, around, deviation
from tests.oracles.run_keras import run
from tests.oracles.trajectories import DECAYS
from wdlab.conventions.adafactor_presets import PRESETS  # noqa: E402
from wdlab.optimizers import adafactor, lionw  # noqa: E402
from wdlab.preconditioners import scale_by_adam  # noqa: E402
from wdlab.rules import ALL  # noqa: E402

pytestmark = pytest.mark.oracle

# Name, their arguments, ours.
ADAMS = {
    "Adam": ("Adam", {}, {"epsilon": "hat"}),
    "AdamW": ("AdamW", {}, {"epsilon": "hat"}),
    "AdamW, rates, epsilon": (
        "AdamW",
        {"beta_1": 0.5, "beta_2": 0.95, "epsilon": 1e-3},
        {"b1": 0.5, "b2": 0.95, "eps": 1e-3, "epsilon": "hat"},
    ),
    "Adam, amsgrad": ("Adam", {"amsgrad": True}, {"amsgrad": "raw", "epsilon": "hat"}),
    "Nadam": ("Nadam", {}, {"first_moment": "nadam", "momentum_decay": 1.0}),
    "Adamax": ("Adamax", {}, {"second_moment": "max"}),
    "Adagrad": (
        "Adagrad",
        {},
        {
            "b1": None,
            "second_moment": "sum",
            "epsilon": "inside",
            "initial_second_moment": 0.1,
        },
    ),
    "RMSprop": (
        "RMSprop",
        {},
        {"b1": None, "b2": 0.9, "epsilon": "inside", "bias_correction": False},
    ),
}


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ADAMS)
def test_adam_family_equals_keras(case, dtype, weight_decay):
    name, theirs, ours = ADAMS[case]
    direction = scale_by_adam(**{"eps": 1e-7, **ours})
    theirs = {"weight_decay": weight_decay, **theirs}
    error = deviation(run, f"keras.{name}", theirs, around(direction, weight_decay, "lr"), dtype)
    assert error <= BOUNDS[dtype]


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize(
    ("dtype", "relative_step"), [(np.float64, True), (np.float64, False), (np.float32, True)]
)
def test_adafactor_equals_keras(relative_step, dtype, weight_decay):
    """Both settings of ``relative_step`` are one optimizer there, of float32 averages.

    ``keras.ops.mean`` averages in float32 for float64 arrays too (Keras 3.15.1), hence 2e-6.
    """

    def make(rate):
        preset = PRESETS["keras.Adafactor"].arguments
        return adafactor(**{**preset, "learning_rate": rate, "weight_decay": weight_decay})

    theirs = {"weight_decay": weight_decay, "relative_step": relative_step}
    assert deviation(run, "keras.Adafactor", theirs, make, dtype) <= BOUNDS[np.float32]


def test_adafactor_of_keras_measures_the_decayed_weights():
    def make(rate):
        preset = {**PRESETS["keras.Adafactor"].arguments, "decay_first": False}
        return adafactor(**{**preset, "learning_rate": rate, "weight_decay": 0.3})

    theirs = {"weight_decay": 0.3}
    assert deviation(run, "keras.Adafactor", theirs, make, np.float64) > 1e-5


@pytest.mark.parametrize("weight_decay", DECAYS)
def test_lion_of_optax_serves_keras(weight_decay):
    def make(rate):
        return lionw(rate, weight_decay=weight_decay, coupling="lr", rules=ALL)

    theirs = {"weight_decay": weight_decay}
    assert deviation(run, "keras.Lion", theirs, make, np.float64) <= 1e-10
