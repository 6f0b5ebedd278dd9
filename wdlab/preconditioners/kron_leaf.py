"""One leaf of PSGD Kron: which factors it has, how they learn, and how they act."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wdlab.preconditioners.kronecker import layouts_of

PyTree = Any
Diagonals = Literal["vectors", "longest", "longer", "all", "none"]
_DAMPING = 2.0**-11.5  # Root of float32's epsilon, in every dtype.
_MOST_RMS = 1.1


class KronLayout(NamedTuple):
    """How a leaf is seen: layers that are stacked, then a scalar, a vector or a matrix."""

    batch: tuple[int, ...]
    core: tuple[int, ...]  # At most two axes.
    triangular: tuple[bool, ...]  # Of each axis of the core; the others' factors are diagonal.

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf as it is seen."""
        return self.batch + self.core

    def identities(self, scale: float, dtype: Any) -> tuple[jax.Array, ...]:
        """The factors at the start; their product is ``scale`` times the identity."""
        share = scale ** (1.0 / max(len(self.core), 1))
        both = zip(self.core or (1,), self.triangular or (False,), strict=True)
        made = [jnp.eye(n, dtype=dtype) if full else jnp.ones(n, dtype) for n, full in both]
        return tuple(share * jnp.broadcast_to(q, (*self.batch, *q.shape)) for q in made)


def kron_layout(
    batch: tuple[int, ...], core: tuple[int, ...], *, max_dim: int, diagonals: Diagonals
) -> KronLayout:
    """Returns how a leaf is seen; of three axes or more the last is one side of a matrix.

    >>> kron_layout((), (3, 3, 8, 16), max_dim=64, diagonals="vectors")
    KronLayout(batch=(), core=(72, 16), triangular=(False, True))
    """
    core = (math.prod(core[:-1]), core[-1]) if len(core) > 2 else core
    full = [1 < n <= max_dim for n in core]
    longest = max(range(len(core)), key=lambda axis: (core[axis], axis), default=0)
    unequal = len(core) == 2 and core[0] != core[1]
    if diagonals == "all" or (diagonals != "none" and len(core) < 2):
        full = [False] * len(core)
    elif core and (diagonals == "longest" or (diagonals == "longer" and unequal)):
        full[longest] = False
    return KronLayout(batch, core, tuple(full))


def kron_layouts(
    params: PyTree, batch_axes: PyTree, *, max_dim: int, diagonals: Diagonals
) -> list[KronLayout]:
    """Returns the layout of each leaf.

    >>> kron_layouts({"b": jnp.zeros(3)}, 0, max_dim=64, diagonals="none")
    [KronLayout(batch=(), core=(3,), triangular=(True,))]
    """
    batches = [len(layout.batch) for layout in layouts_of(params, batch_axes, max_dim=1)]
    shapes = [jnp.shape(p) for p in jax.tree.leaves(params)]
    return [
        kron_layout(shape[:n], shape[n:], max_dim=max_dim, diagonals=diagonals)
        for shape, n in zip(shapes, batches, strict=True)
    ]


