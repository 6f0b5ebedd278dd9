"""muP: do the best learning rate and the best weight decay stay as the network grows wider?

Question: under muP (Yang et al. 2022, arXiv:2203.03466) Adam's learning rate of a hidden matrix
falls as 1 / width and the best base learning rate stays. A decay of lr * lambda falls with it, so
that the best lambda should rise with the width; ``mup``'s MuAdamW multiplies lambda by the width
again, and decay independent of the learning rate (Wortsman et al. 2023, arXiv:2309.14322; Kosson
et al. 2025, arXiv:2510.19093) needs no correction. How far do the best ones move?

Command: ``python -m examples.studies.mup_width_transfer``; minutes on two CPU cores at size tiny.

Digits MLP of two hidden layers, 300 images, a fifth of whose labels is wrong (see ``grids.py``);
base width 64, widths to 512 at size tiny, to 1,024 at size paper. The matrix between the hidden
layers alone decays: it alone is matrix-like. For each width the whole grid of learning rates and
decays is trained. The best learning rate is that of the lowest loss on held-out digits over all
decays. Such short trainings need little decay, and the best one is not identified; reported is the
largest that costs at most 10 % (the shoulder), at the scheme's learning rate (best on average over
the widths). The number is wdlab.sweep.surface's: octaves per octave of width; 0: it transfers.
(Size tiny with 150 steps instead of 100: all but the rise of the harmless decay held.)
"""

import functools
import sys
from collections.abc import Sequence

import jax
import numpy as np
from matplotlib.figure import Figure

import wdlab
from wdlab.sweep import Separability, Table, loss_surface, separability

from . import digits, grids
from .dose import Dose
from .paired import agreement
from .rows import Point, Row
from .study import Size, Study, Summary, main

BASE = 64
WIDTHS = {"tiny": (64, 128, 256, 512), "paper": (64, 128, 256, 512, 1024)}
STEPS, SEEDS = {"tiny": 100, "paper": 1_000}, {"tiny": 3, "paper": 5}
EXAMPLES, BATCH = 300, 16
RATES = (-12, -4, 2)  # powers of 2, and octaves between them
COUPLED, INDEPENDENT = (-3, 7, 2), (-11, -1, 2)  # decays of "lr", of "schedule"
SCHEMES = {  # name -> is it muP, coupling, does the decay grow with the width
    "standard, lr": (False, "lr", False),
    "muP, lr": (True, "lr", False),
    "muP, lr, decay times width": (True, "lr", True),
    "muP, schedule": (True, "schedule", False),
}
RULES = (wdlab.Rule(r"layers/1/kernel", 1.0), wdlab.Rule(r".*", 0.0))
WIDTH, LR, DECAY = "width", "learning_rate", "weight_decay"


def points(size: Size) -> Sequence[Point]:
    """Every width under every scheme."""
    return [{"scheme": name, WIDTH: width} for name in SCHEMES for width in WIDTHS[size]]


def measure(point: Point, size: Size) -> list[Row]:
    """One width and scheme; at the base width the schemes differ in the coupling alone."""
    is_mup, coupling, scale_decay = SCHEMES[point["scheme"]]
    if point[WIDTH] == BASE:
        is_mup = scale_decay = False
    return [dict(row) for row in grid_of(point[WIDTH], is_mup, coupling, scale_decay, size)]


@functools.cache
def grid_of(width: int, is_mup: bool, coupling: str, scale_decay: bool, size: Size) -> list[Row]:
    """Every learning rate, decay and seed as one program."""
    multiplier, steps = width / BASE if is_mup else 1.0, STEPS[size]
    shapes = {w: jax.eval_shape(lambda w=w: _init(w)) for w in (BASE, 2 * BASE, width)}
    widths = wdlab.groups.widths(
        shapes[BASE], shapes[width], layout="in_out", delta=shapes[2 * BASE]
    )

    def optimizer(h):
        options = {"weight_decay": h[DECAY], "coupling": coupling, "rules": RULES}
        lr = grids.cosine(h[LR], steps)
        if not is_mup:
            return wdlab.optimizers.adamw(lr, **options)
        return wdlab.groups.mu_adamw(lr, widths, scale_decay=scale_decay, **options)

    def init(key):  # The readout's weights keep their size, its output is divided by the width.
        return scaled_readout(_init(width, key), multiplier**0.5)

    train = grids.overfitting(
        optimizer,
        steps=steps,
        batch_size=BATCH,
        examples=EXAMPLES,
        init=init,
        logits=lambda params, x: digits.logits(scaled_readout(params, 1 / multiplier), x),
    )
    decays = INDEPENDENT if coupling == "schedule" else COUPLED
    grid = {LR: grids.powers(*RATES), DECAY: grids.powers(*decays)}
    return grids.measure(train, grid, SEEDS[size])


def _init(width: int, key: jax.Array | None = None) -> digits.Params:
    return digits.init(jax.random.key(0) if key is None else key, (width, width))


def scaled_readout(params: digits.Params, by: float) -> digits.Params:
    """The parameters with the last kernel times a number."""
    *hidden, last = params["layers"]
    return {"layers": [*hidden, last | {"kernel": last["kernel"] * by}]}


