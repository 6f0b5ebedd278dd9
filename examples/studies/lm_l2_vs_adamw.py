"""Language models: L2 in the gradient instead of AdamW's decay.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, appendix) repeat the weight decay runs with
the penalty l2_reg * ||w||^2, 1e-6 to 1e-3, in the loss, and report that it too lowers the training
loss of GPT-2 small, at suitable strengths. Is the best of one as good as the best of the other?

Command: ``python -m examples.studies.lm_l2_vs_adamw``; minutes on two CPU cores at size tiny, 11
runs of GPT-2 small at size paper. The strengths of L2 are the paper's at both sizes.

Written down before the run with five paired seeds. Two statements with 95 % intervals: AdamW's
decay lowers the training loss, each against none at the strength whose mean is lowest, and so does
L2. That choice favours the source a little. L2 in Adam's gradient has no exponent. (Three seeds of
width 64, peak 4e-3: none 2.29, best AdamW 2.32, best L2 2.26 nats, neither clearly lower.)
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from . import language
from .dose import Dose
from .error_bars import with_spread
from .paired import agreement, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main, spread

STRENGTHS = {
    "weight_decay": (0.0, 0.03, 0.1, 0.3),
    "l2_reg": (1e-6, 3e-6, 5e-6, 7e-6, 1e-5, 1e-4, 1e-3),
}
NAMES = {"weight_decay": "AdamW's decay", "l2_reg": "L2 in the gradient"}


def points(size: Size) -> Sequence[Point]:
    """Every strength of either kind; at size tiny every other one of L2."""
    chosen: dict[str, tuple[float, ...]] = dict(STRENGTHS)
    if size == "tiny":
        chosen["l2_reg"] = STRENGTHS["l2_reg"][::2]
    return [{"kind": kind, "strength": s} for kind, values in chosen.items() for s in values]


def measure(point: Point, size: Size) -> list[Row]:
    """One training."""
    shared = {"batch_size": 8, "gradient_accumulation_steps": 32} if size == "paper" else {}
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    name = f"lm_l2_vs_adamw/{point['kind']}-{point['strength']}"
    kind = {point["kind"]: point["strength"]}
    return language.measure(size, name, "train_gpt2_small_block256", **flags, **shared, **kind)


def draw(rows: list[Row]) -> Figure:
    """Training and validation loss over the strength, and without any."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, kind in zip(figure.subplots(1, 2, sharey=True), STRENGTHS, strict=True):
        for split, style in (("train", "o-"), ("val", "s--")):
            values = by_strength(rows, kind, f"{split}_loss")
            with_spread(axes, [*values], [*values.values()], fmt=style, label=split)
            free = language.final(rows, f"{split}_loss", kind="weight_decay", strength=0.0).mean()
            axes.axhline(free, linestyle=":", color="gray")
        axes.set(xscale="log", xlabel=NAMES[kind], ylabel="loss at the end (nats)")
        axes.set_xticks(list(values), [f"{s:g}" for s in values], rotation=30)
        axes.minorticks_off()
    figure.axes[0].legend(title="dotted: no decay")
    return figure


def by_strength(rows: list[Row], kind: str, column: str) -> dict[float, np.ndarray]:
    """Values over the seeds for each strength that is not 0."""
    strengths = sorted({r["strength"] for r in rows if r["kind"] == kind and r["strength"]})
    return {s: language.final(rows, column, kind=kind, strength=s) for s in strengths}


def summarize(rows: list[Row]) -> Summary:
    """The best strength of each kind against none."""
    free = language.final(rows, "train_loss", kind="weight_decay", strength=0.0)
    best = {
        kind: min(by_strength(rows, kind, "train_loss").items(), key=lambda item: item[1].mean())
        for kind in STRENGTHS
    }
    helps = {kind: is_lower(values, free) for kind, (_, values) in best.items()}
    every = {k: by_strength(rows, k, "train_loss") for k in STRENGTHS}
    return Summary(
        question="Does L2 in the gradient do for a language model what AdamW's decay does?",
        source="L2 of a suitable strength lowers the training loss as well (2310.04415)",
        number=f"none {spread(free)}, best AdamW {spread(best['weight_decay'][1])}, "
        f"best L2 {spread(best['l2_reg'][1])} nats",
        agrees=agreement(list(helps.values())),
        measured="training loss at the end, nats; strengths in the paper's numbers",
        numbers={"none": free}
        | {f"{NAMES[k]} {s:g}": v for k, values in every.items() for s, v in values.items()},
        seeds=language.SEEDS,
        remark=" ".join(
            f"{NAMES[kind]} does not clearly lower it at this size."
            for kind, helped in helps.items()
            if not helped
        ),
    )


def dose(point: Point, size: Size) -> Dose:
    """Of L2 in Adam's gradient there is no exponent."""
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    return language.dose(size, **{point["kind"]: point["strength"]}, **flags)


STUDY = Study("lm_l2_vs_adamw", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
