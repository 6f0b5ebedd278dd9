"""Normalized weight decay: does lambda_norm carry over to other batch sizes and budgets?

Question: Loshchilov and Hutter (2019, arXiv:1711.05101, section 3 and appendix B.1) find that
longer trainings need less decay and propose lambda = lambda_norm sqrt(b / (B T)): batch size b, B
training images, T epochs, so b / (B T) is one over the number of steps. Wang and Aitchison (2024,
arXiv:2405.13698) hold the timescale in epochs fixed, 1 / (lambda steps): lambda proportional to b
/ (B T) itself. What power of b / (B T) is the best lambda?

Command: ``python -m examples.studies.normalized_decay``; minutes on two CPU cores at size tiny.

Digits MLP, 320 images, a fifth of whose labels is wrong (see ``grids.py``), AdamW with
schedule-only decay, cosine from 1e-2 to 0 whatever the batch size. The best lambda is that of the
lowest loss on held-out digits; the power is the slope of its logarithm over that of b / (B T), by
wdlab.sweep.surface with a bootstrap interval over seeds: over all combinations, over the epochs at
the middle batch size and over batch sizes at the middle number of epochs.
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import wdlab
from wdlab.sweep import Separability, loss_surface, separability

from . import grids
from .dose import Dose
from .rows import Point, Row
from .study import Size, Study, Summary, main

EXAMPLES, PEAK = 320, 1e-2
BATCHES, EPOCHS = (8, 32, 128), {"tiny": (32, 96, 288), "paper": (100, 300, 900)}
SEEDS = {"tiny": 5, "paper": 10}
DECAYS = (-16, -3, 1.5)  # powers of 2, and octaves between them
RULES = {"constant lambda": 0.0, "normalized decay": 0.5, "timescale": 1.0}
SHARE, DECAY = "share", "weight_decay"  # share: b / (B T)


def points(size: Size) -> Sequence[Point]:
    """Every batch size with every number of epochs."""
    return [{"batch": b, "epochs": epochs} for b in BATCHES for epochs in EPOCHS[size]]


def measure(point: Point, size: Size) -> list[Row]:
    """Every lambda and seed of one combination as one program."""
    steps = EXAMPLES * point["epochs"] // point["batch"]

    def optimizer(h):
        lr = grids.cosine(PEAK, steps)
        return wdlab.optimizers.adamw(lr, weight_decay=h[DECAY], coupling="schedule")

    task = {"steps": steps, "batch_size": point["batch"], "examples": EXAMPLES}
    train = grids.overfitting(optimizer, **task)
    rows = grids.measure(train, {DECAY: grids.powers(*DECAYS)}, SEEDS[size])
    return [row | {SHARE: 1 / steps} for row in rows]


def power(rows: list[Row]) -> Separability:
    """The slope of log lambda over log b / (B T); every combination counts alike."""
    table = grids.table(rows, (SHARE, DECAY), "val_loss")
    return separability(table, learning_rate=SHARE, weight_decay=DECAY, reach=np.inf)


def draw(rows: list[Row]) -> Figure:
    """Loss over lambda for each combination, and over lambda as each rule measures it."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    for axes, (name, exponent) in zip(figure.subplots(1, 3), RULES.items(), strict=True):
        for b, style in zip(BATCHES, ("-", "--", ":"), strict=True):
            for share in sorted({r[SHARE] for r in rows if r["batch"] == b}):
                some = [r for r in rows if r["batch"] == b and r[SHARE] == share]
                table = grids.table(some, (SHARE, DECAY), "val_loss")
                _, decays, losses = loss_surface(table, "val_loss", SHARE, DECAY)
                mean = losses.mean(0)[0]
                label = f"b {b}, T {some[0]['epochs']}"
                axes.plot(decays / share**exponent, mean / mean.min(), style, label=label)
        label = f"lambda / (b / (B T))^{exponent:g}"
        axes.set(xscale="log", ylim=(0.98, 1.5), xlabel=label, ylabel="loss / best", title=name)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The power over all combinations, and over epochs and batch sizes alone."""
    middle_batch = BATCHES[1]
    middle_epochs = sorted({r["epochs"] for r in rows})[1]
    whole = power(rows)
    parts = {
        f"over epochs at b = {middle_batch}": [r for r in rows if r["batch"] == middle_batch],
        f"over batch sizes at T = {middle_epochs}": [
            r for r in rows if r["epochs"] == middle_epochs
        ],
    }
    distances = {name: abs(whole.slope - p) for name, p in RULES.items()}
    inside = [name for name, p in RULES.items() if whole.low <= p <= whole.high]
    agrees = "yes" if "normalized decay" in inside else "no"
    return Summary(
        question="Does normalized weight decay carry over to other batch sizes and budgets?",
        source="lambda ~ (b / (B T))^p, p = 0.5 (AdamW, B.1); the timescale rule says 1",
        number=f"p = {whole.slope:+.2f} [{whole.low:+.2f}, {whole.high:+.2f}]",
        agrees="not tested" if np.isnan(whole.slope) else agrees,
        measured="the power p",
        numbers={"all": whole} | {name: power(some) for name, some in parts.items()},
        seeds=len({r["seed"] for r in rows}),
        remark=f"Nearest rule: {min(distances, key=distances.__getitem__)}; within the interval: "
        f"{', '.join(inside) or 'none'}.",
    )


def dose(point: Point, size: Size) -> Dose:
    """The largest of the grid."""
    del size
    steps = point["epochs"] * EXAMPLES // point["batch"]
    return grids.dose(PEAK, grids.powers(*DECAYS)[-1], "schedule", steps)


STUDY = Study("normalized_decay", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
