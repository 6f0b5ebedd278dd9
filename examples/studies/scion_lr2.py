"""Decay that falls as lr^2 keeps the norm of the weights, for any optimizer.

Question: Chou (2025, arXiv:2512.08217, ScionC) derives, from updates that are independent of the
weights at steady state and from nothing else, that the squared norm settles where lr^2 C = 2 s: C
the squared norm of the update without lr, s the decay of a step. So it stays as the learning rate
falls if the decay is proportional to lr^2, "regardless of the nature of the optimizer", and falls
with sqrt(lr) if it is proportional to lr. Is it so for Adam, Lion and Muon?

Command: ``python -m examples.studies.scion_lr2``; a minute on two CPU cores. The smallest published
scale is ViT-S/16 on ImageNet and a 124M language model; the statement is about norms and holds, if
at all, wherever a steady state is reached, which a small network does in a thousand steps.

The network, teacher and fresh samples of ``one_pass_mlp``; its two hidden matrices, each with an
RMS norm behind it, decay; the rest does not. 1,500 steps at the peak, 2,500 at a quarter of it. A
step at the peak decays by 1e-2 of the weight (E = 15 there), under both couplings: "lr" (a quarter
afterwards) and "lr2" (a sixteenth). ``lr2_decay`` asks AdamW alone, under a cosine, for gradients.

Written down before the first run. Five paired seeds, three optimizers, two statements for each. The
ratio is the norm of the hidden matrices at the end over that at the end of the peak phase. Under
"lr" it is within .1 of sqrt(1/4) = .5; under "lr2" it is within .1 of 1.
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
from wdlab import instruments

from . import digits
from . import one_pass_mlp as task
from .dose import Dose
from .dose import dose as dose_of
from .paired import agreement, difference, word
from .rows import Point, Row, rows_over
from .study import Size, Study, Summary, main, spread

OPTIMIZERS = {"Adam": 3e-3, "Lion": 1e-3, "Muon": 3e-3}  # the peak learning rate of each
COUPLINGS, SHRINK, FALL = ("lr", "lr2"), 1e-2, 1 / 4
PEAK_STEPS, STEPS, WINDOWS, SEEDS = 1_500, 4_000, 40, 5
EXPECTED, WITHIN = {"lr": FALL**0.5, "lr2": 1.0}, 0.1


def points(size: Size) -> Sequence[Point]:
    """Every optimizer under both couplings."""
    del size
    return [{"optimizer": o, "coupling": c} for o in OPTIMIZERS for c in COUPLINGS]


def schedule(peak: float) -> wdlab.schedules.Schedule:
    """The peak, then a quarter of it."""
    fall = lambda count: jnp.where(count < PEAK_STEPS, peak, peak * FALL)  # noqa: E731
    return wdlab.schedules.with_peak(fall, peak)


def strength(optimizer: str, coupling: str) -> float:
    """The weight decay whose shrink at the peak is SHRINK."""
    return SHRINK / OPTIMIZERS[optimizer] ** {"lr": 1, "lr2": 2}[coupling]


def dose(point: Point, size: Size) -> Dose:
    """Of both phases."""
    del size
    rate = schedule(OPTIMIZERS[point["optimizer"]])
    kappa = wdlab.schedules.multiplier_of(point["coupling"], rate)
    return dose_of(rate, STEPS, strength(**point), kappa)


def make_optimizer(optimizer: str, coupling: str) -> optax.GradientTransformation:
    """The optimizer of all weights, with decay of the hidden matrices."""
    rate = schedule(OPTIMIZERS[optimizer])
    make = {"Adam": wdlab.optimizers.adamw, "Lion": wdlab.optimizers.lionw}.get(optimizer)
    decay = {"weight_decay": strength(optimizer, coupling), "coupling": coupling}
    if make is not None:
        return make(rate, rules=task.RULES, **decay)
    return wdlab.optimizers.muon(rate, rules=task.RULES, hidden=task.RULES, **decay)


def measure(point: Point, size: Size) -> list[Row]:
    """The norm over the windows of every seed."""
    del size
    norms = digits.over_seeds(functools.partial(one, make_optimizer(**point)), SEEDS)
    steps = [(w + 1) * STEPS // WINDOWS for w in range(WINDOWS)]
    return rows_over({"norm": norms}, seed=range(SEEDS), step=steps)


def one(tx: optax.GradientTransformation, key: jax.Array) -> jax.Array:
    """The norm of the hidden matrices after each window of one training."""
    teacher_key, start_key, data_key = jax.random.split(key, 3)
    teacher = task.mlp(teacher_key, (task.INPUTS, task.TEACHER, task.CLASSES), norm=False)
    widths = (task.INPUTS, *2 * (task.HIDDEN["tiny"],), task.CLASSES)
    params = task.mlp(start_key, widths, norm=True)

    def step(carry, key):
        params, state = carry
        grads = jax.grad(task.loss)(params, *task.samples(teacher, key, task.BATCH))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    def window(carry, keys):
        carry, _ = jax.lax.scan(step, carry, keys)
        return carry, instruments.norm([layer["kernel"] for layer in carry[0]["layers"][:2]])

    keys = jax.random.split(data_key, STEPS).reshape(WINDOWS, -1)
    return jax.lax.scan(window, (params, tx.init(params)), keys)[1]


def norms(rows: list[Row], optimizer: str, coupling: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and the norm, seeds by windows."""
    wanted = {"optimizer": optimizer, "coupling": coupling}
    found = [r for r in rows if wanted.items() <= r.items()]
    values = np.array([r["norm"] for r in found], float).reshape(SEEDS, -1)
    return np.array([r["step"] for r in found[: values.shape[1]]]), values


