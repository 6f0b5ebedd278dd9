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

from . import claim_rounding
from .markdown import table
from .paired import Difference, difference
from .study import Size

Result = dict[str, Any]
Words = tuple[str, str]  # what is measured; what the paper finds
MODELS = {"one_pass_mlp": "small normalized network", "one_pass_gpt": "small GPT"}
CASES = {
    "cosine": ("falling learning rate", "lower"),
    "constant": ("constant rate", "not lower"),
    "constant, then fine-tuned": ("constant, then fine-tuned", "lower"),
}  # with decay: the case, and the paper's finding
OVER = "best over learning rates: with decay less without, cosine"
STABLE, IMAGES = "stabilized_mlp", "loss_stabilization"
MEASURES = {
    "growth of the norm": ("BatchNorm MLP: growth of the norm at the end", "lower, to 1"),
    "test error": ("BatchNorm MLP: test error after the drop, %", "lower"),
    "sharpness": ("BatchNorm MLP: sharpness after the drop", "lower"),
}  # likewise
READ = """What the paper says of large models, and what small ones do here in minutes. Differences
are of paired seeds, each with its 95 % interval; "undecided" means that zero lies in it."""


class Claim(NamedTuple):
    """One claim: its letter, its words, the studies that test it, its picture and its finding."""

    letter: str
    words: str
    studies: tuple[str, ...]
    draw: Callable[[Mapping[str, Result]], Figure]
    find: Callable[[Mapping[str, Result]], str]


def section(results: Sequence[Result]) -> str:
    """The three claims in Markdown; those without a result are said to have none."""
    parts = ["## The three claims of 2310.04415", READ]
    for claim in CLAIMS:
        found = of(claim, results)
        parts.append(f"### ({claim.letter}) {claim.words}")
        if not found:
            parts.append("No result yet.")
            continue
        answers = ", ".join(f"[{name}](#{anchor(r)}) {r['agrees']}" for name, r in found.items())
        parts.append(f"Agrees with the source: {answers}.")
        parts += [f"![{claim.words}](results/claim_{claim.letter}.png)", claim.find(found)]
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


def one_pass(result: Result) -> dict[Words, Difference]:
    """The loss with E = 3 less that without decay, for each case and at the best rates."""
    numbers = result["numbers"]
    gaps = {
        words: difference(numbers[f"{case}, E = 3"], numbers[f"{case}, E = 0"])
        for case, words in CASES.items()
    }
    if OVER in numbers:
        best = difference(numbers[OVER], np.zeros(len(numbers[OVER])))
    else:
        best = difference(numbers["cosine, best lr, E = 3"], numbers["cosine, best lr, E = 0"])
    return gaps | {("falling, each at its best rate", "not said"): best}


def draw_one_pass(found: Mapping[str, Result]) -> Figure:
    """Differences with their intervals: left of zero decay lowers the loss."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (name, result) in zip(panels, found.items(), strict=True):
        gaps = one_pass(result)
        for row, gap in enumerate(gaps.values()):
            color = "gray" if gap.low <= 0 <= gap.high else "C0" if gap.mean < 0 else "C3"
            ends = [[gap.mean - gap.low], [gap.high - gap.mean]]
            axes.errorbar(gap.mean, row, xerr=ends, fmt="o", color=color, capsize=4)
        axes.axvline(0, color="gray", linestyle=":")
        axes.set(title=MODELS[name], xlabel="loss with decay less without (nats), 95 %")
        axes.set_yticks(range(len(gaps)), [f"{case}\n(paper: {says})" for case, says in gaps])
        axes.set_ylim(len(gaps) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=5)
    said = "Left of the line decay lowers the loss (blue), right of it raises it (red)"
    figure.suptitle(f"{said}; gray: undecided", fontsize=10)
    return figure


def find_one_pass(found: Mapping[str, Result]) -> str:
    """A line for each case."""
    gaps = {MODELS[name]: one_pass(result) for name, result in found.items()}
    cases = [*CASES.values(), ("falling, each at its best rate", "not said")]
    rows = [(*case, *(effect(of_model[case]) for of_model in gaps.values())) for case in cases]
    return table(("loss with decay less without, nats", "the paper", *gaps), rows)


def measures(found: Mapping[str, Result]) -> dict[Words, dict[int, np.ndarray]]:
    """Each measure at each exponent, over the seeds: of the small network, then of the ResNet."""
    numbers = found[STABLE]["numbers"]
    exponents = [int(name.split("= ")[1]) for name in numbers if name.startswith("test error")]
    series = {
        words: {e: np.array(numbers[f"{column}, E = {e}"]) for e in exponents}
        for column, words in MEASURES.items()
    }
    images = found.get(IMAGES, {}).get("numbers", {})
    free, decayed = (images.get(f"resnet18, large lr, {d}decay") for d in ("no ", ""))
    if isinstance(free, list):  # Of an earlier run only a text is known.
        ends = {0: np.array(free), round(found[IMAGES]["exponent"]): np.array(decayed)}
        series["ResNet-18: test error after the drop, %", "lower"] = ends
    return series


def most_less_none(values: Mapping[int, np.ndarray]) -> Difference:
    """What the largest exponent changes."""
    return difference(values[max(values)], values[0])


def draw_stable(found: Mapping[str, Result]) -> Figure:
    """Each measure over the exponent, a line for each seed."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    series = measures(found)
    panels = figure.subplots(1, len(series))
    for axes, ((label, _), values) in zip(panels, series.items(), strict=True):
        exponents, values_SxE = list(values), np.array(list(values.values())).T
        axes.plot(exponents, values_SxE.T, ".-", color="C0", alpha=0.3)
        axes.plot(exponents, values_SxE.mean(0), "o-", color="C0", linewidth=2)
        title = f"{label}\nwith decay: {effect(most_less_none(values)).split(' (')[0]}"
        axes.set_title(title.replace(": ", "\n", 1), fontsize=10)
        axes.set_xticks(exponents)
        axes.set_xlabel("decay exponent E")
        if values_SxE.max() > 10 * values_SxE.min() > 0:
            axes.set_yscale("log")
    figure.axes[0].axhline(1, color="gray", linestyle=":")
    return figure


def find_stable(found: Mapping[str, Result]) -> str:
    """A line for each measure, and the statements in words."""
    rows = [
        (label, says, f"{max(values)}", effect(most_less_none(values)))
        for (label, says), values in measures(found).items()
    ]
    heading = ("with decay less without, at a large rate", "the paper", "E", "here")
    said = [table(heading, rows), f"BatchNorm MLP: {found[STABLE]['remark']}"]
    said += [f"Run again: {run['remark']}" for run in found[STABLE].get("repeats", [])]
    if IMAGES in found:
        images = found[IMAGES]
        said.append(f"Image models ({images['size']}): {images['number']}. {images['remark']}")
    return "\n\n".join(said).strip()


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
        claim_rounding.STUDIES,
        claim_rounding.draw,
        claim_rounding.find,
    ),
    Claim(
        "c",
        "A large learning rate with decay stabilizes the loss, and ends best after the drop",
        (STABLE, IMAGES),
        draw_stable,
        find_stable,
    ),
)
