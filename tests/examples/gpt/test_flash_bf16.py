"""Attention that rounds as a flash kernel in bfloat16: its twin, its bias, and the cures."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.gpt import attention, model
from examples.gpt.step import losses
from examples.runs.errors import UserError
from tests.examples.gpt.test_model import SMALL, TOKENS, VOCAB, with_noise
from tests.twins import flash_bf16 as twin

OPTIONS = [{}, {"shifted": True}, {"float32_delta": True}]


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "shifted", "float32_delta"])
def test_output_and_gradients_are_the_twins_bit_for_bit(options):
    rng = np.random.default_rng(0)
    heads = (4, 2, 2, 4)  # Two heads of queries for each of the keys.
    q, k, v, d_out = (rng.normal(size=(2, 24, n, 8)).astype(np.float32) for n in heads)
    k[:, 1::2] = k[:, ::2]  # Repeated maxima, and no float32 sum near a tie of the rounding.
    attend = lambda *q_k_v: attention.flash_bf16(*q_k_v, **options)  # noqa: E731
    out, backward = jax.vjp(attend, q, k, v)
    expected = twin.attention(q, k, v, d_out, **options)
    for found, wanted in zip((out, *backward(d_out)), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def bias(ties: int, mean: float, **options) -> float:
    """Of the last token's output beside float64, in units of half a bfloat16 step of 1."""
    rng = np.random.default_rng(1)
    rows, length, width = 400, 64, 16
    q, k = np.zeros((2, rows, length, 1, width), np.float32)
    q[:, -1, 0, 0] = rng.uniform(6, 10, rows)
    k[..., 0] = -rng.uniform(3, 6, (rows, length, 1))
    k[:, :ties, 0, 0] = 4
    v = 0.5 * rng.normal(size=q.shape) + mean
    q, k, v = (twin.r(x) for x in (q, k, v))
    out = jax.jit(lambda *x: attention.flash_bf16(*x, **options))(q, k, v)[:, -1, 0]
    scores = q[:, -1:, 0, 0] * k[:, :, 0, 0] / np.sqrt(width)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    exact = np.einsum("nm,nmk->nk", weights / weights.sum(1, keepdims=True), v[:, :, 0])
    far = np.abs(exact) > 0.3
    return ((out - exact) / np.abs(exact) * 2**9)[far].mean()


@pytest.mark.parametrize("sign", [-1, 1])
def test_two_equal_maxima_bias_the_output_away_from_zero_and_the_shift_cures_it(sign):
    assert abs(bias(ties=1, mean=1.5 * sign)) < 0.05
    assert sign * bias(ties=2, mean=1.5 * sign) > 0.4  # 0.50 or 0.57, by the CPU.
    assert abs(bias(ties=2, mean=1.5 * sign, shifted=True)) < 0.1  # Standard error 0.02.


def test_scores_far_from_zero_are_shifted_without_underflow():
    q, v = 40 * np.ones((1, 3, 1, 4), np.float32), np.ones((1, 3, 1, 4), np.float32)
    for k in (q, -q):  # Scores of 3200 and -3200, all equal.
        out = attention.flash_bf16(q, k, v, shifted=True)
        np.testing.assert_allclose(out, v, rtol=2**-7)


@pytest.mark.slow
def test_the_model_learns_with_it_and_rounds():
    def value_and_grad(form):
        config = dataclasses.replace(SMALL, n_layer=1, attention=form)
        graph, params = model.create(config, VOCAB, seed=0)
        loss = lambda p: losses(graph, p, TOKENS)[0]  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(with_noise(params))

    loss, grads = value_and_grad("plain")
    for form in attention.ROUNDED:
        found = value_and_grad(form)
        np.testing.assert_allclose(found[0], loss, rtol=1e-3)
        difference = jax.tree.map(jnp.subtract, found[1], grads)
        size = lambda tree: float(jnp.sqrt(sum((x**2).sum() for x in jax.tree.leaves(tree))))  # noqa: E731
        assert 1e-5 < size(difference) / size(grads) < 0.02


def test_it_has_no_dropout():
    config = dataclasses.replace(SMALL, attention="flash_bf16", dropout=0.1)
    with pytest.raises(UserError, match=r"--attention flash_bf16: it has no --dropout \(0.1\)"):
        model.shapes(config, VOCAB)