def ratio(rows: list[Row], optimizer: str, coupling: str) -> np.ndarray:
    """The norm at the end over that at the end of the peak phase, for each seed."""
    steps, values = norms(rows, optimizer, coupling)
    return values[:, -1] / values[:, np.searchsorted(steps, PEAK_STEPS)]


def draw(rows: list[Row]) -> Figure:
    """The norm over the steps, relative to the end of the peak phase; theory as lines."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, optimizer in zip(figure.subplots(1, 3, sharey=True), OPTIMIZERS, strict=True):
        for coupling, color in zip(COUPLINGS, ("C1", "C0"), strict=True):
            steps, values = norms(rows, optimizer, coupling)
            relative = values / values[:, [np.searchsorted(steps, PEAK_STEPS)]]
            label = f"decay as {coupling}"
            axes.plot(steps, relative.mean(0), color=color, label=label)
            axes.fill_between(steps, relative.min(0), relative.max(0), color=color, alpha=0.2)
            axes.axhline(EXPECTED[coupling], color=color, linestyle=":", linewidth=1)
        axes.axvline(PEAK_STEPS, color="gray", linestyle=":")
        axes.set(title=optimizer, xlabel="step (dotted: lr falls to a quarter)")
    figure.axes[0].set_ylabel("norm / norm at the end of the peak phase")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def summarize(rows: list[Row]) -> Summary:
    """Two statements for each optimizer."""
    ratios = {(o, c): ratio(rows, o, c) for o in OPTIMIZERS for c in COUPLINGS}
    statements = {case: holds(values, EXPECTED[case[1]]) for case, values in ratios.items()}
    return Summary(
        question="Does decay as lr^2 keep the norm as the learning rate falls, for any optimizer?",
        source="as lr^2 it stays, as lr it falls with sqrt(lr), for all (2512.08217)",
        number="lr to a quarter, norm: "
        + ", ".join(
            f"{o} {ratios[o, 'lr'].mean():.2f}/{ratios[o, 'lr2'].mean():.2f}" for o in OPTIMIZERS
        ),
        agrees=agreement(list(statements.values())),
        measured="norm after lr fell to a quarter over that before",
        numbers={f"{o}, decay as {c}": values for (o, c), values in ratios.items()},
        seeds=SEEDS,
        remark="As predicted (lr .5, lr2 1): "
        + ", ".join(
            f"{o} {c} {spread(ratios[o, c])} {word(shown)}" for (o, c), shown in statements.items()
        )
        + ".",
    )


def holds(values: np.ndarray, expected: float) -> bool | None:
    """Whether the interval of the mean is within WITHIN of the expected, or apart from it."""
    gap = difference(values, np.full(values.shape, expected))
    if max(abs(gap.low), abs(gap.high)) < WITHIN:
        return True
    return False if gap.low > WITHIN or gap.high < -WITHIN else None


STUDY = Study("scion_lr2", points, measure, draw, summarize, dose, "more steps", ("tiny",))

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
