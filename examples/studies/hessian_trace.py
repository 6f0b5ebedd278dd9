"""Weight norm, Hessian trace and test error after the flow, over the length of the large-lr phase.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 3) train ResNet-18 with learning
rates 0.1, 0.15 and 0.2 and weight decay 0.015, and start a gradient flow every second epoch. The
longer the phase of the large learning rate, the smaller the Hessian trace and the test error after
the flow. Is it so here?

Command: ``python -m examples.studies.hessian_trace``; minutes on two CPU cores at size tiny; 3 runs
of 100 epochs with 50 flows each at size paper. (The paper's own script repeats one learning rate;
the figure names three.)

Size tiny: the tiny ResNet of width 8, 24 epochs on 768 digits, flows of 8 epochs.

Result at size tiny (commit 72816e4, 4 CPU minutes, jax 0.10.2): flow from epoch 6 -> from epoch 24;
lr 0.1: trace 381 ± 41 -> 368 ± 27, test error 7.58 ± 1.2 -> 6.73 ± 0.48 %, norm 17.8 ± 0.032 ->
13.5 ± 0.024; lr 0.15: trace 235 ± 12 -> 343 ± 67, test error 7.07 ± 0.48 -> 5.56 ± 0.24 %, norm
17.1 ± 0.033 -> 11.5 ± 0.18; lr 0.2: trace 197 ± 8.8 -> 269 ± 70, test error 7.24 ± 0.71 -> 9.93 ±
3.6 %, norm 16.3 ± 0.028 -> 10.8 ± 0.18 (2 seeds). Agrees with the source: in part. Beyond two
standard errors, trace smaller for 0 of 3 learning rates, test error for 1 of 3.
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from examples.resnet import flow as program

from . import images
from .digits import spread
from .study import Point, Row, Size, Study, Summary, agreement, is_lower, main

RATES, DECAY = (0.1, 0.15, 0.2), 0.015
EPOCHS, EVERY, FLOW = 24, 6, (1e-3, 8)  # of size tiny; FLOW: lr, epochs
COLUMNS = {
    "weight_norm": "weight norm",
    "flow_hessian_trace": "Hessian trace after the flow",
    "flow_test_error": "test error after the flow",
}


def points(size: Size) -> Sequence[Point]:
    """The learning rates of the figure."""
    del size
    return [{"lr": lr} for lr in RATES]


def measure(point: Point, size: Size) -> list[Row]:
    """One learning rate; a row per seed and flow."""
    if size == "paper":
        flags = {"model": "resnet18", "batch_norm": True, "epochs": 100, "lr_flow": 1e-3}
        flags |= {"flow_every": 2, "flow_steps": 100, "wd": DECAY}
        rows = images.paper(program.main, f"hessian_trace/{point['lr']}", lr=point["lr"], **flags)
        return [row for row in rows if "flow_hessian_trace" in row]
    m, rows = images.build("resnet_tiny", 8), []
    for seed in range(images.SEEDS):
        run = images.Run(m, seed)
        for epoch in range(EVERY, EPOCHS + 1, EVERY):
            loss = run.train(point["lr"], DECAY, EVERY)[-1]
            row = {"seed": seed, "epoch": epoch, "loss": loss} | run.measure()
            rows.append(row | run.flow(*FLOW))
    return rows


def draw(rows: list[Row]) -> Figure:
    """The three quantities over the epoch at which the flow starts."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    for axes, (column, label) in zip(figure.subplots(1, 3), COLUMNS.items(), strict=True):
        for lr, style in zip(RATES, ("o-", "s--", "^:"), strict=True):
            epochs, values = by_epoch(rows, lr, column)
            means, spreads = [v.mean() for v in values], [v.std() for v in values]
            axes.errorbar(epochs, means, spreads, fmt=style, label=f"lr {lr:g}", capsize=3)
        axes.set(xlabel="epochs at the large learning rate", ylabel=label)
        if column == "flow_hessian_trace":
            axes.set_yscale("log")
    axes.legend()
    return figure


def by_epoch(rows: list[Row], lr: float, column: str) -> tuple[list[int], list[np.ndarray]]:
    """The epochs, and the values over the seeds at each."""
    found = [r for r in rows if r["lr"] == lr]
    epochs = sorted({r["epoch"] for r in found})
    return epochs, [np.array([r[column] for r in found if r["epoch"] == e]) for e in epochs]


def summarize(rows: list[Row]) -> Summary:
    """First and last flow of each learning rate."""
    texts, flatter, better = [], [], []
    for lr in RATES:
        values = {column: by_epoch(rows, lr, column)[1] for column in COLUMNS}
        first, last = ({c: v[i] for c, v in values.items()} for i in (0, -1))
        trace, error = "flow_hessian_trace", "flow_test_error"
        flatter.append(is_lower(last[trace], first[trace]))
        better.append(is_lower(last[error], first[error]))
        texts.append(
            f"lr {lr:g}: trace {spread(first[trace])} -> {spread(last[trace])}, test error "
            f"{spread(100 * first[error])} -> {spread(100 * last[error])} %, norm "
            f"{spread(first['weight_norm'])} -> {spread(last['weight_norm'])}"
        )
    epochs = by_epoch(rows, RATES[0], "weight_norm")[0]
    return Summary(
        "Does a longer phase of large learning rate with decay lead to flatter minima?",
        "longer phases: smaller Hessian trace and test error after the flow (Fig. 3)",
        f"flow from epoch {epochs[0]} -> from epoch {epochs[-1]}; {'; '.join(texts)} "
        f"({images.SEEDS} seeds)",
        agreement([*flatter, *better]),
        f"Beyond two standard errors, trace smaller for {sum(flatter)} of 3 learning rates, test "
        f"error for {sum(better)} of 3.",
    )


STUDY = Study("hessian_trace", points, measure, draw, summarize)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
