"""Language models: decay on all layers, LayerNorms included.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, appendix) add the LayerNorms to the decayed
parameters and vary the decay from 0.003 to 0.3. Is the gain still there, and is the best decay
another one?

Command: ``python -m examples.studies.lm_decay_all_layers``; minutes on two CPU cores at size tiny,
15 runs of GPT-2 small at size paper.

Written down before the run with five paired seeds. With and without the LayerNorms, the decay whose
mean training loss is lowest is lower than none: two statements, with a 95 % interval each. (Three
seeds of width 64, peak 4e-3: both undecided.)
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

INCLUDE = {"without ln": "wte wpe mlp attn lm_head", "with ln": "wte wpe mlp attn lm_head ln"}
DECAYS = {
    "tiny": (0.01, 0.1, 0.3),
    "paper": (0.003, 0.01, 0.03, 0.1, 0.15, 0.2, 0.3),
}


def points(size: Size) -> Sequence[Point]:
    """Every decay with and without the LayerNorms, and no decay."""
    decayed = [{"decayed": name, "weight_decay": d} for name in INCLUDE for d in DECAYS[size]]
    return [{"decayed": "without ln", "weight_decay": 0.0}, *decayed]


def measure(point: Point, size: Size) -> list[Row]:
    """One training."""
    shared = {"batch_size": 8, "gradient_accumulation_steps": 32} if size == "paper" else {}
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    name = f"lm_decay_all_layers/{point['decayed'].replace(' ', '-')}-{point['weight_decay']}"
    include = {"wd_substrings_include": INCLUDE[point["decayed"]]}
    decay = {"weight_decay": point["weight_decay"]}
    return language.measure(
        size, name, "train_gpt2_small_block256", **flags, **shared, **include, **decay
    )


def curve(rows: list[Row], decayed: str, column: str) -> dict[float, np.ndarray]:
    """Values over the seeds for each decay that was measured."""
    decays = sorted({r["weight_decay"] for r in rows if r["decayed"] == decayed})
    return {d: language.final(rows, column, decayed=decayed, weight_decay=d) for d in decays}


def draw(rows: list[Row]) -> Figure:
    """Training loss over the decay, with and without the LayerNorms."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for decayed, style in zip(INCLUDE, ("o-", "s--"), strict=True):
        values = curve(rows, decayed, "train_loss")
        with_spread(axes, [*values], [*values.values()], fmt=style, label=decayed)
    axes.set(xlabel="weight decay (the paper's)", ylabel="training loss (nats)")
    axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The gain of the best decay over none, with and without the LayerNorms."""
    free = language.final(rows, "train_loss", decayed="without ln", weight_decay=0.0)
    numbers, helps, bests = {"no decay": free}, [], []
    for decayed in INCLUDE:
        values = {d: v for d, v in curve(rows, decayed, "train_loss").items() if d}
        best = min(values, key=lambda d: values[d].mean())
        numbers |= {f"{decayed}, decay {d:g}": v for d, v in values.items()}
        bests.append(f"{spread(values[best])} {decayed}")
        helps.append(is_lower(values[best], free))
    return Summary(
        question="Does it matter whether the LayerNorms of a language model decay as well?",
        source="decaying all layers works as well (2310.04415, appendix)",
        number=f"best training loss {', '.join(bests)}",
        agrees=agreement(helps),
        measured="training loss at the end, nats; decays in the paper's numbers",
        numbers=numbers,
        seeds=language.SEEDS,
        remark="" if all(helps) else "The best decay is not clearly better than none at this size.",
    )


def dose(point: Point, size: Size) -> Dose:
    """As torch.optim.AdamW decays."""
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    return language.dose(size, weight_decay=point["weight_decay"], **flags)


STUDY = Study("lm_decay_all_layers", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
