"""Grokking needs a weight decay above a critical strength.

Question: Verma (2026, arXiv:2605.20441) finds three regimes of weight decay in networks that learn
modular arithmetic: below a critical lambda they learn the training pairs by heart; above it they
grok, the earlier the more decay (time ~ lambda^-.757); at lambda = 10 they collapse. Are the three
regimes here, and where is the border?

Command: ``python -m examples.studies.grokking_critical_decay``; two minutes on two CPU cores. The
smallest published scale is a transformer of .82M parameters; MLPs are among its probes, with
borders of their own about an order of magnitude apart. So the regimes can be told here, while
lambda_c = .0158 [.0109, .0200] is that of its network, learning rate and number of steps: what
matters is E = lr * lambda * steps, and ours is shown beside it and is not part of the answer.

Addition modulo 31; a random half of the 961 pairs trains. One hidden layer of 64 units, squared:
logits (A[a] + B[b])^2 V, 6k parameters. AdamW (b2 .98) at a constant lr of 1e-2, all pairs in every
step, 4,000 steps, lambda (lr-coupled, on everything) 0 and .01 to 10, three in each decade: E =
lambda * 40. A run groks at the first measurement with training accuracy .99 and test accuracy .95,
once in 50 steps. lambda_c of a seed is the geometric mean of the smallest lambda that groks and the
one below it.

Written down before the first run. Five paired seeds (start and pairs shared), four statements.
Without decay all seeds learn the training pairs (.99) and none groks. Some lambda groks in all
seeds. The time to grok falls with lambda: the slope of its logarithm over ln lambda, over the
lambdas that grok, is below 0. At lambda = 10 all seeds end with a training accuracy below .99.

Settings tried before: one seed, 2,000 steps, lambda 0, .1 and 1, to see whether so small a network
groks at all; test accuracy at the end .02, .14, 1.00 (from step 600). Nothing was changed after it
but the number of steps, to 4,000.
"""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab

from . import digits
from .dose import Dose
from .dose import dose as dose_of
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row, rows_over
from .study import Size, Study, Summary, main

MODULUS, HIDDEN, TRAINED, RATE, SEEDS = 31, 64, 0.5, 1e-2, 5
STEPS, EVERY = 4_000, 50
DECAYS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
LEARNT, GROKKED = 0.99, 0.95  # accuracy on the training pairs, on the others
SOURCE = {"lambda_c": 0.0158, "exponent": 0.757}


def points(size: Size) -> Sequence[Point]:
    """Without decay, and with."""
    del size
    return [{"decay": decay} for decay in DECAYS]


def dose(point: Point, size: Size) -> Dose:
    """lr-coupled."""
    del size
    return dose_of(RATE, STEPS, point["decay"])


def measure(point: Point, size: Size) -> list[Row]:
    """Accuracies and norm over the steps, for every seed."""
    del size
    curve = digits.over_seeds(one, SEEDS, [point["decay"]])
    steps = range(EVERY, STEPS + 1, EVERY)
    return rows_over(curve, seed=range(SEEDS), decay=[point["decay"]], step=steps)


