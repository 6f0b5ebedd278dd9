"""Decay does nothing where the weights are projected back to a fixed norm.

Question: Optimizers on the sphere (Hyperball, Wen et al. 2026, arXiv:2606.16899; MuonH, Ren et al.
2026, arXiv:2603.28743) drop weight decay, since projecting back removes, to first order in the
learning rate, what decay does. Is it so, and what is left?

Command: ``python -m examples.studies.decay_on_the_sphere``; seconds on two CPU cores. The smallest
published scale is a theorem beside language models up to 1.2B parameters; the theorem does not
depend on the scale, so that a small network can decide it.

What is left follows from the formula: R (W (1 - s) - u) / || ... || with the shrink s = lr * lambda
is R (W - u / (1 - s)) / || ... ||: decay is a longer step, by 1 / (1 - s), and nothing else.

The network with RMS norms of ``digits`` (one hidden layer of 32), in float64. Its kernels take
SGD's or Adam's step, decay with lr * lambda, and go back to their initial norm
(``wdlab.decay.keep_initial_norm``) or do not. The change by decay is the norm of the difference of
the kernels with and without it, relative to their norm: after one step from the start, at seven
learning rates; and after 1,000 steps with an exponent of E = 1.

Written down before the first run. Five paired seeds, four statements for both optimizers. The
change in one step grows with the learning rate with exponent 2 (within 0.1) on the sphere, and 1
without the projection. 1,000 steps with decay end where those end that are longer by 1 / (1 - s),
without decay: relative difference below 1e-6. The change after 1,000 steps is lower with the
projection than without it.
"""

import functools
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from wdlab.decay import keep_initial_norm

from . import digits
from .dose import Dose
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row, rows_over
from .study import Size, Study, Summary, at_end, float64, main

OPTIMIZERS = {"SGD": (optax.sgd, 0.05), "Adam": (optax.adam, 1e-3)}
SEEDS, HIDDEN, EXPONENT, STEPS = 5, (32,), 1.0, 1_000
HALVINGS = tuple(range(7))  # of the learning rate, for the single step
RULES = (wdlab.Rule(".*/kernel"), wdlab.Rule(".*", 0.0))


def points(size: Size) -> Sequence[Point]:
    """Both optimizers, on the sphere and free."""
    del size
    return [{"optimizer": o, "projected": p} for o in OPTIMIZERS for p in (True, False)]


def dose(point: Point, size: Size) -> Dose:
    """The strength is chosen for its exponent."""
    del size
    return Dose(EXPONENT, OPTIMIZERS[point["optimizer"]][1] * STEPS)


def measure(point: Point, size: Size) -> list[Row]:
    """The change by decay for each seed."""
    del size
    with float64():
        run = functools.partial(one, point["optimizer"], point["projected"], STEPS)
        found = digits.over_seeds(run, SEEDS)
    single = {"change": found.pop("one step")}
    lrs = [OPTIMIZERS[point["optimizer"]][1] * 0.5**k for k in HALVINGS]
    return rows_over(single, seed=range(SEEDS), lr=lrs) + rows_over(found, seed=range(SEEDS))


def one(optimizer: str, projected: bool, steps: int, key: jax.Array) -> dict[str, jax.Array]:
    """Relative differences of the kernels after one step and after all."""
    make, peak = OPTIMIZERS[optimizer]
    strength = EXPONENT / (peak * steps)
    params = digits.init(key, HIDDEN, norm=True)

    def ends(cases, steps):
        """The kernels after so many steps for each learning rate, decay and stretch."""

        def end(case):
            lr, decay, longer = case
            stretch = optax.stateless_with_tree_map(
                lambda u, _: longer * u if jnp.ndim(u) > 1 else u
            )
            parts = [make(lr), stretch, wdlab.decay_weights(decay * lr, rules=RULES)]
            on = [keep_initial_norm(rules=RULES)] if projected else []
            tx = optax.chain(*parts, *on)
            return kernels(digits.train(tx, params, key, steps=steps)[0])

        return jax.lax.map(end, tuple(jnp.array(cases).T))

    rates = [peak * 0.5**k for k in HALVINGS]
    single = [ends([(lr, s, 1.0) for lr in rates], 1) for s in (strength, 0.0)]
    stretched = (peak, 0.0, 1 / (1 - peak * strength))
    found = ends([(peak, strength, 1.0), (peak, 0.0, 1.0), stretched], steps)
    decayed, free, longer = ([kernel[i] for kernel in found] for i in range(3))
    return {
        "one step": jax.vmap(distance)(*single),
        "whole": distance(decayed, free),
        "longer": distance(decayed, longer),
    }


