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

Result at size tiny (commit 05e477b, 32 CPU seconds, jax 0.10.2): best weight decay moves, in
octaves per octave of learning rate, by +0.43 [+0.38, +0.80] (4 rows, 1 flat, 0 at the edge) (Adam,
L2); +0.08 [+0.06, +0.09] (4 rows, 0 flat, 1 at the edge) (AdamW, lr); +1.10 [+1.06, +1.13] (4 rows,
0 flat, 1 at the edge) (AdamW, schedule); +0.38 [+0.36, +0.77] (4 rows, 0 flat, 1 at the edge) (SGD,
L2); +1.52 [+1.51, +1.88] (4 rows, 0 flat, 1 at the edge) (SGDW, schedule); best loss on held-out
digits 0.469 ± 0.024 (Adam, L2); 0.445 ± 0.025 (AdamW, lr); 0.457 ± 0.0083 (AdamW, schedule); 0.465
± 0.0064 (SGD, L2); 0.465 ± 0.012 (SGDW, schedule) (3 seeds). Agrees with the source: no. Not so
here: AdamW is more separable by schedule than by lr; AdamW is more separable by schedule than Adam
with L2; SGDW is more separable than SGD with L2; AdamW's best is better than that of Adam with L2.
The source's networks are normalized, and larger.
"""

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

import wdlab
from wdlab.sweep import Separability, Table, loss_surface, separability
from wdlab.sweep.plots import heat_maps

from . import grids
from .digits import spread
from .study import Point, Row, Size, Study, Summary, is_lower, main

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
    seeds = len(losses["SGD, L2"])
    failed = [claim for claim, holds in claims.items() if not holds]
    return Summary(
        "Can learning rate and weight decay be tuned one at a time?",
        "decoupled decay makes them nearly separable, L2 and decay times learning rate do not; "
        "AdamW generalizes better than Adam with L2 (AdamW, Figs. 1 and 2; Schaipp 2023)",
        "best weight decay moves, in octaves per octave of learning rate, by "
        + "; ".join(f"{number} ({name})" for name, number in numbers.items())
        + "; best loss on held-out digits "
        + "; ".join(f"{spread(values)} ({name})" for name, values in losses.items())
        + f" ({seeds} seeds)",
        "yes" if not failed else "no" if len(failed) == len(claims) else "in part",
        f"Not so here: {'; '.join(failed)}. The source's networks are normalized, and larger."
        if failed
        else "",
    )


def nearer(one: Separability, other: Separability) -> bool:
    """Whether one number is nearer to 0 than another, both identified and their intervals apart.

    >>> zero, coupled = (Separability(s, s - 0.1, s + 0.1, 5, 0, 0) for s in (0.0, -1.0))
    >>> nearer(zero, coupled), nearer(coupled, zero)
    (True, False)
    """
    apart = one.low > other.high or other.low > one.high
    return bool(apart and abs(one.slope) < abs(other.slope))


STUDY = Study("lr_wd_heatmap", points, measure, draw, summarize)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
