"""RAdam: the variance of the adaptive learning rate, and rectification against warm-up.

Question: Liu et al. (2020, "On the Variance of the Adaptive Learning Rate and Beyond",
arXiv:1908.03265) say that Adam needs warm-up because psi = sqrt(c2 / v) has a large variance in
the first steps, give that variance for Gaussian gradients (their equation 2 and section 4), and
rectify it. Does psi have that variance, does the rectification flatten it, and does RAdam do in
training what warm-up does?

Command: ``python -m examples.studies.radam_warmup``; minutes on two CPU cores at size tiny.

``variance``: psi of 20,000 independent streams of N(0, 1) gradients at b2 = 0.999 and 0.95, beside
the formula; where rho_t <= 4 the variance is infinite and no rectified step exists. ``training``:
a digits MLP of six hidden layers without norms, mean training loss of the last tenth, for Adam,
Adam with warm-up over 2 / (1 - b2) steps (the rule of Ma and Yarats 2019, arXiv:1910.04209) and
RAdam (threshold 4, the paper's).

Two statements on paired seeds, at the learning rate that is best for warm-up: warm-up lowers the
loss (95 % interval), and RAdam is lower than half-way between Adam and that. Where warm-up does not
lower it there is nothing to replace, and nothing is tested.
"""

import math
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from wdlab.preconditioners import scale_by_adam

from . import digits
from .error_bars import with_spread
from .paired import agreement, difference, is_lower, word
from .rows import Point, Row, rows_over
from .study import Size, Study, Summary, main, spread

AT = (1, 2, 4, 6, 8, 10, 20, 50, 100, 300, 1_000)
STREAMS, SEEDS = 20_000, 5
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
WAYS = ("Adam", "warm-up", "RAdam")
STEPS = {"tiny": 1_000, "paper": 10_000}
B2 = {"tiny": 0.99, "paper": 0.999}  # in training: warm-up is a fifth of the steps


def points(size: Size) -> Sequence[Point]:
    """Two b2 for the variance; every way, its learning rates as one program."""
    training = [{"what": "training", "way": way, "b2": B2[size]} for way in WAYS]
    return [*({"what": "variance", "b2": b2} for b2 in (0.999, 0.95)), *training]


def measure(point: Point, size: Size) -> list[Row]:
    """Variance of psi at some steps, or losses of a training."""
    if point["what"] == "variance":
        return variances(point["b2"])
    return training(point["way"], point["b2"], STEPS[size])


def rho(step: float, b2: float) -> float:
    """Length of the approximated simple moving average, the paper's rho_t."""
    longest = 2 / (1 - b2) - 1
    return longest if math.isinf(step) else longest - 2 * step * b2**step / (1 - b2**step)


def theory(step: float, b2: float) -> float:
    """The paper's Var[psi] for sigma = 1; infinite where rho_t <= 4."""
    r = rho(step, b2)
    if r <= 4:
        return math.inf
    log_beta = 2 * math.lgamma((r - 1) / 2) - 2 * math.lgamma(r / 2)  # of (Gamma ratio)^2
    return r / (r - 2) - (r / 2) * math.exp(log_beta)


def variances(b2: float) -> list[Row]:
    """Measured variance of psi, the formula, and the variance after rectification."""

    def step(v, at):
        count, key = at
        v = b2 * v + (1 - b2) * jax.random.normal(key, v.shape) ** 2
        return v, jnp.sqrt((1 - b2**count) / v).var()

    counts = jnp.arange(1, max(AT) + 1)
    keys = jax.random.split(jax.random.key(0), max(AT))
    measured = jax.jit(lambda: jax.lax.scan(step, jnp.zeros(STREAMS), (counts, keys))[1])()
    least = theory(math.inf, b2)
    rows = []
    for t in AT:
        r, longest = rho(t, b2), rho(math.inf, b2)
        factor = (r - 4) * (r - 2) * longest / ((longest - 4) * (longest - 2) * r)  # r_t^2
        rectified = factor * float(measured[t - 1]) / least if r > 4 else math.nan
        row = {"step": t, "measured": float(measured[t - 1]), "theory": theory(t, b2)}
        rows.append(row | {"rectified_over_least": rectified})
    return rows


