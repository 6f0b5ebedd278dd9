"""The mesh over all devices of all processes, and how weights and batches are split on it.

The mesh has two axes. Each example of a batch lies on one device of both. Along ``fsdp`` the
parameters and the optimizer's state are split as well (fully sharded data parallelism): XLA gathers
each weight where it is used and scatters the sum of its gradient. Along ``data`` they are copies.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, PartitionSpec

from wdlab.rules import leaves_with_paths

from .errors import UserError

PyTree = Any
AXES = ("data", "fsdp")
SMALLEST_SPLIT = 2**14  # Elements: to gather a smaller leaf costs more than to hold it.


def make_mesh(data: int, fsdp: int, devices: Sequence[Any] | None = None) -> Mesh | None:
    """The mesh of ``data * fsdp`` devices; None for one device.

    With ``data`` 0 it takes all devices; but on the CPU of one process, where devices are not more
    hardware, only what ``fsdp`` asks for.

    Raises:
      UserError: If there are not so many devices, or the other processes would have none.

    Example:
      >>> dict(make_mesh(0, 4, jax.devices()[:8]).shape)
      {'data': 2, 'fsdp': 4}
      >>> make_mesh(0, 1) is None
      True
    """
    there = jax.devices() if devices is None else devices
    only_cpu = devices is None and there[0].platform == "cpu" and jax.process_count() == 1
    data = data or (1 if only_cpu else max(1, len(there) // fsdp))
    size = data * fsdp
    if size > len(there) or (size < len(there) and jax.process_count() > 1):
        raise UserError(
            f"--mesh_data {data} x --mesh_fsdp {fsdp} is {size} devices, but there are "
            f"{len(there)} (--mesh_data 0: all that --mesh_fsdp leaves; "
            "JAX_NUM_CPU_DEVICES=8 shows a CPU as eight)"
        )
    if size == 1:
        return None
    return jax.make_mesh((data, fsdp), AXES, (AxisType.Auto,) * 2, devices=there[:size])


def split_axis(path: str, shape: tuple[int, ...], parts: int) -> int | None:
    """Which dimension of a parameter is split: the largest that ``parts`` divides.

    One whose parts are multiples of 8 goes first: a TPU copies other ones again once they are
    gathered, a quarter of the memory traffic of LLaMA 7B on 256 chips. Small leaves are not split.
    Embeddings are split along their width, so that each device looks up its part of every token;
    split along the vocabulary, the sum over all devices would be as large as the whole batch.

    Example:
      >>> split_axis("blocks/mlp/proj/kernel", (12, 3072, 768), 8)
      1
      >>> split_axis("mlp/fc/kernel", (4096, 11008), 256)  # Parts of 16; 11008 / 256 is 43.
      0
      >>> split_axis("wte/embedding", (50304, 768), 8), split_axis("ln_f/scale", (768,), 8)
      (1, None)
    """
    if parts == 1 or math.prod(shape) < SMALLEST_SPLIT:
        return None
    if path.split("/")[-1] == "embedding" and shape[-1] % parts == 0:
        return len(shape) - 1
    divisible = [
        (size // parts % 8 == 0, size, axis) for axis, size in enumerate(shape) if size % parts == 0
    ]
    return max(divisible)[2] if divisible else None


def split_spec(path: str, shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """How a parameter lies on the mesh.

    Example:
      >>> tuple(split_spec("head/kernel", (256, 1024), 4))
      (None, 'fsdp')
    """
    axis = split_axis(path, shape, parts)
    return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, "fsdp")


def keep_split(tree: PyTree) -> PyTree:
    """Keeps weights, and state of their shapes, as :func:`split_spec` says, if a mesh is set.

    Inside of a compiled function, for what it returns: XLA may choose otherwise.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != AXES:
        return tree
    parts = mesh.shape["fsdp"]
    specs = [split_spec(path, leaf.shape, parts) for path, leaf in leaves_with_paths(tree)]
    return jax.lax.with_sharding_constraint(
        tree, jax.tree.unflatten(jax.tree.structure(tree), specs)
    )


def gathered(tree: PyTree) -> PyTree:
    """Weights as whole copies, if a mesh is set: each device needs all of them for its examples.

    Beside split weights XLA may split a convolution by its channels, and gather the whole batch.
    """
    if jax.sharding.get_abstract_mesh().axis_names != AXES:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec())


def split_last(x: jax.Array) -> jax.Array:
    """Keeps an array split along its last axis, as embeddings are, where a mesh is set.

    For a sum over the batch: each device then adds up its part alone.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != AXES or x.shape[-1] % mesh.shape["fsdp"]:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*[None] * (x.ndim - 1), "fsdp"))


def along_batch(x: jax.Array) -> jax.Array:
    """Keeps activations split by example where a mesh is set; elsewhere it does nothing.

    Without it XLA may split their width as the weights are split, and gather the whole batch.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.axis_names != AXES or x.shape[0] % mesh.size:  # No mesh; or one sequence, to sample.
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(AXES))


def platform() -> str:
    """JAX's name of the devices that a program is traced for: the set mesh's, or the default ones.

    Example:
      >>> platform()
      'cpu'
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    tpu = device is not None and device.device_kind.startswith("TPU")  # Maybe of a compiler alone.
    return "tpu" if tpu else jax.default_backend()


def bytes_here(tree: PyTree) -> int:
    """What the arrays take on the devices of this process.

    Example:
      >>> bytes_here({"kernel": jax.numpy.zeros((2, 3))})
      24
    """
    leaves = jax.tree.leaves(tree)
    return sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)


def whole_shares(count: int) -> int:
    """The least number of examples, ``count`` or more, that the devices of the set mesh can share.

    Example:
      >>> whole_shares(5)  # No mesh is set.
      5
      >>> with jax.set_mesh(make_mesh(2, 2, jax.devices()[:4])):
      ...     whole_shares(5)
      8
    """
    devices = max(1, jax.sharding.get_abstract_mesh().size)
    return -(-count // devices) * devices
