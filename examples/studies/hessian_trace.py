"""Weight norm, Hessian trace and test error after the flow, over the length of the large-lr phase.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 3) train ResNet-18 with learning
rates 0.1, 0.15 and 0.2 and weight decay 0.015, and start a gradient flow every second epoch. The
longer the phase of the large learning rate, the smaller the Hessian trace and the test error after
the flow. Is it so here?

Command: ``python -m examples.studies.hessian_trace``; minutes on two CPU cores at size tiny; 3 runs
of 100 epochs with 50 flows each at size paper. (The paper's own script repeats one learning rate;
the figure names three.)

Size tiny: two of the rates, 0.1 and 0.2, the tiny ResNet of width 4, 24 epochs on 768 digits of 8x8
pixels, flows of 8 epochs from epochs 6 and 24. The decay is 0.1 instead of 0.015, so that the
exponent is 2.9 to 5.8; with the paper's it would be below 1 (the paper's own is 58 to 117).

Written down before the run with five seeds. Two statements for each learning rate on paired seeds,
each with a 95 % interval: after the flow from epoch 24 the Hessian trace is lower than after that
from epoch 6, and so is the test error. (Two seeds of width 8 with decay 0.015 and four flows found
a lower trace at no learning rate, and a lower test error at two. Five of width 4 at 16x16 pixels
and three rates: the trace higher at 0.1 and 0.15, the other four statements open. With the settings
above the trainings amplify the last bits: on one machine two processes give the same numbers, with
one thread as with two; another processor or compiler level gives others, and so do other probes of
the trace, or starts that differ by 1e-7. Of six runs two left all four statements open; three found
the trace higher at 0.1, one the trace higher at 0.2 and the test error at 0.1, each at the edge of
the interval.)
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from examples.resnet import flow as program

from . import images
from .dose import Dose
from .error_bars import with_spread
from .paired import agreement, is_lower, word
from .rows import Point, Row
from .study import Size, Study, Summary, main

RATES = {"tiny": (0.1, 0.2), "paper": (0.1, 0.15, 0.2)}
DECAYS = {"tiny": 0.1, "paper": 0.015}
SEEDS, WIDTH = 5, 4  # of size tiny, and so are these; FLOW: lr, epochs
PHASES, FLOW = (6, 24), (1e-3, 8)
COLUMNS = {
    "weight_norm": "weight norm",
    "flow_hessian_trace": "Hessian trace after the flow",
    "flow_test_error": "test error after the flow",
}


def points(size: Size) -> Sequence[Point]:
    """The learning rates of the figure."""
    return [{"lr": lr} for lr in RATES[size]]


def measure(point: Point, size: Size) -> list[Row]:
    """One learning rate; a row per seed and flow."""
    if size == "paper":
        flags = {"model": "resnet18", "batch_norm": True, "epochs": 100, "lr_flow": 1e-3}
        flags |= {"flow_every": 2, "flow_steps": 100, "wd": DECAYS[size]}
        rows = images.paper(program.main, f"hessian_trace/{point['lr']}", lr=point["lr"], **flags)
        return [row for row in rows if "flow_hessian_trace" in row]
    m, rows = images.build("resnet_tiny", WIDTH, stride=4), []
    for seed in range(SEEDS):
        run = images.Run(m, seed)
        for epoch in PHASES:
            loss = run.train(point["lr"], DECAYS[size], epoch - run.epoch)[-1]
            row = {"seed": seed, "epoch": epoch, "loss": loss} | run.measure()
            rows.append(row | run.flow(*FLOW))
    return rows


def draw(rows: list[Row]) -> Figure:
    """The three quantities over the epoch at which the flow starts."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, 3), COLUMNS.items(), strict=True):
        for lr, style in zip(rates_of(rows), ("o-", "s--", "^:"), strict=False):
            epochs, values = by_epoch(rows, lr, column)
            with_spread(axes, epochs, values, fmt=style, label=f"lr {lr:g}")
        axes.set(xlabel="epochs at the large learning rate", ylabel=label)
        if column == "flow_hessian_trace":
            axes.set_yscale("log")
    axes.legend()
    return figure


def rates_of(rows: list[Row]) -> list[float]:
    """The learning rates that were measured."""
    return sorted({r["lr"] for r in rows})


def by_epoch(rows: list[Row], lr: float, column: str) -> tuple[list[int], list[np.ndarray]]:
    """The epochs, and the values over the seeds at each."""
    found = [r for r in rows if r["lr"] == lr]
    epochs = sorted({r["epoch"] for r in found})
    return epochs, [np.array([r[column] for r in found if r["epoch"] == e]) for e in epochs]


def summarize(rows: list[Row]) -> Summary:
    """First and last flow of each learning rate."""
    numbers, flatter, better = {}, [], []
    trace, error = "flow_hessian_trace", "flow_test_error"
    rates = rates_of(rows)
    epochs, norms = by_epoch(rows, rates[0], "weight_norm")
    for lr in rates:
        values = {column: by_epoch(rows, lr, column)[1] for column in COLUMNS}
        first, last = ({c: v[i] for c, v in values.items()} for i in (0, -1))
        flatter.append(is_lower(last[trace], first[trace]))
        better.append(is_lower(last[error], first[error]))
        for epoch, found in ((epochs[0], first), (epochs[-1], last)):
            label = f"lr {lr:g}, flow from epoch {epoch}"
            numbers[f"{label}: Hessian trace"] = found[trace]
            numbers[f"{label}: test error, %"] = 100 * found[error]
            numbers[f"{label}: weight norm before"] = found["weight_norm"]
    return Summary(
        question="Does a longer phase of large learning rate with decay lead to flatter minima?",
        source="longer phases: smaller trace and test error (2310.04415, Fig. 3)",
        number=f"smaller trace at {flatter.count(True)} of {len(rates)} learning rates, "
        f"smaller test error at {better.count(True)}",
        agrees=agreement([*flatter, *better]),
        measured="after the flow",
        numbers=numbers,
        seeds=len(norms[0]),
        remark="Paired 95 % intervals: "
        + "; ".join(
            f"lr {lr:g}: trace smaller {word(a)}, test error {word(b)}"
            for lr, a, b in zip(rates, flatter, better, strict=True)
        )
        + ". The Hessian of scale-invariant weights grows as norm^-2 where their norm falls.",
    )


def dose(point: Point, size: Size) -> Dose:
    """Of the training from which the flows start."""
    if size == "paper":
        return images.dose([(point["lr"], DECAYS[size], 100)], 50_000 // 128)
    return images.dose([(point["lr"], DECAYS[size], max(PHASES))])


STUDY = Study("hessian_trace", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
