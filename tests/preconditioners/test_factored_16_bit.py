"""Statistics of bfloat16 parameters follow a gradient that falls tenfold, as in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wdlab

STEPS = 3_000


def statistics(tx):
    """The rows' second moment after gradients of 1, then of 0.1, and the same in float64."""
    params = {"w": jnp.ones((128, 128), jnp.bfloat16)}

    def step(state, count):
        g = jnp.where(count < STEPS // 3, 1.0, 0.1).astype(jnp.bfloat16)
        _, state = tx.update(jax.tree.map(lambda p: jnp.full_like(p, g), params), state, params)
        return state, None

    state, _ = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(STEPS)))(tx.init(params))
    rows = [
        np.asarray(leaf, np.float64)
        for path, leaf in wdlab.rules.leaves_with_paths(state)
        if "v_row" in path
    ]
    wanted, small = 0.0, float(jnp.bfloat16(0.1))
    for count in range(STEPS):
        rate = 1 - (count + 1.0) ** -0.8
        g = 1.0 if count < STEPS // 3 else small
        wanted = rate * wanted + (1 - rate) * g * g
    return rows[0], wanted


def test_statistics_follow_within_one_percent():
    got, wanted = statistics(wdlab.optimizers.adafactor(1e-3))
    np.testing.assert_allclose(got, wanted, rtol=0.01)


def test_optax_in_bfloat16_stands_still():
    """What the test above guards against."""
    got, wanted = statistics(optax.adafactor(1e-3))
    assert float(got.mean()) > 1.5 * wanted
