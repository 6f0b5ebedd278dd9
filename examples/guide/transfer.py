"""The picture of the page on transfer: the weight decay that each rule predicts.

``python -m examples.guide.transfer`` draws ``transfer.png`` beside this file.
"""

from pathlib import Path

from matplotlib.figure import Figure

import wdlab
from examples.runs.pictures import save_small

PICTURE = Path(__file__).with_suffix(".png")
RUN = {
    "learning_rate": 6e-4,
    "weight_decay": 0.1,
    "batch_size": 2**19,
    "tokens": 20 * 124_000_000,
    "parameters": 124_000_000,
    "width": 768,
}
FACTORS = (1.001, 2, 4, 8, 16)
NAMES = ("batch_size", "tokens", "width")
STYLES = ("-", "--", "-.", ":", "-")


def changed(name: str, factor: float) -> dict[str, int]:
    """What grows by a factor; the parameters grow with the square of the width.

    >>> changed("width", 2)
    {'width': 1536, 'parameters': 496000000}
    """
    to = {name: round(RUN[name] * factor)}
    if name == "width":
        to["parameters"] = round(RUN["parameters"] * factor**2)
    return to


def curves(name: str) -> dict[str, list[float]]:
    """Rule -> the share of a weight that a step takes, over that of the first run.

    >>> round(curves("tokens")["constant timescale"][1], 3)
    0.5
    """
    found: dict[str, list[float]] = {}
    for factor in FACTORS:
        predictions = wdlab.transfer(RUN, to=changed(name, factor)).predictions
        for prediction in predictions:
            if not {"width", name} & set(prediction.silent):
                shrink = prediction.shrink / (RUN["learning_rate"] * RUN["weight_decay"])
                found.setdefault(str(prediction.rule), []).append(shrink)
    return found


def draw() -> Figure:
    """A panel for each thing that grows; rules that say the same share a line."""
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3, sharey=True), NAMES, strict=True):
        together: dict[tuple[float, ...], list[str]] = {}
        for rule, values in curves(name).items():
            together.setdefault(tuple(float(f"{value:.2g}") for value in values), []).append(rule)
        for (values, rules), style in zip(together.items(), STYLES, strict=False):
            axes.plot(FACTORS, values, style, label=",\n".join(rules), linewidth=2)
        axes.set(xscale="log", yscale="log", xlabel=f"{name.replace('_', ' ')}, times")
        axes.set_xticks((1, 2, 4, 8, 16), labels=("1", "2", "4", "8", "16"))
        axes.minorticks_off()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), fontsize=8, frameon=False)
    figure.axes[0].set_ylabel("shrink per step, times")
    return figure


if __name__ == "__main__":
    save_small(draw(), PICTURE, dpi=100)
    print(f"wrote {PICTURE}")
