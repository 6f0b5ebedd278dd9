"""Scale-invariant networks on the sphere: what a larger learning rate alone does.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 2) take the norm out of the picture:
a scale-invariant ResNet-18 whose weights are projected onto the unit sphere after every epoch, no
decay. A larger learning rate (0.001, 0.003, 0.005) keeps the training loss higher, and after a
gradient flow from there test error and Hessian trace are lower. Is it so here?

Command: ``python -m examples.studies.sphere``; minutes on two CPU cores at size tiny; 3 runs of 100
epochs with 50 flows each at size paper.

Size tiny: the smallest and the largest rate, the tiny ResNet of width 4, 24 epochs on 768 digits of
8x8 pixels and one flow of 8 epochs from the end; as these are a hundred times fewer steps than the
paper's, the learning rates are ten times larger.

Written down before the run with five seeds. Three statements on paired seeds, the largest learning
rate against the smallest, each with a 95 % interval: the training loss of the last epoch is higher;
after the flow the Hessian trace is lower, and so is the test error. (Two seeds of width 8, with
flows from epochs 8 and 16 too, could not tell the loss and found the other two. Five of width
4 at 16x16 pixels, with the rate between as well: trace lower, the other two open.)
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from examples.resnet import flow as program

from . import images
from .paired import agreement, in_words, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main, spread

RATES = {"tiny": (0.001, 0.005), "paper": (0.001, 0.003, 0.005)}
SEEDS, WIDTH = 5, 4  # of size tiny, and so are these; FLOW: lr, epochs
FACTOR, EPOCHS, FLOW = 10.0, 24, (1e-3, 8)


def points(size: Size) -> Sequence[Point]:
    """The paper's learning rates."""
    return [{"lr": lr} for lr in RATES[size]]


def measure(point: Point, size: Size) -> list[Row]:
    """One learning rate; a row per seed and epoch, the last with what the flow found."""
    if size == "paper":
        flags = {"model": "resnet18", "batch_norm": True, "scale_inv": True, "epochs": 100}
        flags |= {"lr_flow": 1e-4, "flow_every": 2, "flow_steps": 100, "radius": 1.0, "wd": 0.0}
        rows = images.paper(program.main, f"sphere/{point['lr']}", lr=point["lr"], **flags)
        return [{**row, "loss": row.get("batch_loss", row["train_loss"])} for row in rows]
    m, rows = images.build("resnet_tiny", WIDTH, scale_inv=True, stride=4), []
    for seed in range(SEEDS):
        run = images.Run(m, seed, radius=1.0)
        losses = run.train(FACTOR * point["lr"], 0.0, EPOCHS)
        rows += [{"seed": seed, "epoch": i + 1, "loss": loss} for i, loss in enumerate(losses)]
        rows[-1] |= run.measure() | run.flow(*FLOW)
    return rows


def draw(rows: list[Row]) -> Figure:
    """Training loss over the epochs; test error and Hessian trace after the last flow."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    left, *panels = figure.subplots(1, 3)
    rates = rates_of(rows)
    for lr, style in zip(rates, ("o-", "s--", "^:"), strict=False):
        found = [r for r in rows if r["lr"] == lr and "loss" in r]
        epochs = sorted({r["epoch"] for r in found})
        means = [np.mean([r["loss"] for r in found if r["epoch"] == e]) for e in epochs]
        left.plot(epochs, means, style, label=f"lr {lr:g} (the paper's)", markersize=4)
    left.set(xlabel="epoch", ylabel="training loss of the epoch (nats)")
    left.legend()
    labels = {"flow_test_error": "test error", "flow_hessian_trace": "Hessian trace"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        ends_RxS = np.array([at_end(rows, column, lr=lr) for lr in rates])
        axes.plot(rates, ends_RxS, ".-", color="C0", alpha=0.3)
        axes.plot(rates, ends_RxS.mean(1), "o-", color="C0", linewidth=2)
        axes.set(xlabel="learning rate (the paper's)", ylabel=f"{label} after the flow")
        axes.set_xticks(rates)
    return figure


def rates_of(rows: list[Row]) -> list[float]:
    """The learning rates that were measured."""
    return sorted({r["lr"] for r in rows})


def summarize(rows: list[Row]) -> Summary:
    """Loss before, test error and trace after the flow at the end, for each rate."""
    columns = ("loss", "flow_test_error", "flow_hessian_trace")
    rates = rates_of(rows)
    ends = {c: [at_end(rows, c, lr=lr) for lr in rates] for c in columns}
    smallest, largest = ({c: values[i] for c, values in ends.items()} for i in (0, -1))
    found = {
        "loss higher": is_lower(smallest["loss"], largest["loss"]),
        "trace lower": is_lower(largest["flow_hessian_trace"], smallest["flow_hessian_trace"]),
        "test error lower": is_lower(largest["flow_test_error"], smallest["flow_test_error"]),
    }
    numbers = {}
    for i, lr in enumerate(rates):
        numbers[f"lr {lr:g}: training loss, nats"] = ends["loss"][i]
        numbers[f"lr {lr:g}: test error after the flow, %"] = 100 * ends["flow_test_error"][i]
        numbers[f"lr {lr:g}: Hessian trace after the flow"] = ends["flow_hessian_trace"][i]
    traces = spread(smallest["flow_hessian_trace"]), spread(largest["flow_hessian_trace"])
    return Summary(
        question="On the sphere, does a larger learning rate alone find flatter minima?",
        source="larger lr: higher loss; then lower error and trace (2310.04415, Fig. 2)",
        number=f"trace {traces[0]} at lr {rates[0]:g}, {traces[1]} at {rates[-1]:g}",
        agrees=agreement(list(found.values())),
        measured="at the end",
        numbers=numbers,
        seeds=len(smallest["loss"]),
        remark="Largest against smallest lr, paired 95 % intervals: " + in_words(found) + ".",
    )


STUDY = Study(
    "sphere",
    points,
    measure,
    draw,
    summarize,
    "no decay, but the sphere",
)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
