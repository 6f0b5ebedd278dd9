"""The one compiled program of a sweep: traced once, as wide as memory allows, on every device."""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jax.sharding import AxisType, Mesh, PartitionSpec

from wdlab.sweep.grid import RESERVED, Grid
from wdlab.sweep.memory import bytes_of, check_fits, memory_limit

Train = Callable[[dict[str, Any], jax.Array], Mapping[str, Any]]

FINITE = " finite"  # Beside the metrics, whose names have no space.
_AXIS = "points"
# Per device and call. On a CPU more runs side by side are no faster once they leave a core's cache.
_CPU_CACHE_BYTES = 1 << 18
_WIDEST = 256

_NOT_JITTABLE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.UnexpectedTracerError,
)


@dataclass(frozen=True)
class Traced:
    """``train`` as one run of the sweep: traced, checked, its metrics reduced to scalars."""

    run: Callable[..., dict[str, jax.Array]]  # (hyperparameters, seed) -> metrics and FINITE
    dtypes: dict[str, np.dtype]  # of the metrics, in the order of the columns
    digest: str  # of the program and its constants
    unread: tuple[str, ...]  # hyper-parameters without effect, such as "coupling.l2"


@dataclass(frozen=True)
class Program:
    """A compiled chunk: ``call(hyperparameters, seeds)``, all of shape (size,)."""

    call: Callable[..., dict[str, jax.Array]]
    size: int  # points per call, on all devices together
    bytes_per_device: int


def trace(train: Train, grid: Grid) -> Traced:
    """Traces ``train`` once, with scalars for its hyper-parameters.

    Raises:
      TypeError: If it cannot be traced, or returns no dict of scalars and one-axis arrays.
      ValueError: If it reads a hyper-parameter that the grid lacks.

    >>> from wdlab.sweep import make_grid
    >>> trace(lambda h, key: {"loss": h["x"] ** 2}, make_grid({"x": [1, 2]}, seeds=1)).dtypes
    {'loss': dtype('float32')}
    """

    def run(hyperparameters: Any, seed: jax.Array) -> dict[str, jax.Array]:
        metrics = train(hyperparameters, jax.random.key(seed))
        return _reduced(metrics, [*grid.axes, *RESERVED])

    hyperparameters, seeds = jax.tree.map(
        lambda column: jax.ShapeDtypeStruct((), column.dtype), grid.stacked()
    )
    try:
        closed, shapes = jax.make_jaxpr(run, return_shape=True)(hyperparameters, seeds)
    except _NOT_JITTABLE as error:
        raise _not_jittable(error) from error
    except TypeError as error:
        if "concrete values" not in str(error):  # JAX's words for a traced shape.
            raise
        raise _not_jittable(error) from error
    except KeyError as error:
        if not error.args or error.args[0] in grid.axes or not isinstance(error.args[0], str):
            raise
        raise ValueError(
            f"train reads {error.args[0]!r}, which the grid does not have: "
            f"its axes are {', '.join(grid.axes)}."
        ) from error
    tree = jax.tree.structure(shapes)
    flat = jaxpr_as_fun(closed)
    dtypes = {name: np.dtype(x.dtype) for name, x in shapes.items() if name != FINITE}
    return Traced(
        run=lambda *args: jax.tree.unflatten(tree, flat(*jax.tree.leaves(args))),
        dtypes=dtypes,
        digest=_digest(closed),
        unread=_unread(closed.jaxpr, hyperparameters),
    )


def _not_jittable(error: Exception) -> TypeError:
    return TypeError(
        f"train is not jittable: {str(error).splitlines()[0]} Inside it hyper-parameters and "
        "key are traced: use jnp.where or jax.lax.cond instead of if, jnp instead of math and "
        "NumPy, and give what decides shapes to the function that makes train."
    )


