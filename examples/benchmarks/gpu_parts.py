"""The parts of the GPU's benchmark, by JAX or by PyTorch: prints each row as soon as it is known.

``python -m examples.benchmarks.gpu`` calls them, each part and side in a process of its own.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from ..gpt.configs import CONFIGS
from ..gpt.data import GPT2_VOCABULARY
from ..runs.errors import UserError
from ..studies.sweep import task
from . import contenders, training_gpt, training_resnet
from .optimizer_step import gpt2
from .rows import MATRIX_ROWS, ROWS
from .rows import Row as Optimizer
from .side_by_side import in_turns

Row = dict[str, Any]
OPTIMIZERS = ("sgd, momentum, l2", "adamw", "clip + adamw", "lionw", "adafactor")
# Products in bfloat16 with float32 sums, without sparsity, a second: the makers' data sheets.
PEAK_FLOPS = {
    "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12,
    "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    tree: dict[str, int]  # of :func:`gpt2`; empty: GPT-2 124M
    repeats: int
    steps: int  # of an optimizer before they are waited for: Python takes as long to call one
    gpt: dict[str, Any]  # changed settings of train_gpt2_small
    vocabulary: int
    updates: int
    resnet: dict[str, Any]
    runs: int  # of the sweep
    run_steps: int


@dataclasses.dataclass(frozen=True)
class Place:
    """Who measures, and where."""

    side: str  # jax or torch
    torch_device: str  # cuda or cpu
    card: str  # its name


FULL = Sizes(
    {}, 10, 10, {"batch_size": 16}, GPT2_VOCABULARY, 4, {"width": 64, "batch_size": 512}, 4_096, 300
)
TINY = Sizes(
    {"blocks": 1, "width": 64, "vocabulary": 128}, 1, 2,
    {"batch_size": 2, "n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 16}, 64, 2,
    {"width": 2, "batch_size": 8}, 4, 5,
)  # fmt: skip


def guarded(part: str, what: str, program: str, measure: Callable[[], Row]) -> Row:
    """A program's row; where it fails, as without memory or a compiler, the reason."""
    row = {"part": part, "what": what, "program": program}
    try:
        return row | measure()
    except Exception as error:  # noqa: BLE001  Whatever a library or a driver raises.
        line = str(error).strip().partition("\n")[0]
        return row | {"remark": f"not measured: {type(error).__name__}: {line[:200]}"}


def steps(part: str, optimizers: Iterable[Optimizer], sizes: Sizes, place: Place) -> Iterator[Row]:
    """Milliseconds of one step over a tree of float32 weights."""
    shapes, count = gpt2(**sizes.tree), sizes.steps
    contenders.warm_up()

    def measured(row: Optimizer, program: Any) -> Row:
        if program == "torch":
            contender = contenders.torch_contender(row, shapes, place.torch_device, count)
        else:
            contender = contenders.compiled(row, program, shapes, count)
        if contender is None:
            raise UserError("PyTorch is not installed")
        [seconds] = contenders.times_in_turn([contender], sizes.repeats)
        remark = row.note if program == "Optax" else ""
        return {"value": 1e3 * seconds / count, "unit": "ms", "remark": remark}

    for row in optimizers:
        for program in ("wdlab", "Optax") if place.side == "jax" else ("torch",):
            if program != "torch" or row.torch:
                yield guarded(part, row.name, program, lambda p=program, r=row: measured(r, p))


def optimizer(sizes: Sizes, place: Place) -> Iterator[Row]:
    """Elementwise optimizers."""
    return steps("optimizer", [r for r in ROWS if r.name in OPTIMIZERS], sizes, place)


def muon(sizes: Sizes, place: Place) -> Iterator[Row]:
    """Muon, with AdamW for what is no hidden matrix."""
    return steps("muon", MATRIX_ROWS[:1], sizes, place)


def rates(
    part: str, what: str, unit: str, makes: dict[str, Callable[[], Any]], repeats: int, work: float
) -> Iterator[Row]:
    """Work per second of programs, one after another: a later one cannot take an earlier's row."""

    def measured(make: Callable[[], Any]) -> Row:
        timing = in_turns({what: make()}, repeats)[what]
        return {"value": work / timing.median, "unit": unit}

    for name, make in makes.items():
        yield guarded(part, what, name, lambda make=make: measured(make))


