"""Norm and rotation at the equilibrium: measured beside what ``wdlab.instruments`` predicts.

Question: Kosson et al. (2023, arXiv:2305.17212): the norm of scale-invariant weights settles where
steps and decay balance, and from then on the weights turn by an angle that learning rate and decay
alone decide; their table has it for SGD with momentum, AdamW and Lion. Does
``instruments.equilibrium`` predict both, for Muon too, under three couplings, and in a network?

Command: ``python -m examples.studies.rotational_equilibrium``; a minute on two CPU cores. The
source has random walks, as here, and networks such as ResNet-50 and GPT2-124M.

Random walk: a 16 x 16 matrix W whose gradient is that of <noise, W> / |W|, fresh noise each step.
SGD with momentum 0.9 (lr 0.05), AdamW (0.03), Lion (0.005), Muon (0.025, momentum 0.95, look-ahead)
with their defaults, at these constant rates and 2**0.5 below and above. Decay by coupling: "lr",
"schedule", "lr2", with one lambda for the three rates, so that the shrink a step is 1e-3 at the
middle one: the rotation has to go as lr**0.5, not at all, and as lr, the norm as lr**0.5, lr and
not at all (SGD: roots of these). 16,000 steps, the second half measured. For momentum the
prediction takes the number C of steps that act as one: Lion's from the source's formula, Muon's
from ``muon_from_adamw``. Network: that of ``one_pass_mlp``, its two hidden matrices, 4,000 steps at
a constant rate, coupling "lr", shrink 2e-3, the last quarter measured; SGD 0.1, AdamW 3e-3,
Lion 3e-4, Muon 3e-3, the rest of the network without decay.

Written down before the first run. Five seeds. Five statements. For each of the four optimizers:
norm and rotation, means over the seeds, are within 5 % of the prediction in all nine random walks.
In the network the rotation is within 15 % of the prediction for all four. "No" is said where one of
them is further off.
"""

import functools
import itertools
import math
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from wdlab.instruments import equilibrium
from wdlab.rules import ALL

from . import one_pass_mlp
from . import one_pass_pool as task
from .dose import Dose
from .paired import agreement, word
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main

SEEDS, STEPS, SIDE, SHRINK = 5, {"tiny": 16_000, "paper": 160_000}, 16, 1e-3
RATES = {"SGD": 0.05, "AdamW": 0.03, "Lion": 0.005, "Muon": 0.025}  # of the random walk
NETWORK_RATES = {"SGD": 0.1, "AdamW": 3e-3, "Lion": 3e-4, "Muon": 3e-3}
NETWORK_STEPS, NETWORK_SHRINK, WINDOWS = 4_000, 2e-3, 40
FACTORS, COUPLINGS = (
    (0.7071, 1.0, 1.4142),
    {"lr": 1, "schedule": 0, "lr2": 2},
)  # power of lr in kappa
WALK, NETWORK, EXACT, NEAR = "random walk", "network", 0.05, 0.15


def points(size: Size) -> Sequence[Point]:
    """Each optimizer under each coupling, and in the network under "lr"."""
    del size
    walks = itertools.product((WALK,), RATES, COUPLINGS)
    cases = [*walks, *itertools.product((NETWORK,), RATES, ("lr",))]
    return [{"case": c, "optimizer": o, "coupling": k} for c, o, k in cases]


def dose(point: Point, size: Size) -> Dose:
    """Of the largest rate."""
    if point["case"] == NETWORK:
        lr = NETWORK_RATES[point["optimizer"]]
        return Dose(NETWORK_SHRINK * NETWORK_STEPS, lr * NETWORK_STEPS)
    most = max(FACTORS)
    exponent = SHRINK * most ** COUPLINGS[point["coupling"]] * STEPS[size]
    return Dose(exponent, most * RATES[point["optimizer"]] * STEPS[size])


