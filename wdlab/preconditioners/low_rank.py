"""Adam's moments of projected gradients: what GaLore and APOLLO have in common."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_whole
from wdlab._core.dtypes import check_real, step_number, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import AdamFormulas
from wdlab.preconditioners.kronecker import layouts_of
from wdlab.preconditioners.placement import in_place
from wdlab.rules import normalize_rules

PyTree = Any
Side = Literal["std", "reverse_std", "left", "right"]
_NONE = optax.MaskedNode()


class ScaleByLowRankState(NamedTuple):
    """State of :func:`scale_by_galore` and :func:`scale_by_apollo`; float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # First moment: (m, rank) or (rank, n) where a leaf is projected, else like it.
    nu: PyTree  # Second moment, like mu.
    projections: PyTree  # (n, rank) or (m, rank); MaskedNode where a leaf is not projected.
    norms: PyTree  # Of APOLLO's last direction, one a matrix; else MaskedNode.


class Leaf(NamedTuple):
    """What is kept of one leaf."""

    mu: jax.Array
    nu: jax.Array
    projection: Any
    norm: Any


class Projected(NamedTuple):
    """One leaf's gradient, in full and of low rank, beside what is kept."""

    gradient: jax.Array
    low: jax.Array
    leaf: Leaf
    right: bool | None  # Whether the second axis was reduced, the first, or none.

    def back(self, low: jax.Array) -> jax.Array:
        """Returns a low-rank direction in the leaf's shape."""
        if self.right is None:
            return low
        turned = jnp.swapaxes(self.leaf.projection, -1, -2)
        if self.right:
            return jnp.matmul(low, turned, precision="highest")
        return jnp.matmul(self.leaf.projection, low, precision="highest")


# Gradient, whether the second axis is reduced, number of the leaf, number of the refresh.
Draw = Callable[[jax.Array, bool, int, jax.Array], jax.Array]
# The number of the step as well -> direction and new norm.
Direction = Callable[[Projected, jax.Array], tuple[jax.Array, Any]]


def low_rank(
    name: str,
    adam: AdamFormulas,
    draw: Draw,
    direction: Direction,
    *,
    refresh_every: int,
    side: Side,
    batch_axes: PyTree,
    norms: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Returns the transformation that projects, averages, and asks ``direction`` for the step.

    Args:
      name: Of the transformation, for messages.
      adam: Whose moments are kept, in the projected space.
      draw: Makes a leaf's projection.
      direction: Makes its step.
      refresh_every: Steps between two projections.
      side: Which axis is reduced, as in :func:`scale_by_galore`.
      batch_axes: As there.
      norms: Whether the state has a norm for each matrix.

    >>> adam = AdamFormulas(b1=0.0, b2=0.0, eps=0.0)
    >>> first = lambda g, right, leaf, number: jnp.eye(g.shape[-1 if right else -2])[:, :1]
    >>> back = lambda x, t: (x.back(x.low), x.leaf.norm)
    >>> how = {"refresh_every": 1, "side": "right", "batch_axes": 0}
    >>> tx = low_rank("first_column", adam, first, back, **how)
    >>> tx.update(jnp.ones((1, 2)), tx.init(jnp.ones((1, 2))))[0].tolist()
    [[1.0, 0.0]]
    """
    check_whole("refresh_every", refresh_every)
    check_choice("side", side, get_args(Side))
    batch_axes = normalize_rules(batch_axes)

    def init_fn(params: PyTree) -> ScaleByLowRankState:
        check_real(name, params)
        leaves, treedef = jax.tree.flatten(params)
        made = []
        for i, (p, right) in enumerate(zip(leaves, _sides(params, side, batch_axes), strict=True)):
            like = jnp.zeros_like(p, dtype=working_dtype(p))
            projection = norm = _NONE
            if right is not None:
                of = jax.ShapeDtypeStruct(like.shape, like.dtype)  # Wherever its parts are.
                shape = jax.eval_shape(lambda g, n, r=right, i=i: draw(g, r, i, n), of, 0).shape
                projection = jnp.zeros(shape, like.dtype)
                norm = jnp.zeros(shape[:-2], like.dtype) if norms else _NONE
                like = _reduced(like, projection, right)
            made.append(Leaf(like, jnp.zeros_like(like), projection, norm))
        return _state(jnp.zeros([], jnp.int32), treedef, made)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByLowRankState]:
        grads, treedef = jax.tree.flatten(updates)
        sides = _sides(updates if params is None else params, side, batch_axes)
        leaves = [Leaf(*each) for each in zip(*map(treedef.flatten_up_to, state[1:]), strict=True)]
        wide = [g.astype(leaf.nu.dtype) for g, leaf in zip(grads, leaves, strict=True)]

        def fresh() -> list[Any]:
            number = state.count // refresh_every
            drawn = enumerate(zip(wide, sides, strict=True))
            return [
                _NONE if right is None else draw(g, right, i, number) for i, (g, right) in drawn
            ]

        due = state.count % refresh_every == 0
        projections = jax.lax.cond(due, fresh, lambda: [leaf.projection for leaf in leaves])
        directions, new = [], []
        for g, leaf, projection, right in zip(wide, leaves, projections, sides, strict=True):
            low = g if right is None else _reduced(g, projection, right)
            mu, nu = adam.next_first(low, leaf.mu), adam.next_second(low, leaf.nu)
            leaf = Leaf(mu, nu, projection, leaf.norm)
            step, norm = direction(Projected(g, low, leaf, right), step_number(state.count))
            directions.append(step)
            new.append(leaf._replace(norm=norm))
        given = zip(directions, grads, strict=True)
        steps = treedef.unflatten([step.astype(g.dtype) for step, g in given])
        return steps, _state(next_count(state.count), treedef, new)

    return transformation(init_fn, in_place(update_fn))


def singular_vectors(g: jax.Array, rank: int, *, right: bool) -> jax.Array:
    """Returns the first ``rank`` right or left singular vectors of each matrix, as columns.

    >>> g = jnp.array([[3.0, 0.0], [4.0, 0.0]])
    >>> [round(abs(x), 3) for x in singular_vectors(g, 1, right=False)[:, 0].tolist()]
    [0.6, 0.8]
    """
    left, _, transposed = jnp.linalg.svd(g, full_matrices=False)
    return jnp.swapaxes(transposed[..., :rank, :], -1, -2) if right else left[..., :rank]


def _sides(params: PyTree, side: Side, batch_axes: PyTree) -> list[bool | None]:
    """Whether each leaf's second axis is reduced; None where it is no matrix."""
    found = []
    layouts = layouts_of(params, batch_axes, max_dim=1)
    for leaf, layout in zip(jax.tree.leaves(params), layouts, strict=True):
        shape = jnp.shape(leaf)
        if len(shape) - len(layout.batch) != 2 or jnp.size(leaf) == 0:
            found.append(None)
            continue
        tall = shape[-2] >= shape[-1]
        right = {"std": tall, "reverse_std": not tall, "right": True, "left": False}
        found.append(right[side])
    return found


def _reduced(g: jax.Array, projection: jax.Array, right: bool) -> jax.Array:
    if right:
        return jnp.matmul(g, projection, precision="highest")
    return jnp.matmul(jnp.swapaxes(projection, -1, -2), g, precision="highest")


def _state(
    count: jax.Array, treedef: jax.tree_util.PyTreeDef, leaves: Sequence[Leaf]
) -> ScaleByLowRankState:
    fields = (treedef.unflatten([leaf[i] for leaf in leaves]) for i in range(4))
    return ScaleByLowRankState(count, *fields)
