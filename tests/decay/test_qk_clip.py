"""QK-clip against loops over heads, and against the logits that it is there for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wdlab.decay import QKPair, clip_qk


def clipped(pairs, params, logits, updates=None, threshold=2.0):
    tx = clip_qk(pairs, threshold=threshold)
    updates = jax.tree.map(jnp.zeros_like, params) if updates is None else updates
    out, _ = tx.update(updates, tx.init(params), params, max_logits=logits)
    return jax.tree.map(lambda p, u: np.asarray(p + u), params, out)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


def test_logits_end_at_the_threshold_and_lower_ones_stay(x64):
    """The largest logits, computed before and after from tokens."""
    x, heads, size = normal(9, 8), 3, 4
    params = {
        "attn": {"query": {"kernel": normal(8, heads, size)}, "key": {"kernel": normal(8, 3, 4)}}
    }

    def largest(attn):
        q, k = (jnp.einsum("td,dhs->hts", x, attn[n]["kernel"]) for n in ("query", "key"))
        return jnp.max(jnp.einsum("hts,hus->htu", q, k) / size**0.5, axis=(1, 2))

    before = largest(params["attn"])
    threshold = float(jnp.sort(before)[1])  # One head is beyond it, one is at it.
    pair = QKPair("(.*)/query/kernel", r"\1/key/kernel", axis=-2)
    after = clipped((pair,), params, {"attn": before}, threshold=threshold)
    np.testing.assert_allclose(largest(after["attn"]), jnp.minimum(before, threshold), rtol=1e-12)


@pytest.mark.parametrize("balance", [0.5, 0.25])
def test_a_step_is_clipped_head_by_head(x64, balance):
    params, updates = {"q": normal(5, 6), "k": normal(6, 6)}, {"q": normal(5, 6), "k": normal(6, 6)}
    logits = np.array([1.0, 8.0, np.inf])
    found = clipped((QKPair("(q)", "k", balance=balance),), params, {"q": logits}, updates)
    for head, eta in enumerate([1.0, 0.25, 1.0]):
        part = slice(2 * head, 2 * head + 2)
        for name, exponent in (("q", balance), ("k", 1 - balance)):
            stepped = (params[name] + updates[name])[:, part]
            np.testing.assert_allclose(found[name][:, part], eta**exponent * stepped, rtol=1e-12)


def test_fused_stacked_grouped_and_rotary_leaves(x64):
    fused = normal(2, 5, 12)  # Two layers; query 4 heads of 2, key 2 heads of 1, the rest value.
    rotary = normal(5, 4)
    pairs = (
        QKPair("(fused)", "fused", query_part=(0, 8), key_part=(8, 10), key_heads=2),
        QKPair("(rotary)", None, balance=1.0),
    )
    logits = {"fused": np.array([[1.0, 8.0, 1.0, 1.0], [1.0] * 4]), "rotary": np.array([1.0, 8.0])}
    found = clipped(pairs, {"fused": fused, "rotary": rotary}, logits)
    factors = np.ones((2, 12))
    factors[0, :4] = 0.5  # Query heads 0 and 1 share a key head: the larger logit counts.
    factors[0, 8] = 0.5
    np.testing.assert_allclose(found["fused"], fused * factors[:, None], rtol=1e-12)
    np.testing.assert_allclose(found["rotary"], rotary * np.array([1, 1, 0.25, 0.25]), rtol=1e-12)


def test_what_is_missing_is_named():
    params = {"attn": {"q": jnp.ones((2, 4)), "k": jnp.ones((2, 4))}}
    tx = clip_qk((QKPair("(.*)/q", r"\1/k"),))
    with pytest.raises(ValueError, match="max_logits={'attn': largest}"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="nearest is 'attn/k'"):
        clip_qk((QKPair("(.*)/q", r"\1/key"),)).init(params)
    with pytest.raises(ValueError, match="matches no leaf"):
        clip_qk((QKPair("(.*)/query", None),)).init(params)
    with pytest.raises(ValueError, match="has no group"):
        QKPair(".*/q", "k")
    with pytest.raises(ValueError, match="no multiple"):
        clipped((QKPair("(.*)/q", None),), params, {"attn": np.ones(3)})


def test_16_bit_weights_and_a_jitted_chain():
    params = {"attn": {"q": jnp.ones((2, 4), jnp.bfloat16), "k": jnp.ones((2, 4), jnp.bfloat16)}}
    tx = clip_qk((QKPair("(.*)/q", r"\1/k"),), threshold=1.0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    step = jax.jit(lambda logits: tx.update(zeros, tx.init(params), params, max_logits=logits)[0])
    found = step({"attn": jnp.array([4.0, 1.0])})["attn"]["q"]
    assert found.dtype == jnp.bfloat16
    assert found[0].tolist() == [-0.5, -0.5, 0.0, 0.0]
