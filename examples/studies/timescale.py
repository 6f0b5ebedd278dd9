"""Is AdamW's best timescale in epochs the same for every data set and batch size?

Question: Wang and Aitchison (2024, arXiv:2405.13698): AdamW's weights are a moving average of its
steps over 1 / (lr lambda) steps. In epochs, tau = b / (lr lambda N) for N examples and batches of
b, the best one hardly moves with the size of the data set, at equal epochs and learning rate; so
the best lambda falls as 1 / N. Bergsma et al. (2025, arXiv:2505.13738) add that the best lambda is
proportional to the batch size. Is it so?

Command: ``python -m examples.studies.timescale``; a minute on two CPU cores. The smallest published
scale is a ResNet-18 on parts of 32x32 ImageNet, 100 epochs; a small network can show the power of
N and of b.

The network and teacher of ``one_pass_mlp``, but N samples seen in 8 epochs, each in a new order;
the labels are draws, so that memorizing them costs. AdamW, lr 3e-3 (the best of ``one_pass_mlp``'s
three), cosine to 0, the two hidden matrices decay, lr-coupled. N = 1024, 2048, 4096, 8192 at b =
32; b = 16, 32, 64, 128 at N = 4096. Grid of tau: 2**-4 to 2**5 epochs, an octave apart (E from 64
to 0.125). The best tau is the vertex of a parabola through the held-out losses
(wdlab.sweep.surface).

Written down before the first run. Five paired seeds, intervals by bootstrap over them. Two
statements, of the slope of log tau over log N and over log b: each holds if the whole 95 % interval
lies between -0.5 and 0.5, does not hold if the whole interval lies outside, is undecided otherwise.
An equal lambda everywhere would have the slopes -1 and 1. tau is also undecided where fewer than
three of four best values lie inside the grid.

Settings tried, the criterion the same: first 32 epochs, N = 256 to 2,048, b at N = 1,024, tau from
2**-2 to 2**7 (commit f465380). There the network learns its few samples by heart, and the lowest
loss was at the shortest timescale, E = 64, in all seven cases: not tested. The one above is the
second.
"""

import functools
import sys
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import wdlab
from wdlab.sweep import Separability, loss_surface, separability

from . import grids
from . import one_pass_pool as task
from .dose import Dose
from .paired import Difference, agreement, word
from .rows import Point, Row
from .study import Size, Study, Summary, main

LR, SEEDS, EPOCHS = 3e-3, 5, {"tiny": 8, "paper": 100}
SIZES, BATCHES, MIDDLE = (1024, 2048, 4096, 8192), (16, 32, 64, 128), (4096, 32)
TIMESCALES = tuple(grids.powers(-4, 5))  # epochs
TAU, WITHIN = "timescale", 0.5


def points(size: Size) -> Sequence[Point]:
    """Each data set size at the middle batch size, then the other batch sizes."""
    del size
    examples, batch = MIDDLE
    others = [{"examples": examples, "batch": b} for b in BATCHES if b != batch]
    return [{"examples": n, "batch": batch} for n in SIZES] + others


def dose(point: Point, size: Size) -> Dose:
    """Of the shortest timescale; the cosine takes half."""
    steps = EPOCHS[size] * point["examples"] // point["batch"]
    return Dose(EPOCHS[size] / min(TIMESCALES) / 2, round(LR * steps, 6))


def measure(point: Point, size: Size) -> list[Row]:
    """The held-out loss of every timescale and seed."""
    run = functools.partial(one, point["batch"], EPOCHS[size])
    return task.side_by_side(run, {TAU: TIMESCALES}, task.pools(SEEDS, point["examples"]))


def one(batch: int, epochs: int, values: dict[str, jax.Array], seed: task.Pool):
    """The held-out loss of one training."""
    examples = len(seed.y_N)
    rate = grids.cosine(LR, epochs * examples // batch)
    strength = batch / (LR * values[TAU] * examples)
    tx = wdlab.optimizers.adamw(rate, weight_decay=strength, coupling="lr", rules=task.RULES)
    # The same orders for every seed and timescale.
    orders = np.stack([np.random.default_rng(e).permutation(examples) for e in range(epochs)])
    picked = jnp.asarray(orders.ravel())
    x_NxD, y_N = (jnp.asarray(a)[picked] for a in (seed.x_NxD, seed.y_N))
    params = task.train(tx, seed.params, x_NxD, y_N, batch)
    return {"loss": task.held_out_loss(params, seed)}


def slope(rows: Sequence[Row], axis: str) -> Separability:
    """The slope of the logarithm of the best timescale over that of an axis."""
    table = grids.table(rows, (axis, TAU), "loss")
    return separability(table, metric="loss", learning_rate=axis, weight_decay=TAU, reach=np.inf)


def is_within(found: Separability | Difference, low: float, high: float) -> bool | None:
    """Whether a number lies between two others; None where its interval does not tell.

    >>> is_within(Separability(0.1, -0.1, 0.3, 4, 0, 0), -0.5, 0.5)
    True
    >>> is_within(Separability(0.8, 0.6, 1.0, 4, 0, 0), -0.5, 0.5)
    False
    """
    if low < found.low and found.high < high:
        return True
    return False if found.low > high or found.high < low else None


def parts(rows: list[Row]) -> dict[str, list[Row]]:
    """The rows of each of the two questions, by the axis that is varied."""
    examples, batch = MIDDLE
    return {
        "examples": [r for r in rows if r["batch"] == batch],
        "batch": [r for r in rows if r["examples"] == examples],
    }


def losses_over(axes: Axes, rows: Sequence[Row], axis: str, of: str, labels: Mapping) -> None:
    """The loss over ``of``, a line for each value of an axis, relative to its lowest."""
    values, taus, losses = loss_surface(grids.table(rows, (axis, of), "loss"), "loss", axis, of)
    for i, value in enumerate(values):
        mean, style = losses.mean(0)[i], ("o-", "s--", "^:", "D-.", "v-")[i % 5]
        label = f"{labels[axis]} {value:g}"
        axes.plot(taus, mean - mean.min(), style, label=label, markersize=4)
    axes.set(xscale="log", ylim=(-0.005, 0.15), ylabel="loss - the lowest (nats)")
    axes.legend(fontsize=8, loc="upper center")


def draw(rows: list[Row]) -> Figure:
    """The loss over the timescale for each data set size, and for each batch size."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    labels = {"examples": "examples", "batch": "batch"}
    for axes, (axis, some) in zip(figure.subplots(1, 2), parts(rows).items(), strict=True):
        losses_over(axes, some, axis, TAU, labels)
        axes.set(xlabel="timescale tau (epochs)")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The two slopes."""
    found = {axis: slope(some, axis) for axis, some in parts(rows).items()}
    holds = {axis: is_within(s, -WITHIN, WITHIN) for axis, s in found.items()}
    return Summary(
        question="Is the best timescale in epochs the same for every data set and batch size?",
        source="constant in epochs; lambda as b / N (2405.13698; 2505.13738)",
        number=f"slope over N {found['examples'].slope:+.2f}, over b {found['batch'].slope:+.2f}",
        agrees=agreement(list(holds.values())),
        measured="slope of log2 of the best timescale in epochs; -1 and 1 at equal lambda",
        numbers={"over examples": found["examples"], "over batch sizes": found["batch"]},
        seeds=SEEDS,
        remark=f"Constant over data set sizes: {word(holds['examples'])} "
        f"({found['examples']}); over batch sizes: {word(holds['batch'])} ({found['batch']}).",
    )


STUDY = Study("timescale", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
