"""Optimizer steps that can be timed: compiled here, or in a process of their own, or torch's."""

import contextlib
import ctypes
import dataclasses
import gc
import importlib.util
import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

import wdlab

from ..runs.errors import UserError
from .rows import ROWS, Row

PyTree = Any
Side = Literal["wdlab", "Optax"]


@dataclasses.dataclass
class Contender:
    """A step that can be repeated, and what its compiler says of it."""

    start: Callable[[], Callable[[], object]]  # Makes the buffers; the step over them.
    temporaries: float = 0.0
    words: float = 0.0
    state: float = 0.0
    compile_s: float = 0.0  # Seconds of all cores together.


def plain_update(tx: optax.GradientTransformation) -> Any:
    """The step as Optax's users write it, with the buffers donated in matching order."""

    def update(params: PyTree, opt_state: PyTree, grads: PyTree) -> tuple[PyTree, PyTree]:
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(update, donate_argnums=(0, 1))


def compiled(row: Row, side: Side, shapes: PyTree, steps: int = 1) -> Contender:
    """Compiles our step, or Optax's closest; so many are started before they are waited for."""
    if side == "wdlab":
        return compiled_step(wdlab.make_update, row.ours(), shapes, steps)
    return compiled_step(plain_update, row.theirs(), shapes, steps)


def compiled_step(
    make_update: Callable[..., Any],
    tx: optax.GradientTransformation,
    shapes: PyTree,
    steps: int = 1,
) -> Contender:
    """Traces and compiles a step."""
    full = lambda: jax.tree.map(lambda x: jnp.full(x.shape, 0.02, x.dtype), shapes)  # noqa: E731
    size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    update, state = make_update(tx), jax.eval_shape(tx.init, shapes)
    started = time.process_time()
    program = update.lower(shapes, state, shapes).compile()
    compile_s = time.process_time() - started

    def start() -> Callable[[], object]:
        params, grads = full(), full()
        buffers = [params, wdlab.init_opt_state(tx, params)]

        def step() -> None:
            for _ in range(steps):
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


def compiled_elsewhere(row: Row, side: Side, shapes: PyTree) -> Contender:
    """Compiles it in a process of its own, which makes the steps as well when it is told to.

    Compiling 10,000 leaves takes 13 GB: two sides in one process would need twice that.

    Raises:
      UserError: If that process ends, as it does without enough memory.
    """
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    context.Process(target=_serve, args=(far, row.name, side, shapes), daemon=True).start()
    far.close()

    def ask(question: str = "") -> Any:
        try:
            if question:
                near.send(question)
            return near.recv()
        except (EOFError, OSError):
            count = len(jax.tree.leaves(shapes))
            raise UserError(
                f"the process that compiles {side}'s {row.name} over {count} leaves has ended; it "
                "needs about 13 GB of memory for 10,000 leaves. Ask for fewer with --leaves."
            ) from None

    def start() -> Callable[[], object]:
        ask("start")
        return lambda: ask("step")

    return Contender(start, **ask())


def _serve(connection: Connection, name: str, side: Side, shapes: PyTree) -> None:
    """Sends the figures, then starts and steps when told to, until the other end is closed."""
    [row] = [row for row in ROWS if row.name == name]
    warm_up()
    contender = compiled(row, side, shapes)
    _give_memory_back()
    connection.send({k: v for k, v in vars(contender).items() if k != "start"})
    step: Any = None
    with contextlib.suppress(EOFError):
        while True:
            if connection.recv() == "start":
                step = contender.start()
            else:
                step()
            connection.send(None)


def _give_memory_back() -> None:
    """To the system, as far as the compiler has freed it: the other side needs it next."""
    gc.collect()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # glibc
        library.malloc_trim(0)


def warm_up() -> None:
    """Compiles something: the first time takes longer."""
    jax.jit(lambda x: x + 1).lower(1.0).compile()


def torch_contender(
    row: Row, shapes: PyTree, device: str = "cpu", steps: int = 1
) -> Contender | None:
    """Torch's step, where torch is installed and has the optimizer."""
    if not row.torch or importlib.util.find_spec("torch") is None:
        return None
    from .torch_steps import torch_step

    sizes = [leaf.shape for leaf in jax.tree.leaves(shapes)]
    return Contender(lambda: torch_step(row.torch, sizes, device, steps))


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
