"""Language models: a learning rate that falls more slowly.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, appendix) let the cosine end after 55,000,
60,000 and 65,000 steps and stop at 50,000 all the same. If decay acts as a larger effective
learning rate, does a slower fall without decay give the same lower training loss?

Command: ``python -m examples.studies.lm_slower_decay``; minutes on two CPU cores at size tiny, 5
runs of GPT-2 small at size paper.

Written down before the run with five paired seeds: decay 0.1 ends with a lower training loss than
the best of the slower falls, with a 95 % interval. (Three seeds of width 64, peak 4e-3: 2.39
against 2.23 nats, not lower.)
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

ENDS = (50_000, 55_000, 60_000, 65_000)


def points(size: Size) -> Sequence[Point]:
    """Every end of the cosine without decay, and the first with decay 0.1."""
    del size
    slower = [{"lr_decay_iters": end, "weight_decay": 0.0} for end in ENDS]
    return [*slower, {"lr_decay_iters": ENDS[0], "weight_decay": 0.1}]


def measure(point: Point, size: Size) -> list[Row]:
    """One training."""
    shared = {"batch_size": 8, "gradient_accumulation_steps": 32} if size == "paper" else {}
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    name = f"lm_slower_decay/{point['lr_decay_iters']}-{point['weight_decay']}"
    return language.measure(size, name, "train_gpt2_small_block256", **flags, **shared, **point)


def draw(rows: list[Row]) -> Figure:
    """Training loss over the end of the cosine, beside that with decay."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    values = [language.final(rows, "train_loss", lr_decay_iters=e, weight_decay=0.0) for e in ENDS]
    with_spread(axes, ENDS, values, fmt="o-", label="weight decay 0")
    decayed = language.final(rows, "train_loss", lr_decay_iters=ENDS[0], weight_decay=0.1)
    with_spread(axes, ENDS[:1], [decayed], fmt="s", label="0.1")
    axes.set(xlabel="end of the cosine (the paper's steps)", ylabel="training loss (nats)")
    axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The slower falls against the usual one, and against decay."""
    loss = {e: language.final(rows, "train_loss", lr_decay_iters=e, weight_decay=0.0) for e in ENDS}
    decayed = language.final(rows, "train_loss", lr_decay_iters=ENDS[0], weight_decay=0.1)
    best = min(ENDS, key=lambda end: loss[end].mean())
    lower = is_lower(decayed, loss[best])
    return Summary(
        question="Does a slower fall of the learning rate replace weight decay?",
        source="it does not: decay 0.1 ends with a lower training loss (2310.04415)",
        number=f"{spread(loss[best])} with the best fall, {spread(decayed)} with decay 0.1, nats",
        agrees=agreement([lower]),
        measured="training loss, nats, by the end of the cosine (the paper trains 50,000 steps)",
        numbers={f"no decay, end {end:,}": values for end, values in loss.items()}
        | {"decay 0.1, end 50,000": decayed},
        seeds=language.SEEDS,
        remark="" if lower else "Decay itself does not clearly lower the loss here.",
    )


def dose(point: Point, size: Size) -> Dose:
    """As torch.optim.AdamW decays."""
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    return language.dose(size, **point, **flags)


STUDY = Study("lm_slower_decay", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
