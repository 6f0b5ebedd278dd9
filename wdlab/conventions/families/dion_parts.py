"""The directions of dion that see a part of each matrix: of low rank, or of some of its rows."""

import functools
import math
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

from wdlab._core.transformation import transformation
from wdlab.preconditioners import MatrixAxes, newton_schulz
from wdlab.rules import leaves_with_paths

PyTree = Any


class DionState(NamedTuple):
    """State of Dion's direction."""

    momentum: PyTree  # Like params: what the low rank has not taken yet, besides mu of what it has.
    basis: PyTree  # Per leaf (shorter side, rank): the right factor of the last step.


class SelectedRowsState(NamedTuple):
    """State of the direction of selected rows or columns."""

    momentum: PyTree  # Like params.
    neurons: PyTree  # Per leaf one number a row, in NorDion2; None in Dion2.


def initial_basis(path: str, shape: tuple[int, ...], rank: int) -> jax.Array:
    """Returns the random matrix that a leaf starts from, the same for the same path.

    >>> initial_basis("kernel", (7, 4), 2).shape
    (4, 2)
    """
    key = jax.random.fold_in(jax.random.key(0), np.uint32(zlib.crc32(path.encode())))
    return jax.random.normal(key, (min(shape), rank), jnp.float32)


def rank_of(shape: tuple[int, ...], fraction: float, multiple_of: int) -> int:
    """Returns the rank for a matrix: a fraction of its shorter side, rounded up to a multiple.

    >>> rank_of((100, 30), 0.25, 4)
    8
    """
    wanted = multiple_of * math.ceil(fraction * min(shape) / multiple_of)
    return min(wanted, *shape)


def low_rank_direction(
    mu: float,
    *,
    fraction: float,
    multiple_of: int,
    power_iters: int,
    eps: float,
    dtype: DTypeLike | None,
) -> optax.GradientTransformation:
    r"""Dion's direction without the factor of the shape, for leaves of rank 2.

    With :math:`M \leftarrow M + g`, turned so that it has no more columns than rows, one step is
    :math:`u = P Q^T`: :math:`P` the orthonormal factor of :math:`M Q_{t-1}`, :math:`R = M^T P`,
    :math:`Q_t` that with each column divided by its norm; then
    :math:`M \leftarrow M - (1 - \mu) P R^T`.

    Args:
      mu: What stays of the part that was taken, at least 0.
      fraction: Rank over the shorter side, in (0, 1].
      multiple_of: The rank is rounded up to a multiple of it.
      power_iters: Power iterations a step, at least 1.
      eps: Added to the columns' norms.
      dtype: Of the orthonormal factor; None: the leaf's.

    >>> tx = low_rank_direction(
    ...     0.9, fraction=1.0, multiple_of=1, power_iters=1, eps=0.0, dtype=None
    ... )
    >>> gradient = {"w": jnp.array([[3.0], [4.0]])}
    >>> update, _ = tx.update(gradient, tx.init(gradient))
    >>> round(float(jnp.linalg.norm(update["w"])), 4)
    1.0

    Source: Ahn et al., https://arxiv.org/abs/2504.05295; dion@0a059a4, dion.py.
    """

    def init_fn(params: PyTree) -> DionState:
        leaves, treedef = jax.tree.flatten(params)
        bases = [
            initial_basis(path, x.shape, rank_of(x.shape, fraction, multiple_of)).astype(x.dtype)
            for path, x in leaves_with_paths(params)
        ]
        zeros = [jnp.zeros(x.shape, x.dtype) for x in leaves]
        return DionState(treedef.unflatten(zeros), treedef.unflatten(bases))

    def leaf(g: jax.Array, m: jax.Array, basis: jax.Array) -> tuple[jax.Array, ...]:
        m = m + g
        if g.size == 0:
            return g, m, basis
        wide = g.shape[0] < g.shape[1]
        b = m.T if wide else m

        def factors(q: jax.Array) -> tuple[jax.Array, jax.Array]:
            p = jnp.linalg.qr((b @ q).astype(dtype or b.dtype))[0].astype(b.dtype)
            return p, b.T @ p

        p, q = factors(basis)
        for _ in range(power_iters - 1):
            p, q = factors(q)
        nothing = jnp.all(b == 0)
        p, q = jnp.where(nothing, 0.0, p), jnp.where(nothing, basis, q)
        taken = (1 - mu) * (p @ q.T)
        q = q / (jnp.linalg.norm(q, axis=0, keepdims=True) + eps)
        u = p @ q.T
        return (u.T if wide else u), m - (taken.T if wide else taken), q

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DionState]:
        del params
        steps, momentum, basis = _by_leaf(leaf, updates, state.momentum, state.basis)
        return steps, DionState(momentum, basis)

    return transformation(init_fn, update_fn)