def likeness(optimizer: str) -> float:
    """C: over many steps their squares add up to C times those of independent ones."""
    if optimizer == "Lion":  # The source's; b1 = 0.9, b2 = 0.99.
        b1, b2 = 0.9, 0.99
        return 2 / math.pi / ((1 - b1) ** 2 + b1**2 * (1 - b2) / (1 + b2))
    if optimizer == "Muon":
        muon = wdlab.optimizers.muon_from_adamw(1e-3, 0.1)
        return 2 * muon.learning_rate * muon.weight_decay / muon.rotation**2
    return (1 + 0.9) / (1 - 0.9)


def make_optimizer(optimizer: str, lr, coupling: str, strength, rules):
    """The optimizer with its decay; the rate is constant and may be traced."""
    rate = one_pass_mlp.schedule("constant", lr, 1)
    decay = {"weight_decay": strength, "coupling": coupling, "rules": rules}
    if optimizer == "Muon":
        return wdlab.optimizers.muon(rate, hidden=rules, dtype="float32", **decay)
    if optimizer == "SGD":
        return wdlab.optimizers.sgdw(rate, momentum=0.9, **decay)
    return {"AdamW": wdlab.optimizers.adamw, "Lion": wdlab.optimizers.lionw}[optimizer](
        rate, **decay
    )


def settled(optimizer: str, gradient, tx, params, inputs, shrink, rules, share: float):
    """Norm and rotation, and both over what is predicted, of the last share of the steps.

    Root mean squares; ``inputs`` has two axes, windows and steps. Of several matrices the first is
    told, and the ratio furthest from 1.
    """
    c = likeness(optimizer)
    kind = "gradient" if optimizer == "SGD" else "normalized"
    options = {"momentum": (c - 1) / (c + 1), "rules": rules}

    def step(carry, inputs):
        params, state = carry
        updates, state = tx.update(gradient(params, inputs), state, params)
        leaves = equilibrium(params, updates, shrink, kind, **options).values()
        squares = jax.tree.map(lambda *x: jnp.square(jnp.stack(x)), *leaves)
        return (optax.apply_updates(params, updates), state), squares

    def window(carry, inputs):
        carry, squares = jax.lax.scan(step, carry, inputs)
        return carry, jax.tree.map(lambda x: x.mean(0), squares)

    seen = jax.lax.scan(window, (params, tx.init(params)), inputs)[1]
    last = round(share * WINDOWS)
    found = jax.tree.map(lambda x: jnp.sqrt(x[-last:].mean(0)), seen)  # a value for each matrix
    ratios = {
        "norm_ratio": found.norm / found.predicted_norm,
        "rotation_ratio": found.rotation / found.predicted_rotation,
    }
    furthest = {name: r[jnp.argmax(jnp.abs(jnp.log(r)))] for name, r in ratios.items()}
    return {name: values[0] for name, values in found._asdict().items()} | furthest


def measure(point: Point, size: Size) -> list[Row]:
    """Every rate and seed."""
    optimizer = point["optimizer"]
    if point["case"] == NETWORK:
        drawn = task.pools(SEEDS, NETWORK_STEPS * task.BATCH)
        run = functools.partial(in_network, optimizer)
        return task.side_by_side(run, {"factor": (1.0,)}, drawn)
    run = functools.partial(random_walk, optimizer, point["coupling"])
    return task.side_by_side(run, {"factor": FACTORS}, noise(STEPS[size]))


@functools.cache
def noise(steps: int) -> np.ndarray:
    """The start and then a gradient for each step, standard normal, for each seed."""
    shape = (1 + steps, SIDE, SIDE)
    return np.stack([np.random.default_rng(s).standard_normal(shape, "f4") for s in range(SEEDS)])


def random_walk(optimizer: str, coupling: str, values: dict[str, jax.Array], drawn: jax.Array):
    """One walk."""
    lr = RATES[optimizer] * values["factor"]
    shrink = SHRINK * values["factor"] ** COUPLINGS[coupling]
    strength = SHRINK / RATES[optimizer] ** COUPLINGS[coupling]
    tx = make_optimizer(optimizer, lr, coupling, strength, ALL)

    def gradient(params, noise):
        return jax.grad(lambda p: jnp.vdot(noise, p["w"]) / jnp.linalg.norm(p["w"]))(params)

    steps = drawn[1:].reshape(WINDOWS, -1, SIDE, SIDE)
    return settled(optimizer, gradient, tx, {"w": drawn[0]}, steps, shrink, ALL, 1 / 2)


