"""The three claims of the main document, a picture and a sentence each, from the stored results.

They are those of Andriushchenko et al. (2024, arXiv:2310.04415). :mod:`examples.studies.table` puts
them on top of its page.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from matplotlib.figure import Figure

from examples.runs.pictures import save_small

from .paired import Difference, difference, is_lower
from .study import Size

Result = dict[str, Any]
CASES = ("cosine", "constant", "constant, then fine-tuned")
MODELS = {"one_pass_mlp": "Small normalized network", "one_pass_gpt": "Small GPT"}
OVER = "best over learning rates: with decay less without, cosine"
DIAL, SIXTEEN = "mantissa_dial", "lm_bf16_divergence"
BIAS, LOGITS = "attention_bias", "logit_growth"
BITS, RUNS = (23, 7, 5, 4, 3, 2), 20  # of the dial: seeds times learning rates
STABLE, IMAGES = "stabilized_mlp", "loss_stabilization"
MEASURES = {
    "growth of the norm": "growth of the norm at the end\n(1: it has settled)",
    "test error": "test error after the drop, %",
    "sharpness": "sharpness after the drop",
}


class Claim(NamedTuple):
    """One claim: its letter, its words, the studies that test it, its picture and its finding."""

    letter: str
    words: str
    studies: tuple[str, ...]
    draw: Callable[[Mapping[str, Result]], Figure]
    find: Callable[[Mapping[str, Result]], str]


def section(results: Sequence[Result]) -> str:
    """The three claims in Markdown; those without a result are said to have none."""
    parts = ["## The three claims of 2310.04415"]
    for claim in CLAIMS:
        found = of(claim, results)
        parts.append(f"### ({claim.letter}) {claim.words}")
        if not found:
            parts.append("No result yet.")
            continue
        answers = ", ".join(f"[{name}](#{anchor(r)}) {r['agrees']}" for name, r in found.items())
        parts += [f"![{claim.words}](results/claim_{claim.letter}.png)", claim.find(found)]
        parts.append(f"Agrees with the source: {answers}.")
    return "\n\n".join(parts)


def save(results: Sequence[Result], folder: Path) -> None:
    """Draws the picture of each claim that has a result."""
    for claim in CLAIMS:
        if found := of(claim, results):
            save_small(claim.draw(found), folder / f"claim_{claim.letter}.png", dpi=80)


def of(claim: Claim, results: Sequence[Result]) -> dict[str, Result]:
    """The results of a claim's studies, each of the largest size; none without the first one's."""
    ordered = sorted(results, key=lambda result: get_args(Size).index(result["size"]))
    stored = {result["name"]: result for result in ordered}
    if claim.studies[0] not in stored:
        return {}
    return {name: stored[name] for name in claim.studies if name in stored}


def anchor(result: Result) -> str:
    """Where the section of a result is on the page.

    >>> anchor({"name": "sphere", "size": "tiny"}), anchor({"name": "sphere", "size": "small"})
    ('sphere', 'sphere-small')
    """
    return result["name"] + ("" if result["size"] == "tiny" else f"-{result['size']}")


def effect(gap: Difference) -> str:
    """What a paired difference says.

    >>> effect(Difference(-0.1, -0.2, -0.05, 5)), effect(Difference(0.0, -0.1, 0.1, 5))
    ('lower (-0.1 [-0.2, -0.05])', 'undecided (+0 [-0.1, +0.1])')
    """
    undecided = not (gap.high < 0 or gap.low > 0)
    return f"{'undecided' if undecided else 'lower' if gap.mean < 0 else 'higher'} ({gap})"


def one_pass(result: Result) -> dict[str, Difference]:
    """The loss with E = 3 less that without decay, for each case and at the best rates."""
    numbers = result["numbers"]
    gaps = {c: difference(numbers[f"{c}, E = 3"], numbers[f"{c}, E = 0"]) for c in CASES}
    if OVER in numbers:
        best = difference(numbers[OVER], np.zeros(len(numbers[OVER])))
    else:
        best = difference(numbers["cosine, best lr, E = 3"], numbers["cosine, best lr, E = 0"])
    return gaps | {"cosine, each at its best lr": best}


def draw_one_pass(found: Mapping[str, Result]) -> Figure:
    """Differences with their intervals: left of zero decay lowers the loss."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, result) in zip(panels, found.items(), strict=True):
        for row, gap in enumerate(one_pass(result).values()):
            color = "gray" if gap.low <= 0 <= gap.high else "C0" if gap.mean < 0 else "C3"
            ends = [[gap.mean - gap.low], [gap.high - gap.mean]]
            axes.errorbar(gap.mean, row, xerr=ends, fmt="o", color=color, capsize=4)
        axes.axvline(0, color="gray", linestyle=":")
        axes.set(title=MODELS[name], xlabel="loss with decay less without (nats), 95 %")
        axes.set_yticks(range(len(CASES) + 1), one_pass(result))
        axes.set_ylim(len(CASES) + 0.5, -0.5)
        axes.locator_params(axis="x", nbins=5)
    figure.suptitle("Left of the line decay lowers the loss; gray: cannot be told", fontsize=10)
    return figure