def _made(programs: dict[str, Callable[[], object]]) -> dict[str, Callable[[], Any]]:
    return {name: lambda program=program: program for name, program in programs.items()}


def gpt(sizes: Sizes, place: Place) -> Iterator[Row]:
    """Tokens per second of GPT-2 small in bfloat16, and the share of the card's peak.

    The share is ``tokens/s * (6 N + 12 L D T) / peak``: N parameters without position embeddings,
    L layers, D wide, T tokens of context (PaLM, https://arxiv.org/abs/2204.02311, appendix B).
    """
    config = dataclasses.replace(
        CONFIGS["train_gpt2_small"](), gradient_accumulation_steps=1, weight_decay=0.1,
        decay_lr=False, ema_coef=0.0, log_interval=10**9, dtype="bfloat16", **sizes.gpt,
    )  # fmt: skip
    vocabulary, device = sizes.vocabulary, place.torch_device
    tokens = training_gpt.tokens_of(config, vocabulary, sizes.updates)
    if place.side == "jax":
        makes = {"wdlab": lambda: training_gpt.ours(config, vocabulary, tokens, 1)}
    else:
        makes = _made(training_gpt.torch_programs(config, vocabulary, tokens, device))
    width, layers = config.n_embd, config.n_layer
    weights = 12 * layers * width**2 + vocabulary * width
    flops = 6 * weights + 12 * layers * width * config.block_size
    peak, work = peak_flops(place.card), sizes.updates * config.tokens_per_step
    for row in rates("gpt", "GPT-2 small", "tokens/s", makes, sizes.repeats, work):
        if peak and "value" in row:
            row["remark"] = f"{row['value'] * flops / peak:.1%} of the card's peak"
        yield row


def peak_flops(card: str) -> float | None:
    """Of a card by its name, the longest that is part of it; None if it is not in the list.

    >>> peak_flops("NVIDIA L40S"), peak_flops("cpu")
    (362000000000000.0, None)
    """
    known = sorted((name for name in PEAK_FLOPS if name in card), key=len)
    return PEAK_FLOPS[known[-1]] if known else None


def resnet(sizes: Sizes, place: Place) -> Iterator[Row]:
    """Images per second of ResNet-18 on images of 32 x 32 pixels."""
    config = dataclasses.replace(training_resnet.CONFIG, **sizes.resnet)
    images = training_resnet.images_of(config)
    if place.side == "jax":
        makes = {"wdlab": lambda: training_resnet.ours(config, *images, 1)}
    else:
        makes = _made(training_resnet.torch_programs(config, *images, place.torch_device))
    return rates("resnet", "ResNet-18", "images/s", makes, sizes.repeats, config.batch_size)


def sweep(sizes: Sizes, place: Place) -> Iterator[Row]:
    """Trainings per second: all of a grid as one program, beside one jitted run after another."""
    del place
    from wdlab.sweep import sweep as run_all

    train = task(steps=sizes.run_steps)
    points = np.geomspace(1e-4, 1e-1, sizes.runs).tolist()
    grid = {"learning_rate": points, "weight_decay": [0.01], "coupling": ["lr"]}
    run, some = jax.jit(train), points[:: max(1, sizes.runs // 16)]

    def one_by_one() -> None:
        fixed = {"weight_decay": np.float32(0.01), "coupling": {"lr": 1.0}}
        for rate in some:
            run({"learning_rate": np.float32(rate), **fixed}, jax.random.key(0))["val_loss"].item()

    def together() -> Row:
        taken = _seconds(lambda: run_all(train, grid, seeds=1, progress=False))
        return {"value": sizes.runs / taken, "unit": "runs/s", "remark": "with its compilation"}

    def alone() -> Row:
        one_by_one()
        return {"value": len(some) / _seconds(one_by_one), "unit": "runs/s"}

    yield guarded("sweep", f"{sizes.runs} runs", "wdlab", together)
    yield guarded("sweep", f"{sizes.runs} runs", "one jitted run after another", alone)


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


PARTS = {"optimizer": optimizer, "muon": muon, "gpt": gpt, "resnet": resnet, "sweep": sweep}


def main(part: str, side: str, device: str, card: str) -> None:
    """Prints the rows of a part, each as a line of JSON."""
    small = device == "cpu"
    place = Place(side, "cpu" if small else "cuda", card)
    for row in PARTS[part](TINY if small else FULL, place):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
