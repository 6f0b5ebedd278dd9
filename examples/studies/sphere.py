"""Scale-invariant networks on the sphere: what a larger learning rate alone does.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 2) take the norm out of the picture:
a scale-invariant ResNet-18 whose weights are projected onto the unit sphere after every epoch, no
decay. A larger learning rate (0.001, 0.003, 0.005) keeps the training loss higher, and after a
gradient flow from there test error and Hessian trace are lower. Is it so here?

Command: ``python -m examples.studies.sphere``; minutes on two CPU cores at size tiny; 3 runs of 100
epochs with 50 flows each at size paper.

Size tiny: the tiny ResNet, 24 epochs on 768 digits; as these are a hundred times fewer steps than
the paper's, the learning rates are ten times larger.
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from examples.resnet import flow as program

from . import images
from .paired import agreement, is_lower, word
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main, spread

RATES = (0.001, 0.003, 0.005)
FACTOR, EPOCHS, EVERY, FLOW = 10.0, 24, 8, (1e-3, 8)  # of size tiny; FLOW: lr, epochs


def points(size: Size) -> Sequence[Point]:
    """The paper's learning rates."""
    del size
    return [{"lr": lr} for lr in RATES]


def measure(point: Point, size: Size) -> list[Row]:
    """One learning rate; a row per seed and epoch, some with what the flow found."""
    if size == "paper":
        flags = {"model": "resnet18", "batch_norm": True, "scale_inv": True, "epochs": 100}
        flags |= {"lr_flow": 1e-4, "flow_every": 2, "flow_steps": 100, "radius": 1.0, "wd": 0.0}
        rows = images.paper(program.main, f"sphere/{point['lr']}", lr=point["lr"], **flags)
        return [{**row, "loss": row.get("batch_loss", row["train_loss"])} for row in rows]
    m, rows = images.build("resnet_tiny", 8, scale_inv=True), []
    for seed in range(images.SEEDS):
        run = images.Run(m, seed, radius=1.0)
        for epoch in range(1, EPOCHS + 1):
            row = {"seed": seed, "epoch": epoch, "loss": run.train(FACTOR * point["lr"], 0.0, 1)[0]}
            flow = run.flow(*FLOW) if epoch % EVERY == 0 else {}
            rows.append(row | run.measure() | flow)
    return rows


def draw(rows: list[Row]) -> Figure:
    """Training loss; test error and Hessian trace after the flow."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    labels = {
        "loss": "training loss of the epoch (nats)",
        "flow_test_error": "test error after the flow",
        "flow_hessian_trace": "Hessian trace after the flow",
    }
    for axes, (column, label) in zip(figure.subplots(1, 3), labels.items(), strict=True):
        for lr, style in zip(RATES, ("o-", "s--", "^:"), strict=True):
            found = [r for r in rows if r["lr"] == lr and column in r]
            epochs = sorted({r["epoch"] for r in found})
            means = [np.mean([r[column] for r in found if r["epoch"] == e]) for e in epochs]
            axes.plot(epochs, means, style, label=f"lr {lr:g} (the paper's)", markersize=4)
        axes.set(xlabel="epoch", ylabel=label)
    axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """Loss before, test error and trace after the flow at the end, for each rate."""
    columns = ("loss", "flow_test_error", "flow_hessian_trace")
    ends = {c: [at_end(rows, c, lr=lr) for lr in RATES] for c in columns}
    smallest, largest = ({c: values[i] for c, values in ends.items()} for i in (0, -1))
    found = {
        "loss higher": is_lower(smallest["loss"], largest["loss"]),
        "trace lower": is_lower(largest["flow_hessian_trace"], smallest["flow_hessian_trace"]),
        "test error lower": is_lower(largest["flow_test_error"], smallest["flow_test_error"]),
    }
    numbers = {}
    for i, lr in enumerate(RATES):
        numbers[f"lr {lr:g}: training loss, nats"] = ends["loss"][i]
        numbers[f"lr {lr:g}: test error after the flow, %"] = 100 * ends["flow_test_error"][i]
        numbers[f"lr {lr:g}: Hessian trace after the flow"] = ends["flow_hessian_trace"][i]
    traces = spread(smallest["flow_hessian_trace"]), spread(largest["flow_hessian_trace"])
    return Summary(
        question="On the sphere, does a larger learning rate alone find flatter minima?",
        source="larger lr: higher loss; then lower error and trace (2310.04415, Fig. 2)",
        number=f"trace {traces[0]} at lr {RATES[0]:g}, {traces[1]} at {RATES[-1]:g}",
        agrees=agreement(list(found.values())),
        measured="at the end",
        numbers=numbers,
        seeds=images.SEEDS,
        remark="Largest against smallest lr, paired 95 % intervals: "
        + ", ".join(f"{what}: {word(shown)}" for what, shown in found.items())
        + ".",
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