def selected_rows_direction(
    kept: float,
    *,
    fraction: float,
    muon_beta2: float | None,
    iteration: dict[str, Any],
    axes: MatrixAxes,
) -> optax.GradientTransformation:
    r"""Dion2's direction: the rows or columns with the largest sums, orthogonalized by themselves.

    With :math:`M \leftarrow M + g` and :math:`K` the rows with the largest :math:`\sum_j |M_{ij}|`,
    one step is :math:`u_K = NS(M_K)`, 0 elsewhere; then :math:`M_K \leftarrow \mu M_K`. Dion2 takes
    columns where there are fewer of them; NorDion2 always rows, each divided by its own size.

    Args:
      kept: What stays of the rows that were taken, at least 0.
      fraction: Of the rows that are taken, rounded up, in (0, 1].
      muon_beta2: Rate of the rows' second moment in NorDion2, in [0, 1); None: Dion2.
      iteration: Arguments of :func:`wdlab.preconditioners.newton_schulz`.
      axes: Which axes are rows and columns; the others are a batch.

    >>> tx = selected_rows_direction(
    ...     0.9, fraction=0.5, muon_beta2=None, iteration={"coefficients": "quintic"},
    ...     axes=MatrixAxes("out_in"),
    ... )
    >>> gradient = {"w": jnp.array([[3.0, 0.0, 0.0], [0.0, 4.0, 0.0]])}
    >>> jnp.round(tx.update(gradient, tx.init(gradient))[0]["w"], 4).tolist()
    [[0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]

    Source: dion@0a059a4, dion2.py and nordion2.py.
    """
    of_rows = muon_beta2 is not None
    of_matrix = functools.partial(
        _selected_rows, kept=kept, fraction=fraction, muon_beta2=muon_beta2, iteration=iteration
    )

    def init_fn(params: PyTree) -> SelectedRowsState:
        leaves, treedef = jax.tree.flatten(params)
        views = axes.views(params)
        zeros = [jnp.zeros(x.shape, x.dtype) for x in leaves]
        pairs = zip(leaves, views, strict=True)
        rows = [(*(x.shape[axis] for axis in v.batch), v.row_count, 1) for x, v in pairs]
        neurons = [jnp.zeros(shape, x.dtype) for shape, x in zip(rows, leaves, strict=True)]
        of_each = treedef.unflatten(neurons) if of_rows else None
        return SelectedRowsState(treedef.unflatten(zeros), of_each)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, SelectedRowsState]:
        del params
        views = iter(axes.views(updates))

        def leaf(g: jax.Array, m: jax.Array, v: Any) -> tuple[Any, ...]:
            m, view = m + g, next(views)
            if g.size == 0:
                return g, m, v
            (block,) = view.blocks(m)
            turned = view.row_axis == -1
            block = jnp.swapaxes(block, -1, -2) if turned else block
            flat = block.reshape(-1, *block.shape[-2:])
            neurons = jnp.zeros((len(flat), flat.shape[1], 1), g.dtype)
            neurons = neurons if v is None else v.reshape(neurons.shape)
            step, rest, new = jax.vmap(of_matrix)(flat, neurons)
            back = (x.reshape(block.shape) for x in (step, rest))
            step, rest = (view.join([jnp.swapaxes(x, -1, -2) if turned else x]) for x in back)
            return step, rest, None if v is None else new.reshape(v.shape)

        steps, momentum, neurons = _by_leaf(leaf, updates, state.momentum, state.neurons)
        return steps, SelectedRowsState(momentum, neurons)

    return transformation(init_fn, update_fn)


def _selected_rows(
    m: jax.Array,
    v: jax.Array,
    *,
    kept: float,
    fraction: float,
    muon_beta2: float | None,
    iteration: dict[str, Any],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A step of one matrix: its direction, momentum and second moments after it."""
    by_row = muon_beta2 is not None or m.shape[0] <= m.shape[1]
    x = m if by_row else m.T
    count = max(1, math.ceil(fraction * len(x)))
    chosen = jax.lax.top_k(jnp.sum(jnp.abs(x), axis=1), count)[1]
    part = x[chosen]
    u = newton_schulz(part if by_row else part.T, **iteration)
    u = u if by_row else u.T
    if muon_beta2 is not None:
        size = muon_beta2 * v[chosen] + (1 - muon_beta2) * jnp.mean(u * u, 1, keepdims=True)
        w = u / (jnp.sqrt(size) + 1e-8)
        u = w * (jnp.linalg.norm(u) / jnp.maximum(jnp.linalg.norm(w), 1e-8))
        v = v.at[chosen].set(size)
    step = jnp.zeros_like(x).at[chosen].set(u)
    x = x.at[chosen].multiply(kept)
    return (step, x, v) if by_row else (step.T, x.T, v)


def _by_leaf(
    leaf: Callable[..., tuple[Any, ...]], updates: PyTree, first: PyTree, second: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """A step of every leaf: its update and its two states; the second may be None."""
    leaves, treedef = jax.tree.flatten(updates)
    seconds = [None] * len(leaves) if second is None else treedef.flatten_up_to(second)
    done = list(map(leaf, leaves, treedef.flatten_up_to(first), seconds))
    trees = [treedef.unflatten([each[n] for each in done]) for n in range(3)]
    return trees[0], trees[1], None if second is None else trees[2]
