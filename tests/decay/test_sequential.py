"""Decay before and after the step: where the order makes another optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.oracles import run_wdlab, trajectories
from tests.twins import adam as twins_adam
from wdlab.decay import decay_then_step, decay_weights, step_then_decay
from wdlab.preconditioners import scale_by_adam

PARAMS = {"kernel": jnp.array([[4.0, -2.0], [1.0, 3.0]]), "bias": jnp.array([1.0, 0.0])}
GRADS = {"kernel": jnp.array([[1.0, 1.0], [-2.0, 0.5]]), "bias": jnp.array([3.0, 0.0])}
RULES = {"kernel": 1.0, "bias": 0.0}


def step(tx):
    updates, _ = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    return optax.apply_updates(PARAMS, updates)


def test_decay_of_updated_weights_decays_the_fresh_step_too():
    after = step(step_then_decay(optax.sgd(0.5), decay_weights(0.1, rules=RULES)))
    np.testing.assert_allclose(
        after["kernel"], 0.9 * (PARAMS["kernel"] - 0.5 * GRADS["kernel"]), rtol=1e-6
    )
    np.testing.assert_allclose(after["bias"], PARAMS["bias"] - 0.5 * GRADS["bias"], rtol=1e-6)


@pytest.mark.parametrize("correct_bias", [True, False])
def test_adamw_of_transformers_before_5(correct_bias):
    """transformers 4.40.0: epsilon-hat, then the updated weights shrink by lr * weight_decay."""
    rates, decay = trajectories.learning_rates(60), 0.3
    params, grads = trajectories.initial_params(), trajectories.gradients(60)

    def make(rate):
        direction = scale_by_adam(
            eps=1e-6, epsilon="hat" if correct_bias else "outside", bias_correction=correct_bias
        )
        step = optax.chain(direction, optax.scale_by_learning_rate(rate))
        return step_then_decay(step, decay_weights(decay, multiplier=rate))

    ours = run_wdlab.run(make, params, grads, rates, np.float64)
    for name, theta in params.items():
        place = "hat" if correct_bias else "outside"
        leaf = [tree[name] for tree in grads]
        steps = twins_adam.adam(leaf, eps=1e-6, place=place, correct=correct_bias)
        for t, (lr, u) in enumerate(zip(rates, steps, strict=True)):
            theta = (theta - lr * u) * (1 - lr * decay)
            np.testing.assert_allclose(ours[t][name], theta, rtol=1e-11, atol=1e-13)


def test_order_does_not_matter_for_a_step_that_reads_no_parameters():
    chained = step(optax.chain(optax.adam(0.1), decay_weights(0.1, rules=RULES)))
    in_turn = step(decay_then_step(decay_weights(0.1, rules=RULES), optax.adam(0.1)))
    for name in PARAMS:
        np.testing.assert_allclose(chained[name], in_turn[name], rtol=1e-6)


def test_a_step_that_reads_parameters_sees_the_decayed_ones():
    relative = optax.chain(optax.scale_by_param_block_rms(0.0), optax.scale(-0.5))
    after = step(decay_then_step(decay_weights(0.1, rules=RULES), relative))
    decayed = 0.9 * np.asarray(PARAMS["kernel"])
    size = np.sqrt(np.mean(decayed**2))
    np.testing.assert_allclose(
        after["kernel"], decayed - 0.5 * size * np.asarray(GRADS["kernel"]), rtol=1e-5
    )


@pytest.mark.parametrize("order", [decay_then_step, step_then_decay])
def test_needs_params_and_passes_extra_arguments(order):
    tx = order(decay_weights(0.1), optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"tx.update\(grads, opt_state, params\)"):
        tx.update(GRADS, tx.init(PARAMS))
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)
    assert jax.tree.structure(updates) == jax.tree.structure(PARAMS)
