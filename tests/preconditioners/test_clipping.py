"""The clip without a copy against Optax's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab


@pytest.mark.parametrize("max_norm", [0.1, 1.0, 100.0])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 1e4])
def test_equals_optax(max_norm, scale, x64):
    rng = np.random.default_rng(0)
    grads = {k: jnp.asarray(rng.normal(size=s) * scale) for k, s in [("a", (3, 2)), ("b", ())]}
    ours, theirs = wdlab.clip_by_global_norm(max_norm), optax.clip_by_global_norm(max_norm)
    got, _ = jax.jit(ours.update)(grads, ours.init(grads))
    expected, _ = theirs.update(grads, theirs.init(grads))
    chex.assert_trees_all_close(got, expected, rtol=1e-12)
    assert float(optax.global_norm(got)) <= max_norm * (1 + 1e-12)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_sums_in_float32_and_keeps_the_dtype(dtype):
    """The squares of 300 overflow float16."""
    grads = {"a": jnp.full(4, 300.0, dtype)}
    tx = wdlab.clip_by_global_norm(1.0)
    updates, _ = tx.update(grads, tx.init(grads))
    assert updates["a"].dtype == dtype
    np.testing.assert_allclose(np.asarray(updates["a"], np.float32), 0.5, rtol=1e-2)


def test_nan_is_not_hidden_and_an_empty_tree_is_left_alone():
    tx = wdlab.clip_by_global_norm(1.0)
    grads = {"a": jnp.array([jnp.nan, 1.0]), "b": jnp.array(2.0)}
    updates, _ = tx.update(grads, tx.init(grads))
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(updates))
    assert tx.update({}, tx.init({}))[0] == {}


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), None, "1"])
def test_senseless_norms_are_refused(bad):
    with pytest.raises((TypeError, ValueError), match="max_norm"):
        wdlab.clip_by_global_norm(bad)


@pytest.mark.parametrize("threshold", [0.1, 1.0, 100.0])
def test_block_rms_equals_optax(threshold, x64):
    rng = np.random.default_rng(0)
    grads = {k: jnp.asarray(rng.normal(size=s)) for k, s in [("a", (3, 2)), ("b", (5,))]}
    ours, theirs = wdlab.clip_by_block_rms(threshold), optax.clip_by_block_rms(threshold)
    got, _ = jax.jit(ours.update)(grads, ours.init(grads))
    expected, _ = theirs.update(grads, theirs.init(grads))
    chex.assert_trees_all_close(got, expected, rtol=1e-12)


def test_clipping_runs_under_vmap_and_grad():
    tx = optax.chain(wdlab.clip_by_global_norm(1.0), wdlab.clip_by_block_rms(0.1))
    clipped = lambda g: tx.update(g, tx.init(g))[0]  # noqa: E731
    grads = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(jax.vmap(clipped)(grads)[1], clipped(grads[1]), rtol=1e-6)
    through = jax.grad(lambda g: clipped(g)[0])(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(through @ jnp.array([3.0, 4.0]), 0.0, atol=1e-6)
