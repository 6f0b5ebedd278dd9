"""Language models: divergence in bfloat16, with and without weight decay.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 6) train GPT-2 small at context 1024
and a high learning rate. In bfloat16 the run without decay diverges, those with 0.1 and 0.3 do not,
and neither does float32 without decay. Is it so here?

Command: ``python -m examples.studies.lm_bf16_divergence``; minutes on two CPU cores at size tiny,
4 runs of GPT-2 small at size paper.

Size tiny tries 32 times the paper's peak, since a small model stands more, and bfloat16 means
attention with what a flash kernel rounds as well (``--attention flash_bf16``): a softmax in float32
cannot show what is said to cause the failure. A run counts as diverged if its batch loss, averaged
over a twentieth of the training, ever rises by more than 0.5 nats above its earlier lowest, or is
not finite.

Written down before the run with five paired seeds. Two statements about the number of a seed's runs
that diverge, with 95 % intervals: in bfloat16 fewer with decay 0.1 than without; without decay
fewer in float32 than in bfloat16. Equal counts, all 0 among them, leave a statement undecided.
(Three seeds of width 64, softmax in float32, 1, 8 and 32 times a peak of 4e-3 instead of 1.2e-2:
none of 36 runs diverged. Five seeds with these settings, 8 times the peak as well: none of 40.)
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from . import language
from .dose import Dose
from .paired import agreement, is_lower, word
from .rows import Point, Row
from .study import Size, Study, Summary, main

CASES = (("bfloat16", 0.0), ("bfloat16", 0.1), ("bfloat16", 0.3), ("float32", 0.0))
FACTORS = {"tiny": (32,), "paper": (1,)}
ATTENTION = {"bfloat16": "flash_bf16", "float32": "plain"}  # of size tiny
RISE = 0.5  # nats


def points(size: Size) -> Sequence[Point]:
    """Every case at every learning rate."""
    return [
        {"dtype": dtype, "weight_decay": decay, "factor": factor}
        for factor in FACTORS[size]
        for dtype, decay in CASES
    ]


def measure(point: Point, size: Size) -> list[Row]:
    """One training. The decay's exponent lr * lambda * steps does not grow with the factor."""
    factor = point["factor"]
    flags = {"learning_rate": factor * 6e-4, "min_lr": factor * 6e-5, "max_iters": 50_000}
    if size == "paper":
        flags |= {"batch_size": 16, "gradient_accumulation_steps": 16}
    else:
        flags |= {"attention": ATTENTION[point["dtype"]]}
    decay = {"weight_decay": point["weight_decay"] / factor, "dtype": point["dtype"]}
    name = f"lm_bf16_divergence/{point['dtype']}-{point['weight_decay']}"
    return language.measure(size, name, "train_gpt2_small", **flags, **decay)


def diverged(rows: list[Row], **point) -> list[bool]:
    """Whether each seed's run diverged."""
    found = []
    mine = [r for r in rows if point.items() <= r.items() and "loss" in r]
    for seed in sorted({r["seed"] for r in mine}):
        loss = np.array([r["loss"] for r in mine if r["seed"] == seed], float)
        lowest = np.minimum.accumulate(np.where(np.isfinite(loss), loss, np.inf))
        found.append(bool(not np.isfinite(loss).all() or (loss > lowest + RISE).any()))
    return found


def draw(rows: list[Row]) -> Figure:
    """Batch loss over the steps, a panel per learning rate."""
    factors = sorted({r["factor"] for r in rows})
    figure = Figure(figsize=(4.5 * len(factors), 4.2), layout="constrained")
    for axes, factor in zip(
        figure.subplots(1, len(factors), squeeze=False)[0], factors, strict=True
    ):
        for (dtype, decay), style in zip(CASES, ("-", "--", "-.", ":"), strict=True):
            point = {"dtype": dtype, "weight_decay": decay, "factor": factor, "seed": 0}
            curve = [r for r in rows if point.items() <= r.items() and "loss" in r]
            label = f"{dtype}, decay {decay:g}"
            axes.plot([r["step"] for r in curve], [r["loss"] for r in curve], style, label=label)
        axes.set(title=f"{factor} x the peak", xlabel="step", ylabel="batch loss (nats)")
    axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """How many runs of each case diverged."""
    factors = sorted({r["factor"] for r in rows})
    runs = {
        (factor, case): diverged(rows, dtype=case[0], weight_decay=case[1], factor=factor)
        for factor in factors
        for case in CASES
    }
    counts = {case: np.sum([runs[factor, case] for factor in factors], 0) for case in CASES}
    statements = {
        "decay 0.1 prevents it": is_lower(counts[CASES[1]], counts[CASES[0]]),
        "bfloat16 causes it": is_lower(counts[CASES[3]], counts[CASES[0]]),
    }
    seeds = len(counts[CASES[0]])
    return Summary(
        question="Does weight decay prevent the divergence of bfloat16 training?",
        source="bfloat16, high lr: decay 0 diverges, 0.1 does not (2310.04415, Fig. 6)",
        number=f"of {len(factors) * seeds} bfloat16 runs {counts[CASES[0]].sum()} diverge without "
        f"decay, {counts[CASES[1]].sum()} with 0.1",
        agrees=agreement(list(statements.values())),
        measured="share of the runs that diverge",
        numbers={
            f"{factor} x the peak, {dtype}, decay {decay:g}": sum(found) / len(found)
            for (factor, (dtype, decay)), found in runs.items()
        },
        seeds=seeds,
        remark="; ".join(f"{what}: {word(shown)}" for what, shown in statements.items())
        + ("." if any(map(any, runs.values())) else "; no run of this size diverges."),
    )


def dose(point: Point, size: Size) -> Dose:
    """The same exponent at every learning rate."""
    factor, decay = point["factor"], point["weight_decay"] / point["factor"]
    flags = {"learning_rate": factor * 6e-4, "min_lr": factor * 6e-5, "max_iters": 50_000}
    return language.dose(size, "train_gpt2_small", weight_decay=decay, **flags)


STUDY = Study("lm_bf16_divergence", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
