"""The best timescale of a one-pass training as a power of samples per parameter.

Question: Bergsma et al. (2025, arXiv:2505.13738, section 3): with tau = B / (lr lambda D), the
share of a one-pass training over which AdamW's weights average, the best tau falls as
(D / N)**-0.527 with tokens per parameter D / N; at given D and N it does not depend on the batch
size B (so lambda grows with B), below the critical batch size. Is it so?

Command: ``python -m examples.studies.power_lines``; a minute on two CPU cores. The smallest
published scale is a language model of 111M parameters, 20 to 1,000 tokens each; a small network can
show a power and its sign, and no claim is made on its value.

The network and teacher of ``one_pass_mlp`` (4,522 parameters), every sample once, AdamW, lr 3e-3
(the best of ``one_pass_mlp``'s three) falling in a line to 0, the two hidden matrices decay,
lr-coupled. D = 8k to 128k samples of one label, an octave apart, B = 32; then B = 8, 16, 64, 128 at
D = 32k. Grid of tau: 2**-6 to 2**2, an octave apart (E = 1 / (2 tau), from 32 to 0.125). The best
tau is the vertex of a parabola through the held-out losses (wdlab.sweep.surface).

Written down before the first run. Five paired seeds, intervals by bootstrap over them. Two
statements. The slope of log tau over log D is below 0 (its whole 95 % interval; "no" if it is
above 0). That over log B lies between -0.5 and 0.5 (the whole interval; "no" if it lies outside).
An equal lambda everywhere would have the slopes -1 and 1, and a constant timescale 0 for both.
Whether the source's -0.527 lies within the interval is shown, and no part of the answer.
"""

import functools
import sys
from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

import wdlab

from . import one_pass_pool as task
from . import timescale
from .dose import Dose
from .grids import powers
from .paired import agreement, word
from .rows import Point, Row
from .study import Size, Study, Summary, main

LR, SEEDS, SOURCE = 3e-3, 5, -0.527
SAMPLES = {"tiny": tuple(2**k for k in range(13, 18)), "paper": tuple(2**k for k in range(15, 21))}
BATCHES, MIDDLE_BATCH = (8, 16, 32, 64, 128), 32
TIMESCALES = tuple(powers(-6, 2))  # share of the training
WITHIN = timescale.WITHIN


def middle(size: Size) -> int:
    """The number of samples at which batch sizes are compared."""
    return SAMPLES[size][len(SAMPLES[size]) // 2]


def points(size: Size) -> Sequence[Point]:
    """Each number of samples at the middle batch size, then the other batch sizes."""
    others = [{"samples": middle(size), "batch": b} for b in BATCHES if b != MIDDLE_BATCH]
    return [{"samples": d, "batch": MIDDLE_BATCH} for d in SAMPLES[size]] + others


def dose(point: Point, size: Size) -> Dose:
    """Of the shortest timescale; the line to 0 takes half."""
    del size
    return Dose(1 / min(TIMESCALES) / 2, round(LR * point["samples"] / point["batch"], 6))


def measure(point: Point, size: Size) -> list[Row]:
    """The held-out loss of every timescale and seed."""
    del size
    run = functools.partial(one, point["batch"])
    return task.side_by_side(run, {timescale.TAU: TIMESCALES}, task.pools(SEEDS, point["samples"]))


def one(batch: int, values: dict[str, jax.Array], seed: task.Pool):
    """The held-out loss of one training."""
    steps = len(seed.y_N) // batch
    rate = task.falling(task.linear_to_zero(steps), LR)
    strength = 1 / (LR * values[timescale.TAU] * steps)
    tx = wdlab.optimizers.adamw(rate, weight_decay=strength, coupling="lr", rules=task.RULES)
    return {"loss": task.one_pass_loss(tx, seed, batch)}


def parts(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each of the two questions, by the axis that is varied."""
    samples = next(r["samples"] for r in rows if r["batch"] != MIDDLE_BATCH)
    return {
        "samples": [r for r in rows if r["batch"] == MIDDLE_BATCH],
        "batch": [r for r in rows if r["samples"] == samples],
    }


def draw(rows: list[Row]) -> Figure:
    """The loss over the timescale for each number of samples, and for each batch size."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    labels = {"samples": "samples", "batch": "batch"}
    for axes, (axis, some) in zip(figure.subplots(1, 2), parts(rows).items(), strict=True):
        timescale.losses_over(axes, some, axis, timescale.TAU, labels)
        axes.set(xlabel="timescale tau (share of the training)")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The two slopes."""
    found = {axis: timescale.slope(some, axis) for axis, some in parts(rows).items()}
    holds = {
        "samples": timescale.is_within(found["samples"], -np.inf, 0.0),
        "batch": timescale.is_within(found["batch"], -WITHIN, WITHIN),
    }
    of_source = found["samples"].low < SOURCE < found["samples"].high
    return Summary(
        question="Does the best timescale fall as a power of samples per parameter?",
        source="tau ~ (D / N)^-0.527; at equal D lambda ~ B (2505.13738)",
        number=f"slope over D {found['samples'].slope:+.2f}, over B {found['batch'].slope:+.2f}",
        agrees=agreement(list(holds.values())),
        measured="slope of log2 of the best timescale, a share of the training",
        numbers={"over samples": found["samples"], "over batch sizes": found["batch"]},
        seeds=SEEDS,
        remark=f"Falls with D: {word(holds['samples'])} ({found['samples']}; the source's slope "
        f"lies {'within' if of_source else 'outside'}); between -0.5 and 0.5 over B: "
        f"{word(holds['batch'])} ({found['batch']}).",
    )


STUDY = Study("power_lines", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