def one(key: jax.Array, decay: jax.Array) -> dict[str, jax.Array]:
    """The curve of one training."""
    start_key, pairs_key = jax.random.split(key)
    numbers = jnp.arange(MODULUS)
    sums_PxP = (numbers[:, None] + numbers) % MODULUS
    order_PxP = jax.random.permutation(pairs_key, MODULUS**2).reshape(MODULUS, MODULUS)
    trained_PxP = order_PxP < TRAINED * MODULUS**2
    right_PxPxC = jax.nn.one_hot(sums_PxP, MODULUS)

    def loss(params):
        chosen_PxP = (jax.nn.log_softmax(logits(params)) * right_PxPxC).sum(-1)
        return -(chosen_PxP * trained_PxP).sum() / trained_PxP.sum()

    tx = wdlab.optimizers.adamw(RATE, b2=0.98, weight_decay=decay, coupling="lr", rules=1.0)

    def step(carry, _):
        params, state = carry
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    def window(carry, _):
        carry, _ = jax.lax.scan(step, carry, None, length=EVERY)
        hit_PxP = logits(carry[0]).argmax(-1) == sums_PxP
        return carry, {
            "train_accuracy": (hit_PxP & trained_PxP).sum() / trained_PxP.sum(),
            "test_accuracy": (hit_PxP & ~trained_PxP).sum() / (~trained_PxP).sum(),
            "norm": optax.tree.norm(carry[0]),
        }

    params = init(start_key)
    return jax.lax.scan(window, (params, tx.init(params)), None, length=STEPS // EVERY)[1]


def init(key: jax.Array) -> dict[str, jax.Array]:
    """Normal: deviation 1/2 for what is added, the variance of fan-in for the output."""
    a_key, b_key, v_key = jax.random.split(key, 3)
    return {
        "a": jax.random.normal(a_key, (MODULUS, HIDDEN)) / 2,
        "b": jax.random.normal(b_key, (MODULUS, HIDDEN)) / 2,
        "v": jax.random.normal(v_key, (HIDDEN, MODULUS)) * HIDDEN**-0.5,
    }


def logits(params: dict[str, jax.Array]) -> jax.Array:
    """Of all pairs."""
    inner_PxPxH = jnp.square(params["a"][:, None] + params["b"])
    return digits.of_rows(jnp.matmul, inner_PxPxH, params["v"])


def curves(rows: list[Row], column: str) -> dict[float, np.ndarray]:
    """A column for each decay, seeds by steps."""
    return {
        decay: np.array([r[column] for r in rows if r["decay"] == decay], float).reshape(SEEDS, -1)
        for decay in DECAYS
    }


def times(rows: list[Row]) -> dict[float, np.ndarray]:
    """The step at which each seed groks, for each decay; infinite where it does not."""
    train, test = (curves(rows, f"{split}_accuracy") for split in ("train", "test"))
    steps = np.unique([r["step"] for r in rows])
    return {
        decay: np.where((train[decay] >= LEARNT) & (test[decay] >= GROKKED), steps, np.inf).min(1)
        for decay in DECAYS
    }


def critical(found: dict[float, np.ndarray]) -> np.ndarray:
    """lambda_c of each seed; NaN where none groks, or the smallest does."""
    groks = np.isfinite(np.stack([found[d] for d in DECAYS]))
    first = groks.argmax(0)
    pairs = [np.sqrt(DECAYS[i] * DECAYS[i - 1]) if i > 1 else np.nan for i in first]
    return np.array(pairs, float)


def slope(found: dict[float, np.ndarray]) -> np.ndarray:
    """Of ln(time) over ln(lambda), for each seed; NaN with fewer than three that grok."""

    def one(times: np.ndarray) -> float:
        seen = np.isfinite(times)
        if seen.sum() < 3:
            return np.nan
        return float(np.polyfit(np.log(np.array(DECAYS[1:])[seen]), np.log(times[seen]), 1)[0])

    return np.array([one(times) for times in np.stack([found[d] for d in DECAYS[1:]], 1)])


def draw(rows: list[Row]) -> Figure:
    """Accuracies at the end, and the time to grok, over lambda."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = [DECAYS[1] / 3 if d == 0 else d for d in DECAYS]  # Zero stands at the left end.
    for split, style in (("train", "s--"), ("test", "o-")):
        ends = np.stack([v[:, -1] for v in curves(rows, f"{split}_accuracy").values()])
        left.plot(shown, ends.mean(1), style, label=split)
        left.fill_between(shown, ends.min(1), ends.max(1), alpha=0.2)
    left.axvline(SOURCE["lambda_c"], color="gray", linestyle=":", label="lambda_c of the source")
    left.set(xscale="log", xlabel="lambda (leftmost: 0)", ylabel="accuracy at the end")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    for decay, found in times(rows).items():
        seen = found[np.isfinite(found)]
        right.plot(np.full(seen.shape, decay), seen, "o", color="C0")
    right.set(xscale="log", yscale="log", xlabel="lambda", ylabel="step at which a seed groks")
    right.set_xlim(left.get_xlim())
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The four statements, and the border."""
    found, falls = times(rows), slope(times(rows))
    train = {d: v[:, -1] for d, v in curves(rows, "train_accuracy").items()}
    border = critical(found)
    statements = {
        "without decay learnt by heart": bool(
            train[0.0].min() >= LEARNT and np.isinf(found[0.0]).all()
        ),
        "some lambda groks in all seeds": any(np.isfinite(v).all() for v in found.values()),
        "earlier with more decay": is_lower(falls, np.zeros(SEEDS)),
        "collapse at the largest": bool(train[DECAYS[-1]].max() < LEARNT),
    }
    known = bool(np.isfinite(border).all())
    at = f"{np.exp(np.log(border).mean()):.2g}" if known else "not in the grid"
    gap = difference(falls, np.zeros(SEEDS))
    beside = f"; slope {gap}, the source's {-SOURCE['exponent']}" if known else ""
    return Summary(
        question="Is there a critical weight decay for grokking?",
        source="by heart, then grokking from lambda .016 on, collapse at 10 (2605.20441)",
        number=f"lambda_c {at} (E = {float(at) * RATE * STEPS:.2g})" if known else "no border",
        agrees=agreement(list(statements.values())),
        measured="lambda_c; ln(time to grok) over ln(lambda); accuracies at the end",
        numbers={"seeds that grok, lambda = " + f"{d:g}": int(np.isfinite(v).sum())
                 for d, v in found.items()}
        | ({"lambda_c": border, "slope of ln(time to grok)": falls} if known else {})
        | {f"training accuracy, lambda = {d:g}": train[d] for d in (DECAYS[0], DECAYS[-1])},
        seeds=SEEDS,
        remark=in_words(statements)
        + f"{beside}.",
    )  # fmt: skip


STUDY = Study(
    "grokking_critical_decay", points, measure, draw, summarize, dose, "more steps", ("tiny",)
)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
