"""Compiles the training step for a slice of TPUs, on a machine that has none.

``python -m examples.gpt.compile_tpu --topology v5e:16x16 --config llama_7b``, and any flag of
``examples.gpt.train``. It is the program that would run there, made by the TPU's own compiler: what
it takes of each chip's memory, what it computes and sends, how long a step lasts at least, and what
to change where it does not fit. Needs libtpu (``pip install "jax[tpu]"``).
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from examples.runs.errors import UserError, fail
from examples.runs.hlo import collectives
from examples.runs.layout import Layout, placed
from examples.runs.mesh import make_mesh
from examples.runs.program import Program
from examples.runs.roofline import CHIPS, GIB, Chip, Roofline, roofline
from examples.runs.slices import INSTALL, devices_of
from wdlab.training import init_opt_state

from . import model, optim, step
from .config import Config
from .data import GPT2_VOCABULARY
from .flags import parse

# The scopes of model and step -> the parts that the report speaks of.
PARTS = {
    "embedding": "embedding", "attention": "attention", "mlp": "MLP", "norm": "norms",
    "head": "head and loss", "loss": "head and loss", "metrics": "metrics",
    "optimizer": "optimizer and EMA", "ema": "optimizer and EMA",  # One pass over the weights.
}  # fmt: skip


def settings(name: str, flags: Sequence[str], chips: int) -> Config:
    """The configuration; where no flag says otherwise in bfloat16, and a batch that chips share."""
    _, config = parse([name, *flags])
    given = {flag.lstrip("-").split("=")[0].replace("-", "_") for flag in flags}
    if "dtype" not in given:
        config = dataclasses.replace(config, dtype="bfloat16")
    if "mesh_fsdp" not in given:
        config = dataclasses.replace(config, mesh_fsdp=chips // (config.mesh_data or 1))
    if not {"batch_size", "gradient_accumulation_steps"} & given:
        total = config.batch_size * config.gradient_accumulation_steps
        size = -(-config.batch_size // chips) * chips
        accumulation = max(1, total // size)
        config = dataclasses.replace(
            config, batch_size=size, gradient_accumulation_steps=accumulation
        )
    return config


def abstract_arguments(config: Config, layout: Layout, tx: Any) -> tuple[step.Carry, Any]:
    """Shapes and shardings of what the training step takes."""

    def copies(make: Any) -> Any:
        shapes = jax.eval_shape(make)
        return placed(shapes, jax.tree.map(lambda _: layout.copies, shapes))

    shapes = model.shapes(config, GPT2_VOCABULARY)
    params = placed(shapes, layout.parameters(shapes))
    state = init_opt_state(tx, params)
    ema = params if config.ema_coef else None
    scalars = copies(lambda: (step.first_loss_scale(config), jnp.int32(0)))
    carry = step.Carry(params, state, ema, *scalars)
    tokens = jax.ShapeDtypeStruct(
        (config.gradient_accumulation_steps, config.batch_size, config.block_size + 1),
        jnp.int32,
        sharding=layout.batch_sharding(1),
    )
    return carry, tokens


def advice(config: Config, layout: Layout) -> list[str]:
    """What makes the step take less memory, the cheapest first."""
    chips = layout.mesh.size if layout.mesh else 1
    found = []
    if config.mesh_fsdp < chips:
        found.append(f"--mesh_fsdp {chips}: weights and optimizer state over all chips")
    if config.remat == "none":
        found.append("--remat dots: all but the products computed again in the backward pass")
    if config.remat != "full":
        found.append("--remat full: activations computed again in the backward pass")
    if config.batch_size > chips:
        accumulation = config.gradient_accumulation_steps * config.batch_size // chips
        found.append(
            f"--batch_size {chips} --gradient_accumulation_steps {accumulation}: one sequence at "
            "a time on each chip, the same step"
        )
    if config.ema_coef:
        found.append("--ema_coef 0: no moving average of the weights")
    return found or ["a larger slice, or a smaller --block_size"]


def report(compiled: Any, chip: Chip) -> list[str]:
    """Lines about the memory that the compiled step takes of a chip."""
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes
    parts = {
        "weights, state, batch": held,
        "temporaries": memory.temp_size_in_bytes,
        "results not in place": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "code": memory.generated_code_size_in_bytes,
    }
    total = sum(parts.values())
    lines = [f"memory of a chip: {total / GIB:.2f} of {chip.hbm} GiB"]
    lines += [f"  {name}: {size / GIB:.3f} GiB" for name, size in parts.items()]
    return lines


def program_of(compiled: Any) -> Program:
    """The compiled program, read from its text.

    Raises:
      UserError: If this jaxlib cannot read what another version's libtpu made.
    """
    try:
        return Program(compiled.as_text())
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f"this jaxlib cannot read the program that libtpu made: {str(error).splitlines()[0]}; "
            f"{INSTALL}"
        ) from None


def bounds(found: Roofline, config: Config, chips: int) -> list[str]:
    """Lines about the time of a step: if all overlaps, and if nothing does."""
    lines = [f"a step takes at least {1e3 * found.overlapped:.1f} ms, limited by {found.limit}"]
    lines[0] += f"; {1e3 * found.one_by_one:.1f} ms if products, memory and links take turns"
    most, least = (config.tokens_per_step / t for t in (found.overlapped, found.one_by_one))
    lines.append(
        f"at most {most:,.0f} tokens/s, {most / chips:,.0f} a chip; {least:,.0f} if they take turns"
    )
    if config.gradient_accumulation_steps > 1 and found.limit == "links":
        lines.append(
            "every micro-batch gathers the weights again: try a larger --batch_size with fewer "
            "--gradient_accumulation_steps"
        )
    return lines


def run(topology: str, name: str, flags: Sequence[str]) -> int:
    """Compiles and prints; 0 if the step fits."""
    devices = devices_of(topology)
    config = settings(name, flags, len(devices))
    layout = Layout(make_mesh(config.mesh_data, config.mesh_fsdp, devices))
    if layout.mesh is None:
        raise UserError(f"--topology {topology}: write a slice of at least 2 chips")
    layout.rows(config.batch_size)
    tx = optim.make_optimizer(config)
    with layout.active():
        arguments = abstract_arguments(config, layout, tx)
        graph = model.make_graph(config, GPT2_VOCABULARY)
        shardings = jax.tree.map(lambda x: x.sharding, arguments[0])
        train_step: Any = step.make_train_step(graph, tx, config, shardings)
        traced = train_step.trace(*arguments)
    weights = sum(leaf.size for leaf in jax.tree.leaves(arguments[0].params))
    data, fsdp = layout.mesh.devices.shape
    print(
        f"{name}: {weights:,} weights, {config.dtype}, on {topology}: data {data} x fsdp {fsdp}, "
        f"{config.gradient_accumulation_steps} x {config.batch_size} sequences of "
        f"{config.block_size} tokens a step"
    )
    started = time.monotonic()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("does not fit: " + str(error).split("\n")[0].removeprefix("RESOURCE_EXHAUSTED: "))
        print("try", "\n or ".join(advice(config, layout)))
        return 1
    print(f"compiled in {time.monotonic() - started:.0f} s")
    chip = CHIPS[topology.split(":")[0]]
    print("\n".join(report(compiled, chip)))
    program = program_of(compiled)
    print("sent to other chips by a chip and a step:")
    for kind, (count, size) in collectives(program).items():
        print(f"  {kind}: {count:,} x, {size / GIB:.3f} GiB")
    found = roofline(program, chip, PARTS)
    Console(width=max(100, Console().width)).print(found.table())  # Whole columns, in a file too.
    print("\n".join(bounds(found, config, len(devices))))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code: 0 if the step fits."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.gpt.compile_tpu", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--topology", required=True, help="such as v5e:4x4")
    parser.add_argument("--config", required=True, help="a configuration, such as gpt2_xl")
    args, flags = parser.parse_known_args(argv)
    try:
        return run(args.topology, args.config, flags)
    except UserError as error:
        return fail(error)


if __name__ == "__main__":
    # JAX keeps a program that is compiled for absent chips, and cannot read it again.
    jax.config.update("jax_enable_compilation_cache", False)
    sys.exit(main())
