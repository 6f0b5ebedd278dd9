"""Predicted equilibria against simulations of a scale-invariant weight under noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.twins.metrics import adamw_equilibrium, sgdm_equilibrium
from wdlab.instruments import equilibrium, predicted_norm, shrink_per_step
from wdlab.optimizers import adamw, lionw, sgd, sgdw
from wdlab.rules import ALL, NO_BIAS_OR_NORM

STEPS, SIZE, LR = 4000, 100, 0.05


def simulate(tx, shrink, step_size, momentum):
    """Root mean squares over the second half of a run: norms and rotations, both predicted too."""

    def loss(params, noise):  # Does not change with the norm of the weight.
        return noise @ params["w"] / jnp.linalg.norm(params["w"])

    def step(carry, key):
        params, state = carry
        grads = jax.grad(loss)(params, jax.random.normal(key, (SIZE,)))
        updates, state = tx.update(grads, state, params)
        seen = equilibrium(params, updates, shrink, step_size, momentum=momentum)["w"]
        return (optax.apply_updates(params, updates), state), seen

    def run(key):
        first, rest = jax.random.split(key)
        params = {"w": jax.random.normal(first, (SIZE,))}
        keys = jax.random.split(rest, STEPS)
        seen = jax.lax.scan(step, (params, tx.init(params)), keys)[1]
        return jax.tree.map(lambda x: jnp.sqrt(jnp.mean(x[STEPS // 2 :] ** 2)), seen)

    return jax.jit(run)(jax.random.key(0))


# Optimizer, coupling, weight decay, its other arguments, momentum, and the papers' formulas with
# the weight decay that the coupling "lr" would have.
SGD_G = (SIZE - 1) ** 0.5  # Noise without its part along the weight.
CASES = {
    "sgd l2": (sgd, "l2", 0.1, {}, 0.0, sgdm_equilibrium(LR, 0.1, 0.0, SGD_G)),
    "sgd l2 momentum": (
        *(sgd, "l2", 0.01, {"momentum": 0.8}, 0.8),
        sgdm_equilibrium(LR, 0.01, 0.8, SGD_G),
    ),
    "adamw schedule": (
        *(adamw, "schedule", 0.0025, {"b1": 0.8, "b2": 0.99}, 0.8),
        adamw_equilibrium(LR, 0.05, 0.8, SIZE),
    ),
    "lionw constant": (
        *(lionw, "constant", 0.005, {"b1": 0.0, "b2": 0.0}, 0.0),
        adamw_equilibrium(LR, 0.1, 0.0, SIZE),  # Its direction is Adam's with b1 = b2 = 0: signs.
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_norm_and_rotation_settle_where_predicted_and_where_the_papers_say(name):
    make, coupling, weight_decay, others, momentum, (norm, rotation) = CASES[name]
    shrink = shrink_per_step(coupling, weight_decay, LR, momentum=momentum)
    tx = make(LR, weight_decay=weight_decay, coupling=coupling, rules=ALL, **others)
    step_size = "gradient" if make is sgd else "normalized"
    seen = simulate(tx, shrink, step_size, momentum)
    np.testing.assert_allclose(seen.predicted_rotation, rotation, rtol=1e-5)
    np.testing.assert_allclose(seen.rotation, rotation, rtol=0.02)
    np.testing.assert_allclose(seen.predicted_norm, norm, rtol=0.02)
    np.testing.assert_allclose(seen.norm, norm, rtol=0.02)


@pytest.mark.parametrize("coupling", ["schedule", "lr", "lr2", "lr2_over_peak", "constant"])
def test_shrink_is_what_a_step_without_gradient_takes(coupling, x64):
    params = {"w": jnp.ones(2)}
    tx = sgdw(0.5, weight_decay=0.1, coupling=coupling, rules=ALL)
    updates, _ = tx.update({"w": jnp.zeros(2)}, tx.init(params), params)
    np.testing.assert_allclose(-updates["w"], shrink_per_step(coupling, 0.1, 0.5), rtol=1e-12)


def test_shrink_under_a_schedule_and_of_l2_in_the_long_run(x64):
    assert shrink_per_step("schedule", 0.1, 0.5, peak_learning_rate=2.0) == 0.1 * 0.25
    tx = sgd(1e-4, weight_decay=0.1, coupling="l2", momentum=0.9, rules=ALL)
    params = {"w": jnp.ones(1)}
    state = tx.init(params)
    for _ in range(300):  # The momentum has long filled.
        before = params
        updates, state = tx.update({"w": jnp.zeros(1)}, state, params)
        params = optax.apply_updates(params, updates)
    share = -float((updates["w"] / before["w"])[0])
    np.testing.assert_allclose(share, shrink_per_step("l2", 0.1, 1e-4, momentum=0.9), rtol=2e-3)


def test_only_leaves_that_decay_are_listed_with_their_own_scale():
    params = {"kernel": jnp.ones(4), "bias": jnp.ones(4)}
    seen = jax.jit(lambda p: equilibrium(p, p, 0.01, "gradient", rules=NO_BIAS_OR_NORM))(params)
    assert list(seen) == ["kernel"]
    half = equilibrium(params, params, 0.01, "gradient", rules={"kernel": 0.5, "bias": 1.0})
    np.testing.assert_allclose(half["kernel"].predicted_rotation, 0.1, rtol=1e-6)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="step_size must be"):
        predicted_norm(1.0, 1.0, 0.1, "adam")
    with pytest.raises(ValueError, match="coupling='torch' is unknown"):
        shrink_per_step("torch", 0.1, 0.1)
    with pytest.raises(ValueError, match="momentum must be"):
        shrink_per_step("l2", 0.1, 0.1, momentum=1.0)