def surfaces(rows: list[Row], scheme: str) -> tuple[list[int], np.ndarray, np.ndarray, np.ndarray]:
    """Widths, learning rates, decays, losses of (width, seed, learning rate, decay)."""
    some = [r for r in rows if r["scheme"] == scheme]
    widths = sorted({r[WIDTH] for r in some})
    tables = [
        grids.table([r for r in some if r[WIDTH] == w], (LR, DECAY), "val_loss") for w in widths
    ]
    found = [loss_surface(table, "val_loss", LR, DECAY) for table in tables]
    return widths, found[0][0], found[0][1], np.stack([losses for *_, losses in found])


def curves(rows: list[Row], scheme: str, of: str) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Widths, values, losses of (width, seed, value): along learning rates, or along decays.

    For learning rates each at its best decay; for decays at the scheme's learning rate.
    """
    widths, lrs, decays, losses_NxSxLxW = surfaces(rows, scheme)
    mean_NxLxW = losses_NxSxLxW.mean(1)
    if of == LR:
        best_NxL = mean_NxLxW.argmin(-1)
        picked = np.take_along_axis(losses_NxSxLxW, best_NxL[:, None, :, None], axis=-1)
        return widths, lrs, picked[..., 0]
    lr = np.log(mean_NxLxW.min(-1)).mean(0).argmin()
    return widths, decays, losses_NxSxLxW[:, :, lr]


def shift(rows: list[Row], scheme: str, of: str) -> Separability:
    """Octaves that the best learning rate, or the largest harmless decay, moves per octave."""
    widths, values, losses = curves(rows, scheme, of)
    flat = [
        {WIDTH: width, of: value, "seed": seed, "val_loss": losses[i, seed, j]}
        for i, width in enumerate(widths)
        for j, value in enumerate(values)
        for seed in range(losses.shape[1])
    ]
    table: Table = grids.table(flat, (WIDTH, of), "val_loss")
    place = "best" if of == LR else "shoulder"
    return separability(table, learning_rate=WIDTH, weight_decay=of, of=place, reach=np.inf)


def draw(rows: list[Row]) -> Figure:
    """Loss over the learning rate and over the decay, a line per width."""
    figure = Figure(figsize=(4 * len(SCHEMES), 7), layout="constrained")
    grid = figure.subplots(2, len(SCHEMES), sharey="row")
    for of, line in zip((LR, DECAY), grid, strict=True):
        for scheme, axes in zip(SCHEMES, line, strict=True):
            widths, values, losses = curves(rows, scheme, of)
            for i, width in enumerate(widths):
                style = ("o-", "s--", "^:", "D-.", "v-")[i % 5]
                axes.plot(values, losses[i].mean(0), style, label=str(width), markersize=4)
            axes.set(xscale="log", yscale="log", xlabel=of.replace("_", " "), title=scheme)
        line[0].set_ylabel("loss on held-out digits (nats)")
    grid[0, 0].legend(title="width")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """How far both move under each scheme, and what of it the sources say."""
    rates = {name: shift(rows, name, LR) for name in SCHEMES}
    decays = {name: shift(rows, name, DECAY) for name in SCHEMES}
    claims = {
        "the best learning rate moves less under muP": all(
            abs(rates[name].slope) < abs(rates["standard, lr"].slope)
            for name in SCHEMES
            if name != "standard, lr"
        ),
        "under muP the largest harmless lr-coupled decay rises with the width": decays[
            "muP, lr"
        ].low
        > 0.5,
        "decay times width transfers": abs(decays["muP, lr, decay times width"].slope) < 0.5,
        "schedule-only decay transfers": abs(decays["muP, schedule"].slope) < 0.5,
    }
    failed = [claim for claim, holds in claims.items() if not holds]
    widths = sorted({r[WIDTH] for r in rows})
    rate = {name: rates[name].slope for name in ("standard, lr", "muP, lr")}
    return Summary(
        question="Under muP, do the best learning rate and decay stay as the width grows?",
        source="lr stays; lr-coupled decay must grow, independent not (mup; 2309.14322)",
        number=f"octaves of lr per octave of width: {rate['standard, lr']:+.2f} standard, "
        f"{rate['muP, lr']:+.2f} muP",
        agrees=agreement(list(claims.values())),
        measured=f"octaves per octave of width, {widths[0]} to {widths[-1]}",
        numbers={f"best learning rate, {name}": rates[name] for name in SCHEMES}
        | {f"largest harmless decay, {name}": decays[name] for name in SCHEMES},
        seeds=len({r["seed"] for r in rows}),
        remark=f"Not so here: {'; '.join(failed)}." if failed else "",
    )


def dose(point: Point, size: Size) -> Dose:
    """The largest of the grid, at the base width."""
    coupling = SCHEMES[point["scheme"]][1]
    decays = INDEPENDENT if coupling == "schedule" else COUPLED
    return grids.dose(grids.powers(*RATES)[-1], grids.powers(*decays)[-1], coupling, STEPS[size])


STUDY = Study("mup_width_transfer", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
