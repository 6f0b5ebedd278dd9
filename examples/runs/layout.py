"""Where the arrays of a run lie: on one device, or on a mesh over all devices of all processes."""

import contextlib
import os
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from wdlab.rules import leaves_with_paths

from .errors import UserError
from .mesh import AXES, split_spec

PyTree = Any


class Layout:
    """Shardings of a run's arrays.

    Args:
      mesh: What :func:`examples.runs.mesh.make_mesh` returns; None for one device.

    Example:
      >>> from examples.runs.mesh import make_mesh
      >>> layout = Layout(make_mesh(2, 2, jax.devices()[:4]))
      >>> shapes = {"kernel": jax.ShapeDtypeStruct((256, 64), "float32")}
      >>> tuple(layout.parameters(shapes)["kernel"].spec)
      ('fsdp',)
    """

    def __init__(self, mesh: Mesh | None):
        self.mesh = mesh
        one = jax.sharding.SingleDeviceSharding
        self.copies: Sharding = (
            one(jax.devices()[0]) if mesh is None else NamedSharding(mesh, PartitionSpec())
        )

    def active(self) -> contextlib.AbstractContextManager:
        """Sets the mesh for all that traces or runs the model."""
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)

    def parameters(self, shapes: PyTree) -> PyTree:
        """The sharding of every parameter."""
        shardings = [self._parameter(path, leaf.shape) for path, leaf in leaves_with_paths(shapes)]
        return jax.tree.unflatten(jax.tree.structure(shapes), shardings)

    def _parameter(self, path: str, shape: tuple[int, ...]) -> Sharding:
        if self.mesh is None:
            return self.copies
        return NamedSharding(self.mesh, split_spec(path, shape, self.mesh.shape["fsdp"]))

    def copy(self, tree: PyTree) -> PyTree:
        """Arrays of the host, the same in every process, as copies on all devices."""

        def place(x: np.ndarray) -> jax.Array:
            return jax.make_array_from_callback(x.shape, self.copies, lambda index: x[index])

        return jax.tree.map(place, tree)

    def settle(self, tree: PyTree) -> PyTree:
        """Commits arrays to the one device, as a step's results are: other ones compile twice."""
        return jax.device_put(tree, self.copies) if self.mesh is None else tree

    def of(self, tree: PyTree) -> PyTree | None:
        """The shardings of arrays that lie where they belong; None for one device."""
        if self.mesh is None:
            return None
        return jax.tree.map(lambda x: x.sharding, tree)

    def __str__(self) -> str:
        """What the user reads of it."""
        kind = jax.devices()[0].device_kind
        if self.mesh is None:
            return kind
        data, fsdp = self.mesh.devices.shape
        shared = f", {jax.process_count()} processes" if jax.process_count() > 1 else ""
        return f"{self.mesh.size} x {kind} (data {data} x fsdp {fsdp}{shared})"

    def check_room(self, needed: int) -> None:
        """Refuses a run that needs more bytes, on all devices together, than there are.

        Raises:
          UserError: If so; before anything is made.
        """
        limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
        if limit is None and hasattr(os, "sysconf"):  # A CPU has the memory of its machine.
            limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        devices = 1 if self.mesh is None else self.mesh.size
        if limit is not None and needed > limit * devices:
            raise UserError(
                f"a run of this size needs at least {needed / 2**30:,.0f} GiB, more than there is: "
                "make the model, the batch or the evaluation smaller"
            )

    def batch_sharding(self, axis: int) -> Sharding:
        """Of arrays whose dimension ``axis`` counts the examples of the batch."""
        if self.mesh is None:
            return self.copies
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, AXES))

    def rows(self, count: int, flag: str = "--batch_size") -> np.ndarray:
        """Which of ``count`` examples lie on the devices of this process.

        Raises:
          UserError: If the devices cannot share them equally; ``flag`` decides about ``count``.
        """
        if self.mesh is None:
            return np.arange(count)
        if count % self.mesh.size:
            raise UserError(
                f"{flag} {count} must be a multiple of {self.mesh.size}: the devices share the "
                "examples of a batch equally"
            )
        parts = self.batch_sharding(0).addressable_devices_indices_map((count,)).values()
        return np.unique(np.concatenate([np.arange(count)[part] for part in parts]))

    def batch(self, local: np.ndarray, rows: np.ndarray, count: int, axis: int):
        """The batch of ``count`` examples along ``axis``, of which ``local`` holds ``rows``."""
        if self.mesh is None:
            return local

        def part(index: Any) -> np.ndarray:
            return np.take(local, np.searchsorted(rows, np.arange(count)[index[axis]]), axis)

        shape = (*local.shape[:axis], count, *local.shape[axis + 1 :])
        return jax.make_array_from_callback(shape, self.batch_sharding(axis), part)


def placed(shapes: PyTree, shardings: PyTree) -> PyTree:
    """Shapes that lie there.

    Example:
      >>> where = jax.sharding.SingleDeviceSharding(jax.devices()[0])
      >>> placed(jax.ShapeDtypeStruct((2,), "float32"), where).sharding == where
      True
    """
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, shardings
    )
