"""HBM words that each optimizer step moves per parameter on a TPU, from its compiler alone.

No TPU is needed: the package ``libtpu`` (the version that jax's ``tpu`` extra names) compiles for a
described slice. The step is memory traffic, so on the chip its time is these words times 4 bytes
over the chip's bandwidth. Leaves of 4096 x 4096 (64 MiB) fit into on-chip memory and may be kept
there between two reads, so that a step can come out below its bound; 10240 x 10240 (400 MiB) do not
fit, and there XLA's own count, which is wrong for the others (see runs/traffic.py), must agree.
"""

import dataclasses
import os
import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import SingleDeviceSharding
from rich.console import Console
from rich.table import Table

import wdlab

from ..runs.errors import UserError, fail
from ..runs.flags import parse_dataclass
from ..runs.slices import devices_of
from ..runs.traffic import hbm_bytes
from .rows import ROWS

WIDTH = 125  # Of a table whose columns are not cut, in a file too.


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to compile, and for which chip."""

    topology: str = "v5e:2x2"
    leaves: int = 3  # Of two dimensions, as many parameters as the chip's memory allows.
    size: int = 4096  # Rows and columns of each.
    large: int = 10240  # Of a second measurement, too large for on-chip memory.
    quick: bool = False  # Leave out the second measurement, and Optax's.


def words(
    tx: optax.GradientTransformation, device: jax.Device, leaves: int, size: int
) -> tuple[float, float]:
    """HBM words per parameter of one step, and XLA's count of words wherever they lie."""
    on_chip = SingleDeviceSharding(device)
    abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_chip)  # noqa: E731
    shape = jax.ShapeDtypeStruct((size, size), jnp.float32)
    params = {f"layer{i}": abstract(shape) for i in range(leaves)}
    state = jax.tree.map(abstract, jax.eval_shape(tx.init, params))
    update: Any = wdlab.make_update(tx)
    compiled = update.lower(params, state, params).compile()
    total = 4 * leaves * size * size
    costs = compiled.cost_analysis()
    return hbm_bytes(compiled.as_text()) / total, costs["bytes accessed"] / total


def measure(settings: Settings) -> Table:
    """Compiles every row of the table."""
    device = devices_of(settings.topology)[0]
    table = Table(title=f"HBM words per parameter and step, {settings.topology}, float32")
    table.add_column("optimizer")
    columns = ["bound", f"wdlab {settings.size}", "/ bound", "XLA's count"]
    if not settings.quick:
        columns += [f"wdlab {settings.large}", "/ bound", "XLA's count", f"Optax {settings.large}"]
    for column in columns:
        table.add_column(column, justify="right")
    for row in ROWS:
        figures = words(row.ours(), device, settings.leaves, settings.size)
        cells = [str(row.words), *_cells(figures, row.words)]
        if not settings.quick:
            # Two leaves: their state must fit into the chip's memory.
            cells += _cells(words(row.ours(), device, 2, settings.large), row.words)
            cells.append(f"{words(row.theirs(), device, 2, settings.large)[0]:.2f}")
        table.add_row(row.name, *cells)
    return table


def _cells(figures: tuple[float, float], bound: int) -> list[str]:
    hbm, accessed = figures
    return [f"{hbm:.2f}", f"{hbm / bound:.3f}", f"{accessed:.2f}"]


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    try:
        arguments = sys.argv[1:] if argv is None else argv
        prog = "python -m examples.benchmarks.tpu_bytes"
        settings = parse_dataclass(Settings, Settings(), arguments, prog)
        Console(width=max(WIDTH, Console().width)).print(measure(settings))
    except UserError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # JAX keeps a program that is compiled for absent chips, and cannot read it again.
    jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(main())
