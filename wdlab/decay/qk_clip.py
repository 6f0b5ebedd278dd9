"""QK-clip of MuonClip: query and key weights shrink where attention logits grow too large."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, check_whole, require_params
from wdlab._core.dtypes import check_real, wider, working_dtype
from wdlab._core.names import first_few
from wdlab._core.transformation import transformation
from wdlab.rules import compile_pattern, leaves_with_paths, nearest_path

PyTree = Any


@dataclass(frozen=True)
class QKPair:
    r"""The query and key leaves of some attention layers, and where their heads are.

    Args:
      query: A regular expression that must match the whole path of the query leaf, with a group.
      key: The key leaf's path, ``\1`` for what the group matched; None: there is none to clip (the
        rotary part of MLA, whose key all heads share: give it ``balance=1.0``).
      logits: The entry of ``max_logits`` with the largest logits of this layer.
      axis: Which axis has the heads, alone or together with their entries (heads outside), in both
        leaves: -1 for a kernel (in, heads * size), -2 for Flax's (in, heads, size).
      query_part: (start, end) along that axis, for a fused leaf; None: all of it.
      key_part: The same of the key.
      key_heads: Number of key heads, where fewer than query heads (grouped queries).
      balance: alpha in [0, 1], the query's share of the shrink; the key has the rest.

    Raises:
      TypeError, ValueError: If an argument is not as above.

    >>> QKPair(r"(.*)/query/kernel", r"\1/key/kernel", axis=-2).balance
    0.5
    """

    query: str
    key: str | None
    _: KW_ONLY
    logits: str = r"\1"
    axis: int = -1
    query_part: tuple[int, int] | None = None
    key_part: tuple[int, int] | None = None
    key_heads: int | None = None
    balance: float = 0.5

    def __post_init__(self):
        if compile_pattern(self.query).groups < 1:
            raise ValueError(
                rf"QKPair: {self.query!r} has no group. Write it as r'(.*)/query/kernel', so that "
                r"key=r'\1/key/kernel' names its key."
            )
        check_number("balance", self.balance, high=1.0)
        if self.key_heads is not None:
            check_whole("key_heads", self.key_heads)


class _Side(NamedTuple):
    """One leaf's part in one pair."""

    path: str
    part: tuple[int, int] | None
    axis: int
    exponent: float
    logits: str
    key_heads: int | None


def clip_qk(
    pairs: tuple[QKPair, ...], *, threshold: float = 100.0
) -> optax.GradientTransformationExtraArgs:
    r"""Shrinks the heads whose attention logits went beyond a threshold: MuonClip's QK-clip.

    With the largest logit :math:`S_h` of a head in this step's batch and :math:`\eta_h =
    \min(1, \tau/S_h)`, one step is :math:`W_q^h \leftarrow \eta_h^\alpha (W_q^h + u_q^h)`,
    :math:`W_k^h \leftarrow \eta_h^{1-\alpha} (W_k^h + u_k^h)`: put it last in the chain, after the
    decay. Heads below the threshold take their step as it is. Query heads that share a key head
    share its :math:`\eta`, by the largest of their logits (Megatron). A logit that is not finite
    leaves its head alone.

    The logits are given to ``update``: ``tx.update(grads, state, params, max_logits={"h/0/attn":
    largest})``, each of shape (heads,), or (layers, heads) for stacked layers, over all devices'
    batches. Weights with a bias need a pair for the bias too.

    Args:
      pairs: Of leaves, first match wins.
      threshold: :math:`\tau` > 0; 100 in Kimi K2 and Megatron.

    Raises:
      TypeError, ValueError: At construction for a wrong number; from ``init`` if a pair matches
        nothing or its key is missing; from ``update`` without params or a layer's logits.

    >>> tx = clip_qk((QKPair(r"(.*)/q", r"\1/k"),), threshold=25.0)
    >>> params = {"attn": {"q": jnp.ones((2, 4)), "k": jnp.ones((2, 4))}}  # Two heads.
    >>> updates = jax.tree.map(jnp.zeros_like, params)
    >>> logits = {"attn": jnp.array([100.0, 20.0])}
    >>> updates, _ = tx.update(updates, tx.init(params), params, max_logits=logits)
    >>> (params["attn"]["q"] + updates["attn"]["q"])[0].tolist()
    [0.5, 0.5, 1.0, 1.0]

    Source: Kimi K2, https://arxiv.org/abs/2507.20534, Algorithm 1; Megatron-LM@d98e8a6,
    megatron/core/transformer/attention.py, ``clip_qk``.
    """
    check_number("threshold", threshold, low_open=True)
    pairs = (pairs,) if isinstance(pairs, QKPair) else tuple(pairs)

    def init_fn(params: PyTree) -> optax.EmptyState:
        check_real("clip_qk", params)
        _sides(params, pairs, strict=True)
        return optax.EmptyState()

    def update_fn(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        max_logits: Mapping[str, jax.Array] | None = None,
    ) -> tuple[PyTree, optax.EmptyState]:
        require_params("clip_qk", params)
        sides = _sides(params, pairs)
        _check_logits(sides, max_logits)
        leaves, treedef = jax.tree.flatten(updates)
        new = []
        for (path, p), u in zip(leaves_with_paths(params), leaves, strict=True):
            factors = [
                _factor(side, p.shape, (max_logits or {})[side.logits], threshold)
                for side in sides
                if side.path == path
            ]
            new.append(_clipped(u, p, factors) if factors else u)
        return treedef.unflatten(new), state

    return transformation(init_fn, update_fn)


