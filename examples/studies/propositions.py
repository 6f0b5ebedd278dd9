"""When are L2 and weight decay the same? The three propositions of the AdamW paper, in numbers.

Question: Loshchilov and Hutter (2019, arXiv:1711.05101) prove that (1) for SGD with learning rate
alpha, L2 of strength l = lambda / alpha is weight decay lambda; (2) for an adaptive method no l
makes them the same; (3) under a fixed preconditioner diag(s)^-1 weight decay lambda is the penalty
lambda / (2 alpha) ||theta * sqrt(s)||^2. Do wdlab's terms do so, and how far off is (2)?

Command: ``python -m examples.studies.propositions``; seconds at either size. Softmax regression
on random data in float64, a new problem per seed, mini-batches of 8.

The distance is ||theta_L2 - theta_decay|| / ||theta_decay - theta_no_decay||, both after the same
steps: 0 says the same, 1 says that L2 missed the decay's whole effect. For (2) it is measured for a
grid of l around lambda / alpha, and the smallest is what counts.
"""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab

from .dose import Dose
from .rows import Point, Row
from .study import Size, Study, Summary, float64, main

ALPHA, DECAY = 0.02, 1e-3  # learning rate; lambda, per step
FACTORS = tuple(float(f) for f in np.geomspace(1e-3, 1e3, 61))  # of l = lambda / alpha
STEPS = {"tiny": 200, "paper": 2_000}
SEEDS = 5
FEATURES, CLASSES, BATCH = 10, 3, 8


def points(size: Size) -> Sequence[Point]:
    """The propositions."""
    del size
    return [{"proposition": number} for number in (1, 2, 3)]


def optimizers(proposition: int, factor, scale) -> dict[str, optax.GradientTransformation]:
    """L2, weight decay, and neither, around the preconditioner of a proposition."""
    if proposition == 2:
        inner = wdlab.optimizers.adam(ALPHA)
    else:
        inner = optax.chain(optax.stateless(lambda g, _: g / scale), optax.sgd(ALPHA))
    strength = factor * DECAY / ALPHA
    if proposition == 3:  # The gradient of strength / 2 * ||theta * sqrt(s)||^2.
        l2 = optax.stateless(lambda g, theta: g + strength * scale * theta)
    else:
        l2 = wdlab.add_l2_gradient(lambda _: strength)  # traced: as a schedule
    decay = wdlab.decay_weights(DECAY)
    return {"l2": optax.chain(l2, inner), "decay": optax.chain(inner, decay), "none": inner}


def distance(proposition: int, factor: jax.Array, seed: jax.Array, steps: int) -> jax.Array:
    """How much of the decay's effect L2 of strength factor * lambda / alpha misses."""
    keys = jax.random.split(jax.random.key(seed), 5)
    x_NxF = jax.random.normal(keys[0], (256, FEATURES)) * jnp.logspace(-1, 1, FEATURES)
    y_N = jax.random.randint(keys[1], (256,), 0, CLASSES)
    start_FxC = jax.random.normal(keys[2], (FEATURES, CLASSES))
    scale = jnp.exp(jax.random.normal(keys[3], (FEATURES, CLASSES))) if proposition == 3 else 1.0
    batches = jax.random.randint(keys[4], (steps, BATCH), 0, 256)

    def loss(theta, batch):
        logits = x_NxF[batch] @ theta
        return optax.softmax_cross_entropy_with_integer_labels(logits, y_N[batch]).mean()

    def end(tx):
        def step(carry, batch):
            theta, state = carry
            updates, state = tx.update(jax.grad(loss)(theta, batch), state, theta)
            return (theta + updates, state), None

        return jax.lax.scan(step, (start_FxC, tx.init(start_FxC)), batches)[0][0]

    ends = {name: end(tx) for name, tx in optimizers(proposition, factor, scale).items()}
    norm = jnp.linalg.norm
    return norm(ends["l2"] - ends["decay"]) / norm(ends["decay"] - ends["none"])


def measure(point: Point, size: Size) -> list[Row]:
    """The distance for each seed; for proposition 2 over the grid of strengths."""
    number = point["proposition"]
    factors = FACTORS if number == 2 else (1.0,)
    with float64():
        one = lambda factor, seed: distance(number, factor, seed, STEPS[size])  # noqa: E731
        grid = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))
        values = np.asarray(grid(jnp.array(factors), jnp.arange(SEEDS)))
    return [
        {"factor": factor, "seed": seed, "distance": values[i, seed]}
        for i, factor in enumerate(factors)
        for seed in range(SEEDS)
    ]


def of(rows: list[Row], number: int) -> np.ndarray:
    """Distances of a proposition, factors by seeds."""
    found = [row["distance"] for row in rows if row["proposition"] == number]
    return np.array(found, float).reshape(-1, SEEDS)


def draw(rows: list[Row]) -> Figure:
    """The distance over the strength of L2, each seed a line; (1) and (3) as points."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(FACTORS, of(rows, 2), color="C0", alpha=0.6, label=["(2) Adam", *(SEEDS - 1) * ["_"]])
    for number, marker in ((1, "o"), (3, "s")):
        name = {1: "(1) SGD", 3: "(3) fixed preconditioner"}[number]
        axes.plot(
            np.ones(SEEDS), of(rows, number)[0] + 1e-17, marker, color=f"C{number}", label=name
        )
    axes.set(xscale="log", yscale="log", xlabel="l / (lambda / alpha)")
    axes.set_ylabel("distance / effect of the decay")
    axes.legend()
    axes.grid(alpha=0.3)
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The largest distance of (1) and (3), the smallest of (2)."""
    first, third = of(rows, 1).max(), of(rows, 3).max()
    best = of(rows, 2).min(axis=0)
    holds = max(first, third) < 1e-9 and best.min() > 1e-3
    return Summary(
        question="Is L2 of some strength the same as weight decay?",
        source="SGD: yes; Adam: for no strength; fixed preconditioner: yes, scaled (AdamW)",
        number=f"Adam: the best of {len(FACTORS)} strengths misses {best.mean():.0%} of the effect",
        agrees="yes" if holds else "no",
        measured="distance of the two runs over the effect of the decay",
        numbers={"(1) SGD, largest": first, "(3) fixed preconditioner, largest": third}
        | {"(2) Adam, best strength": best},
        seeds=SEEDS,
    )


def dose(point: Point, size: Size) -> Dose:
    """The decay takes lambda of a weight in every step."""
    del point
    return Dose(DECAY * STEPS[size], ALPHA * STEPS[size])


STUDY = Study("propositions", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
