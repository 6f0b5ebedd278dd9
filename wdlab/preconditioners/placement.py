"""Where the arrays of a state lie on a mesh: where they were born, at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType

PyTree = Any


def in_place(update: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., tuple[PyTree, PyTree]]:
    """Makes an ``update`` give directions and states back in the shardings that they came in.

    Products, ``eigh`` and ``qr`` mix axes. On a mesh of automatic axes XLA would choose for each
    new array, and the step would be compiled again for its choice; on one of explicit axes JAX asks
    for every product's. Here both are told once, and the choice inside is XLA's.

    Args:
      update: ``(updates, state, params) -> (directions, state)``.

    >>> in_place(lambda updates, state, params=None: (updates, state))(1.0, (), None)
    (1.0, ())
    """

    def placed(
        updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        arrays = jax.tree.leaves((updates, state))
        if any(map(_is_explicit, arrays)):
            spec = jax.tree.map(lambda x: jax.typeof(x).sharding, (updates, state))
            inside: Any = jax.sharding.auto_axes(update, out_sharding=spec)
            return inside(updates, state, params)
        directions, new = update(updates, state, params)
        # JAX lowers shard_alike once for each shape and so ties all arrays of it. Those of a leaf's
        # shape, which may lie differently, are left to XLA; the matrices are replicated.
        shapes = {jnp.shape(x) for x in jax.tree.leaves(updates)}
        alike = lambda x, old: x if x.shape in shapes else _alike(x, old)  # noqa: E731
        return directions, jax.tree.map(alike, new, state)

    return placed


def _is_explicit(x: Any) -> bool:
    mesh = getattr(getattr(jax.typeof(x), "sharding", None), "mesh", None)
    return mesh is not None and AxisType.Explicit in mesh.axis_types


def _alike(new: jax.Array, old: jax.Array) -> jax.Array:
    """The new array, in the old one's sharding; only a compiled step on a mesh has a choice."""
    traced = isinstance(new, jax.core.Tracer) and isinstance(old, jax.core.Tracer)
    if not traced or jax.device_count() == 1:
        return new
    return shard_alike(new, old)[0]
