"""Causal attention in its forms, written as formulas; the kernels are in ``kernels.py``.

Letters in names are shapes: B sequences, L queries, M keys, H heads of queries, G heads of keys and
values (each serves R = H / G heads of queries), K width of a head.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from examples.runs.errors import UserError
from examples.runs.mesh import platform

from . import kernels
from .config import Config


def check(config: Config) -> None:
    """Refuses a form that was asked for by name and that these devices do not have.

    Raises:
      UserError: With the reason.

    Example:
      >>> check(Config(attention="flash"))
      Traceback (most recent call last):
      UserError: --attention flash: there is no flash kernel for a cpu; write --attention auto
    """
    if config.attention != "flash":
        return
    width, dtype = config.n_embd // config.n_head, jnp.dtype(config.dtype)
    reason = kernels.obstacle(platform(), config.block_size, width, dtype)
    if config.dropout:
        reason = f"the kernels have no --dropout ({config.dropout})"
    if reason:
        raise UserError(f"--attention flash: {reason}; write --attention auto")


def causal(q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array, form: str):
    """Attention of each token to itself and those before it, shape (B, L, H, K), without dropout.

    ``softmax(q k^T / sqrt(K)) v``, row by row over the tokens seen.

    Args:
      q_BxLxHxK: Queries.
      k_BxLxGxK: Keys.
      v_BxLxGxK: Values, of the same dtype.
      form: ``Config.attention``.
    """
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
