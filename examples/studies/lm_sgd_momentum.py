"""Language models: weight decay under SGD with momentum.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, appendix) train GPT-2 small with SGD,
momentum 0.9 and learning rate 0.3, weight decay 0 to 1e-4 (torch.optim.SGD's: L2 in the gradient).
Does decay lower the training loss there as it does under AdamW?

Command: ``python -m examples.studies.lm_sgd_momentum``; minutes on two CPU cores at size tiny, 4
runs of GPT-2 small at size paper. At size tiny the decay is larger by the ratio of the steps.

Written down before the run with five paired seeds: the decay whose mean training loss is lowest
ends lower than none, with a 95 % interval. (Three seeds of width 64: 2.56 against 2.59 nats, open.)
"""

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from . import language
from .dose import Dose
from .paired import agreement, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main, spread

DECAYS = (0.0, 1e-5, 3e-5, 1e-4)


def points(size: Size) -> Sequence[Point]:
    """Every decay."""
    del size
    return [{"weight_decay": decay} for decay in DECAYS]


def measure(point: Point, size: Size) -> list[Row]:
    """One training."""
    shared = {"batch_size": 16, "gradient_accumulation_steps": 16} if size == "paper" else {}
    flags = {"learning_rate": 0.3, "max_iters": 50_000, "opt_type": "gdm"}
    name = f"lm_sgd_momentum/{point['weight_decay']}"
    return language.measure(size, name, "train_gpt2_small_block256", **flags, **shared, **point)


def draw(rows: list[Row]) -> Figure:
    """Loss over the steps for each decay."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for decay, style in zip(DECAYS, ("-", "--", "-.", ":"), strict=True):
        curve = [r for r in rows if r["weight_decay"] == decay and r["seed"] == 0 and "loss" in r]
        axes.plot([r["step"] for r in curve], [r["loss"] for r in curve], style, label=f"{decay:g}")
    axes.set(xlabel="step", ylabel="batch loss (nats), first seed", yscale="log")
    axes.legend(title="weight decay (the paper's)")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """Every decay against none."""
    loss = {d: language.final(rows, "train_loss", weight_decay=d) for d in DECAYS}
    best = min(DECAYS[1:], key=lambda decay: loss[decay].mean())
    helps = is_lower(loss[best], loss[0.0])
    return Summary(
        question="Does decay lower a language model's training loss under SGD with momentum?",
        source="a small decay ends with lower training loss than none (2310.04415)",
        number=f"{spread(loss[0.0])} without decay, {spread(loss[best])} with {best:g}, nats",
        agrees=agreement([helps]),
        measured="training loss at the end, nats; decays in the paper's numbers",
        numbers={f"decay {d:g}": values for d, values in loss.items()},
        seeds=language.SEEDS,
        remark="" if helps else "SGD is far from converged after so few steps.",
    )


def dose(point: Point, size: Size) -> Dose:
    """L2 in the gradient, which is decay under SGD."""
    flags = {"learning_rate": 0.3, "max_iters": 50_000, "opt_type": "gdm"}
    return language.dose(size, **point, **flags)


STUDY = Study("lm_sgd_momentum", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
