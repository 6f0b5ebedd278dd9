"""Learning rate x weight decay under five optimizers: can the two be tuned one at a time?

Question: Loshchilov and Hutter (2019, arXiv:1711.05101, Figures 1 and 2) show heat maps in which
the best L2 strength moves with the learning rate of SGD, the best weight decay of SGDW and AdamW
much less, and in which AdamW reaches better test errors than Adam with L2. Fabian Schaipp's heat
maps ("How to jointly tune learning rate and weight decay for AdamW", 2023) find that of
torch.optim.AdamW (decay times learning rate) to be coupled as well, and the truly decoupled one
separable. How separable is each here?

Command: ``python -m examples.studies.lr_wd_heatmap``; minutes on two CPU cores at size tiny.

Digits MLP of one hidden layer, 300 images, a fifth of whose labels is wrong (see ``grids.py``),
cosine to 0, SGD with momentum 0.9. The number is wdlab.sweep.surface's: octaves that the best
weight decay moves per octave of learning rate; 0: tuned one at a time, -1: only their product
counts. By definition that of "schedule" is that of "lr" plus 1: whichever is nearer to 0 is the one
to use.
The MLP has no normalized layer; the networks of the source have one after each convolution, whose
weights only set the effective learning rate.
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import wdlab
from wdlab.sweep import Separability, Table, heat_maps, loss_surface, separability

from . import grids
from .dose import Dose
from .paired import agreement, is_lower, word
from .rows import Point, Row
from .study import Size, Study, Summary, main

LR, DECAY = "learning_rate", "weight_decay"
ADAM_LR, SGD_LR = (-12, -4), (-10, -2)  # powers of 2
OPTIMIZERS = {  # name -> is it Adam, coupling, powers of 2: learning rates, weight decays
    "Adam, L2": (True, "l2", ADAM_LR, (-20, 0)),
    "AdamW, lr": (True, "lr", ADAM_LR, (-9, 9)),
    "AdamW, schedule": (True, "schedule", ADAM_LR, (-18, 0)),
    "SGD, L2": (False, "l2", SGD_LR, (-14, 0)),
    "SGDW, schedule": (False, "schedule", SGD_LR, (-20, 0)),
}
STEPS = {"tiny": 1_000, "paper": 10_000}
SEEDS = {"tiny": 3, "paper": 10}
SPACING = {"tiny": (1.6, 2.0), "paper": (0.8, 1.0)}  # octaves
EXAMPLES, BATCH = 300, 32


def points(size: Size) -> Sequence[Point]:
    """The optimizers."""
    del size
    return [{"optimizer": name} for name in OPTIMIZERS]


def measure(point: Point, size: Size) -> list[Row]:
    """The whole grid of one optimizer as one program: a row per learning rate, decay and seed."""
    is_adam, coupling, lrs, decays = OPTIMIZERS[point["optimizer"]]
    steps = STEPS[size]

    def optimizer(h):
        lr = grids.cosine(h[LR], steps)
        if is_adam:
            return wdlab.optimizers.adam(lr, weight_decay=h[DECAY], coupling=coupling)
        return wdlab.optimizers.sgd(lr, weight_decay=h[DECAY], coupling=coupling, momentum=0.9)

    train = grids.overfitting(optimizer, steps=steps, batch_size=BATCH, examples=EXAMPLES)
    wide, tall = SPACING[size]
    grid = {LR: grids.powers(*lrs, wide), DECAY: grids.powers(*decays, tall)}
    return grids.measure(train, grid, SEEDS[size])


def table(rows: list[Row], optimizer: str) -> Table:
    """The grid of one optimizer."""
    return grids.table([r for r in rows if r["optimizer"] == optimizer], (LR, DECAY), "val_loss")


def best(rows: list[Row], optimizer: str) -> np.ndarray:
    """The loss of each seed at the point whose mean over the seeds is lowest."""
    losses_SxLxW = loss_surface(table(rows, optimizer), "val_loss", LR, DECAY)[2]
    place = np.unravel_index(losses_SxLxW.mean(0).argmin(), losses_SxLxW.shape[1:])
    return losses_SxLxW[:, *place]


def draw(rows: list[Row]) -> Figure:
    """A heat map for each optimizer."""
    parts = [table(rows, name) for name in OPTIMIZERS]
    columns = {k: np.concatenate([part[k] for part in parts]) for k in parts[0].columns}
    names = np.repeat(list(OPTIMIZERS), [len(part) for part in parts])
    return heat_maps(Table(("optimizer", LR, DECAY), {"optimizer": names} | columns))


def summarize(rows: list[Row]) -> Summary:
    """How separable each optimizer is, and whether AdamW's best is better than that of L2."""
    numbers = {name: separability(table(rows, name)) for name in OPTIMIZERS}
    losses = {name: best(rows, name) for name in OPTIMIZERS}
    claims = {
        "AdamW is more separable by schedule than by lr": nearer(
            numbers["AdamW, schedule"], numbers["AdamW, lr"]
        ),
        "AdamW is more separable by schedule than Adam with L2": nearer(
            numbers["AdamW, schedule"], numbers["Adam, L2"]
        ),
        "SGDW is more separable than SGD with L2": nearer(
            numbers["SGDW, schedule"], numbers["SGD, L2"]
        ),
        "AdamW's best is better than that of Adam with L2": is_lower(
            losses["AdamW, schedule"], losses["Adam, L2"]
        ),
    }
    by_lr, by_schedule = numbers["AdamW, lr"].slope, numbers["AdamW, schedule"].slope
    return Summary(
        question="Can learning rate and weight decay be tuned one at a time?",
        source="decoupled: nearly; L2 and lr * decay: no (AdamW, Figs. 1, 2; Schaipp 2023)",
        number=f"AdamW's best decay moves {by_lr:+.2f} (lr), {by_schedule:+.2f} (schedule)",
        agrees=agreement(list(claims.values())),
        measured="octaves that the best decay moves per octave of learning rate; best loss on "
        "held-out digits, nats",
        numbers={f"octaves, {name}": number for name, number in numbers.items()}
        | {f"loss, {name}": values for name, values in losses.items()},
        seeds=len(losses["SGD, L2"]),
        remark="; ".join(f"{claim}: {word(holds)}" for claim, holds in claims.items())
        + ". The source's networks are normalized.",
    )


def nearer(one: Separability, other: Separability) -> bool | None:
    """Whether one number is nearer to 0 than another; None where their intervals are not apart.

    >>> zero, coupled = (Separability(s, s - 0.1, s + 0.1, 5, 0, 0) for s in (0.0, -1.0))
    >>> nearer(zero, coupled), nearer(coupled, zero)
    (True, False)
    """
    apart = one.low > other.high or other.low > one.high
    return abs(one.slope) < abs(other.slope) if apart else None


def dose(point: Point, size: Size) -> Dose:
    """The largest of the grid."""
    is_adam, coupling, lrs, decays = OPTIMIZERS[point["optimizer"]]
    wide, tall = SPACING[size]
    peak, decay = grids.powers(*lrs, wide)[-1], grids.powers(*decays, tall)[-1]
    return grids.dose(peak, decay, coupling, STEPS[size], momentum=0.0 if is_adam else 0.9)


STUDY = Study("lr_wd_heatmap", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
