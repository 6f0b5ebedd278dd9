"""Steps in loops of their own equal the plain ones, whatever is shared between loops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from wdlab import optimizers
from wdlab._core import loops
from wdlab.decay import hyperball
from wdlab.preconditioners import scale_by_adam

LR = wdlab.schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=20)
CHAINS = {
    "adafactor l2": lambda: optimizers.adafactor(LR, weight_decay=0.1, coupling="l2", momentum=0.9),
    "clip, skip": lambda: wdlab.skip_nonfinite(
        optax.chain(
            wdlab.clip_by_global_norm(0.5), optimizers.adamw(LR, weight_decay=0.1, coupling="lr")
        )
    ),
    "hyperball": lambda: optax.chain(scale_by_adam(), hyperball(LR, rules=1.0)),
    "lamb": lambda: optax.lamb(0.1, weight_decay=0.1),
    "kahan": lambda: wdlab.training.kahan(optimizers.lionw(0.1, weight_decay=0.1, coupling="lr")),
    "muon": lambda: optax.contrib.muon(0.1),
    "lion": lambda: optax.lion(0.1),  # Weights and momentum both read the old momentum.
    "16-bit moment": lambda: optax.adamw(0.1, mu_dtype=jnp.bfloat16),
    "adam, b1 = 1/2": lambda: optax.adam(0.1, b1=0.5),  # (m + g) / 2
}


def tree(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (64, 128), "embedding": (130, 64), "bias": (8,), "vector": (5000,)}
    return {name: jnp.asarray(rng.normal(size=s), dtype) for name, s in shapes.items()}


def after_three_steps(update, tx, dtype):
    params = tree(0, dtype)
    state = tx.init(params)
    for step in range(3):
        params, state = update(params, state, tree(step + 1, dtype))
    return params, state


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", CHAINS)
def test_equals_the_plain_step(name, dtype):
    tx = CHAINS[name]()

    def plain(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    ours = after_three_steps(wdlab.make_update(tx), tx, dtype)
    plain = after_three_steps(jax.jit(plain), tx, dtype)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, plain)
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    chex.assert_trees_all_close(ours, plain, rtol=tolerance, atol=tolerance)


def test_what_is_shared_is_computed_for_each():
    def shared(x):
        y = jnp.tanh(x)
        return y / jnp.sum(y)

    traced = jax.make_jaxpr(loops.in_own_loops(shared))
    assert str(traced(jnp.ones(loops.LARGE))).count("tanh") == 3  # Twice, and once for the others.
    assert str(traced(jnp.ones(loops.LARGE - 1))).count("tanh") == 1


def test_what_is_not_shared_stays_as_it_is():
    assert "optimization_barrier" not in str(
        jax.make_jaxpr(loops.in_own_loops(lambda x: jnp.tanh(x) + x))(jnp.ones(loops.LARGE))
    )


def test_traced_once():
    traces = []

    def function(x):
        traces.append(1)
        return x / jnp.sum(x * x)

    step = jax.jit(loops.in_own_loops(function))
    for _ in range(3):
        step(jnp.ones(loops.LARGE))
    assert len(traces) == 1


def test_batched_and_differentiated():
    function = loops.in_own_loops(lambda x: jnp.tanh(x) / jnp.sum(jnp.tanh(x)))
    x = jnp.linspace(0.1, 1.0, 2 * loops.LARGE).reshape(2, -1)
    plain = jnp.tanh(x) / jnp.sum(jnp.tanh(x), axis=1, keepdims=True)
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(x), plain, rtol=1e-5)
    slope = jax.jit(jax.grad(lambda x: jnp.sum(function(x))))(x[0])
    np.testing.assert_allclose(slope, 0.0, atol=1e-6)  # The sum is always 1.
