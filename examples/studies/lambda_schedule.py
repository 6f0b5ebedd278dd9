"""A weight decay that falls to 0 during the training, against a constant one.

Question: nanochat's log (karpathy/nanochat, dev/LOG.md, 2026-01-10) says of Muon that a decay
falling in a line from its start to 0 at the end "worked better than a static setting", beside the
learning rate's own fall; no number is given. Is it so, when both are tuned?

Command: ``python -m examples.studies.lambda_schedule``; a minute on two CPU cores. The smallest
published scale is 8 layers of width 512; a small network in one pass can show the direction, not
the size of the gain.

The network and teacher of ``one_pass_mlp``, 4,000 steps on fresh samples. The learning rate is
constant, 1e-3, where decay lowers Muon's loss (``muon_decay``), and falls in a line to 0 over the
last 40 %. The two hidden matrices are trained by Muon or AdamW, the rest by AdamW without decay.
The decay is lr-coupled, lambda_t constant, falling (1 to 0 in a line) or, as a control, rising (0
to 1); all three get the same exponent E = sum lr_t lambda_t.
Grid: E in 0, 1, 3, 10, 30, 100. nanochat's decay is cautious too; here it is plain.

Written down before the first run. Five paired seeds. One statement: under Muon the loss of the best
falling decay is lower than that of the best constant one, each at the E of its lowest mean. AdamW,
rising decays and equal E are shown beside it and are no part of the answer.

Settings tried, the criterion the same: first 2,000 steps with learning rates 1e-3, 3e-3 and 1e-2
and E to 30 (commit f465380). Under Muon the best rate was 1e-2, where no constant decay lowered the
loss: best falling less best constant one -0.0018 [-0.0097, +0.0062] nats, undecided. The one above
is the second.
"""

import functools
import sys
from collections.abc import Sequence

import jax
import optax
from matplotlib.figure import Figure

import wdlab

from . import one_pass_pool as task
from .dose import Dose
from .error_bars import with_interval
from .paired import agreement, difference, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main

STEPS, SEEDS, CONSTANT = {"tiny": 4_000, "paper": 40_000}, 5, 0.6
OPTIMIZERS, SHAPES = ("Muon", "AdamW"), ("constant", "falling", "rising")
RATES, EXPONENTS = (1e-3,), (0.0, 1.0, 3.0, 10.0, 30.0, 100.0)
AXES = {"lr": RATES, "exponent": EXPONENTS}


def points(size: Size) -> Sequence[Point]:
    """Each optimizer with each shape of the decay, its grid as one program."""
    del size
    return [{"optimizer": o, "decay": d} for o in OPTIMIZERS for d in SHAPES]


def dose(point: Point, size: Size) -> Dose:
    """The largest of the grid."""
    del point
    return Dose(max(EXPONENTS), max(RATES) * STEPS[size])


def measure(point: Point, size: Size) -> list[Row]:
    """The loss of every learning rate, exponent and seed."""
    run = functools.partial(one, point["optimizer"], point["decay"], STEPS[size])
    return task.side_by_side(run, AXES, task.pools(SEEDS, STEPS[size] * task.BATCH))


def one(optimizer: str, shape: str, steps: int, values: dict[str, jax.Array], seed: task.Pool):
    """The held-out loss of one training."""
    rate = task.falling(task.linear_to_zero(steps, CONSTANT), values["lr"])
    line = task.linear_to_zero(steps)
    lambdas = {
        "constant": lambda t: 1.0 + 0.0 * t,
        "falling": line,
        "rising": lambda t: 1 - line(t),
    }
    kappa = lambda count: rate(count) * lambdas[shape](count)  # noqa: E731
    strength = values["exponent"] / task.total(kappa, steps)
    decay = wdlab.decay_weights(strength, multiplier=kappa, rules=task.RULES)
    return {"loss": task.one_pass_loss(optax.chain(without_decay(optimizer, rate), decay), seed)}


def without_decay(optimizer: str, rate: wdlab.schedules.Schedule) -> optax.GradientTransformation:
    """AdamW or Lion of all weights, or Muon of the hidden matrices beside AdamW; no decay."""
    if optimizer == "Muon":
        return wdlab.optimizers.muon(rate, hidden=task.RULES, adam_b2=0.999, dtype="float32")
    return {"AdamW": wdlab.optimizers.adamw, "Lion": wdlab.optimizers.lionw}[optimizer](rate)


def draw(rows: list[Row]) -> Figure:
    """The loss over E at each optimizer's best learning rate of a constant decay."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, optimizer in zip(figure.subplots(1, 2, sharey=True), OPTIMIZERS, strict=True):
        lr = task.best(rows, "loss", AXES, optimizer=optimizer, decay="constant")[0]["lr"]
        for shape, style in zip(SHAPES, ("s--", "o-", "^:"), strict=True):
            point = {"optimizer": optimizer, "decay": shape, "lr": lr}
            free = at_end(rows, "loss", optimizer=optimizer, decay="constant", lr=lr, exponent=0.0)
            gaps = [difference(at_end(rows, "loss", exponent=e, **point), free) for e in EXPONENTS]
            with_interval(axes, EXPONENTS, gaps, fmt=style, label=f"{shape} decay")
        axes.set_xscale("symlog", linthresh=1)
        axes.axhline(0, color="gray", linestyle=":")
        axes.set(title=f"{optimizer}, lr {lr:g}", xlabel="decay exponent E")
    figure.axes[0].set_ylabel("loss - that without decay (nats), 95 %")
    figure.axes[0].legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The best falling decay against the best constant one."""
    found = {
        (o, d): task.best(rows, "loss", AXES, optimizer=o, decay=d)
        for o in OPTIMIZERS
        for d in SHAPES
    }
    gaps = {
        f"{o}, {d}": difference(found[o, d][1], found[o, "constant"][1])
        for o in OPTIMIZERS
        for d in SHAPES[1:]
    }
    statement = is_lower(found["Muon", "falling"][1], found["Muon", "constant"][1])
    at = {"optimizer": "Muon", **found["Muon", "constant"][0]}
    same = difference(*(at_end(rows, "loss", decay=d, **at) for d in ("falling", "constant")))
    return Summary(
        question="Is a weight decay that falls to 0 better than a constant one?",
        source="Muon: falling linearly to 0 worked better than static (nanochat's log)",
        number=f"best falling less best constant decay: {gaps['Muon, falling']} nats",
        agrees=agreement([statement]),
        measured="loss, nats, each at its best E",
        numbers={
            f"{o}, {d}, E = {s['exponent']:g}": values for (o, d), (s, values) in found.items()
        }
        | {
            f"{o}, without decay": task.best(rows, "loss", ["lr"], optimizer=o, exponent=0.0)[1]
            for o in OPTIMIZERS
        },
        seeds=SEEDS,
        remark="Less the best constant one: "
        + "; ".join(f"{name} {gap}" for name, gap in gaps.items())
        + f"; Muon, falling, at the constant one's E {same}.",
    )


STUDY = Study("lambda_schedule", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
