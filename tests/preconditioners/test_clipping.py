"""The clip without a copy against Optax's."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from wdlab import preconditioners


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


CLIPS = {
    "global": (wdlab.clip_by_global_norm, optax.clip_by_global_norm),
    "rms": (wdlab.clip_by_block_rms, optax.clip_by_block_rms),
    "leaf": (preconditioners.clip_by_leaf_norm, optax.clip_by_global_norm),
}


@pytest.mark.parametrize("name", CLIPS)
def test_complex_leaves_count_by_their_size(name, x64):
    rng = np.random.default_rng(0)
    part = lambda: rng.normal(size=(4, 3)) * 10  # noqa: E731
    grads = {"z": jnp.asarray(part() + 1j * part())}
    ours, theirs = (make(0.5) for make in CLIPS[name])
    got, _ = ours.update(grads, ours.init(grads))
    expected, _ = theirs.update(grads, theirs.init(grads))
    chex.assert_trees_all_close(got, expected, rtol=1e-12)


def test_eps_is_that_of_torch(x64):
    """torch.nn.utils.clip_grad_norm_: min(1, max_norm / (norm + 1e-6))."""
    grads = {"a": jnp.array([3.0, 4.0])}
    tx = wdlab.clip_by_global_norm(1.0, eps=1e-6)
    updates, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(updates["a"], np.array([3.0, 4.0]) / (5 + 1e-6), rtol=1e-15)


def test_each_leaf_is_clipped_by_its_own_norm(x64):
    grads = {"large": jnp.array([[3.0, -4.0]]), "small": jnp.array([0.3, 0.4]), "n": jnp.array(2)}
    tx = preconditioners.clip_by_leaf_norm(1.0)
    updates, _ = tx.update(grads, tx.init(grads))
    np.testing.assert_allclose(updates["large"], [[0.6, -0.8]], rtol=1e-15)
    chex.assert_trees_all_equal((updates["small"], updates["n"]), (grads["small"], grads["n"]))


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
def test_wrong_norms_are_refused(bad):
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


@pytest.mark.parametrize("eps", [0.0, 1.0])
def test_a_norm_equal_to_the_bound_changes_no_bit(eps):
    grads = {"a": jnp.array([3.0, 4.0]) / 7}
    bound = float(optax.tree.norm(grads) + eps)
    tx = wdlab.clip_by_global_norm(bound, eps=eps)
    chex.assert_trees_all_equal(tx.update(grads, tx.init(grads))[0], grads)
    smaller = wdlab.clip_by_global_norm(bound * (1 - 1e-6), eps=eps)
    assert (smaller.update(grads, smaller.init(grads))[0]["a"] < grads["a"]).all()
