"""Does decay by the square of the learning rate keep normalized layers in balance?

Question: under AdamW's decay (lr * lambda) the gradient of a normalized layer grows as the
learning rate falls, since the balance ||g|| / ||w|| is proportional to sqrt(lambda / lr) (Defazio
2025, "Why Gradients Rapidly Increase Near the End of Training", arXiv:2506.02285). Its correction,
AdamC, decays by lr^2 / peak; PaLM (arXiv:2204.02311, section 5) decays by lr^2. Does either keep
the ratio still while the learning rate falls, and does it change the loss?

Command: ``python -m examples.studies.lr2_decay``; minutes on two CPU cores at size tiny.

A digits MLP of two hidden layers with RMS norm, noisy images, cosine from 3e-3 to a hundredth of
it. The strengths are matched: every coupling takes the same share of a weight at the peak, so
PaLM's and AdamC's formulas are one here (they part when the peak is changed); ``schedule`` and
``lr`` are one as well. What is reported is the ratio ||g|| / ||w|| of the normalized layers'
kernels, its mean over the last tenth of the training over that from 40 to 50 %.

Two statements on paired seeds with 95 % intervals: it is lower under lr^2 than under lr, and under
lr^2 within a half of 1.
"""

import sys
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab

from . import digits
from .dose import Dose
from .dose import dose as dose_of
from .paired import agreement, difference, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main, spread

PEAK, SHRINK, SEEDS = 3e-3, 3e-3, 5  # SHRINK: share of a weight that a step at the peak takes
STEPS = {"tiny": 4_000, "paper": 40_000}
HIDDEN = {"tiny": (64, 64), "paper": (256, 256)}
STRENGTHS = {"lr": SHRINK / PEAK, "lr2": SHRINK / PEAK**2, "constant": SHRINK}
WINDOWS = 50  # rows per run


def points(size: Size) -> Sequence[Point]:
    """The couplings."""
    del size
    return [{"coupling": coupling} for coupling in STRENGTHS]


def measure(point: Point, size: Size) -> list[Row]:
    """Ratio of gradient and weight norm over the training, and the losses at its end."""
    steps, coupling = STEPS[size], point["coupling"]
    lr = wdlab.schedules.warmup_cosine(PEAK, warmup_steps=steps // 20, decay_steps=steps, end=3e-5)
    tx = wdlab.optimizers.adamw(
        lr, weight_decay=STRENGTHS[coupling], coupling=coupling, rules=wdlab.rules.KERNELS_ONLY
    )

    def observe(params, updates, grads, state):
        del updates, state
        normalized = [
            [layer["kernel"] for layer in tree["layers"][:-1]] for tree in (params, grads)
        ]
        w, g = (optax.tree.norm(kernels) for kernels in normalized)
        return {"ratio": g / w, "weight_norm": w}

    def run(key):
        params = digits.init(key, HIDDEN[size], norm=True)
        params, _, seen = digits.train(tx, params, key, steps=steps, noise=1.0, observe=observe)
        means = {name: jnp.mean(v.reshape(WINDOWS, -1), axis=1) for name, v in seen.items()}
        return means, digits.evaluate(params)

    means, ends = digits.over_seeds(run, SEEDS)
    rows = [
        {
            "seed": s,
            "step": (i + 1) * steps // WINDOWS,
            **{k: float(v[s, i]) for k, v in means.items()},
        }
        for s in range(SEEDS)
        for i in range(WINDOWS)
    ]
    for s in range(SEEDS):
        rows[(s + 1) * WINDOWS - 1] |= {name: float(values[s]) for name, values in ends.items()}
    return rows


def of(rows: list[Row], coupling: str, name: str) -> np.ndarray:
    """Values of one coupling, seeds by windows (seeds alone for what is measured at the end)."""
    found = [row[name] for row in rows if row["coupling"] == coupling and name in row]
    return np.array(found, float).reshape(SEEDS, -1)


def growth(rows: list[Row], coupling: str) -> np.ndarray:
    """How much the ratio grew, for each seed."""
    ratio = of(rows, coupling, "ratio")
    tenth = WINDOWS // 10
    return ratio[:, -tenth:].mean(1) / ratio[:, 4 * tenth : 5 * tenth].mean(1)


def draw(rows: list[Row]) -> Figure:
    """Ratio and weight norm over the steps."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    labels = {"ratio": "||g|| / ||w|| of normalized layers", "weight_norm": "their norm"}
    for axes, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for coupling, style in zip(STRENGTHS, ("-", "--", ":"), strict=True):
            values = of(rows, coupling, name)
            steps = [r["step"] for r in rows if r["coupling"] == coupling][:WINDOWS]
            axes.plot(steps, values.mean(0), style, label=coupling)
            axes.fill_between(steps, values.min(0), values.max(0), alpha=0.2)
        axes.set(xlabel="step", ylabel=label, yscale="log")
        axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """Growth of the ratio, and the test loss, for each coupling."""
    grown = {coupling: growth(rows, coupling) for coupling in STRENGTHS}
    flat = difference(grown["lr2"], np.ones(SEEDS))
    statements = [is_lower(grown["lr2"], grown["lr"]), flat.low > -0.5 and flat.high < 0.5]
    loss = {coupling: of(rows, coupling, "test_loss") for coupling in STRENGTHS}
    return Summary(
        question="Does lr-squared decay stop gradients from growing as the learning rate falls?",
        source="the gradient norm rises near the end under lr, not under lr^2/peak (AdamC)",
        number=f"gradient over weight norm grows {spread(grown['lr'])} times (lr), "
        f"{spread(grown['lr2'])} (lr2)",
        agrees=agreement(statements),
        measured="growth of the ratio of gradient and weight norm of normalized layers; loss, nats",
        numbers={f"growth, {c}": grown[c] for c in STRENGTHS}
        | {f"test loss, {c}": loss[c][:, 0] for c in STRENGTHS},
        seeds=SEEDS,
    )


def dose(point: Point, size: Size) -> Dose:
    """The shrink at the peak is the same for all; its fall is not."""
    steps, coupling = STEPS[size], point["coupling"]
    lr = wdlab.schedules.warmup_cosine(PEAK, warmup_steps=steps // 20, decay_steps=steps, end=3e-5)
    kappa = wdlab.schedules.multiplier_of(coupling, lr)
    return dose_of(lr, steps, STRENGTHS[coupling], kappa)


STUDY = Study("lr2_decay", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
