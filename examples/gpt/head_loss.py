"""Cross-entropy of the head's logits: of all at once, or by parts of the vocabulary.

Letters in names are shapes: N tokens of a batch, D width, V vocabulary, P parts, W tokens of the
vocabulary in each of them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from examples.runs.mesh import gathered, platform, split_last

_LANES = 128  # A part of so many columns, or a multiple, fills a TPU's registers.
_PART = 2_048  # Logits of 4,096 tokens for so many, in float32, are 32 MiB: they fit on a TPU chip.
_MANY = 2**30  # Bytes of float32 logits.


def parts(asked: int | None, tokens: int, vocab_size: int) -> int:
    """How many parts: as asked; by default one, on accelerators more where the logits are large.

    To compute logits again costs a fourth product beside three: on a TPU 1.7 ms more of products
    for 3.2 ms less of memory, which is slower where the two overlap. So it is done where a device's
    logits of all ``tokens`` would be larger than 1 GiB in float32, by parts of about 2,048 tokens.

    Example:
      >>> parts(None, 16_384, 50_304), parts(4, 16_384, 50_304)  # On a CPU.
      (1, 4)
    """
    if asked is not None:
        return min(asked, vocab_size)
    devices = max(1, jax.sharding.get_abstract_mesh().size)
    few = 4 * tokens * vocab_size <= _MANY * devices
    return 1 if few or platform() == "cpu" else -(-vocab_size // _PART)


@jax.named_scope("loss")
def of_logits(logits_BxLxV: jax.Array, targets_BxL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy (nats) and error rate of all logits at once.

    Args:
      logits_BxLxV: In float32 or wider.
      targets_BxL: int32, the tokens that come next.
    """
    error = (logits_BxLxV.argmax(-1) != targets_BxL).mean()
    if platform() == "cpu":
        loss_BxL = optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, targets_BxL)
        return loss_BxL.mean(), error
    # A gather of the targets' logits would have XLA write all of them in float32; this sum is part
    # of the pass that reads them anyway.
    token_V = jnp.arange(logits_BxLxV.shape[-1])
    target_BxL = jnp.where(token_V == targets_BxL[..., None], logits_BxLxV, 0).sum(-1)
    return (jax.nn.logsumexp(logits_BxLxV, axis=-1) - target_BxL).mean(), error


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def cross_entropy(x_NxD: jax.Array, head_VxD: jax.Array, targets_N: jax.Array, count: int):
    """Mean cross-entropy (nats) and error rate of the logits ``x @ head.T``.

    The logsumexp is summed up part by part in float32; the backward pass computes the logits again.

    Args:
      x_NxD: What the head sees.
      head_VxD: The head, in the same dtype.
      targets_N: int32, the tokens that come next.
      count: Of parts, 1 to V; the last one is filled up.

    Example:
      >>> x, head = jnp.ones((2, 4)), jnp.zeros((8, 4))
      >>> loss, error = cross_entropy(x, head, jnp.array([0, 3]), 3)
      >>> round(loss.item(), 4), error.item()  # log 8
      (2.0794, 0.5)
    """
    return _forward(x_NxD, head_VxD, targets_N, count)[0]


@jax.named_scope("loss")
def _forward(x_NxD, head_VxD, targets_N, count):
    wide = jnp.promote_types(x_NxD.dtype, jnp.float32)
    never = jnp.full(targets_N.shape, -jnp.inf, wide)

    def add(carry, part):
        top_N, total_N, target_N, likeliest_N = carry
        logits_NxW, token_W = _logits(x_NxD, part, len(head_VxD))
        largest_N = logits_NxW.max(-1)
        likeliest_N = jnp.where(largest_N > top_N, token_W[logits_NxW.argmax(-1)], likeliest_N)
        new_N = jnp.maximum(top_N, largest_N)
        total_N = total_N * jnp.exp(top_N - new_N) + jnp.exp(logits_NxW - new_N[:, None]).sum(-1)
        target_N += jnp.where(token_W == targets_N[:, None], logits_NxW, 0).sum(-1)
        return (new_N, total_N, target_N, likeliest_N), None

    start = (never, jnp.zeros_like(never), jnp.zeros_like(never), jnp.zeros_like(targets_N))
    found, _ = jax.lax.scan(add, start, _split(gathered(head_VxD), count))
    top_N, total_N, target_N, likeliest_N = found
    log_total_N = top_N + jnp.log(total_N)
    means = (log_total_N - target_N).mean(), (likeliest_N != targets_N).mean()
    return means, (x_NxD, head_VxD, targets_N, log_total_N)


@jax.named_scope("loss")  # The one of the caller is not that of the backward pass.
def _backward(count, kept, cotangents):
    x_NxD, head_VxD, targets_N, log_total_N = kept
    scale = cotangents[0] / len(targets_N)

    def add(d_x_NxD, part):
        logits_NxW, token_W = _logits(x_NxD, part, len(head_VxD))
        share_NxW = jnp.exp(logits_NxW - log_total_N[:, None])
        d_NxW = (scale * (share_NxW - (token_W == targets_N[:, None]))).astype(x_NxD.dtype)
        d_x_NxD += jnp.matmul(d_NxW, part[0], preferred_element_type=d_x_NxD.dtype)
        return d_x_NxD, split_last(d_NxW.T @ x_NxD)

    zero = jnp.zeros(x_NxD.shape, log_total_N.dtype)
    d_x_NxD, d_head_PxWxD = jax.lax.scan(add, zero, _split(gathered(head_VxD), count))
    d_head_VxD = d_head_PxWxD.reshape(-1, x_NxD.shape[1])[: len(head_VxD)]
    return d_x_NxD.astype(x_NxD.dtype), d_head_VxD.astype(head_VxD.dtype), None


cross_entropy.defvjp(_forward, _backward)


def _split(head_VxD: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The head's rows by parts, filled up with zeros, and the tokens that they stand for."""
    size, width = head_VxD.shape
    rows = -(-size // count)
    if rows > _LANES:
        rows = -(-rows // _LANES) * _LANES
    count = -(-size // rows)
    filled = jnp.pad(head_VxD, ((0, count * rows - size), (0, 0)))
    return filled.reshape(count, rows, width), jnp.arange(count * rows).reshape(count, rows)


def _logits(x_NxD: jax.Array, part: Any, vocab_size: int) -> tuple[jax.Array, jax.Array]:
    """Those of one part, rounded as the whole head's are, -inf where it was filled up."""
    rows_WxD, token_W = part
    logits_NxW = (x_NxD @ rows_WxD.T).astype(jnp.promote_types(x_NxD.dtype, jnp.float32))
    return jnp.where(token_W < vocab_size, logits_NxW, -jnp.inf), token_W
