"""Causal attention in its forms, written as formulas; the kernels are in ``kernels.py``.

Letters in names are shapes: B sequences, L queries, M keys, H heads of queries, G heads of keys and
values (each serves R = H / G heads of queries), K width of a head.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from examples.runs.errors import UserError
from examples.runs.mesh import platform

from . import kernels
from .config import Config

# Of flash_bf16: what each form of Config.attention asks of it.
ROUNDED: dict[str, dict[str, Any]] = {
    "flash_bf16": {},
    "flash_bf16_shifted": {"shifted": True},
    "flash_bf16_float32_delta": {"float32_delta": True},
}
_REPEATED = 1e-3  # Scores as near to the maximum as this repeat it, as in the paper's program.
_LARGEST_SHIFT = 64.0  # exp(-64) = 2e-28 is far from float32's smallest number.


def check(config: Config) -> None:
    """Refuses a form that was asked for by name and that these devices do not have.

    Raises:
      UserError: With the reason.

    Example:
      >>> check(Config(attention="flash"))
      Traceback (most recent call last):
      UserError: --attention flash: there is no flash kernel for a cpu; write --attention auto
    """
    form, reason = config.attention, ""
    if form in ("auto", "plain"):
        return
    if form == "flash":
        width, dtype = config.n_embd // config.n_head, jnp.dtype(config.dtype)
        reason = kernels.obstacle(platform(), config.block_size, width, dtype)
    if config.dropout:
        reason = f"it has no --dropout ({config.dropout})"
    if reason:
        raise UserError(f"--attention {form}: {reason}; write --attention auto")


def causal(q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array, form: str):
    """Attention of each token to itself and those before it, shape (B, L, H, K), without dropout.

    ``softmax(q k^T / sqrt(K)) v``, row by row over the tokens seen.

    Args:
      q_BxLxHxK: Queries.
      k_BxLxGxK: Keys.
      v_BxLxGxK: Values, of the same dtype.
      form: ``Config.attention``.
    """
    if form in ROUNDED:
        return flash_bf16(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, **ROUNDED[form])
    _, length, _, width = q_BxLxHxK.shape
    reason = kernels.obstacle(platform(), length, width, q_BxLxHxK.dtype)
    if form == "plain" or reason or not _shared(q_BxLxHxK):
        return plain(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)
    return kernels.flash(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)


def _shared(x: jax.Array) -> bool:
    """Whether the devices of the mesh share the sequences equally: not where one is sampled."""
    return x.shape[0] % max(1, jax.sharding.get_abstract_mesh().size) == 0


def plain(
    q_BxLxHxK: jax.Array,
    k_BxMxGxK: jax.Array,
    v_BxMxGxK: jax.Array,
    start: int | jax.Array = 0,
    drop: Callable[[jax.Array], jax.Array] = lambda weights: weights,
) -> jax.Array:
    """Attention with all scores at once, in float32 or wider, shape (B, L, H, K).

    Args:
      q_BxLxHxK: Queries; the first one's position is ``start``.
      k_BxMxGxK: Keys, from position 0 on.
      v_BxMxGxK: Values.
      start: So many keys lie before the first query's own.
      drop: Dropout of the weights.
    """
    B, L, H, K = q_BxLxHxK.shape
    M, G = k_BxMxGxK.shape[1:3]
    q_BxLxGxRxK = q_BxLxHxK.reshape(B, L, G, H // G, K)
    scores_BxGxRxLxM = jnp.einsum("blgrk,bmgk->bgrlm", q_BxLxGxRxK, k_BxMxGxK)
    scores_BxGxRxLxM = K**-0.5 * scores_BxGxRxLxM.astype(
        jnp.promote_types(q_BxLxHxK.dtype, jnp.float32)
    )
    seen_LxM = jnp.arange(M) <= start + jnp.arange(L)[:, None]
    att_BxGxRxLxM = jax.nn.softmax(jnp.where(seen_LxM, scores_BxGxRxLxM, -jnp.inf))
    att_BxGxRxLxM = drop(att_BxGxRxLxM.astype(v_BxMxGxK.dtype))
    out_BxLxGxRxK = jnp.einsum("bgrlm,bmgk->blgrk", att_BxGxRxLxM, v_BxMxGxK)
    return out_BxLxGxRxK.reshape(q_BxLxHxK.shape)


def flash_bf16(
    q_BxLxHxK: jax.Array,
    k_BxLxGxK: jax.Array,
    v_BxLxGxK: jax.Array,
    *,
    shifted: bool = False,
    float32_delta: bool = False,
) -> jax.Array:
    r"""Causal attention with the roundings of a bfloat16 flash kernel, on any device.

    With :math:`r` rounding to bfloat16, :math:`Q, K, V, dO` rounded, scores, their maximum and sum
    in float32, and a row as one block:
    :math:`S = Q K^T / \sqrt{K}`, :math:`P = \exp(S - \max S)`, :math:`l = \sum P`,
    :math:`O = r(r(r(P) V) / l)`; backward with :math:`P` divided by :math:`l`,
    :math:`\delta = \sum dO \, O`, :math:`dS = r(P (dO V^T - \delta))`, :math:`dV = r(P)^T dO`,
    and the gradients rounded. Where the maximum of a row is repeated, several of its P are exactly
    1, and the rounding of their sum of values is biased (Qiu & Yao 2025,
    https://arxiv.org/abs/2510.04212, as in their program attention.py, which rounds the product
    P V before it is divided; kernels that keep it in float32 round once less).

    Args:
      q_BxLxHxK: Queries, of any floating-point dtype, which is the result's.
      k_BxLxGxK: Keys.
      v_BxLxGxK: Values.
      shifted: The cure: where more than one score is within 1e-3 of the row's maximum, subtract
        that maximum twice (not at all, if it is negative), and at most 64 more than once, so that
        no P is exactly 1 and none underflows.
      float32_delta: delta as :math:`\sum P \, dO V^T` in float32, the same but for O's rounding.

    Example:
      >>> one = jnp.ones((1, 2, 1, 4))
      >>> flash_bf16(one, one, one / 3)[0, 0, 0, 0].item()  # 1/3 in bfloat16
      0.333984375
    """
    return _flash_bf16(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, shifted, float32_delta)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _flash_bf16(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, shifted: bool, float32_delta: bool):
    return _flash_bf16_forward(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, shifted, float32_delta)[0]


def _flash_bf16_forward(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, shifted, float32_delta):
    q, k, v = (_rounded(x) for x in (_grouped(q_BxLxHxK, k_BxLxGxK), k_BxLxGxK, v_BxLxGxK))
    scores = _scores(q, k)
    top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
    if shifted:
        repeated = (scores >= top - _REPEATED).sum(-1, keepdims=True) > 1
        top = jnp.where(repeated, top + jnp.minimum(jnp.abs(top), _LARGEST_SHIFT), top)
    weights = jnp.exp(scores - top)
    total = weights.sum(-1, keepdims=True)
    sums = _rounded(_product("bgrlm,bmgk->bgrlk", _rounded(weights), v))
    out = _rounded(sums / total)
    kinds = [jnp.zeros(0, x.dtype) for x in (q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)]
    kept = (q, k, v, out, top + jnp.log(total), kinds)
    out_BxLxHxK = jnp.moveaxis(out, 3, 1).reshape(q_BxLxHxK.shape)
    return out_BxLxHxK.astype(q_BxLxHxK.dtype), kept


def _flash_bf16_backward(shifted, float32_delta, kept, d_out_BxLxHxK):
    q, k, v, out, log_total, kinds = kept
    d_out = _rounded(jnp.moveaxis(_grouped(d_out_BxLxHxK, k), 1, 3))
    weights = jnp.exp(_scores(q, k) - log_total)
    d_weights = _product("bgrlk,bmgk->bgrlm", d_out, v)
    pair = (weights, d_weights) if float32_delta else (d_out, out)
    delta = (pair[0] * pair[1]).sum(-1, keepdims=True)
    d_scores = _rounded(weights * (d_weights - delta))
    scale = q.shape[-1] ** -0.5
    d_q = scale * _product("bgrlm,bmgk->blgrk", d_scores, k)
    d_k = scale * _product("bgrlm,blgrk->bmgk", d_scores, q)
    d_v = _product("bgrlm,bgrlk->bmgk", _rounded(weights), d_out)
    found = zip((d_q.reshape(d_out_BxLxHxK.shape), d_k, d_v), kinds, strict=True)
    return tuple(_rounded(x).astype(kind.dtype) for x, kind in found)


_flash_bf16.defvjp(_flash_bf16_forward, _flash_bf16_backward)


def _rounded(x: jax.Array) -> jax.Array:
    """Rounded to bfloat16, held in float32: XLA may leave out a conversion there and back."""
    return jax.lax.reduce_precision(x.astype(jnp.float32), exponent_bits=8, mantissa_bits=7)


def _product(letters: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """With float32 sums, as matrix units have them; products of bfloat16 numbers are exact."""
    return jnp.einsum(letters, a, b, precision="highest")


def _grouped(x_BxLxHxK: jax.Array, k_BxMxGxK: jax.Array) -> jax.Array:
    """Queries by the head of keys that serves them, shape (B, L, G, R, K)."""
    B, L, H, K = x_BxLxHxK.shape
    G = k_BxMxGxK.shape[2]
    return x_BxLxHxK.reshape(B, L, G, H // G, K)


def _scores(q_BxLxGxRxK: jax.Array, k_BxLxGxK: jax.Array) -> jax.Array:
    L, K = q_BxLxGxRxK.shape[1], q_BxLxGxRxK.shape[-1]
    scores = K**-0.5 * _product("blgrk,bmgk->bgrlm", q_BxLxGxRxK, k_BxLxGxK)
    return jnp.where(jnp.tri(L, dtype=bool), scores, -jnp.inf)