def in_network(optimizer: str, values: dict[str, jax.Array], seed: task.Pool):
    """One training."""
    lr = NETWORK_RATES[optimizer] * values["factor"]
    strength = NETWORK_SHRINK / NETWORK_RATES[optimizer]
    tx = make_optimizer(optimizer, lr, "lr", strength, task.RULES)

    def gradient(params, batch):
        return jax.grad(one_pass_mlp.loss)(params, *batch)

    steps = tuple(a.reshape(WINDOWS, -1, task.BATCH, *a.shape[1:]) for a in (seed.x_NxD, seed.y_N))
    return settled(optimizer, gradient, tx, seed.params, steps, NETWORK_SHRINK, task.RULES, 1 / 4)


def furthest(rows: list[Row], column: str, case: str, optimizer: str) -> float:
    """Of the means over the seeds, of each coupling and rate, that furthest from 1."""
    found: dict[tuple, list[float]] = {}
    for r in rows:
        if (r["case"], r["optimizer"]) == (case, optimizer):
            found.setdefault((r["coupling"], r["factor"]), []).append(r[column])
    means = [float(np.mean(values)) for values in found.values()]
    return max(means, key=lambda ratio: abs(ratio - 1))


def draw(rows: list[Row]) -> Figure:
    """Norm and rotation of the random walks over the rate, predicted as lines; the network."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    panels = figure.subplots(2, 4, sharex=True)
    for column, optimizer in enumerate(RATES):
        for line, name in enumerate(("norm", "rotation")):
            axes = panels[line, column]
            for i, coupling in enumerate(COUPLINGS):
                point = {"case": WALK, "optimizer": optimizer, "coupling": coupling}
                of = lambda c, p=point: [at_end(rows, c, factor=f, **p).mean() for f in FACTORS]  # noqa: E731
                axes.plot(FACTORS, of(f"predicted_{name}"), "-", color=f"C{i}")
                axes.plot(FACTORS, of(name), "osD"[i], color=f"C{i}", label=f"decay by {coupling}")
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(FACTORS, [f"{f:g}" for f in FACTORS])
            axes.set_xticks([], minor=True)
        panels[0, column].set_title(optimizer)
        panels[1, column].set_xlabel("learning rate, relative")
    panels[0, 0].set_ylabel("norm")
    panels[1, 0].set_ylabel("rotation per step (radians)")
    handles = panels[0, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=3, title="lines: predicted")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The five statements."""
    pairs = itertools.product(RATES, ("norm", "rotation"))
    walks = {(o, name): furthest(rows, f"{name}_ratio", WALK, o) for o, name in pairs}
    network = {o: furthest(rows, "rotation_ratio", NETWORK, o) for o in RATES}
    holds = {o: all(abs(walks[o, n] - 1) < EXACT for n in ("norm", "rotation")) for o in RATES}
    near = all(abs(ratio - 1) < NEAR for ratio in network.values())
    numbers = {}
    for o in RATES:
        numbers |= {f"{o}, {name}": walks[o, name] for name in ("norm", "rotation")}
        values = at_end(rows, "rotation_ratio", case=NETWORK, optimizer=o)
        numbers[f"{o}, rotation in the network"] = values
    return Summary(
        question="Do norm and rotation settle where the instruments predict?",
        source="random walks and networks settle where learning rate and decay say (2305.17212)",
        number="rotation over predicted, worst: "
        + ", ".join(f"{o} {walks[o, 'rotation']:.2f}" for o in RATES),
        agrees=agreement([*holds.values(), near]),
        measured="measured over predicted; of the random walks the furthest from 1 of nine",
        numbers=numbers,
        seeds=SEEDS,
        remark="Random walks within 5 %: "
        + ", ".join(f"{o} {word(shown)}" for o, shown in holds.items())
        + f"; rotation in the network within 15 %: {word(near)} ("
        + ", ".join(f"{o} {ratio:.2f}" for o, ratio in network.items())
        + ").",
    )


STUDY = Study("rotational_equilibrium", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