def _clipped(u: jax.Array, p: jax.Array, factors: list[jax.Array]) -> jax.Array:
    """The step to the shrunken weight; as it is where the factor is 1."""
    dtype = wider(u, p)
    wide = working_dtype(dtype)
    total = 1.0
    for factor in factors:
        total = total * factor.astype(wide)
    return (u.astype(wide) * total + p.astype(wide) * (total - 1)).astype(dtype)


def _factor(side: _Side, shape: tuple[int, ...], logits: Any, threshold: float) -> jax.Array:
    """What a leaf is multiplied by, of a shape that broadcasts to the leaf's."""
    largest = jnp.asarray(logits)
    heads = largest.shape[-1]
    groups = side.key_heads or heads
    if heads % groups:
        raise ValueError(f"clip_qk: {heads} query heads for key_heads={groups}; no multiple.")
    largest = jnp.max(largest.reshape(*largest.shape[:-1], groups, heads // groups), axis=-1)
    beyond = jnp.isfinite(largest) & (largest > threshold)
    eta = jnp.where(beyond, threshold / jnp.where(beyond, largest, threshold), 1.0)
    axis = side.axis % len(shape)
    start, end = side.part or (0, shape[axis])
    if (end - start) % groups:
        raise ValueError(
            f"clip_qk: {side.path!r} has {end - start} entries along axis {side.axis} for {groups} "
            "heads; no multiple."
        )
    row = jnp.repeat(eta**side.exponent, (end - start) // groups, axis=-1)
    if side.part:
        pad = [(0, 0)] * (row.ndim - 1) + [(start, shape[axis] - end)]
        row = jnp.pad(row, pad, constant_values=1.0)
    layers = row.shape[:-1]
    between = (1,) * (axis - len(layers))
    return row.reshape(*layers, *between, shape[axis], *(1,) * (len(shape) - axis - 1))


def _sides(params: PyTree, pairs: tuple[QKPair, ...], *, strict: bool = False) -> list[_Side]:
    """The parts that all leaves have in the pairs."""
    paths, found, done = [path for path, _ in leaves_with_paths(params)], [], set()
    for pair in pairs:
        matches = [(p, m) for p in paths if (m := compile_pattern(pair.query).fullmatch(p))]
        if strict and not matches:
            near = nearest_path(pair.query, paths)
            raise ValueError(f"clip_qk: {pair.query!r} matches no leaf; the nearest is {near!r}.")
        for path, match in matches:
            if (path, pair.query_part) in done:
                continue
            done.add((path, pair.query_part))
            shared = match.expand(pair.logits), pair.key_heads
            found.append(_Side(path, pair.query_part, pair.axis, pair.balance, *shared))
            if pair.key is None:
                continue
            key = match.expand(pair.key)
            if key not in paths:
                near = nearest_path(key, paths)
                raise ValueError(
                    f"clip_qk: {path!r} has no key leaf {key!r}; the nearest is {near!r}."
                )
            found.append(_Side(key, pair.key_part, pair.axis, 1 - pair.balance, *shared))
    return found


def _check_logits(sides: list[_Side], max_logits: Mapping[str, Any] | None) -> None:
    wanted = sorted({side.logits for side in sides})
    missing = [name for name in wanted if name not in (max_logits or {})]
    if missing:
        raise ValueError(
            f"clip_qk needs the largest attention logits of {first_few(missing)}. Write "
            f"tx.update(grads, opt_state, params, max_logits={{{missing[0]!r}: largest}}), shape "
            "(heads,)."
        )
