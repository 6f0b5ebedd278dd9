"""FLOPs and HBM words of Muon's step on a TPU, from its compiler alone, ours beside Optax's.

``python -m examples.benchmarks.tpu_muon``: the hidden matrices of some blocks of GPT-2 124M, whose
step is one block's times their number. The words of the elementwise part are those of the whole
step less those of a program that does nothing but the iterations on the same matrices.

With ``--mesh_fsdp 4`` so many chips share each matrix: what a chip computes then, and sends.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from optax.contrib._muon import orthogonalize_via_newton_schulz  # Its own, without the optimizer.
from rich.console import Console
from rich.table import Table

import wdlab
from wdlab.preconditioners import COEFFICIENTS, newton_schulz

from ..runs.errors import UserError, fail
from ..runs.flags import parse_dataclass
from ..runs.hlo import collectives
from ..runs.layout import Layout, placed
from ..runs.mesh import make_mesh
from ..runs.program import Program
from ..runs.slices import devices_of
from ..runs.traffic import hbm_bytes
from .optimizer_step import gpt2
from .rows import MATRIX_ROWS
from .tpu_bytes import WIDTH

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to compile, and for which chip."""

    topology: str = "v5e:2x2"
    blocks: int = 1  # Of GPT-2's twelve.
    width: int = 768
    mesh_fsdp: int = 1  # Chips that share each matrix.


def hidden_matrices(blocks: int, width: int) -> PyTree:
    """The shapes that Muon trains.

    >>> sum(leaf.size for leaf in jax.tree.leaves(hidden_matrices(12, 768)))
    84934656
    """
    tree = gpt2(blocks, width)["blocks"]
    return {i: {n: b[n]["kernel"] for n in ("qkv", "out", "up", "down")} for i, b in tree.items()}


def of_program(
    function: Any, arguments: tuple[PyTree, ...], device: jax.Device
) -> tuple[float, float]:
    """FLOPs and HBM bytes of a function compiled for the chip."""
    place = SingleDeviceSharding(device)
    abstract = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)  # noqa: E731
    compiled = function.lower(*jax.tree.map(abstract, arguments)).compile()
    return compiled.cost_analysis()["flops"], hbm_bytes(compiled.as_text())


def measure_shared(settings: Settings) -> Table:
    """Compiles the steps on a mesh of chips."""
    layout = Layout(make_mesh(1, settings.mesh_fsdp, devices_of(settings.topology)))
    shapes = hidden_matrices(settings.blocks, settings.width)
    params = placed(shapes, layout.parameters(shapes))
    chips = f"{settings.mesh_fsdp} chips of {settings.topology}"
    table = Table(title=f"Muon on {settings.blocks} block(s) of GPT-2, each of {chips}")
    for column in ("optimizer", "GFLOP", "sends, MiB", "in"):
        table.add_column(column, justify="right" if column[0] in "Gs" else "left")
    for row in MATRIX_ROWS:
        tx = row.ours()
        state = wdlab.init_opt_state(tx, params)
        with layout.active():
            step: Any = wdlab.make_update(tx)
            compiled = step.lower(params, state, params).compile()
        sent = collectives(Program(compiled.as_text()))
        flops, size = compiled.cost_analysis()["flops"], sum(size for _, size in sent.values())
        kinds = ", ".join(f"{count} x {kind}" for kind, (count, _) in sent.items())
        table.add_row(row.name, f"{flops / 1e9:.1f}", f"{size / 2**20:.1f}", kinds)
    return table


def measure(settings: Settings) -> Table:
    """Compiles the steps and the iterations alone."""
    device = devices_of(settings.topology)[0]
    shapes = hidden_matrices(settings.blocks, settings.width)
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    jordan = jnp.asarray(COEFFICIENTS["jordan"].triples[0])
    iterations: dict[str, Callable[[Any], Any]] = {
        MATRIX_ROWS[0].name: lambda x: newton_schulz(x, dtype="bfloat16"),
        MATRIX_ROWS[1].name: lambda x: newton_schulz(x, dtype="float32"),
        "optax.contrib.muon": lambda x: orthogonalize_via_newton_schulz(x, jordan),
    }
    makes = {row.name: row.ours for row in MATRIX_ROWS} | {
        "optax.contrib.muon": MATRIX_ROWS[0].theirs
    }
    table = Table(title=f"Muon on {settings.blocks} block(s) of GPT-2, {settings.topology}")
    for column in ("optimizer", "GFLOP", "per parameter", "words, all", "elementwise"):
        table.add_column(column, justify="left" if column == "optimizer" else "right")
    for name, make in makes.items():
        tx = make()
        state = jax.eval_shape(tx.init, shapes)
        step: Any = wdlab.make_update(tx)
        flops, moved = of_program(step, (shapes, state, shapes), device)
        alone = jax.jit(lambda tree, name=name: jax.tree.map(iterations[name], tree))
        _, inside = of_program(alone, (shapes,), device)
        words = moved / 4 / size, (moved - inside) / 4 / size
        table.add_row(
            name, f"{flops / 1e9:.1f}", f"{flops / size:.0f}", *(f"{n:.1f}" for n in words)
        )
    return table


def main(argv: list[str] | None = None) -> int:
    """Prints the table."""
    try:
        arguments = sys.argv[1:] if argv is None else argv
        prog = "python -m examples.benchmarks.tpu_muon"
        settings = parse_dataclass(Settings, Settings(), arguments, prog)
        table = (measure if settings.mesh_fsdp == 1 else measure_shared)(settings)
        Console(width=max(WIDTH, Console().width)).print(table)
    except UserError as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    # JAX keeps a program that is compiled for absent chips, and cannot read it again.
    jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(main())