def _reduced(metrics: Any, taken: Sequence[str]) -> dict[str, jax.Array]:
    """Scalars as they are, the last of per-step values; and whether all of them are finite."""
    if not isinstance(metrics, Mapping) or not metrics:
        raise TypeError(f"train must return a dict of metrics, got {type(metrics).__name__}.")
    scalars, finite = {}, jnp.array(True)
    for name, value in metrics.items():
        if not isinstance(name, str) or not name.isidentifier() or name in taken:
            raise ValueError(f"{name!r} cannot name a metric; {', '.join(taken)} are taken.")
        if np.ndim(value) > 1 or np.size(value) == 0 or jnp.iscomplexobj(value):
            raise TypeError(
                f"metric {name!r} has shape {np.shape(value)}; expected a real scalar, or one "
                "value per step, shape (steps,). Reduce it inside train."
            )
        array = jnp.asarray(value)
        scalars[name] = array if array.ndim == 0 else array[-1]
        finite &= jnp.isfinite(array).all()
    return scalars | {FINITE: finite}


def _unread(jaxpr: Any, hyperparameters: dict[str, Any]) -> tuple[str, ...]:
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars}
    read |= {id(v) for v in jaxpr.outvars}
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(hyperparameters)]
    return tuple(
        ".".join(entry.key for entry in path)
        for path, variable in zip(paths, jaxpr.invars, strict=False)  # The last one is the seed.
        if id(variable) not in read
    )


def _digest(closed: Any) -> str:
    text = re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr))  # Addresses differ between processes.
    found = hashlib.sha256(text.encode())
    for constant in closed.consts:
        found.update(np.asarray(constant).tobytes())
    return found.hexdigest()[:16]


def compile_program(
    traced: Traced,
    grid: Grid,
    devices: Sequence[jax.Device],
    *,
    chunk: int | None = None,
    memory_bytes: int | None = None,
) -> Program:
    """Compiles a chunk of the sweep, as wide as its own memory analysis allows.

    A chunk of one run per device comes first: it tells the bytes of a run. Where more fit, one
    that wide is compiled, and halved until its analysis says that it fits.

    Args:
      traced: From :func:`trace`.
      grid: The whole sweep.
      devices: Of one platform.
      chunk: Runs side by side on each device, at most the whole grid; None chooses.
      memory_bytes: What a chunk may take on each device; None asks the device.

    Raises:
      ValueError: If not even one run, or not the chunk that was asked for, fits.

    >>> from wdlab.sweep import make_grid
    >>> grid = make_grid({"x": [1, 2]}, seeds=2)
    >>> traced = trace(lambda h, key: {"loss": h["x"] ** 2}, grid)
    >>> compile_program(traced, grid, jax.devices()[:1]).size
    4
    """
    limit = memory_limit(devices) if memory_bytes is None else memory_bytes
    most = -(-len(grid) // len(devices))
    if chunk is not None:
        chunk = min(chunk, most)
        program = _compile(traced, grid, devices, chunk)
        check_fits(program.bytes_per_device, limit, f"a chunk of {chunk} runs")
        return program
    program = _compile(traced, grid, devices, 1)
    check_fits(program.bytes_per_device, limit, "one run")
    target = min(limit, _CPU_CACHE_BYTES) if devices[0].platform == "cpu" else limit
    width = min(_WIDEST, most, int(target // max(program.bytes_per_device, 1)))
    while width > 1:
        wide = _compile(traced, grid, devices, width)
        if wide.bytes_per_device <= limit:
            return wide
        width //= 2
    return program


def _compile(traced: Traced, grid: Grid, devices: Sequence[jax.Device], width: int) -> Program:
    def local(hyperparameters: Any, seeds: jax.Array) -> dict[str, jax.Array]:
        if width > 1:
            return jax.vmap(traced.run)(hyperparameters, seeds)
        # One run has no batch axis: it is the same program as jax.jit(train).
        single = traced.run(*jax.tree.map(lambda column: column[0], (hyperparameters, seeds)))
        return jax.tree.map(lambda metric: metric[None], single)

    size = width * len(devices)
    spec = PartitionSpec(_AXIS)
    mesh = Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))
    function = local
    if len(devices) > 1:
        function = jax.shard_map(
            local, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=False
        )
    sharding = jax.sharding.NamedSharding(mesh, spec)
    arguments = jax.tree.map(
        lambda column: jax.ShapeDtypeStruct((size,), column.dtype, sharding=sharding),
        grid.stacked(),
    )
    compiled = jax.jit(function).lower(*arguments).compile()
    put = lambda args: jax.device_put(args, sharding)  # noqa: E731
    return Program(lambda *args: compiled(*put(args)), size, bytes_of(compiled))
