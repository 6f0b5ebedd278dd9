"""One symmetric matrix for each axis of a leaf: what SOAP and Shampoo keep, and how it acts.

A leaf of shape (m, n) has factors of shape (m, m) and (n, n). Leading axes that only stack leaves
of a kind (layers under ``nn.scan``) are batches: each layer has factors of its own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

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
