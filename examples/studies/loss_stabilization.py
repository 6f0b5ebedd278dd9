"""Loss stabilization: large and small learning rates, with and without weight decay.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 1) train VGG-16, ResNet-18 and
ResNet-34 by SGD. With a large learning rate and weight decay the training loss settles on a plateau
while the weight norm settles too; after the drop to a tiny learning rate that run has the best test
error. Is it so here?

Command: ``python -m examples.studies.loss_stabilization``; under ten minutes on two CPU cores at
size tiny; 12 runs of 1000 epochs on CIFAR at size paper (one seed each).

Size tiny: widths of 4 to 8, 24 epochs on 768 digits, learning rates and decays of the paper's order
(a larger decay, since the epochs are fewer). "Settles" means: over the last quarter before the drop
the loss of an epoch changes by less than a fifth of what it is, and the norm by less than 5 %.
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from examples.resnet import train as program

from . import images
from .dose import Dose
from .paired import agreement
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main

# model -> width, lr large and small, wd, flags of the paper
MODELS = {
    "vgg16": (4, (0.1, 0.01), 0.008, {"model": "vgg16"}),
    "resnet18": (8, (0.08, 0.001), 0.0125, {"model": "resnet18", "batch_norm": True}),
    "resnet34preact": (
        4, (0.15, 0.001), 0.01,
        {"model": "resnet34preact", "batch_norm": True, "dataset": "cifar100"},
    ),
}  # fmt: skip
EPOCHS, DROP, LR_FLOW = 24, 16, 1e-3  # of size tiny
TINY_DECAY = 2.0  # times the paper's
CIFAR_STEPS = 50_000 // 128  # of an epoch


def points(size: Size) -> Sequence[Point]:
    """Large and small learning rate, with and without decay, for each model."""
    del size
    return [
        {"model": name, "lr": size_of_lr, "decayed": decayed}
        for name in MODELS
        for size_of_lr in ("large", "small")
        for decayed in (True, False)
    ]


def measure(point: Point, size: Size) -> list[Row]:
    """One setting; a row per seed and epoch."""
    width, rates, wd, flags = MODELS[point["model"]]
    lr, wd = rates[point["lr"] == "small"], wd if point["decayed"] else 0.0
    if size == "paper":
        name = f"loss_stabilization/{'-'.join(map(str, point.values()))}"
        schedule = {"epochs": 1000, "lr": lr, "lr_flow": 1e-4, "first_decay": 0.5, "wd": wd}
        rows = images.paper(program.main, name, **flags, **schedule)
        return [{**row, "loss": row.get("batch_loss", row["train_loss"])} for row in rows]
    m = images.build(point["model"], width, batch_norm=True)
    return [row for seed in range(images.SEEDS) for row in one(m, seed, lr, wd * TINY_DECAY)]


def one(m: images.Model, seed: int, lr: float, wd: float) -> list[Row]:
    """The rows of one small training."""
    run, rows = images.Run(m, seed), []
    for epoch in range(1, EPOCHS + 1):
        loss = run.train(lr if epoch <= DROP else LR_FLOW, wd, 1)[0]
        rows.append({"seed": seed, "epoch": epoch, "loss": loss} | run.measure())
    return rows


def curve(rows: list[Row], column: str, **point) -> np.ndarray:
    """A column over the epochs, seeds by epochs."""
    found = [r for r in rows if point.items() <= r.items() and r.get("epoch")]
    seeds = sorted({r["seed"] for r in found})
    return np.array([[r[column] for r in found if r["seed"] == seed] for seed in seeds], float)


def settles(rows: list[Row], **point) -> bool:
    """Whether loss and norm stand still before the drop."""
    loss, norm = (curve(rows, name, **point).mean(0) for name in ("loss", "weight_norm"))
    before = len(loss) * DROP // EPOCHS
    last, earlier = (
        slice(before - before // 8, before),
        slice(before - before // 4, before - before // 8),
    )
    still = lambda x, share: abs(x[last].mean() / x[earlier].mean() - 1) < share  # noqa: E731
    return bool(still(loss, 0.2) and still(norm, 0.05))


def draw(rows: list[Row]) -> Figure:
    """Training loss and test error over the epochs, a row of panels per model."""
    figure = Figure(figsize=(11, 10), layout="constrained")
    panels = figure.subplots(len(MODELS), 2)
    labels = {"loss": "training loss of the epoch (nats)", "test_error": "test error"}
    for axes_of_model, name in zip(panels, MODELS, strict=True):
        for axes, (column, label) in zip(axes_of_model, labels.items(), strict=True):
            for lr, color in (("large", "C0"), ("small", "C1")):
                for decayed, style in ((True, "-"), (False, "--")):
                    values = curve(rows, column, model=name, lr=lr, decayed=decayed)
                    epochs = range(1, values.shape[1] + 1)
                    text = f"{lr} lr, {'with' if decayed else 'no'} decay"
                    axes.plot(epochs, values.mean(0), style, color=color, label=text)
                    axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15)
            axes.set(title=name, xlabel="epoch", ylabel=label)
            if column == "loss":
                axes.set_yscale("log")
    panels[0, 0].legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """For each model: whether the run settles, and whether it ends best."""
    numbers, plateau, best = {}, [], []
    for name in MODELS:
        ends = {
            (lr, d): at_end(rows, "test_error", model=name, lr=lr, decayed=d)
            for lr in ("large", "small")
            for d in (True, False)
        }
        plateau.append(settles(rows, model=name, lr="large", decayed=True))
        best.append(min(ends, key=lambda case: ends[case].mean()) == ("large", True))
        numbers |= {
            f"{name}, {lr} lr, {'decay' if d else 'no decay'}": 100 * values
            for (lr, d), values in ends.items()
        }
    return Summary(
        question="Does decay with a large learning rate stabilize the loss, and end best?",
        source="the loss settles; after the drop this run is best (2310.04415, Fig. 1)",
        number=f"settles for {sum(plateau)} of 3 models, ends best for {sum(best)} of 3",
        agrees=agreement([*plateau, *best]),
        measured="test error at the end, %",
        numbers=numbers,
        seeds=images.SEEDS,
    )


def dose(point: Point, size: Size) -> Dose:
    """Of both phases."""
    _, rates, wd, _ = MODELS[point["model"]]
    lr, wd = rates[point["lr"] == "small"], wd if point["decayed"] else 0.0
    if size == "paper":
        return images.dose([(lr, wd, 500), (1e-4, wd, 500)], CIFAR_STEPS)
    wd *= TINY_DECAY
    return images.dose([(lr, wd, DROP), (LR_FLOW, wd, EPOCHS - DROP)])


STUDY = Study("loss_stabilization", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
