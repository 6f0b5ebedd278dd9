"""Language models: weight decay under a falling and a constant learning rate, then fine-tuning.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figures 4 and 5) train GPT-2 small with
weight decay 0 to 0.6. With cosine decay 0.1 ends with a LOWER training loss than 0; at a constant
learning rate it does not, but a fine-tuning with a tiny learning rate brings the gain out. So
decay acts as a higher effective learning rate, whose noise the falling rate removes. Is it so here?

Command: ``python -m examples.studies.lm_weight_decay``; minutes on two CPU cores at size tiny,
7 runs of GPT-2 small and their fine-tuning at size paper.

Written down before the run with five paired seeds. Three statements with 95 % intervals, decay 0.1
against 0: lower with the cosine, higher at the constant rate, lower after the fine-tuning of that.
(Three seeds of width 64, peak 4e-3: none of the three held.)
"""

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from . import language
from .dose import Dose
from .error_bars import with_spread
from .paired import agreement, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main, spread

DECAYS = {"cosine": (0.0, 0.1, 0.3), "constant": (0.0, 0.1, 0.3, 0.6)}
SHOWN = (0.0, 0.1, 0.3)
MIN_LR = {"cosine": 6e-5, "constant": 6e-4}


def points(size: Size) -> Sequence[Point]:
    """Every decay under both schedules."""
    del size
    return [{"schedule": name, "weight_decay": d} for name in DECAYS for d in DECAYS[name]]


def measure(point: Point, size: Size) -> list[Row]:
    """One training, and its fine-tuning at a sixtieth of the learning rate."""
    name = f"{point['schedule']}-{point['weight_decay']}"
    shared = {"batch_size": 8, "gradient_accumulation_steps": 32} if size == "paper" else {}
    tuning = {"learning_rate": 1e-5, "min_lr": 1e-5, "max_iters": 10_000}
    if size == "tiny":
        tuning["warmup_iters"] = 0
    flags = {"learning_rate": 6e-4, "min_lr": MIN_LR[point["schedule"]], "max_iters": 50_000}
    return language.measure(
        size, f"lm_weight_decay/{name}", "train_gpt2_small_block256",
        finetune=tuning | shared, weight_decay=point["weight_decay"], **flags, **shared,
    )  # fmt: skip


def draw(rows: list[Row]) -> Figure:
    """Training loss at the end and after fine-tuning, over the decay."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, schedule in zip(figure.subplots(1, 2, sharey=True), DECAYS, strict=True):
        for phase, style in (("training", "o-"), ("fine-tuning", "s--")):
            values = [
                language.final(rows, "train_loss", phase, schedule=schedule, weight_decay=d)
                for d in DECAYS[schedule]
            ]
            with_spread(axes, DECAYS[schedule], values, fmt=style, label=f"after {phase}")
        axes.set(title=schedule, xlabel="weight decay (the paper's)", ylabel="training loss (nats)")
        axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """0.1 against 0, four times; then the best decay of each."""

    def loss(schedule, decay, phase="training"):
        return language.final(rows, "train_loss", phase, schedule=schedule, weight_decay=decay)

    parts = {
        "cosine": ("cosine", "training"),
        "constant": ("constant", "training"),
        "constant, then fine-tuned": ("constant", "fine-tuning"),
    }
    lower = {n: is_lower(loss(s, 0.1, p), loss(s, 0.0, p)) for n, (s, p) in parts.items()}
    wanted = {"cosine": True, "constant": False, "constant, then fine-tuned": True}
    right = [None if lower[n] is None else lower[n] == wanted[n] for n in wanted]
    return Summary(
        question="Does weight decay lower the training loss of a language model?",
        source="with cosine, yes; at constant lr, after fine-tuning only (2310.04415)",
        number=f"cosine: {spread(loss('cosine', 0.0))} without, {spread(loss('cosine', 0.1))} "
        "with decay 0.1, nats",
        agrees=agreement(right),
        measured="training loss, nats; decays in the paper's numbers",
        numbers={f"{n}, decay {d:g}": loss(s, d, p) for n, (s, p) in parts.items() for d in SHOWN},
        seeds=language.SEEDS,
        remark="" if all(right) else f"{right.count(True)} of 3 statements hold at this size.",
    )


def dose(point: Point, size: Size) -> Dose:
    """Of the training before the fine-tuning."""
    flags = {"learning_rate": 6e-4, "min_lr": MIN_LR[point["schedule"]], "max_iters": 50_000}
    return language.dose(size, weight_decay=point["weight_decay"], **flags)


STUDY = Study("lm_weight_decay", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
