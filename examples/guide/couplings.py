"""The picture of the front page: one number, ``weight_decay=0.1``, under each coupling.

``python -m examples.guide.couplings`` draws ``couplings.png`` beside this file: what a step takes
of a weight, and what is left of a weight that no gradient moves.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import wdlab
from examples.runs.pictures import save_small

PICTURE = Path(__file__).with_suffix(".png")
PEAK, STEPS, DECAY = 1e-3, 10_000, 0.1
COUPLINGS = {
    "constant": ("constant: optax.adafactor", ":"),
    "schedule": ("schedule: AdamW paper", "-"),
    "lr": ("lr: torch, optax.adamw", "--"),
    "lr2_over_peak": ("lr2_over_peak: AdamC", (0, (5, 1, 1, 1, 1, 1))),
    "lr2": ("lr2: PaLM", "-."),
}


def shrinks(coupling: str) -> np.ndarray:
    """The share of a weight that each step takes, shape (STEPS,).

    >>> float(shrinks("lr").max().round(6))
    0.0001
    """
    lr = wdlab.schedules.warmup_cosine(PEAK, warmup_steps=500, decay_steps=STEPS, end=PEAK / 10)
    multiplier = wdlab.schedules.multiplier_of(coupling, lr)
    values = multiplier(jnp.arange(STEPS)) if callable(multiplier) else multiplier
    return DECAY * np.broadcast_to(np.asarray(values, float), STEPS)


def draw() -> Figure:
    """Both panels over the steps."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for coupling, (label, style) in COUPLINGS.items():
        shrink = shrinks(coupling)
        rest = np.concatenate([[1.0], np.cumprod(1 - shrink)])
        left.plot(shrink, linestyle=style, label=label, linewidth=2)
        right.plot(rest, linestyle=style, label=label, linewidth=2)
    left.set(yscale="log", ylim=(1e-10, 1), xlabel="step", ylabel="share that a step takes")
    right.set(ylim=(-0.03, 1.05), xlabel="step", ylabel="what is left")
    right.legend(loc="center right", bbox_to_anchor=(1.0, 0.3), fontsize=9)
    figure.suptitle(
        "weight_decay=0.1, five couplings: learning rate up to 1e-3, then a cosine; no gradient"
    )
    return figure


if __name__ == "__main__":
    save_small(draw(), PICTURE, dpi=110)
    print(f"wrote {PICTURE}")
