"""Does decay that is independent of the learning rate make its choice matter less?

Question: Wortsman et al. (2023, arXiv:2309.14322, section 3.2.2) multiply AdamW's decay by the
schedule alone ("independent", lambda 1e-4 at every learning rate) instead of by the learning rate,
as torch and Optax do. The sensitivity to the learning rate falls. They define it as the mean over
the learning rates of min(loss, loss at the start) - best loss. Is it so?

Command: ``python -m examples.studies.lr_sensitivity``; a minute on two CPU cores. The smallest
published scale is a language model of 10M parameters over learning rates of three decades; a small
network in one pass can show the sign.

The network and teacher of ``one_pass_mlp``, 2,000 steps on fresh samples, learning rates 1e-4 to
1e-1, two a decade, 5 % warm-up and cosine to 0, AdamW. All kernels decay, the head too, as the
source's. Independent: E = 3 at every rate. By the learning rate: E = 3 at one rate, more above it
and less below; a lambda that a user may have tuned at 1e-3, 10**-2.5 or 1e-2.

Written down before the first run. Five paired seeds. One statement: the sensitivity with
independent decay is lower than with decay by the learning rate, equal at 10**-2.5, the middle of
the range. The other two matches, no decay, and the best losses are shown beside it and are no part
of the answer.
"""

import functools
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import wdlab

from . import one_pass_pool as task
from .dose import Dose
from .paired import agreement, difference, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main

STEPS, SEEDS, WARMUP, EXPONENT = {"tiny": 2_000, "paper": 20_000}, 5, 0.05, 3.0
RATES = tuple(float(f"{10 ** (-4 + i / 2):.4g}") for i in range(7))
MIDDLE = RATES[3]
RULES = (wdlab.Rule(".*/kernel"), wdlab.Rule(".*", 0.0))
SCHEMES = {  # name -> E at a learning rate, that rate, the power with which E goes
    "independent": (EXPONENT, MIDDLE, 0),
    "by lr, equal at 0.001": (EXPONENT, RATES[2], 1),
    "by lr, equal at 0.003162": (EXPONENT, MIDDLE, 1),
    "by lr, equal at 0.01": (EXPONENT, RATES[4], 1),
    "none": (0.0, MIDDLE, 0),
}
ASKED = "by lr, equal at 0.003162"


def points(size: Size) -> Sequence[Point]:
    """Each scheme with all learning rates as one program."""
    del size
    return [{"decay": name} for name in SCHEMES]


def exponent(scheme: str, lr):
    """E at a learning rate."""
    there, equal_at, power = SCHEMES[scheme]
    return there * (lr / equal_at) ** power


def dose(point: Point, size: Size) -> Dose:
    """The largest of the learning rates."""
    return Dose(float(exponent(point["decay"], max(RATES))), max(RATES) * STEPS[size])


def measure(point: Point, size: Size) -> list[Row]:
    """The loss of every learning rate and seed, and that at the start."""
    run = functools.partial(one, point["decay"], STEPS[size])
    return task.side_by_side(run, {"lr": RATES}, task.pools(SEEDS, STEPS[size] * task.BATCH))


def one(scheme: str, steps: int, values: dict[str, jax.Array], seed: task.Pool):
    """The held-out loss at the start and the end."""
    warmup, lr = round(WARMUP * steps), values["lr"]
    shape = wdlab.schedules.warmup_cosine(1.0, warmup_steps=warmup, decay_steps=steps)
    rate = task.falling(shape, lr)
    strength = exponent(scheme, lr) / task.total(rate, steps)
    tx = wdlab.optimizers.adamw(rate, weight_decay=strength, coupling="lr", rules=RULES)
    start = task.held_out_loss(jax.tree.map(jnp.asarray, seed.params), seed)
    return {"loss": task.one_pass_loss(tx, seed), "start": start}


def curve(rows: list[Row], scheme: str) -> np.ndarray:
    """The losses, rates by seeds; that at the start where the run ended above it or diverged."""
    losses = np.array([at_end(rows, "loss", decay=scheme, lr=lr) for lr in RATES])
    start = at_end(rows, "start", decay=scheme)
    return np.minimum(np.where(np.isfinite(losses), losses, np.inf), start)


def sensitivity(rows: list[Row], scheme: str) -> np.ndarray:
    """The source's number, for each seed."""
    losses = curve(rows, scheme)
    return (losses - losses.min(0)).mean(0)


def draw(rows: list[Row]) -> Figure:
    """The loss over the learning rate, and the sensitivity of each scheme."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    for i, (scheme, style) in enumerate(
        zip(SCHEMES, ("o-", "v:", "s--", "^:", "x-."), strict=True)
    ):
        losses, label = curve(rows, scheme), scheme.replace("by lr", "times lr")
        left.plot(RATES, losses.mean(1), style, color=f"C{i}", label=label)
        values = sensitivity(rows, scheme)
        right.errorbar(
            values.mean(), -i, xerr=values.std(ddof=1), fmt="o", color=f"C{i}", capsize=3
        )
    left.set(xscale="log", xlabel="peak learning rate", ylabel="loss (nats)")
    right.set_yticks(-np.arange(len(SCHEMES)), [s.replace("by lr", "times lr") for s in SCHEMES])
    right.set(xlabel="sensitivity to the learning rate (nats)")
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside upper center", ncols=5, fontsize=8
    )
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The sensitivity with independent decay against that with lr-coupled decay."""
    found = {scheme: sensitivity(rows, scheme) for scheme in SCHEMES}
    gaps = {s: difference(found["independent"], v) for s, v in found.items() if s != "independent"}
    best = {scheme: curve(rows, scheme).min(0) for scheme in SCHEMES}
    return Summary(
        question="Does decay independent of the learning rate lower the sensitivity to it?",
        source="independent decay: lower sensitivity to the learning rate (2309.14322)",
        number=f"sensitivity: {found['independent'].mean():.3f} independent, "
        f"{found[ASKED].mean():.3f} by lr, {found['none'].mean():.3f} without",
        agrees=agreement([is_lower(found["independent"], found[ASKED])]),
        measured="sensitivity to the learning rate, and the loss at the best of them, nats",
        numbers={f"sensitivity, {scheme}": values for scheme, values in found.items()}
        | {f"best loss, {scheme}": values for scheme, values in best.items()},
        seeds=SEEDS,
        remark="Sensitivity with independent decay, less that with the other: "
        + "; ".join(f"{scheme} {gap}" for scheme, gap in gaps.items())
        + f". Best loss, independent less by lr {difference(best['independent'], best[ASKED])}.",
    )


STUDY = Study("lr_sensitivity", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
