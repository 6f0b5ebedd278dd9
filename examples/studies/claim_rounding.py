"""Claim (b) of the results page: which runs diverge, and how biased a 16-bit attention is."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .markdown import table
from .paired import is_lower

Result = dict[str, Any]
DIAL, SIXTEEN = "mantissa_dial", "lm_bf16_divergence"
BIAS, LOGITS = "attention_bias", "logit_growth"
STUDIES = (DIAL, SIXTEEN, BIAS, LOGITS)
FORMS = {
    "float32": "lr up to 1, attention in float32",
    "flash_bf16": "lr up to 1, bfloat16 flash attention",
}
BIASES = {
    "flash_bf16, far, 1 equal": "one largest score",
    "flash_bf16, far, 2 equal": "two equal ones",
    "flash_bf16, far, 4 equal": "four equal ones",
    "shifted, far, 2 equal": "two, but shifted maximum",
    "float32, far, 2 equal": "two, softmax in float32",
}


def diverged(found: Mapping[str, Result]) -> dict[str, list[np.ndarray]]:
    """How many runs of each seed diverge without and with decay, test by test."""
    dial = found[DIAL]["numbers"]
    bits = dict.fromkeys(name.split(",")[0].removeprefix("m = ") for name in dial)
    names = {"23": "products in float32", "7": "products in bfloat16"}
    counts = {
        names.get(b, f"products of {b} bits"): [dial[f"m = {b}, E = {e}"] for e in "03"]
        for b in bits
    }
    if LOGITS in found:
        logits = found[LOGITS]["numbers"]
        counts |= {
            label: [logits[f"{form}, decay {d}: diverged, of 6"] for d in ("none", "independent")]
            for form, label in FORMS.items()
        }
    return {label: [np.array(values) for values in pair] for label, pair in counts.items()}


def draw(found: Mapping[str, Result]) -> Figure:
    """The number of diverged runs, test by test; beside it the bias of a 16-bit attention."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    counts = diverged(found)
    for i, label in enumerate(("without decay", "with decay")):
        totals = [pair[i].sum() for pair in counts.values()]
        bars = left.barh(np.arange(len(counts)) + 0.4 * i - 0.2, totals, 0.38, label=label)
        left.bar_label(bars, fmt="%d", padding=3)
    left.set_yticks(range(len(counts)), counts)
    left.set(xlim=(0, 1 + 1.2 * left.get_xlim()[1]), ylim=(len(counts) - 0.5, -0.5))
    left.set(xlabel="runs that diverge", title="Does decay prevent divergence?")
    left.legend(loc="upper right")
    numbers = found[BIAS]["numbers"] if BIAS in found else {}
    biases = {
        label: numbers[name]
        for form, label in BIASES.items()
        if (name := f"{form}, v +1.5, context 64: out") in numbers
    }
    means = [np.mean(values) for values in biases.values()]
    bars = right.barh(range(len(biases)), means, color="C2")
    right.bar_label(bars, fmt=lambda v: f"{round(v, 2) + 0.0:.2f}", padding=3)
    right.set_yticks(range(len(biases)), biases)
    right.set(
        xlim=(-0.15, 0.6), ylim=(len(biases) - 0.5, -0.5), xlabel="bias, in 2^-9 of the output"
    )
    right.set_title("Named as the cause: a kernel's bias")
    return figure


def find(found: Mapping[str, Result]) -> str:
    """How many runs diverge without and with decay, and what else was found."""
    counts = diverged(found)
    rows = [(label, *(f"{pair[i].sum():g}" for i in (0, 1))) for label, pair in counts.items()]
    said = []
    if not any(values.sum() for pair in counts.values() for values in pair):
        said.append("Not tested: nothing diverges, so decay has nothing to prevent.")
    else:
        saved = [label for label, (free, decayed) in counts.items() if is_lower(decayed, free)]
        said.append(f"Fewer diverge with decay, over the seeds, in: {', '.join(saved) or 'none'}.")
    if SIXTEEN in found:
        said.append(f"A small GPT: {found[SIXTEEN]['number']}.")
    if BIAS in found:
        said.append(
            f"What is said to cause it, measured by itself: {found[BIAS]['number']}; a float32 "
            "softmax has no such bias. That a training diverges by it is not shown."
        )
    return (
        table(("runs that diverge", "without decay", "with decay"), rows) + "\n\n" + " ".join(said)
    )
