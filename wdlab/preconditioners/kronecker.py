"""One symmetric matrix for each axis of a leaf: what SOAP and Shampoo keep, and how it acts.

A leaf of shape (m, n) has factors of shape (m, m) and (n, n). Leading axes that only stack leaves
of a kind (layers under ``nn.scan``) are batches: each layer has factors of its own.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab.rules import decisions

PyTree = Any
MOST_FACTORS = 4  # As many as a convolution's kernel has axes.
PerAxis = tuple[PyTree, PyTree, PyTree, PyTree]
_LETTERS = "abcdefghijklmnopqrstuvw"


class Layout(NamedTuple):
    """How a leaf is seen: batches first, then the axes of each matrix or tensor in it."""

    batch: tuple[int, ...]
    core: tuple[int, ...]  # Without axes of size 1.
    factored: tuple[int, ...]  # Those axes of the core that have a factor, at most four.

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the leaf as it is seen."""
        return self.batch + self.core

    def factor_shape(self, axis: int) -> tuple[int, ...]:
        """Shape of the factor of one axis of the core."""
        return (*self.batch, self.core[axis], self.core[axis])


def layout_of(
    shape: Sequence[int], *, batch_axes: int = 0, max_dim: int = 8192, vectors: bool = False
) -> Layout:
    """Returns which axes of a leaf have a factor.

    Args:
      shape: Of the leaf.
      batch_axes: How many leading axes are batches.
      max_dim: Axes that are longer have no factor.
      vectors: Whether the one axis of a vector has one.

    >>> layout_of((12, 768, 1, 50304), batch_axes=1)
    Layout(batch=(12,), core=(768, 50304), factored=(0,))
    """
    batch = tuple(shape[:batch_axes])
    core = tuple(size for size in shape[batch_axes:] if size != 1)
    small = [axis for axis, size in enumerate(core) if 0 < size <= max_dim]
    if len(core) < 2 and not vectors:
        small = []
    return Layout(batch, core, tuple(small[-MOST_FACTORS:]))


def layouts_of(
    params: PyTree, batch_axes: PyTree, *, max_dim: int, vectors: bool = False
) -> tuple[Layout, ...]:
    """Returns the layout of each leaf.

    Args:
      params: Pytree of arrays.
      batch_axes: A whole number for all leaves, a tree of them, or rules whose scales they are.
      max_dim: As in :func:`layout_of`.
      vectors: As there.

    >>> from wdlab.rules import Rule
    >>> params = {"blocks": jnp.zeros((2, 3, 4)), "head": jnp.zeros((3, 4))}
    >>> stacked = (Rule("blocks", 1), Rule(".*", 0))
    >>> [layout.batch for layout in layouts_of(params, stacked, max_dim=8)]
    [(2,), ()]
    """
    made = decisions(params, batch_axes)
    for decision in made:
        rank = jnp.ndim(decision.leaf)
        if decision.scale != int(decision.scale) or decision.scale > rank:
            raise ValueError(
                f"batch_axes must be whole numbers up to the rank, got {decision.scale:g} for "
                f"{decision.path!r} of rank {rank}. Write batch_axes=(Rule('blocks/.*', 1), "
                "Rule('.*', 0)) where the leaves of blocks/ are stacked."
            )
    return tuple(
        layout_of(jnp.shape(d.leaf), batch_axes=int(d.scale), max_dim=max_dim, vectors=vectors)
        for d in made
    )


