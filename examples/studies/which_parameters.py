"""Which parameters decay: the rules of BERT, GPT-2, minGPT and DeepSpeed-Chat on one model.

Question: BERT exempts biases and LayerNorms, nanoGPT everything of one dimension, minGPT also the
embeddings, DeepSpeed-Chat what its list of names catches; the reasons given are intuitions (a bias
decayed to 0 loses its role, a LayerNorm's scale as well), and newer models have no biases at all.
What does each rule decay here, and what do decayed biases and norms do to the loss?

Command: ``python -m examples.studies.which_parameters``; minutes on two CPU cores at size tiny, 16
runs of GPT-2 small at size paper. AdamW, coupling "lr", weight decay 0.1 (in the paper's numbers)
and ten times it, a model with biases and one without.

Written down before the run with five paired seeds. Two statements, one for each strength, with 95 %
intervals: the training loss under BERT's rule is lower than where all decays. (Three seeds of width
64, peak 4e-3: 2.67 against 3.82 nats at the larger strength, both statements yes.)
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
    scales = language.decay_scales(language.tiny(**flags, **point))
    share = {"decayed_tensors": sum(map(bool, scales)), "tensors": len(scales)}
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
            with_spread(axes, [i + offset], [gain], fmt=marker, color=color, label=label)
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
    numbers = {
        f"{rules} ({parts[rules]['decayed_tensors']} of {parts[rules]['tensors']} tensors), "
        f"decay {d:g}": loss_of(rows, rules, d)
        for rules in RULES
        for d in DECAYS
    }
    numbers |= {
        f"no biases, {rules}, decay {DECAYS[0]:g}": loss_of(rows, rules, DECAYS[0], False)
        for rules in ("NANOGPT", "ALL")
    }
    worse = [is_lower(loss_of(rows, "BERT", d), loss_of(rows, "ALL", d)) for d in DECAYS]
    strong = {rules: spread(loss_of(rows, rules, DECAYS[1])) for rules in ("BERT", "ALL")}
    return Summary(
        question="Which parameters should decay?",
        source="not biases and LayerNorms (BERT, minGPT); or no biases at all (PaLM, LLaMA)",
        number=f"at decay {DECAYS[1]:g}: {strong['BERT']} (BERT's), {strong['ALL']} (ALL) nats",
        agrees=agreement(worse),
        measured="training loss, nats; decays in the paper's numbers",
        numbers={"no decay": loss_of(rows, "ALL", 0.0)} | numbers,
        seeds=language.SEEDS,
        remark=f"Worse with decayed biases and norms at {worse.count(True)} of 2 strengths.",
    )


def dose(point: Point, size: Size) -> Dose:
    """Of what decays."""
    flags = {"learning_rate": 6e-4, "min_lr": 6e-5, "max_iters": 50_000}
    return language.dose(size, **flags, **point)


STUDY = Study("which_parameters", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
