"""Cautious weight decay: only where the step moves a weight toward zero as well.

Question: Chen et al. (2025, arXiv:2510.12402) decay an entry only where the optimizer's step has
its sign, so that decay never pulls against the step. They report a lower final loss than plain
decoupled decay under AdamW, Lion and Muon, with the plain decay's own numbers and no new tuning.
Is it so?

Command: ``python -m examples.studies.cautious``; a minute on two CPU cores. The smallest published
scale is of millions of parameters; a small network in one pass can show the direction, if the
seeds are many: with five, and 2,000 steps instead of 1,000, the intervals turned out to be +-.006
(AdamW) to +-.01 nats (Lion), wider than the differences, +.002 to -.006 and +.009. Twenty would see
half of that. Size paper has more steps, not the source's models.

The network and teacher of ``one_pass_mlp``, 1,000 steps on fresh samples, cosine to 0. The two
hidden matrices are trained by AdamW, Lion or Muon, the rest by AdamW (Lion) without decay; ties
decay, as in the paper. Grid: learning rates 1e-3, 3e-3, 1e-2 (Lion a tenth of them), lr-coupled E
in 0, 1, 3, 10, 30, 100. E is the sum of lr_t lambda: a cautious decay acts on about half of it.

Written down before the first run. Five paired seeds. Three statements, one for each optimizer: at
the learning rate and E where plain decay has its lowest mean loss, the cautious one has a lower
loss. (Choosing there favours plain decay a little.) Beside it, no part of the answer: both at their
own best.
"""

import functools
import sys
from collections.abc import Sequence

import jax
import optax
from matplotlib.figure import Figure

import wdlab

from . import grids
from . import one_pass_pool as task
from .dose import Dose
from .error_bars import with_interval
from .lambda_schedule import without_decay
from .paired import agreement, difference, is_lower, word
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main

STEPS, SEEDS = {"tiny": 1_000, "paper": 20_000}, 5
OPTIMIZERS = {"AdamW": 1.0, "Lion": 0.1, "Muon": 1.0}  # factor of the learning rates
KINDS = ("plain", "cautious")
RATES, EXPONENTS = (1e-3, 3e-3, 1e-2), (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
AXES = {"lr": RATES, "exponent": EXPONENTS}  # lr: before the factor


def points(size: Size) -> Sequence[Point]:
    """Each optimizer with both decays, its grid as one program."""
    del size
    return [{"optimizer": o, "decay": kind} for o in OPTIMIZERS for kind in KINDS]


def dose(point: Point, size: Size) -> Dose:
    """The largest of the grid."""
    return Dose(max(EXPONENTS), max(RATES) * OPTIMIZERS[point["optimizer"]] * STEPS[size])


def measure(point: Point, size: Size) -> list[Row]:
    """The loss of every learning rate, exponent and seed."""
    run = functools.partial(one, point["optimizer"], point["decay"] == "cautious", STEPS[size])
    return task.side_by_side(run, AXES, task.pools(SEEDS, STEPS[size] * task.BATCH))


def one(
    optimizer: str, cautious: bool, steps: int, values: dict[str, jax.Array], seed: task.Pool
) -> dict[str, jax.Array]:
    """The held-out loss of one training."""
    rate = grids.cosine(values["lr"] * OPTIMIZERS[optimizer], steps)
    strength = values["exponent"] / task.total(rate, steps)
    decay = wdlab.decay_weights(strength, multiplier=rate, rules=task.RULES, cautious=cautious)
    return {"loss": task.one_pass_loss(optax.chain(without_decay(optimizer, rate), decay), seed)}


def draw(rows: list[Row]) -> Figure:
    """The loss over E at the learning rate that is best with plain decay."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for axes, optimizer in zip(figure.subplots(1, 3, sharey=True), OPTIMIZERS, strict=True):
        lr = task.best(rows, "loss", AXES, optimizer=optimizer, decay="plain")[0]["lr"]
        free = at_end(rows, "loss", optimizer=optimizer, decay="plain", lr=lr, exponent=0.0)
        for kind, style in zip(KINDS, ("s--", "o-"), strict=True):
            point = {"optimizer": optimizer, "decay": kind, "lr": lr}
            gaps = [difference(at_end(rows, "loss", exponent=e, **point), free) for e in EXPONENTS]
            with_interval(axes, EXPONENTS, gaps, fmt=style, label=f"{kind} decay")
        axes.set_xscale("symlog", linthresh=1)
        axes.axhline(0, color="gray", linestyle=":")
        title = f"{optimizer}, lr {lr * OPTIMIZERS[optimizer]:g}"
        axes.set(title=title, xlabel="decay exponent E, plain")
    figure.axes[0].set_ylabel("loss - that without decay (nats), 95 %")
    figure.axes[0].legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """Cautious less plain decay, at the plain one's best numbers and at each its own."""
    statements, gaps, own, numbers = {}, {}, {}, {}
    for optimizer in OPTIMIZERS:
        plain = {"optimizer": optimizer, "decay": "plain"}
        cautious = {"optimizer": optimizer, "decay": "cautious"}
        setting, losses = task.best(rows, "loss", AXES, **plain)
        there = at_end(rows, "loss", **setting, **cautious)
        best, best_losses = task.best(rows, "loss", AXES, **cautious)
        statements[optimizer] = is_lower(there, losses)
        gaps[optimizer] = difference(there, losses)
        own[optimizer] = difference(best_losses, losses)
        free = task.best(rows, "loss", ["lr"], exponent=0.0, **plain)[1]
        numbers |= {
            f"{optimizer}, without decay": free,
            f"{optimizer}, plain at its best, E = {setting['exponent']:g}": losses,
            f"{optimizer}, cautious there": there,
            f"{optimizer}, cautious at its best, E = {best['exponent']:g}": best_losses,
        }
    return Summary(
        question="Does cautious weight decay end with a lower loss than plain decay?",
        source="lower, under AdamW, Lion and Muon, with the plain one's numbers (2510.12402)",
        number="cautious less plain: "
        + ", ".join(f"{name} {gap.mean:+.4f}" for name, gap in gaps.items()),
        agrees=agreement(list(statements.values())),
        measured="loss, nats",
        numbers=numbers,
        seeds=SEEDS,
        remark="At plain decay's best numbers: "
        + "; ".join(f"{o} {gap}, lower: {word(statements[o])}" for o, gap in gaps.items())
        + ". Each at its own best: "
        + "; ".join(f"{o} {gap}" for o, gap in own.items())
        + ".",
    )


STUDY = Study(
    "cautious", points, measure, draw, summarize, dose,
    larger="20 seeds for differences of .005 nats; the source's models, which no size here has",
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
