"""How much weight decay survives in bfloat16 parameters?

Question: bfloat16 keeps 8 bits, so a step that takes less than 2^-9 of a weight rounds to nothing.
Which decays survive, alone and in training, and what do stochastic rounding, Kahan compensation
and float32 masters save?

Command: ``python -m examples.studies.bf16_decay``; under two minutes on two CPU cores at size tiny.

``undriven``: 10,000 weights without gradients, 1,000 steps (tiny) at each shrink per step
lr * lambda; the share of the decay that arrives is log(mean theta_end / theta_0) over
1000 log(1 - lr lambda), the mean over the weights. ``trained``: the digits MLP under AdamW
(coupling "lr", lr 1e-3, lambda 0.1), parameters in bfloat16; by how much the
decay makes the norm of the kernels smaller than in the same training without decay.
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
from wdlab.training import precision

from . import digits
from .dose import Dose
from .error_bars import with_spread
from .rows import Point, Row
from .study import Size, Study, Summary, main

WRAPPERS = {
    "float32": lambda tx: tx,
    "bfloat16": lambda tx: tx,
    "stochastic rounding": lambda tx: precision.stochastic_rounding(tx, seed=0),
    "Kahan": precision.kahan,
    "float32 masters": precision.float32_masters,
}
SHRINKS = [float(2.0**-k) for k in range(6, 21, 2)]
STEPS = {"tiny": (1_000, 2_000), "paper": (10_000, 50_000)}  # undriven, trained
LR, DECAY, SEEDS = 1e-3, 0.1, 3
DECAYS = (DECAY, 0.0)


def points(size: Size) -> Sequence[Point]:
    """Every way of storing the parameters, undriven and trained."""
    del size
    ways = [{"what": what, "way": way} for what in ("undriven", "trained") for way in WRAPPERS]
    free = [{"what": "trained", "way": f"{way}, no decay"} for way in WRAPPERS]
    return [*ways, *free]


def measure(point: Point, size: Size) -> list[Row]:
    """One way of storing the parameters."""
    undriven, trained = STEPS[size]
    if point["what"] == "undriven":
        shares = arrived(point["way"], undriven)
        return [{"shrink": s, "arrived": x} for s, x in zip(SHRINKS, shares, strict=True)]
    return [{"seed": i, **row} for i, row in enumerate(after_training(point["way"], trained))]


def arrived(way: str, steps: int) -> list[float]:
    """The share of the decay that arrives in weights without gradients, for every shrink."""
    dtype = jnp.float32 if way == "float32" else jnp.bfloat16
    start = jax.random.uniform(jax.random.key(0), (10_000,), minval=0.5, maxval=2.0).astype(dtype)

    @jax.jit  # A Python number stays one: it does not widen bfloat16.
    def run(shrink):
        tx = WRAPPERS[way](wdlab.decay_weights(shrink))

        def step(carry, _):
            params, state = carry
            updates, state = tx.update(jnp.zeros_like(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (start, tx.init(start)), None, steps)[0][0]

    def share(shrink: float) -> float:
        ratio = np.mean(np.asarray(run(shrink), float) / np.asarray(start, float))
        with np.errstate(divide="ignore"):
            return float(np.log(ratio) / (steps * np.log1p(-shrink)))

    return [share(shrink) for shrink in SHRINKS]


def after_training(way: str, steps: int) -> list[Row]:
    """Norm of the kernels and losses after training, a row per seed."""
    storage, _, free = way.partition(", ")
    seen = trained(storage, steps)
    at = DECAYS.index(0.0 if free else DECAY)
    return [{name: float(values[i, at]) for name, values in seen.items()} for i in range(SEEDS)]


@functools.cache
def trained(storage: str, steps: int) -> dict[str, np.ndarray]:
    """What is seen after training with each decay, seeds first, as one program."""
    dtype = jnp.float32 if storage == "float32" else jnp.bfloat16

    def run(key, decay):
        tx = WRAPPERS[storage](wdlab.optimizers.adamw(LR, weight_decay=decay, coupling="lr"))
        params = jax.tree.map(lambda p: p.astype(dtype), digits.init(key))
        params, *_ = digits.train(tx, params, key, steps=steps)
        kernels = [layer["kernel"].astype(jnp.float32) for layer in params["layers"]]
        return {"kernel_norm": optax.tree.norm(kernels), **digits.evaluate(params)}

    return digits.over_seeds(run, SEEDS, DECAYS)


def draw(rows: list[Row]) -> Figure:
    """Share of the decay that arrives; norms after training."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for way, marker in zip(WRAPPERS, "os^vD", strict=True):
        found = [r for r in rows if r["what"] == "undriven" and r["way"] == way]
        left.plot(
            [r["shrink"] for r in found], [r["arrived"] for r in found], marker=marker, label=way
        )
    left.axvline(2.0**-9, color="gray", linestyle=":", label="2^-9")
    left.set(xscale="log", xlabel="shrink per step", ylabel="share of the decay that arrives")
    left.legend(loc="lower center", bbox_to_anchor=(0.5, 0.1))
    for offset, suffix in ((-0.1, ""), (0.1, ", no decay")):
        norms = [norms_of(rows, way + suffix) for way in WRAPPERS]
        at = np.arange(len(norms)) + offset
        label = suffix.strip(", ") or "weight decay 0.1"
        with_spread(right, at, norms, fmt="o", label=label)
    right.set_xticks(range(len(WRAPPERS)), list(WRAPPERS), rotation=20, ha="right")
    right.set_ylabel("norm of the kernels after training")
    right.legend()
    return figure


def norms_of(rows: list[Row], way: str) -> np.ndarray:
    """The norms of the trained kernels, over the seeds."""
    return np.array(
        [r["kernel_norm"] for r in rows if r["what"] == "trained" and r["way"] == way], float
    )


def summarize(rows: list[Row]) -> Summary:
    """What arrives at 2^-14, near lr 6e-4 and weight decay 0.1; what training makes of it."""
    at = {r["way"]: r["arrived"] for r in rows if r.get("shrink") == 2.0**-14}
    effect = {w: norms_of(rows, f"{w}, no decay") - norms_of(rows, w) for w in WRAPPERS}
    kept = {way: effect[way] / effect["float32"] for way in WRAPPERS}
    saved = ("stochastic rounding", "Kahan", "float32 masters")
    holds = abs(at["bfloat16"]) < 0.01 and all(abs(at[way] - 1) < 0.02 for way in saved)
    return Summary(
        question="How much decay survives in bfloat16 parameters?",
        source="nothing below 2^-9 per step (the rounding step of bfloat16)",
        number=f"of 2^-14 per step arrive: bfloat16 {abs(at['bfloat16']):.0%}, "
        f"Kahan {at['Kahan']:.1%}",
        agrees="yes" if holds else "no",
        measured="share of the decay that arrives: in weights without gradients at 2^-14 per step; "
        "in AdamW training (lr 1e-3, decay 0.1), of what it takes of the norm in float32",
        numbers={f"no gradients, {way}": at[way] for way in ("bfloat16", *saved)}
        | {f"training, {way}": kept[way] for way in ("bfloat16", *saved)},
        seeds=SEEDS,
    )


def dose(point: Point, size: Size) -> Dose:
    """Of the training; without gradients, of the largest shrink."""
    undriven, trained = STEPS[size]
    if point["what"] == "undriven":
        return Dose(max(SHRINKS) * undriven, 0.0)
    return Dose(0.0 if "no decay" in point["way"] else LR * DECAY * trained, LR * trained)


STUDY = Study("bf16_decay", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
