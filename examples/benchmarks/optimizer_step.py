"""One optimizer step: ours, Optax's closest and torch's, on GPT-2 124M and on 10,000 small leaves.

Times are medians of steps in turn, so that a busy machine slows all of them; temporaries and words
(of 4 bytes, per parameter) are XLA's own account of the compiled program, without noise. Torch
takes part where it is installed, with its fused step where it has one, else foreach.
"""

import dataclasses
import gc
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from rich.console import Console
from rich.table import Table

import wdlab

from ..runs.errors import UserError, fail
from ..runs.flags import parse_dataclass
from .rows import ROWS, Row

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
    "compile s",
    "Optax's",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to measure."""

    quick: bool = False  # A tenth of the sizes, 2 repeats.
    repeats: int = 5  # Of each of two rounds of buffers.
    leaves: int = 10_000  # Of the second tree; 0 leaves it out.
    only: str = ""  # Only the optimizers whose name contains this.


@dataclasses.dataclass
class Contender:
    """A step that can be repeated, and what its compiler says of it."""

    start: Callable[[], Callable[[], object]]  # Makes the buffers; the step over them.
    temporaries: float = 0.0
    words: float = 0.0
    state: float = 0.0
    compile_s: float = 0.0


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


def plain_update(tx: optax.GradientTransformation) -> Any:
    """The step as Optax's users write it, with the buffers donated in matching order."""

    def update(params: PyTree, opt_state: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(update, donate_argnums=(0, 1))


def compiled_step(
    make_update: Callable[..., Any], tx: optax.GradientTransformation, shapes: PyTree
) -> Contender:
    """Compiles a step."""
    full = lambda: jax.tree.map(lambda x: jnp.full(x.shape, 0.02, x.dtype), shapes)  # noqa: E731
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    update, state = make_update(tx), jax.eval_shape(tx.init, shapes)
    started = time.perf_counter()
    program = update.lower(shapes, state, shapes).compile()
    compile_s = time.perf_counter() - started

    def start() -> Callable[[], object]:
        params, grads = full(), full()
        buffers = [params, wdlab.init_opt_state(tx, params)]

        def step() -> None:
            buffers[:] = program(*buffers, grads)
            jax.block_until_ready(buffers)

        return step

    return Contender(
        start,
        program.memory_analysis().temp_size_in_bytes / 4 / size,
        program.cost_analysis()["bytes accessed"] / 4 / size,
        sum(leaf.size for leaf in jax.tree.leaves(state)) / size,
        compile_s,
    )


def torch_contender(row: Row, shapes: PyTree) -> Contender | None:
    """Torch's step, where torch is installed and has the optimizer."""
    if not row.torch or importlib.util.find_spec("torch") is None:
        return None
    from .torch_steps import torch_step

    return Contender(
        lambda: torch_step(row.torch, [leaf.shape for leaf in jax.tree.leaves(shapes)])
    )


def times_in_turn(contenders: list[Contender], repeats: int) -> list[float]:
    """Median seconds of each one's step, in rounds of which every other one goes backwards.

    All of it twice, with the buffers made in both orders: two equal programs differ by 4 % by where
    in memory theirs lie. The first round of each warms up and does not count.
    """
    taken: list[list[float]] = [[] for _ in contenders]
    numbers = list(range(len(contenders)))
    for order in (numbers, numbers[::-1]):
        steps = {number: contenders[number].start() for number in order}
        for turn in range(repeats + 1):
            for number in numbers[:: -1 if turn % 2 else 1]:
                started = time.perf_counter()
                steps[number]()
                if turn:
                    taken[number].append(time.perf_counter() - started)
        del steps
        gc.collect()  # The buffers of one optimizer at a time: 2 GB with GPT-2 124M.
    return [statistics.median(times) for times in taken]


def measure(row: Row, shapes: PyTree, repeats: int) -> list[str]:
    """One line of the table."""
    ours = compiled_step(wdlab.make_update, row.ours(), shapes)
    theirs = compiled_step(plain_update, row.theirs(), shapes)
    torch = torch_contender(row, shapes)
    contenders = [ours, theirs] + ([torch] if torch else [])
    own, *others = times_in_turn(contenders, repeats)
    ratios = [f"{other / own:.2f}" for other in others] + ["-"]
    cells = [row.name, f"{1e3 * own:.0f}", *ratios[:2]]
    cells += [f"{ours.temporaries:.3f}", f"{theirs.temporaries:.3f}"]
    cells += [f"{ours.words:.2f}", f"{theirs.words:.2f}", f"{ours.state:.2f}"]
    return cells + [f"{ours.compile_s:.1f}", f"{theirs.compile_s:.1f}"]


def table_of(title: str, rows: list[Row], shapes: PyTree, repeats: int, console: Console) -> None:
    """Measures and prints one tree."""
    table = Table(title=title)
    for position, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if position else "left")
    with console.status("") as status:
        for row in rows:
            status.update(row.name)
            table.add_row(*measure(row, shapes, repeats))
    console.print(table)


def main(argv: list[str] | None = None) -> int:
    """Prints a table for each tree."""
    try:
        arguments = sys.argv[1:] if argv is None else argv
        prog = "python -m examples.benchmarks.optimizer_step"
        settings = parse_dataclass(Settings, Settings(), arguments, prog)
        rows = [row for row in ROWS if settings.only in row.name]
        if not rows:
            names = ", ".join(repr(row.name) for row in ROWS)
            raise UserError(f"--only={settings.only!r} is in none of {names}")
    except UserError as error:
        return fail(error)
    console = Console(width=max(WIDTH, Console().width))
    repeats = 2 if settings.quick else settings.repeats
    model = gpt2(blocks=2, width=256, vocabulary=8192) if settings.quick else gpt2()
    size = sum(leaf.size for leaf in jax.tree.leaves(model)) / 1e6
    table_of(f"GPT-2, {size:.0f} million parameters", rows, model, repeats, console)
    leaves = settings.leaves // 100 if settings.quick else settings.leaves
    if leaves:
        # Compiling takes minutes for each of these: the one that is compared.
        only = [row for row in rows if row.name == "adamw"] if not settings.quick else rows
        table_of(f"{leaves} small leaves", only, small_leaves(leaves), 2 * repeats, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
