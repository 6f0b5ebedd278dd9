"""The parts of the GPU's benchmark: each prints its rows as one line of JSON.

``python -m examples.benchmarks.gpu`` calls them, each in a process of its own.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from ..gpt.configs import CONFIGS
from ..gpt.data import GPT2_VOCABULARY
from ..studies.sweep import task
from . import contenders, training_gpt, training_resnet
from .optimizer_step import gpt2
from .rows import MATRIX_ROWS, ROWS
from .rows import Row as Optimizer
from .side_by_side import Timing

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
    gpt: dict[str, Any]  # changed settings of train_gpt2_small
    vocabulary: int
    updates: int
    resnet: dict[str, Any]
    runs: int  # of the sweep
    run_steps: int


FULL = Sizes(
    {}, 10, {"batch_size": 16}, GPT2_VOCABULARY, 4, {"width": 64, "batch_size": 512}, 4_096, 300
)
TINY = Sizes(
    {"blocks": 1, "width": 64, "vocabulary": 128}, 1,
    {"batch_size": 2, "n_layer": 1, "n_head": 2, "n_embd": 32, "block_size": 16}, 64, 2,
    {"width": 2, "batch_size": 8}, 4, 5,
)  # fmt: skip


def steps(part: str, optimizers: Iterable[Optimizer], sizes: Sizes, torch_device: str) -> list[Row]:
    """Milliseconds of one step over a tree of float32 weights, in turns."""
    shapes, rows = gpt2(**sizes.tree), []
    contenders.warm_up()
    for optimizer in optimizers:
        programs = {
            "wdlab": contenders.compiled(optimizer, "wdlab", shapes),
            "Optax": contenders.compiled(optimizer, "Optax", shapes),
            "torch": contenders.torch_contender(optimizer, shapes, torch_device),
        }
        programs = {name: program for name, program in programs.items() if program}
        seconds = contenders.times_in_turn(list(programs.values()), sizes.repeats)
        for name, taken in zip(programs, seconds, strict=True):
            row = {"part": part, "what": optimizer.name, "program": name, "value": 1e3 * taken}
            remark = optimizer.note if name == "Optax" else ""
            rows.append(row | {"unit": "ms", COMPARED: taken / seconds[0], "remark": remark})
    return rows


COMPARED = "wdlab's speed over it"


def optimizer(sizes: Sizes, torch_device: str) -> list[Row]:
    """Elementwise optimizers."""
    return steps("optimizer", [r for r in ROWS if r.name in OPTIMIZERS], sizes, torch_device)


def muon(sizes: Sizes, torch_device: str) -> list[Row]:
    """Muon, with AdamW for what is no hidden matrix."""
    return steps("muon", MATRIX_ROWS[:1], sizes, torch_device)


def gpt(sizes: Sizes, torch_device: str) -> list[Row]:
    """Tokens per second of GPT-2 small in bfloat16, and the share of the card's peak.

    The share is ``tokens/s * (6 N + 12 L D T) / peak``: N parameters without position embeddings,
    L layers, D wide, T tokens of context (PaLM, https://arxiv.org/abs/2204.02311, appendix B).
    """
    config = dataclasses.replace(
        CONFIGS["train_gpt2_small"](), gradient_accumulation_steps=1, weight_decay=0.1,
        decay_lr=False, ema_coef=0.0, log_interval=10**9, dtype="bfloat16", **sizes.gpt,
    )  # fmt: skip
    timings = training_gpt.measure(
        sizes.repeats, config, sizes.vocabulary, sizes.updates, torch_device
    )
    width, layers = config.n_embd, config.n_layer
    weights = 12 * layers * width**2 + sizes.vocabulary * width
    flops = 6 * weights + 12 * layers * width * config.block_size
    rows = _rates("gpt", "GPT-2 small", "tokens/s", timings, sizes.updates * config.tokens_per_step)
    peak = peak_flops(jax.devices()[0].device_kind)
    for row in rows if peak else ():
        row["remark"] = f"{row['value'] * flops / peak:.1%} of the card's peak"
    return rows


def peak_flops(card: str) -> float | None:
    """Of a card by its name, the longest that is part of it; None if it is not in the list.

    >>> peak_flops("NVIDIA L40S"), peak_flops("cpu")
    (362000000000000.0, None)
    """
    known = sorted((name for name in PEAK_FLOPS if name in card), key=len)
    return PEAK_FLOPS[known[-1]] if known else None


def resnet(sizes: Sizes, torch_device: str) -> list[Row]:
    """Images per second of ResNet-18 on images of 32 x 32 pixels."""
    config = dataclasses.replace(training_resnet.CONFIG, **sizes.resnet)
    timings = training_resnet.measure(sizes.repeats, config, torch_device)
    return _rates("resnet", "ResNet-18", "images/s", timings, config.batch_size)


def sweep(sizes: Sizes, torch_device: str) -> list[Row]:
    """Trainings per second: all of a grid as one program, beside one jitted run after another."""
    del torch_device
    from wdlab.sweep import sweep as run_all

    train = task(steps=sizes.run_steps)
    rates = np.geomspace(1e-4, 1e-1, sizes.runs).tolist()
    grid = {"learning_rate": rates, "weight_decay": [0.01], "coupling": ["lr"]}
    run, some = jax.jit(train), rates[:: max(1, sizes.runs // 16)]

    def one_by_one() -> None:
        fixed = {"weight_decay": np.float32(0.01), "coupling": {"lr": 1.0}}
        for rate in some:
            run({"learning_rate": np.float32(rate), **fixed}, jax.random.key(0))["val_loss"].item()

    one_by_one()
    together = _seconds(lambda: run_all(train, grid, seeds=1, progress=False))
    alone = _seconds(one_by_one)
    timings = {"one program, compiled in this time": (together, sizes.runs)}
    timings["one after another, compiled before"] = (alone, len(some))
    ours = sizes.runs / together
    return [
        {"part": "sweep", "what": f"{sizes.runs} runs", "program": name, "value": count / taken}
        | {"unit": "runs/s", COMPARED: ours * taken / count}
        for name, (taken, count) in timings.items()
    ]


def _seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _rates(part: str, what: str, unit: str, timings: dict[str, Timing], work: float) -> list[Row]:
    ours = timings["wdlab"]
    return [
        {"part": part, "what": what, "program": name, "value": work / timing.median}
        | {"unit": unit, COMPARED: ours.speedup(timing)}
        for name, timing in timings.items()
    ]


PARTS = {"optimizer": optimizer, "muon": muon, "gpt": gpt, "resnet": resnet, "sweep": sweep}


if __name__ == "__main__":
    name, device = sys.argv[1:]
    found = PARTS[name](*((TINY, "cpu") if device == "cpu" else (FULL, "cuda")))
    print(json.dumps({"rows": found}))