def gram(x: jax.Array, layout: Layout, axis: int) -> jax.Array:
    """Returns the sum over all other axes of the products of two entries along ``axis``.

    >>> gram(jnp.array([[1.0, 2.0]]), Layout((), (1, 2), (0, 1)), 1).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    batch, names = _names(layout)
    other = names.replace(names[axis], "z")
    return jnp.einsum(
        f"{batch}{names},{batch}{other}->{batch}{names[axis]}z", x, x, precision="highest"
    )


def accumulated(
    x: jax.Array, layout: Layout, factors: Sequence[jax.Array], decay: ArrayLike
) -> tuple[jax.Array, ...]:
    """Returns the factors with ``x`` taken in: averages, or sums where ``decay`` is 1.

    >>> layout = Layout((), (2,), (0,))
    >>> accumulated(jnp.array([1.0, 2.0]), layout, [jnp.ones((2, 2))], 1.0)[0].tolist()
    [[2.0, 3.0], [3.0, 5.0]]
    """
    rate = jnp.asarray(decay, x.dtype)
    weight = jnp.where(rate == 1.0, 1.0, 1.0 - rate)
    pairs = zip(factors, layout.factored, strict=True)
    return tuple(rate * factor + weight * gram(x, layout, axis) for factor, axis in pairs)


def act(x: jax.Array, layout: Layout, matrices: Sequence[jax.Array], *, back: bool) -> jax.Array:
    """Multiplies every factored axis by the rows of its matrix, or by its columns with ``back``.

    >>> turn = jnp.array([[0.0, 1.0], [-1.0, 0.0]])
    >>> act(jnp.array([3.0, 4.0]), Layout((), (2,), (0,)), [turn], back=False).tolist()
    [-4.0, 3.0]
    """
    batch, names = _names(layout)
    for axis, matrix in zip(layout.factored, matrices, strict=True):
        pair = f"z{names[axis]}" if back else f"{names[axis]}z"
        to = names.replace(names[axis], "z")
        x = jnp.einsum(f"{batch}{names},{batch}{pair}->{batch}{to}", x, matrix, precision="highest")
    return x


def _names(layout: Layout) -> tuple[str, str]:
    batches = len(layout.batch)
    return _LETTERS[:batches], _LETTERS[batches : batches + len(layout.core)]


def inverse_root(factor: jax.Array, power: float, eps: jax.Array) -> jax.Array:
    """Returns the power of a symmetric matrix plus ``eps`` times the identity, by ``eigh``.

    Where the smallest eigenvalue is still below ``eps``, the spectrum is moved up to it.

    >>> inverse_root(jnp.diag(jnp.array([4.0, 16.0])), -0.5, jnp.array(0.0)).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    small, identity = eps.astype(factor.dtype), jnp.eye(factor.shape[-1], dtype=factor.dtype)
    values, vectors = jnp.linalg.eigh(factor + small * identity)
    least = values[..., :1]
    values = jnp.where(least < small, values - least + small, values)
    turned = jnp.swapaxes(vectors, -1, -2)
    return jnp.matmul(vectors * values[..., None, :] ** power, turned, precision="highest")


@functools.partial(jax.jit, static_argnames="always", inline=True)
def inverse_roots(
    factors: Sequence[tuple[jax.Array, ...]],
    roots: Sequence[tuple[jax.Array, ...]],
    due: jax.Array,
    correction: jax.Array,
    eps: jax.Array,
    *,
    always: bool,
) -> list[tuple[jax.Array, ...]]:
    """Returns the inverse roots of all leaves, new ones where it is time, in one branch.

    Args:
      factors: Of each leaf. With k of them the power is -1/(2k).
      roots: Those so far.
      due: Whether it is time; bool, shape ().
      correction: What the factors are divided by first.
      eps: As in :func:`inverse_root`.
      always: Whether it is time at every step.

    >>> old, new = [(jnp.eye(1),)], [(jnp.full((1, 1), 4.0),)]
    >>> one, zero = jnp.array(1.0), jnp.array(0.0)
    >>> inverse_roots(new, old, jnp.array(True), one, zero, always=False)[0][0].tolist()
    [[0.5]]
    """

    def computed() -> list[tuple[jax.Array, ...]]:
        power = [-0.5 / len(leaf) for leaf in factors]
        pairs = zip(factors, power, strict=True)
        return [
            tuple(inverse_root(f / correction.astype(f.dtype), p, eps) for f in leaf)
            for leaf, p in pairs
        ]

    return computed() if always else jax.lax.cond(due, computed, lambda: list(roots))


def per_axis(
    treedef: jax.tree_util.PyTreeDef, leaves: Sequence[tuple[Any, ...]]
) -> tuple[PyTree, PyTree, PyTree, PyTree]:
    """Returns four trees: of the leaves' first factored axes, of the second ones, and so on.

    Args:
      treedef: Of the parameters.
      leaves: What each leaf has, one entry for each factored axis. Where a leaf has fewer,
        ``optax.MaskedNode`` stands in its place.

    >>> per_axis(jax.tree.structure({"w": 0}), [(2, 3)])
    ({'w': 2}, {'w': 3}, {'w': MaskedNode()}, {'w': MaskedNode()})
    """
    filled = [(*leaf, *[optax.MaskedNode()] * MOST_FACTORS)[:MOST_FACTORS] for leaf in leaves]
    first, second, third, fourth = (
        treedef.unflatten([leaf[slot] for leaf in filled]) for slot in range(MOST_FACTORS)
    )
    return first, second, third, fourth


def by_leaf(trees: PerAxis, treedef: jax.tree_util.PyTreeDef) -> list[tuple[Any, ...]]:
    """Returns what each leaf has: the inverse of :func:`per_axis`.

    >>> trees = ({"w": 2}, {"w": 3}, {"w": optax.MaskedNode()}, {"w": optax.MaskedNode()})
    >>> by_leaf(trees, jax.tree.structure({"w": 0}))
    [(2, 3)]
    """
    leaves = zip(*(treedef.flatten_up_to(tree) for tree in trees), strict=True)
    return [tuple(x for x in leaf if not isinstance(x, optax.MaskedNode)) for leaf in leaves]
