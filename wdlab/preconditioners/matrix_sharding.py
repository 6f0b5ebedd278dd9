"""Where a matrix lies while it is orthogonalized: its longer side or its stack on many devices.

The products of an iteration contract the longer side. Sharded there, each device multiplies its own
part and only the small Gram matrices are summed; sharded along the shorter side, the whole matrix
is gathered in every step.
"""

from typing import Any, NamedTuple

import jax
from jax.sharding import PartitionSpec

MeshAxes = str | tuple[str, ...] | None


class Layout(NamedTuple):
    """Specs of a matrix before and during the iteration, and of r x r products; None: as it comes.

    Gram matrices are whole on every device, their squares are multiplied in parts and gathered.
    """

    own: Any = None
    during: Any = None
    whole: Any = None
    parts: Any = None
    by_hand: bool = False  # On an explicit mesh, where each product needs its spec.

    def place(self, x: jax.Array, spec: Any) -> jax.Array:
        """Moves an array, where a spec says where to.

        >>> Layout().place(1.0, None)
        1.0
        """
        if spec is None:
            return x
        if self.by_hand:
            return jax.sharding.reshard(x, spec)
        return jax.lax.with_sharding_constraint(x, spec)

    def result(self, spec: Any) -> Any:
        """The sharding that a product asks for its result.

        >>> Layout().result(None) is None
        True
        """
        return spec if self.by_hand else None


def layout_of(x: jax.Array, left: bool, over: MeshAxes) -> Layout:
    """Decides where a matrix lies while it is orthogonalized.

    Args:
      x: Shape (..., rows, columns).
      left: Whether the last axis is the longer one.
      over: Mesh axes to shard over where the mesh does not tell (its axes are "auto"): the first
        axis of a stack if they divide it, else the longer side. None: the compiler decides.

    Raises:
      ValueError: If there is no mesh, or it has no such axis.

    >>> import jax.numpy as jnp
    >>> layout_of(jnp.ones((2, 3)), True, None)
    Layout(own=None, during=None, whole=None, parts=None, by_hand=False)
    """
    sharding = jax.typeof(x).sharding
    spec = (*sharding.spec, *(None,) * (x.ndim - len(sharding.spec)))
    long, short = (-1, -2) if left else (-2, -1)
    if any(spec):
        mesh, batch = sharding.mesh, spec[:-2]
        names = (*_names(spec[long]), *_names(spec[short]))
        names = names if x.shape[long] % _size(mesh, names) == 0 else _names(spec[long])
        return _layout(x, mesh, batch, names, left)._replace(own=PartitionSpec(*spec), by_hand=True)
    if over is None:
        return Layout()
    mesh, names = jax.sharding.get_abstract_mesh(), _names(over)
    missing = [name for name in names if name not in mesh.axis_names]
    if missing:
        found = ", ".join(mesh.axis_names) or "none"
        raise ValueError(
            f"sharded_over names the mesh axis {missing[0]!r}; the mesh in use has: {found}. Run "
            "the step inside `with jax.set_mesh(mesh):`."
        )
    size, free = _size(mesh, names), PartitionSpec.UNCONSTRAINED
    if x.ndim > 2 and x.shape[0] % size == 0:
        return Layout(during=PartitionSpec(names, *(None,) * (x.ndim - 1)))
    if x.shape[long] % size:
        return Layout()
    return _layout(x, mesh, (free,) * (x.ndim - 2), names, left)


def _layout(
    x: jax.Array, mesh: Any, batch: tuple[Any, ...], names: tuple[str, ...], left: bool
) -> Layout:
    """With the longer side over these mesh axes."""
    side, size = names or None, x.shape[-2 if left else -1]
    rows = side if size % _size(mesh, names) == 0 else None
    return Layout(
        during=PartitionSpec(*batch, *((None, side) if left else (side, None))),
        whole=PartitionSpec(*batch, None, None),
        parts=PartitionSpec(*batch, rows, None),
    )


def _names(entry: Any) -> tuple[str, ...]:
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _size(mesh: Any, names: tuple[str, ...]) -> int:
    size = 1
    for name in names:
        size *= mesh.shape[name]
    return size
