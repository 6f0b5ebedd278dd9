"""Prodigy and D-Adaptation against float64 twins of whole trees; what their estimates rest on."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.oracles import run_wdlab
from tests.oracles.trajectories import gradients, initial_params, learning_rates, relative_error
from tests.twins import distance_estimates as twins
from wdlab import conventions, optimizers
from wdlab.rules import Rule

SCALES = {"matrix": 1.0, "vector": 0.0, "kernel": 0.5}
RULES = tuple(Rule(name, scale) for name, scale in SCALES.items())
FAST = {"d0": 0.1, "growth_rate": 1.1, "weight_decay": 0.3}
# Convention, twin, arguments: large enough that d grows and the decay is seen.
CASES = {
    "prodigy": ("prodigyopt.Prodigy", twins.prodigy, {**FAST, "use_bias_correction": True}),
    "prodigy, L2": (
        *("prodigyopt.Prodigy", twins.prodigy),
        {**FAST, "decouple": False, "slice_p": 3, "safeguard_warmup": True, "beta3": 0.9},
    ),
    "adam": (
        *("dadaptation.DAdaptAdam", twins.dadapt_adam),
        {**FAST, "decouple": True, "use_bias_correction": True},
    ),
    "adam, L2": ("dadaptation.DAdaptAdam", twins.dadapt_adam, FAST),
    "lion": ("dadaptation.DAdaptLion", twins.dadapt_lion, {"d0": 0.1, "weight_decay": 0.3}),
    "adan": ("dadaptation.DAdaptAdan", twins.dadapt_adan, FAST),
    "adan, no prox": ("dadaptation.DAdaptAdan", twins.dadapt_adan, {**FAST, "no_prox": True}),
    "sgd": ("dadaptation.DAdaptSGD", twins.dadapt_sgd, {**FAST, "momentum": 0.9}),
    "adagrad": ("dadaptation.DAdaptAdaGrad", twins.dadapt_adagrad, {**FAST, "momentum": 0.5}),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin_in_float64(case):
    """The first two steps are without a gradient, the last is with a rate of 0."""
    name, twin, arguments = CASES[case]
    grads, rates = gradients(), 20 * learning_rates()
    grads[:2] = [{n: np.zeros_like(g) for n, g in tree.items()} for tree in grads[:2]]
    make = lambda rate: conventions.build(name, rate, rules=RULES, **arguments)  # noqa: E731
    if case in ("adam, L2", "prodigy, L2", "adagrad", "sgd"):
        grads = grads[2:] if case != "sgd" else grads  # The decay would be the first gradient.
        rates = rates[-len(grads) :]
    ours = run_wdlab.run(make, initial_params(), grads, rates, np.float64)
    complete = conventions.get(name).complete(arguments)
    theirs = twins.run(twin, complete, initial_params(), grads, rates, SCALES)
    assert relative_error(ours, theirs) <= 1e-10
    assert relative_error(ours[1:], ours[:-1]) > 1e-3  # It moves.


def state_after(tx, params, grads):
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def test_a_warm_up_from_zero_begins():
    """A rate of 0 is not counted as a step of the bias correction, and as one of the schedule."""
    tx = optimizers.prodigy(lambda count: jnp.minimum(count / 4, 1.0), bias_correction=True)
    grads = [{"w": jnp.ones(2)}] * 3
    params, state = state_after(tx, {"w": jnp.ones(2)}, grads)
    assert (int(state.count), int(state.steps)) == (3, 2)
    assert float(params["w"][0]) < 1.0


def test_optax_gives_nan_where_nothing_is_known_yet():
    params = {"w": jnp.ones(2)}
    zeros = [{"w": jnp.zeros(2)}]
    for theirs, ours in (
        (optax.contrib.prodigy(), conventions.build("optax.contrib.prodigy", 1.0)),
        (optax.contrib.dadapt_adamw(), conventions.build("optax.contrib.dadapt_adamw", 1.0)),
    ):
        assert np.isnan(state_after(theirs, params, zeros)[1].estim_lr)
        after, state = state_after(ours, params, zeros)
        assert float(state.d) == np.float32(1e-6)
        assert after["w"].tolist() == [1.0, 1.0]


def test_exempt_leaves_are_in_the_estimate():
    """d is one number, of all leaves that the transformation sees."""
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    grads = [{"a": jnp.ones(2), "b": jnp.full(2, -3.0)}] * 5
    rules = (Rule("b", 0.0), Rule(".*"))
    both = optimizers.prodigy(d0=0.1, weight_decay=0.0, rules=rules)
    alone = optax.masked(both, {"a": True, "b": False})
    d = state_after(both, params, grads)[1].d
    assert float(d) != float(state_after(alone, params, grads)[1].inner_state.d)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("prodigy", {"weight_decay": 0.1}, "coupling must be 'd_lr' or 'l2', got None"),
        ("prodigy", {"weight_decay": 0.1, "coupling": "lr"}, "as the step"),
        ("prodigy", {"growth_rate": 0.9}, "growth_rate must be"),
        ("prodigy", {"d0": 0.0}, "d0 must be"),
        ("prodigy", {"slice_every": 0}, "slice_every must be a whole number"),
        ("dadapt_sgd", {"weight_decay": 0.1, "coupling": "d_lr"}, "coupling must be 'l2'"),
        ("dadapt_lion", {"b1": 1.0}, "b1 must be"),
    ],
)
def test_errors_name_the_argument(name, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        getattr(optimizers, name)(1.0, **arguments)