def learned(
    source: jax.Array,
    probe: jax.Array,
    factors: Sequence[jax.Array],
    layout: KronLayout,
    step_size: ArrayLike,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Returns the source with the probe added, and the factors after they have learned from it.

    >>> layout = KronLayout((), (1,), (False,))
    >>> two, one = jnp.array([2.0]), jnp.array([1.0])  # q - 0.5 q (2^2 - 1^2) / (2^2 + 1^2).
    >>> round(float(learned(two, one, [one], layout, 0.5)[1][0][0]), 3)
    0.7
    """
    if source.size == 0:
        return source, tuple(factors)

    def of_one(g: jax.Array, v: jax.Array, *qs: jax.Array) -> Any:
        g = g + _DAMPING * jnp.mean(jnp.abs(g)) * v
        rows, rest = g, v
        for axis, q in enumerate(qs):
            rows = _along(rows, axis, lambda x, q=q: _times(q, x))
            rest = _along(rest, axis, lambda x, q=q: _inverse_transposed(q, x))
        new = [_step(q, axis, rows, rest, step_size) for axis, q in enumerate(qs)]
        if len(new) > 1:  # Their product stays as it is: none of them can run out of range.
            largest = [jnp.max(jnp.abs(q)) for q in new]
            mean = jnp.sqrt(largest[0]) * jnp.sqrt(largest[1])
            new = [q * (mean / most) for q, most in zip(new, largest, strict=True)]
        return g, tuple(new)

    shape = (*layout.batch, *(layout.core or (1,)))
    g, new = _batched(of_one, layout)(source.reshape(shape), probe.reshape(shape), *factors)
    return g.reshape(source.shape), new


def direction(mean: jax.Array, factors: Sequence[jax.Array], layout: KronLayout) -> jax.Array:
    """Returns the mean times Q^T Q along every axis, its root mean square at most 1.1.

    >>> two = jnp.array([2.0])
    >>> direction(jnp.array([0.2]), [two], KronLayout((), (1,), (False,))).tolist()
    [0.800000011920929]
    """
    if mean.size == 0:
        return mean

    def of_one(x: jax.Array, *qs: jax.Array) -> jax.Array:
        for axis, q in enumerate(qs):
            x = _along(x, axis, lambda y, q=q: _times(q.T, _times(q, y)))
        rms = jnp.sqrt(jnp.mean(x * x))
        return x * jnp.minimum(1.0, _MOST_RMS / (rms + 1e-12))

    shape = (*layout.batch, *(layout.core or (1,)))
    return _batched(of_one, layout)(mean.reshape(shape), *factors).reshape(mean.shape)


def _batched(function: Callable[..., Any], layout: KronLayout) -> Callable[..., Any]:
    for _ in layout.batch:
        function = jax.vmap(function)
    return function


def _along(x: jax.Array, axis: int, act: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Applies what acts on the first axis of a matrix to the given axis."""
    if x.ndim == 1:
        return act(x[:, None])[:, 0]
    return act(x) if axis == 0 else act(x.T).T


def _times(q: jax.Array, x: jax.Array) -> jax.Array:
    return q[:, None] * x if q.ndim == 1 else jnp.matmul(q, x, precision="highest")


def _inverse_transposed(q: jax.Array, x: jax.Array) -> jax.Array:
    if q.ndim == 1:
        return x / q[:, None]
    return jax.scipy.linalg.solve_triangular(q, x, trans="T", lower=False)


def _step(
    q: jax.Array, axis: int, rows: jax.Array, rest: jax.Array, step_size: ArrayLike
) -> jax.Array:
    def gram(x: jax.Array) -> jax.Array:
        x = x.reshape(x.shape[0], -1) if axis == 0 else x.T
        return jnp.sum(x * x, 1) if q.ndim == 1 else jnp.matmul(x, x.T, precision="highest")

    a, b = gram(rows), gram(rest)
    total, tiny = a + b, jnp.finfo(q.dtype).tiny
    step_size = jnp.asarray(step_size, q.dtype)
    if q.ndim == 1:
        return q - step_size * (a - b) * (q / jnp.maximum(jnp.max(total), tiny))
    turn = jnp.triu(step_size * (a - b)) / jnp.maximum(_norm_bound(total), tiny)
    return q - jnp.matmul(turn, q, precision="highest")


def _norm_bound(matrix: jax.Array) -> jax.Array:
    """A lower bound of the spectral norm of a symmetric matrix: from its longest column."""
    largest = jnp.max(jnp.abs(matrix))
    unit = matrix / jnp.where(largest > 0.0, largest, 1.0)
    x = jnp.take(unit, jnp.argmax(jnp.sum(unit * unit, 0)), axis=1)
    x = jnp.matmul(x, unit, precision="highest")
    length = jnp.linalg.norm(x)
    x = jnp.matmul(unit, x / jnp.where(length > 0.0, length, 1.0), precision="highest")
    return jnp.linalg.norm(x) * largest