def training(way: str, b2: float, steps: int) -> list[Row]:
    """Losses of one way, a row per seed and learning rate."""
    warmup = round(2 / (1 - b2)) if way == "warm-up" else 0
    shape = wdlab.schedules.constant(1.0)
    if warmup:
        shape = wdlab.schedules.warmup_constant(1.0, warmup_steps=warmup)
    adam = scale_by_adam(b2=b2, rectification_threshold=4.0 if way == "RAdam" else None)

    def run(key, lr):
        tx = optax.chain(adam, optax.scale_by_learning_rate(lambda count: lr * shape(count)))
        params = digits.init(key, 6 * (64,))
        _, _, seen = digits.train(tx, params, key, steps=steps, noise=0.5)
        return {"loss": seen["batch_loss"][-steps // 10 :].mean()}

    return rows_over(digits.over_seeds(run, SEEDS, RATES), seed=range(SEEDS), lr=RATES)


def losses(rows: list[Row], way: str, lr: float) -> np.ndarray:
    """Final losses over the seeds."""
    wanted = {"what": "training", "way": way, "lr": lr}
    return np.array([r["loss"] for r in rows if wanted.items() <= r.items()], float)


def draw(rows: list[Row]) -> Figure:
    """Variance over the steps; loss over the learning rate."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for color, b2 in (("C0", 0.999), ("C1", 0.95)):
        found = [r for r in rows if r["what"] == "variance" and r["b2"] == b2]
        steps = [r["step"] for r in found]
        left.plot(steps, [r["measured"] for r in found], "o", color=color, label=f"b2 {b2}")
        left.plot(steps, [r["theory"] for r in found], color=color, label="formula")
    left.set(xscale="log", yscale="log", xlabel="step", ylabel="Var[psi]")
    left.legend()
    for way, style in zip(WAYS, ("o-", "s--", "^:"), strict=True):
        values = [losses(rows, way, lr) for lr in RATES]
        with_spread(right, RATES, values, fmt=style, label=way)
    right.set(xscale="log", xlabel="learning rate", ylabel="training loss at the end (nats)")
    right.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """How well the formula holds, and the losses at the largest rate that warm-up survives."""
    found = [r for r in rows if r["what"] == "variance" and r["b2"] == 0.999 and r["step"] >= 20]
    error = max(abs(r["measured"] / r["theory"] - 1) for r in found)
    best = {way: min((losses(rows, way, lr).mean(), lr) for lr in RATES) for way in WAYS}
    high = best["warm-up"][1]
    at = {way: losses(rows, way, high) for way in WAYS}
    helped = is_lower(at["warm-up"], at["Adam"])
    half_way = (at["warm-up"] + at["Adam"]) / 2
    replaced = is_lower(at["RAdam"], half_way) if helped else None
    return Summary(
        question="Does rectification do what warm-up does, and for the reason given?",
        source="Var[psi] is large at first and rectification replaces warm-up (RAdam)",
        number="loss " + ", ".join(f"{way} {spread(at[way])}" for way in WAYS) + " nats",
        agrees=agreement([helped or None, replaced]),
        measured=f"training loss, nats, at lr {high:g}, the best for warm-up, and at its own best",
        numbers={way: at[way] for way in WAYS}
        | {f"{way}, lr {best[way][1]:g}": best[way][0] for way in WAYS}
        | {"Var[psi] / formula - 1, largest from step 20 on, b2 0.999": error},
        seeds=SEEDS,
        remark=f"Warm-up lowers the loss: {word(helped)} ("
        f"{difference(at['warm-up'], at['Adam'])}); RAdam closes more than half of that: "
        + ("nothing to close." if not helped else f"{word(replaced)}."),
    )


STUDY = Study("radam_warmup", points, measure, draw, summarize, "no decay")

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
