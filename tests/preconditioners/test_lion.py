"""The form without a temporary against Optax's, and where it steps back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from wdlab.preconditioners import scale_by_lion


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.99), (0.95, 0.98), (0.9, 0.9), (0.0, 0.5)])
def test_signs_and_momentum_equal_optax(b1, b2):
    """In float32; a sum that is zero to rounding may have either sign."""
    ours, theirs = scale_by_lion(b1, b2), optax.scale_by_lion(b1, b2)
    rng = np.random.default_rng(0)
    params = jnp.zeros(5000)
    state, their_state = ours.init(params), theirs.init(params)
    for step in range(20):
        grad = jnp.asarray(rng.normal(size=5000) * (rng.random(5000) > 0.2), jnp.float32)
        old = np.asarray(state.mu, np.float64)
        u, state = jax.jit(ours.update)(grad, state)
        v, their_state = theirs.update(grad, their_state)
        exact = b1 * old + (1 - b1) * np.asarray(grad, np.float64)
        clear = np.abs(exact) > 1e-6
        np.testing.assert_array_equal(np.asarray(u)[clear], np.asarray(v)[clear], f"step {step}")
        np.testing.assert_allclose(state.mu, their_state.mu, rtol=1e-5, atol=1e-7)
    assert jax.tree.structure(state) == jax.tree.structure(their_state)


def test_traced_rates_and_b2_below_b1_use_the_plain_form(x64):
    grad = jnp.linspace(-1, 1, 9)
    for b1, b2 in [(0.9, 0.1), (0.9, 0.0)]:
        tx = scale_by_lion(b1, b2)
        state = tx.init(grad)._replace(mu=grad[::-1] * 3)
        expected = np.sign(b1 * 3 * grad[::-1] + (1 - b1) * grad)
        np.testing.assert_array_equal(tx.update(grad, state)[0], expected)

    def step(b2):
        tx = scale_by_lion(0.9, b2)
        return tx.update(grad, tx.init(grad))[1].mu

    np.testing.assert_allclose(jax.vmap(step)(jnp.array([0.5, 0.99]))[1], 0.01 * grad)


@pytest.mark.parametrize("bad", [{"b1": 1.0}, {"b2": -0.1}, {"b2": None}])
def test_wrong_rates_are_refused(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        scale_by_lion(**bad)
