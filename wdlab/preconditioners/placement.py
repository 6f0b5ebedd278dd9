"""Where the arrays of a state lie on a mesh: where they were born, at every step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

PyTree = Any


def in_place(update: Callable[..., tuple[PyTree, PyTree]]) -> Callable[..., tuple[PyTree, PyTree]]:
    """Makes an ``update`` give directions and states back in the shardings that they came in.

    Products, ``eigh`` and ``qr`` mix axes. On a mesh of automatic axes XLA would choose for each
    new array, and the step would be compiled again for its choice: the matrices of a state stay
    whole on every device, as they are born. On a mesh of explicit axes JAX asks for every product's
    sharding: it is told once, and the choice inside is XLA's.

    Args:
      update: ``(updates, state, params) -> (directions, state)``.

    >>> in_place(lambda updates, state, params=None: (updates, state))(1.0, (), None)
    (1.0, ())
    """

    def placed(
        updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        arrays = jax.tree.leaves((updates, state))
        if any(AxisType.Explicit in _axis_types(x) for x in arrays):
            spec = jax.tree.map(lambda x: jax.typeof(x).sharding, (updates, state))
            inside: Any = jax.sharding.auto_axes(update, out_sharding=spec)
            return inside(updates, state, params)
        directions, new = update(updates, state, params)
        # Arrays of a leaf's shape, which may lie as it does or otherwise, are left to XLA.
        shapes = {jnp.shape(x) for x in jax.tree.leaves(updates)}
        traced = [x for x in arrays if isinstance(x, jax.core.Tracer)]  # Else there is no choice.
        mesh = next((_mesh(x) for x in traced if {*_axis_types(x)} == {AxisType.Auto}), None)
        if mesh is None:
            return directions, new
        whole = NamedSharding(mesh, PartitionSpec())
        return directions, jax.tree.map(
            lambda x: x if x.shape in shapes else jax.lax.with_sharding_constraint(x, whole), new
        )

    return placed


def _mesh(x: Any) -> Any:
    return getattr(getattr(jax.typeof(x), "sharding", None), "mesh", None)


def _axis_types(x: Any) -> tuple[AxisType, ...]:
    """Of the mesh that an array lies on; empty without one."""
    return getattr(_mesh(x), "axis_types", ())
