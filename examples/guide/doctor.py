"""The picture of the doctor's page: the share of a weight that each step takes, sound and not.

``python -m examples.guide.doctor`` draws ``doctor.png`` beside this file.
"""

from pathlib import Path

import jax
import optax
from matplotlib.figure import Figure

import wdlab
from examples.runs.pictures import save_small

PICTURE = Path(__file__).with_suffix(".png")
STEPS = 10_000
PARAMS = {"dense": {"kernel": jax.ShapeDtypeStruct((64, 64), "float32")}}
LR = wdlab.schedules.warmup_cosine(1e-3, warmup_steps=500, decay_steps=STEPS, end=1e-5)
SHORT = wdlab.schedules.warmup_cosine(1e-3, warmup_steps=500, decay_steps=6000)


def chains() -> dict[str, optax.GradientTransformation]:
    """A sound chain, two with a fault, and one whose decay is too weak to act."""
    return {
        "sound": wdlab.optimizers.adamw(LR, weight_decay=0.1, coupling="lr"),
        "another coupling's number": wdlab.optimizers.adamw(
            LR, weight_decay=0.1, coupling="schedule"
        ),
        "goes on after the schedule": optax.chain(
            optax.adam(SHORT), wdlab.decay_weights(1e-4, rules=wdlab.rules.ALL)
        ),
        "optax.adamw's default": wdlab.optimizers.adamw(LR, weight_decay=1e-4, coupling="lr"),
    }


def draw() -> Figure:
    """The shrink of each chain over the run, with the doctor's verdict.

    >>> len(chains())
    4
    """
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, tx), style in zip(chains().items(), ("-", "--", "-.", ":"), strict=True):
        report = wdlab.doctor(tx, PARAMS, steps=STEPS)
        group = report.groups[0]
        axes.plot(group.steps, group.shrink, style, linewidth=2, label=f"{name}: {report.verdict}")
    axes.set(yscale="log", ylim=(1e-10, 1), xlabel="step", ylabel="share that a step takes")
    figure.legend(fontsize=8, loc="outside lower center")  # Beside the curves, not on them.
    return figure


if __name__ == "__main__":
    save_small(draw(), PICTURE, dpi=100)
    print(f"wrote {PICTURE}")
