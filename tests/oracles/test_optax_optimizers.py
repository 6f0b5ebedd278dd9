"""optax's own optimizers, live."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.oracles import run_wdlab
from tests.oracles.compare import BOUNDS, DTYPES, around, deviation
from tests.oracles.run_optax import run
from tests.oracles.trajectories import DECAYS, PEAK_LEARNING_RATE
from wdlab.conventions.adafactor_presets import PRESETS
from wdlab.optimizers import adafactor, lionw
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import ALL

pytestmark = pytest.mark.oracle

CASES = {
    "adamw": ("adamw", {}, {}),
    "adamw, eps_root": ("adamw", {"eps_root": 1e-3}, {"eps_root": 1e-3}),
    "nadamw": ("nadamw", {}, {"first_moment": "nesterov"}),
    "adamaxw": ("adamaxw", {}, {"second_moment": "max", "epsilon": "inside"}),
}
BARE = {
    "amsgrad": ("amsgrad", {"amsgrad": "corrected"}),
    "radam": ("radam", {"rectification_threshold": 5.0}),
    "adagrad": (
        "adagrad",
        {
            "b1": None,
            "second_moment": "sum",
            "epsilon": "inside",
            "initial_second_moment": 0.1,
            "eps": 1e-7,
        },
    ),
    "rmsprop": (
        "rmsprop",
        {"b1": None, "b2": 0.9, "epsilon": "inside", "bias_correction": False},
    ),
}


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_decoupled_adams_equal_optax(case, dtype, weight_decay):
    name, theirs, ours = CASES[case]
    make = around(scale_by_adam(**ours), weight_decay, "lr")
    theirs = {"weight_decay": weight_decay, **theirs}
    assert deviation(run, f"optax.{name}", theirs, make, dtype) <= BOUNDS[dtype]


@pytest.mark.parametrize("case", BARE)
def test_adams_without_decay_equal_optax(case):
    """float64 only: Optax's corrections in float32 are what ours are rewritten to avoid."""
    name, ours = BARE[case]
    make = around(scale_by_adam(**ours), 0.0, None)
    assert deviation(run, f"optax.{name}", {}, make, np.float64) <= 1e-10


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lion_is_optax_lion(dtype, weight_decay):
    def make(rate):
        return lionw(rate, weight_decay=weight_decay, coupling="lr", rules=ALL)

    theirs = {"weight_decay": weight_decay}
    assert deviation(run, "optax.lion", theirs, make, dtype) <= BOUNDS[dtype]


ADAFACTOR = {
    "factored": ({"min_dim_size_to_factor": 3}, {"min_dim_size_to_factor": 3}),
    "whole": ({"factored": False}, {"axes": "never"}),
    "momentum": (
        {"momentum": 0.9, "min_dim_size_to_factor": 5},
        {"momentum": 0.9, "min_dim_size_to_factor": 5},
    ),
    "absolute": (
        {"multiply_by_parameter_scale": False, "clipping_threshold": None},
        {"parameter_scale": None, "clipping_threshold": None},
    ),
}


@pytest.mark.parametrize("weight_decay", [0.0, 1e-3, 3e-2])  # Per step: the rate is no factor.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ADAFACTOR)
def test_adafactor_equals_optax(case, dtype, weight_decay):
    """2e-6 in float64 too: Optax computes beta2_t in float32 always."""
    theirs, ours = ADAFACTOR[case]

    def make(rate):
        preset = PRESETS["optax.adafactor"].arguments
        return adafactor(**{**preset, "learning_rate": rate, "weight_decay": weight_decay, **ours})

    theirs = {"weight_decay_rate": weight_decay or None, **theirs}
    assert deviation(run, "optax.adafactor", theirs, make, dtype) <= BOUNDS[np.float32]


@pytest.mark.parametrize("weight_decay", DECAYS)
def test_adafactor_of_big_vision_is_a_chain_of_optax(weight_decay):
    """big_vision's order: second moment, average, rate, decay, schedule, sign."""

    def theirs(rate):
        def capped(count, exponent):
            return jnp.minimum(0.9, 1.0 - (count + 1.0) ** -exponent)

        return optax.chain(
            optax.scale_by_factored_rms(min_dim_size_to_factor=3, decay_rate_fn=capped),
            optax.ema(0.9, debias=False, accumulator_dtype=jnp.bfloat16),
            optax.scale(PEAK_LEARNING_RATE),
            optax.add_decayed_weights(weight_decay),
            optax.scale_by_schedule(lambda count: rate(count) / PEAK_LEARNING_RATE),
            optax.scale(-1.0),
        )

    def ours(rate):
        preset = PRESETS["big_vision.adafactor"].arguments
        changes = {"beta2_cap": 0.9, "min_dim_size_to_factor": 3, "rules": ALL}
        return adafactor(
            rate,
            weight_decay=weight_decay,
            peak_learning_rate=PEAK_LEARNING_RATE,
            **{**preset, **changes},
        )

    def run_theirs(name, hyperparameters, *trajectory):
        return run_wdlab.run(theirs, *trajectory)

    assert deviation(run_theirs, "", {}, ours, np.float32, theirs_in=np.float32) <= 2e-6
