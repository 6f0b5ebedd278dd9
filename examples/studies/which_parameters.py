"""Which parameters decay: the rules of BERT, GPT-2, minGPT and DeepSpeed-Chat on one model.

Question: BERT exempts biases and LayerNorms, nanoGPT everything of one dimension, minGPT also the
embeddings, DeepSpeed-Chat what its list of names catches; the reasons given are intuitions (a bias
decayed to 0 loses its role, a LayerNorm's scale as well), and newer models have no biases at all.
What does each rule decay here, and what do decayed biases and norms do to the loss?

Command: ``python -m examples.studies.which_parameters``; minutes on two CPU cores at size tiny, 16
runs of GPT-2 small at size paper. AdamW, coupling "lr", weight decay 0.1 (in the paper's numbers)
and ten times it, a model with biases and one without.

Result at size tiny (commit 05e477b, 6 CPU minutes, jax 0.10.2): training loss at decay 0.1 / 1:
BERT (10 of 28 tensors) 2.36 ± 0.04 / 2.67 ± 0.012; NANOGPT (10 of 28 tensors) 2.36 ± 0.04 / 2.67 ±
0.012; MINGPT (8 of 28 tensors) 2.36 ± 0.022 / 2.5 ± 0.0058; DEEPSPEED_CHAT (14 of 28 tensors) 2.46
± 0.015 / 2.73 ± 0.0083; ALL (28 of 28 tensors) 2.51 ± 0.01 / 3.82 ± 0.0012; without decay 2.25 ±
0.026; model without biases at 0.1: NANOGPT 2.39 ± 0.026, ALL 2.54 ± 0.0089 (3 seeds). Agrees with
the source: yes. Decayed biases and norms make the loss worse at 2 of 2 strengths.
"""

import sys
from collections.abc import Sequence

import jax
from matplotlib.figure import Figure

import wdlab
from examples.gpt import model, optim

from . import language
from .digits import spread
from .study import Point, Row, Size, Study, Summary, agreement, is_lower, main

RULES = ("BERT", "NANOGPT", "MINGPT", "DEEPSPEED_CHAT", "ALL")
DECAYS = (0.1, 1.0)


def points(size: Size) -> Sequence[Point]:
    """Every rule on the model with biases; all and nanoGPT's on the one without; no decay."""
    del size
    with_bias = [
        {"rules": rules, "bias": True, "weight_decay": d} for d in DECAYS for rules in RULES
    ]
    without = [
        {"rules": rules, "bias": False, "weight_decay": d}
        for d in DECAYS
        for rules in ("NANOGPT", "ALL")
    ]
    free = [{"rules": "ALL", "bias": bias, "weight_decay": 0.0} for bias in (True, False)]
    return [*free, *with_bias, *without]


def measure(point: Point, size: Size) -> list[Row]:
    """One training, with the share of the parameters and tensors that decays."""
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    if size == "paper":
        flags |= {"batch_size": 8, "gradient_accumulation_steps": 32}
    name = f"which_parameters/{'-'.join(map(str, point.values()))}"
    rows = language.measure(size, name, "train_gpt2_small_block256", **flags, **point)
    config = language.tiny(**flags, **point)
    shapes = model.shapes(config, 128)
    scales = jax.tree.leaves(wdlab.decay_scales(shapes, optim.decay_rules(config)))
    decayed = [leaf for leaf, s in zip(jax.tree.leaves(shapes), scales, strict=True) if s]
    share = {"decayed_tensors": len(decayed), "tensors": len(scales)}
    return [row | share for row in rows]


def loss_of(rows: list[Row], rules: str, decay: float, bias: bool = True, split: str = "train"):
    """Final losses over the seeds."""
    point = {"rules": rules, "weight_decay": decay, "bias": bias}
    return language.final(rows, f"{split}_loss", **point)


def draw(rows: list[Row]) -> Figure:
    """Training loss for each rule, relative to no decay."""
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    cases = [(rules, True) for rules in RULES] + [("NANOGPT", False), ("ALL", False)]
    for offset, decay, marker in ((-0.1, DECAYS[0], "o"), (0.1, DECAYS[1], "s")):
        for i, (rules, bias) in enumerate(cases):
            gain = loss_of(rows, rules, decay, bias) - loss_of(rows, "ALL", 0.0, bias)
            label = f"weight decay {decay:g}" if i == 0 else None
            color = "C0" if decay == DECAYS[0] else "C1"
            axes.errorbar(
                i + offset, gain.mean(), gain.std(), fmt=marker, color=color, label=label, capsize=3
            )
    axes.axhline(0, color="gray", linestyle=":")
    names = [rules + ("" if bias else "\nno biases") for rules, bias in cases]
    axes.set_xticks(range(len(cases)), names, fontsize=8)
    axes.set_ylabel("training loss - that without decay (nats)")
    axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """Every rule's loss at the stronger decay; whether ALL is worse than BERT's."""
    parts = {
        rules: next(r for r in rows if r["rules"] == rules and r["weight_decay"]) for rules in RULES
    }
    texts = [
        f"{rules} ({parts[rules]['decayed_tensors']} of {parts[rules]['tensors']} tensors) "
        f"{spread(loss_of(rows, rules, DECAYS[0]))} / {spread(loss_of(rows, rules, DECAYS[1]))}"
        for rules in RULES
    ]
    worse = [is_lower(loss_of(rows, "BERT", d), loss_of(rows, "ALL", d)) for d in DECAYS]
    bare = [loss_of(rows, rules, DECAYS[0], False) for rules in ("NANOGPT", "ALL")]
    return Summary(
        "Which parameters should decay?",
        "biases and LayerNorms should not (BERT, minGPT; reasons by intuition); without biases "
        "models train as well (PaLM, LLaMA)",
        f"training loss at decay {DECAYS[0]:g} / {DECAYS[1]:g}: {'; '.join(texts)}; without decay "
        f"{spread(loss_of(rows, 'ALL', 0.0))}; model without biases at {DECAYS[0]:g}: NANOGPT "
        f"{spread(bare[0])}, ALL {spread(bare[1])} ({language.SEEDS} seeds)",
        agreement(worse),
        f"Decayed biases and norms make the loss worse at {sum(worse)} of 2 strengths.",
    )


STUDY = Study("which_parameters", points, measure, draw, summarize)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