def kernels(params: digits.Params) -> list[jax.Array]:
    """What decays."""
    return [layer["kernel"] for layer in params["layers"]]


def distance(one: list[jax.Array], other: list[jax.Array]) -> jax.Array:
    """Norm of the difference over the norm of the other."""
    return optax.tree.norm(optax.tree.sub(one, other)) / optax.tree.norm(other)


def single(rows: list[Row], optimizer: str, projected: bool) -> tuple[np.ndarray, np.ndarray]:
    """Learning rates, and the change in one step, rates by seeds."""
    wanted = {"optimizer": optimizer, "projected": projected}
    found = [r for r in rows if wanted.items() <= r.items() and "lr" in r]
    lrs = np.unique([r["lr"] for r in found])
    return lrs, np.stack([at_end(found, "change", lr=lr) for lr in lrs])


def slope(rows: list[Row], optimizer: str, projected: bool) -> np.ndarray:
    """The exponent of the learning rate for each seed."""
    lrs, changes = single(rows, optimizer, projected)
    return np.polyfit(np.log(lrs), np.log(changes), 1)[0]


def draw(rows: list[Row]) -> Figure:
    """The change in one step over the learning rate; that of a whole training."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, optimizer in enumerate(OPTIMIZERS):
        for projected, style in ((False, "s--"), (True, "o-")):
            lrs, changes = single(rows, optimizer, projected)
            text = f"{optimizer}, {'sphere' if projected else 'free'}"
            left.plot(lrs / lrs.max(), changes.mean(1), style, color=f"C{i}", label=text)
            whole = at_end(rows, "whole", optimizer=optimizer, projected=projected)
            at = 2 * i + projected
            right.plot(np.full(whole.shape, at), whole, style[0], color=f"C{i}")
    left.set(xscale="log", yscale="log", xlabel="learning rate (share of the largest)")
    left.set_ylabel("change by decay in one step")
    figure.legend(*left.get_legend_handles_labels(), loc="outside right upper")
    names = [f"{optimizer}\n{place}" for optimizer in OPTIMIZERS for place in ("free", "sphere")]
    right.set_xticks(range(4), names)
    right.set_xlim(-0.5, 3.5)
    right.set(yscale="log", ylabel="change by decay after the training")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The four statements, each for both optimizers."""
    slopes = {(o, p): slope(rows, o, p) for o in OPTIMIZERS for p in (True, False)}
    whole = {(o, p): at_end(rows, "whole", optimizer=o, projected=p) for o, p in slopes}
    longer = {o: at_end(rows, "longer", optimizer=o, projected=True) for o in OPTIMIZERS}
    near = lambda p, value: all(  # noqa: E731
        np.abs(slopes[o, p] - value).max() < 0.1 for o in OPTIMIZERS
    )
    lower = [is_lower(whole[o, True], whole[o, False]) for o in OPTIMIZERS]
    statements = {
        "second order on the sphere": near(True, 2.0),
        "first order without": near(False, 1.0),
        "the same as longer steps": all(v.max() < 1e-6 for v in longer.values()),
        "a smaller change after the training": None if None in lower else all(lower),
    }
    names = {True: "sphere", False: "free"}
    gaps = {o: difference(whole[o, True], whole[o, False]) for o in OPTIMIZERS}
    return Summary(
        question="Does decay do anything where weights are projected back to a fixed norm?",
        source="to first order in the learning rate, nothing (2603.28743, 2606.16899)",
        number="change in one step: lr^"
        + " and lr^".join(f"{slopes[o, True].mean():.2f} ({o})" for o in OPTIMIZERS)
        + " on the sphere",
        agrees=agreement(list(statements.values())),
        measured="exponent of lr in the change; relative change of the kernels",
        numbers={f"exponent, {o}, {names[p]}": v for (o, p), v in slopes.items()}
        | {f"change after the training, {o}, {names[p]}": v for (o, p), v in whole.items()}
        | {f"difference from longer steps, {o}": v for o, v in longer.items()},
        seeds=SEEDS,
        remark=in_words(statements)
        + "; change on the sphere less free: "
        + ", ".join(f"{o} {gap}" for o, gap in gaps.items())
        + ".",
    )


STUDY = Study(
    "decay_on_the_sphere", points, measure, draw, summarize, dose, "more steps", ("tiny",)
)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
