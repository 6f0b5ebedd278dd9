"""Loss stabilization: large and small learning rates, with and without weight decay.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 1) train VGG-16, ResNet-18 and
ResNet-34 by SGD. With a large learning rate and weight decay the training loss settles on a plateau
while the weight norm settles too; after the drop to a tiny learning rate that run has the best test
error. Is it so here?

Command: ``python -m examples.studies.loss_stabilization``, about 15 CPU minutes; ``--size paper``
is 12 runs of 1000 epochs on CIFAR, one seed each. What minutes can tell is asked by
``stabilized_mlp``: a size tiny (three models, 24 epochs, two seeds, E = .4) had too little decay
for anything to settle.

Size small: ResNet-18 with BatchNorm, width 8, on 768 of scikit-learn's digits at their own 8x8
pixels, batch 64; the 1,029 others are the test images. 84 epochs (1,008 steps) before the drop, 24
after it at lr 1e-3. The large rate is the paper's .08, the decay .1 instead of its .0125, so that
lr * lambda = 8e-3 and E = 8: 16 time constants of the norm, 1 / (2 lr lambda) = 62 steps each. The
small rate is .01, for the paper's .001 learns nothing so soon. lr * steps is 104 and 13.

Written down before the first run at size small; the same statements at every size. Five paired
seeds (start and order of the images shared). Windows are the last eighth of the epochs before the
drop, and the eighth before that. Four statements about each model. At the large rate with decay
the loss settles (the windows' means over the seeds differ by less than a fifth), and the norm does
(by less than 5 %). In the last window the loss without decay is lower (paired). At the end the test
error is lower than in each of the three other runs (paired; "no" if higher than in one of them).
Whether it is flatter is asked by ``stabilized_mlp`` and ``hessian_trace``.
Only times were looked at before, no losses. CPU ms of a step at batch 64, widths 4 and 8: 8x8
pixels 20 and 28 (one thread), 16x16 82 and 97 (batch 128: 133 and 153; five seeds under vmap: 81
and 145 each), 32x32 201 and 285.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from examples.resnet import train as program

from . import images
from .dose import Dose
from .paired import agreement, difference, every, in_words, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main

RATES = ("large", "small")


class Case(NamedTuple):
    """One model at one size."""

    width: int
    rates: tuple[float, float]  # large and small
    decay: float
    settings: Mapping[str, Any] = {}  # of images.build, at size paper of the program


class Setup(NamedTuple):
    """One size."""

    cases: Mapping[str, Case]
    drop: int  # epochs at the rate that is asked about
    flow: int  # epochs after it
    lr_flow: float
    seeds: int = 1
    every: int = 1  # epochs between two measurements of errors; divides their number


SETUPS: dict[Size, Setup] = {
    "small": Setup(
        {"resnet18": Case(8, (0.08, 0.01), 0.1, {"stride": 4, "others": True})},
        drop=84, flow=24, lr_flow=1e-3, seeds=5, every=12,
    ),
    "paper": Setup(
        {
            "vgg16": Case(64, (0.1, 0.01), 0.008),
            "resnet18": Case(64, (0.08, 0.001), 0.0125, {"batch_norm": True}),
            "resnet34preact": Case(
                64, (0.15, 0.001), 0.01, {"batch_norm": True, "dataset": "cifar100"}
            ),
        },
        drop=500, flow=500, lr_flow=1e-4,
    ),
}  # fmt: skip
CIFAR_STEPS = 50_000 // 128  # of an epoch


def points(size: Size) -> Sequence[Point]:
    """Large and small learning rate, with and without decay, for each model."""
    return [
        {"model": name, "lr": rate, "decayed": decayed}
        for name in SETUPS[size].cases
        for rate in RATES
        for decayed in (True, False)
    ]


def strengths(point: Point, size: Size) -> tuple[float, float]:
    """Learning rate and decay before the drop."""
    case = SETUPS[size].cases[point["model"]]
    return case.rates[RATES.index(point["lr"])], case.decay if point["decayed"] else 0.0


def measure(point: Point, size: Size) -> list[Row]:
    """One setting; a row per seed and epoch."""
    setup, (lr, wd) = SETUPS[size], strengths(point, size)
    case = setup.cases[point["model"]]
    if size == "paper":
        name = f"loss_stabilization/{'-'.join(map(str, point.values()))}"
        flags = {"model": point["model"], "width": case.width, **case.settings}
        flags |= {"epochs": setup.drop + setup.flow, "first_decay": 0.5}
        rows = images.paper(program.main, name, **flags, lr=lr, lr_flow=setup.lr_flow, wd=wd)
        return [
            {**row, "loss": row.get("batch_loss", row["train_loss"])}
            | {"dropped": int(row.get("epoch", 0) > setup.drop)}
            for row in rows
        ]
    m = images.build(point["model"], case.width, **case.settings)
    return [row for seed in range(setup.seeds) for row in one(m, seed, setup, lr, wd)]


def one(m: images.Model, seed: int, setup: Setup, lr: float, wd: float) -> list[Row]:
    """The rows of one small training."""
    run, rows = images.Run(m, seed), []
    for epoch in range(1, setup.drop + setup.flow + 1):
        dropped = epoch > setup.drop
        loss = run.train(setup.lr_flow if dropped else lr, wd, 1)[0]
        row = {"seed": seed, "epoch": epoch, "dropped": int(dropped), "loss": loss}
        measured = epoch % setup.every == 0
        rows.append(row | (run.measure() if measured else {"weight_norm": run.norm()}))
    return rows


def curve(rows: list[Row], column: str, **point) -> tuple[list[int], np.ndarray]:
    """The epochs at which a column was measured, and its values, seeds by epochs."""
    found = [r for r in rows if point.items() <= r.items() and r.get("epoch") and column in r]
    values = {(r["seed"], r["epoch"]): r[column] for r in found}
    seeds, epochs = (sorted(set(axis)) for axis in zip(*values, strict=True))
    return epochs, np.array([[values[seed, epoch] for epoch in epochs] for seed in seeds], float)


def windows(rows: list[Row], column: str, **point) -> tuple[np.ndarray, np.ndarray]:
    """For each seed the means over the last eighth before the drop, and over that before it."""
    values = curve(rows, column, dropped=0, **point)[1]
    n = max(values.shape[1] // 8, 1)
    return values[:, -n:].mean(1), values[:, -2 * n : -n].mean(1)


def draw(rows: list[Row]) -> Figure:
    """Training loss, weight norm and test error over the epochs, a row of panels per model."""
    names = list(dict.fromkeys(r["model"] for r in rows))
    figure = Figure(figsize=(13, 1 + 3.2 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 3, squeeze=False)
    labels = {
        "loss": "training loss of the epoch (nats)",
        "weight_norm": "norm of the weights",
        "test_error": "test error",
    }
    for axes_of_model, name in zip(panels, names, strict=True):
        for axes, (column, label) in zip(axes_of_model, labels.items(), strict=True):
            for lr, color in zip(RATES, ("C0", "C1"), strict=True):
                for decayed, style in ((True, "-"), (False, "--")):
                    epochs, values = curve(rows, column, model=name, lr=lr, decayed=decayed)
                    text = f"{lr} lr, {'with' if decayed else 'no'} decay"
                    axes.plot(epochs, values.mean(0), style, color=color, label=text)
                    axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15)
            axes.axvline(curve(rows, "loss", dropped=0)[0][-1], color="gray", linestyle=":")
            axes.set(title=name, xlabel="epoch", ylabel=label)
        axes_of_model[0].set_yscale("log")
    panels[0, 0].legend(fontsize=8)
    return figure


def statements(rows: list[Row], name: str) -> dict[str, bool | None]:
    """What is said of one model."""
    loss, norm, free = (
        windows(rows, column, model=name, lr="large", decayed=decayed)
        for column, decayed in (("loss", True), ("weight_norm", True), ("loss", False))
    )
    change = lambda last, earlier: abs(last.mean() / earlier.mean() - 1)  # noqa: E731
    errors = ends(rows, name)
    best = [is_lower(errors["large", True], e) for c, e in errors.items() if c != ("large", True)]
    return {
        "the loss settles": bool(change(*loss) < 0.2),
        "the norm settles": bool(change(*norm) < 0.05),
        "the loss stays higher than without decay": is_lower(free[0], loss[0]),
        "ends best": every(best),
    }


def ends(rows: list[Row], name: str) -> dict[tuple[str, bool], np.ndarray]:
    """The test error of one model at the end, for each learning rate, with and without decay."""
    return {
        (lr, d): at_end(rows, "test_error", model=name, lr=lr, decayed=d)
        for lr in RATES
        for d in (True, False)
    }


def summarize(rows: list[Row]) -> Summary:
    """The statements, model by model."""
    found = {name: statements(rows, name) for name in dict.fromkeys(r["model"] for r in rows)}
    numbers = {
        f"{name}, {lr} lr, {'decay' if decayed else 'no decay'}": 100 * values
        for name in found
        for (lr, decayed), values in ends(rows, name).items()
    }
    gaps = {
        name: difference(*(numbers[f"{name}, large lr, {d}decay"] for d in ("", "no ")))
        for name in found
    }
    holds = [shown for of_model in found.values() for shown in of_model.values()]
    return Summary(
        question="Does decay with a large learning rate stabilize the loss, and end best?",
        source="the loss settles; after the drop this run is best (2310.04415, Fig. 1)",
        number=f"{holds.count(True)} of {len(holds)} statements hold; test error with decay "
        + f"less without {', '.join(f'{gap.mean:+.2g}' for gap in gaps.values())}",
        agrees=agreement(holds),
        measured="test error at the end, %",
        numbers=numbers,
        seeds=min(map(len, numbers.values())),
        remark="; ".join(
            f"{name}: {in_words(of_model)}, test error with decay less without {gaps[name]} points"
            for name, of_model in found.items()
        )
        + ".",
    )


def dose(point: Point, size: Size) -> Dose:
    """Of both phases."""
    setup, (lr, wd) = SETUPS[size], strengths(point, size)
    steps = {"steps": CIFAR_STEPS} if size == "paper" else {}
    return images.dose([(lr, wd, setup.drop), (setup.lr_flow, wd, setup.flow)], **steps)


STUDY = Study(
    "loss_stabilization", points, measure, draw, summarize, dose,
    sizes=("small", "paper"),
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
