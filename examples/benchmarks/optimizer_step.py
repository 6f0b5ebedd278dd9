"""One optimizer step: ours, Optax's closest and torch's, on GPT-2 124M and on 10,000 small leaves.

Times are medians of steps in turn, so that a busy machine slows all of them; temporaries and words
(of 4 bytes, per parameter) are XLA's own account of the compiled program, without noise. Torch
takes part where it is installed, with its fused step where it has one, else foreach.
"""

import dataclasses
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console
from rich.table import Table

from ..runs.errors import UserError, fail
from ..runs.flags import parse_dataclass
from .contenders import (
    Contender,
    compiled,
    compiled_elsewhere,
    times_in_turn,
    torch_contender,
    warm_up,
)
from .rows import MATRIX_ROWS, ROWS, Row

PyTree = Any
WIDTH = 145  # Of a table whose columns are not cut, in a file too.
COLUMNS = (
    "optimizer",
    "wdlab ms",
    "Optax / wdlab",
    "torch / wdlab",
    "temporaries",
    "Optax's",
    "words",
    "Optax's",
    "state",
    "compile CPU s",
    "Optax's",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure."""

    quick: bool = False  # A tenth of the sizes, 2 repeats.
    repeats: int = 5  # Of each of two rounds of buffers.
    leaves: int = 10_000  # Of the second tree; 0 leaves it out.
    torch: bool = True  # Torch's steps too; its Muon takes minutes on a CPU without bfloat16 units.
    only: str = ""  # Only the optimizers whose name contains this.


def gpt2(blocks: int = 12, width: int = 768, vocabulary: int = 50257) -> PyTree:
    """Shapes of GPT-2 124M, or of a smaller one."""
    shape = lambda *sizes: jax.ShapeDtypeStruct(sizes, jnp.float32)  # noqa: E731
    dense = lambda i, o: {"kernel": shape(i, o), "bias": shape(o)}  # noqa: E731
    norm = {"scale": shape(width), "bias": shape(width)}
    block = {
        "ln_1": norm,
        "qkv": dense(width, 3 * width),
        "out": dense(width, width),
        "ln_2": norm,
        "up": dense(width, 4 * width),
        "down": dense(4 * width, width),
    }
    top = {"wte": shape(vocabulary, width), "wpe": shape(1024, width), "ln_f": norm}
    return {"blocks": {str(i): block for i in range(blocks)}, **top}


def small_leaves(count: int) -> PyTree:
    """As many leaves, half of them 8 x 8 and half biases of 8."""
    kernel, bias = jax.ShapeDtypeStruct((8, 8), jnp.float32), jax.ShapeDtypeStruct((8,), "float32")
    return {str(i): {"kernel": kernel, "bias": bias} for i in range(count // 2)}


def measure(
    row: Row,
    shapes: PyTree,
    repeats: int,
    compiler: Callable[..., Contender] = compiled,
    *,
    with_torch: bool = True,
) -> list[str]:
    """One line of the table."""
    ours, theirs = compiler(row, "wdlab", shapes), compiler(row, "Optax", shapes)
    torch = torch_contender(row, shapes) if with_torch else None
    contenders = [ours, theirs] + ([torch] if torch else [])
    own, *others = times_in_turn(contenders, repeats)
    ratios = [f"{other / own:.2f}" for other in others] + ["-"]
    cells = [row.name, f"{1e3 * own:.0f}", *ratios[:2]]
    cells += [f"{ours.temporaries:.3f}", f"{theirs.temporaries:.3f}"]
    cells += [f"{ours.words:.2f}", f"{theirs.words:.2f}", f"{ours.state:.2f}"]
    return cells + [f"{ours.compile_s:.1f}", f"{theirs.compile_s:.1f}"]


def table_of(title: str, lines: Iterable[list[str]], console: Console) -> None:
    """Measures and prints one tree."""
    table = Table(title=title)
    for position, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if position else "left")
    with console.status(title):
        for cells in lines:
            table.add_row(*cells)
    console.print(table)


def measure_all(settings: Settings, rows: list[Row]) -> None:
    """Prints a table for each tree."""
    console = Console(width=max(WIDTH, Console().width))
    warm_up()
    repeats = 2 if settings.quick else settings.repeats
    model = gpt2(blocks=2, width=256, vocabulary=8192) if settings.quick else gpt2()
    size = sum(leaf.size for leaf in jax.tree.leaves(model)) / 1e6
    lines = (measure(row, model, repeats, with_torch=settings.torch) for row in rows)
    table_of(f"GPT-2, {size:.0f} million parameters", lines, console)
    leaves = settings.leaves // 100 if settings.quick else settings.leaves
    # Compiling takes minutes for each of these: the one that is compared, in its own process.
    compiler = compiled if settings.quick else compiled_elsewhere
    small = [row for row in rows if settings.quick or row.name == "adamw"]
    if leaves and small:
        lines = (measure(row, small_leaves(leaves), 2 * repeats, compiler) for row in small)
        table_of(f"{leaves} small leaves", lines, console)


def main(argv: list[str] | None = None) -> int:
    """The command."""
    try:
        arguments = sys.argv[1:] if argv is None else argv
        prog = "python -m examples.benchmarks.optimizer_step"
        settings = parse_dataclass(Settings, Settings(), arguments, prog)
        known = ROWS + MATRIX_ROWS
        rows = [row for row in known if settings.only in row.name]
        if not rows:
            names = ", ".join(repr(row.name) for row in known)
            raise UserError(f"--only={settings.only!r} is in none of {names}")
        measure_all(settings, rows)
    except UserError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