def find_one_pass(found: Mapping[str, Result]) -> str:
    """A sentence for each model."""
    said = []
    for name, result in found.items():
        cosine, constant, tuned, best = map(effect, one_pass(result).values())
        said.append(
            f"{MODELS[name]}, loss with decay less without, nats: with a falling learning rate "
            f"{cosine}, with a constant one {constant}, after a fine-tuning of that {tuned}; "
            f"falling, each at its best learning rate, {best}."
        )
    return " ".join(said)


def diverged(result: Result) -> dict[str, np.ndarray]:
    """How many runs diverge at each number of bits, for each exponent."""
    numbers = result["numbers"]
    return {
        e: np.array([np.sum(numbers[f"m = {bits}, E = {e}"]) for bits in BITS]) for e in ("0", "3")
    }


def draw_rounding(found: Mapping[str, Result]) -> Figure:
    """The number of diverged runs over the bits of the products."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    axes = figure.subplots()
    for side, (exponent, counts) in zip((-0.2, 0.2), diverged(found[DIAL]).items(), strict=True):
        bars = axes.bar(np.arange(len(BITS)) + side, counts, 0.35, label=f"E = {exponent}")
        axes.bar_label(bars, fmt="%d")
    names = {23: "23: float32", 7: "7: bfloat16"}
    axes.set_xticks(range(len(BITS)), [names.get(bits, str(bits)) for bits in BITS])
    axes.set(ylim=(0, RUNS), xlabel="bits of every matrix product", ylabel=f"diverged, of {RUNS}")
    nothing = not sum(counts.sum() for counts in diverged(found[DIAL]).values())
    end = ": none, so the claim is not tested" if nothing else ""
    axes.set_title(f"Runs that diverge, without and with decay{end}")
    axes.legend()
    return figure


def find_rounding(found: Mapping[str, Result]) -> str:
    """Whether anything diverges, and whether less of it with decay."""
    without, with_decay = (int(counts.sum()) for counts in diverged(found[DIAL]).values())
    total = RUNS * len(BITS)
    counted = f"{without} of {total} runs diverge without decay, {with_decay} of {total} with it"
    if not without + with_decay:
        counted = f"Not tested: {counted}, at no number of bits, so decay has nothing to prevent"
    said = [f"{counted}."]
    if SIXTEEN in found:
        said.append(f"Another test: {found[SIXTEEN]['number']}.")
    if BIAS in found:
        bias = found[BIAS]["number"]
        said.append(
            f"What is said to cause it, measured by itself: {bias}; a float32 softmax has no such "
            "bias and cannot diverge by it. That a training does is not shown by the bias."
        )
    if LOGITS in found:
        said.append(f"At learning rates up to 1, {found[LOGITS]['number']}.")
        saved = " and ".join(prevented(found)) or "none"
        said.append(f"Of these tests, fewer diverge with decay than without in: {saved}.")
    return " ".join(said)


def prevented(found: Mapping[str, Result]) -> list[str]:
    """The tests in which, over the seeds, decay prevents divergence in 16 bits or fewer."""
    dial, logits = found[DIAL]["numbers"], found[LOGITS]["numbers"]
    counts = {
        DIAL: [np.sum([dial[f"m = {b}, E = {e}"] for b in BITS[1:]], 0) for e in ("3", "0")],
        LOGITS: [logits[f"flash_bf16, decay {d}: diverged, of 6"] for d in ("independent", "none")],
    }
    return [name for name, (decayed, free) in counts.items() if is_lower(decayed, free)]


def draw_stable(found: Mapping[str, Result]) -> Figure:
    """Three measures over the exponent, a line for each seed."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    numbers = found[STABLE]["numbers"]
    exponents = [int(name.split("= ")[1]) for name in numbers if name.startswith("test error")]
    for axes, (column, label) in zip(figure.subplots(1, 3), MEASURES.items(), strict=True):
        values_SxE = np.array([numbers[f"{column}, E = {e}"] for e in exponents]).T
        axes.plot(exponents, values_SxE.T, ".-", color="C0", alpha=0.3)
        axes.plot(exponents, values_SxE.mean(0), "o-", color="C0", linewidth=2)
        axes.set(title=label, xlabel="decay exponent E", xticks=exponents)
        if values_SxE.max() > 10 * values_SxE.min() > 0:
            axes.set_yscale("log")
    figure.axes[0].axhline(1, color="gray", linestyle=":")
    return figure


def find_stable(found: Mapping[str, Result]) -> str:
    """The statements of the small network, and what the image models say."""
    result = found[STABLE]
    said = f"BatchNorm MLP at a large learning rate, E = 20 against 0: {result['remark']}"
    if IMAGES in found:
        said += f" Image models, with far less decay: {found[IMAGES]['number']}."
    return said


CLAIMS = (
    Claim(
        "a",
        "Decay lowers the training loss in one pass over the data, if the learning rate falls",
        tuple(MODELS),
        draw_one_pass,
        find_one_pass,
    ),
    Claim(
        "b",
        "Training in bfloat16 at a high learning rate diverges without decay and not with it",
        (DIAL, SIXTEEN, BIAS, LOGITS),
        draw_rounding,
        find_rounding,
    ),
    Claim(
        "c",
        "A large learning rate with decay stabilizes the loss, and ends best after the drop",
        (STABLE, IMAGES),
        draw_stable,
        find_stable,
    ),
)
