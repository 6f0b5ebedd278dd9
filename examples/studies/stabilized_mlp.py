"""The smallest case of loss stabilization: a BatchNorm MLP on digits.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figures 1 and 3) hold that under SGD a
large learning rate with weight decay lets the training loss settle on a plateau, since the decay
holds the norm of the scale-invariant weights and so the effective learning rate up; after the drop
to a tiny learning rate that run generalizes better than the one without decay, and lies in a
flatter place. Is it so where the exponent is large enough to settle?

Command: ``python -m examples.studies.stabilized_mlp``; a minute on two CPU cores.

Two hidden layers of 64 units, BatchNorm without scale or shift behind each, a head that does not
decay; 400 digits, a fifth of whose labels is wrong (see ``grids.py``), batch 32, SGD without
momentum. 6,000 steps at the large rate, then 1,000 at 1e-3 of it without decay. The decay (L2 in
the gradient, which is decay under SGD) acts on the two hidden matrices with exponent E.

Written down before the first run. Five paired seeds. At the large rate, E = 20 against 0, five
statements: with decay the norm of the hidden matrices settles (its mean over the last quarter of
the phase is within 5 % of that over the third); without, it grows more; the batch loss in the last
eighth of the phase is higher with decay; after the drop the test error is lower with decay; so is
the trace of the Hessian over the hidden matrices times their squared norm, which no rescaling
changes. E = 5 and a tenth of the rate are shown beside it and are not part of the answer.
"""

import functools
import itertools
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import wdlab
from wdlab import instruments

from . import digits, grids
from .dose import Dose
from .error_bars import with_spread
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main

HIDDEN, EXAMPLES, BATCH, SEEDS = (64, 64), 400, 32, 5
STEPS = {"tiny": (6_000, 1_000), "paper": (60_000, 10_000)}  # before and after the drop
LARGE, DROP = 0.5, 1e-3  # learning rate; its factor after the drop
RATES, EXPONENTS, ASKED = (0.05, 0.5), (0.0, 5.0, 20.0), 20.0
WINDOWS, PROBES = 40, 16
RULES = (wdlab.Rule("layers/[01]/kernel"), wdlab.Rule(".*", 0.0))


def points(size: Size) -> Sequence[Point]:
    """The learning rates, each with its exponents as one program."""
    del size
    return [{"lr": lr} for lr in RATES]


def dose(point: Point, size: Size) -> Dose:
    """The largest exponent; the decay is off after the drop."""
    return Dose(max(EXPONENTS), point["lr"] * STEPS[size][0])


def measure(point: Point, size: Size) -> list[Row]:
    """Every exponent and seed: rows of the curve, the last with what is measured after the drop."""
    run = functools.partial(one, point["lr"], *STEPS[size])
    curve, ends = digits.over_seeds(run, SEEDS, EXPONENTS)
    rows = []
    for s, (i, exponent), w in itertools.product(
        range(SEEDS), enumerate(EXPONENTS), range(WINDOWS)
    ):
        row = {"seed": s, "exponent": exponent, "step": (w + 1) * STEPS[size][0] // WINDOWS}
        row |= {name: float(values[s, i, w]) for name, values in curve.items()}
        last = {k: float(v[s, i]) for k, v in ends.items()} if w == WINDOWS - 1 else {}
        rows.append(row | last)
    return rows


def one(lr: float, steps: int, after: int, key: jax.Array, exponent: jax.Array):
    """The curve of the phase at the large rate, and what comes of it after the drop."""
    start_key, *keys, probe_key = jax.random.split(key, 4)
    (images, labels), (x_test, y_test) = grids.mislabelled(EXAMPLES)
    x, y = jnp.asarray(images), jnp.asarray(labels)

    def phase(params, tx, key, steps):
        def step(carry, key):
            params, state = carry
            batch_B = jax.random.randint(key, (BATCH,), 0, EXAMPLES)
            value, grads = jax.value_and_grad(loss)(params, x[batch_B], y[batch_B])
            updates, state = tx.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
            return (params, state), {"loss": value, "norm": norm(params)}

        (params, _), seen = jax.lax.scan(
            step, (params, tx.init(params)), jax.random.split(key, steps)
        )
        return params, seen

    params = digits.init(start_key, HIDDEN)
    decay = exponent / (lr * steps)
    large = wdlab.optimizers.sgd(lr, weight_decay=decay, coupling="l2", rules=RULES)
    params, seen = phase(params, large, keys[0], steps)
    params, _ = phase(params, wdlab.optimizers.sgd(lr * DROP), keys[1], after)
    curve = {name: values.reshape(WINDOWS, -1).mean(1) for name, values in seen.items()}
    wrong = (logits(params, x_test, statistics_of=x).argmax(-1) != y_test).mean()
    return curve, {
        "final_loss": loss(params, x, y),
        "test_error": wrong,
        "sharpness": trace(params, x, y, probe_key) * norm(params) ** 2,
    }


def logits(params: digits.Params, x_BxD, statistics_of=None) -> jax.Array:
    """The network; BatchNorm's statistics are the batch's, or those of other images."""
    *hidden, last = params["layers"]
    known = x_BxD if statistics_of is None else jnp.asarray(statistics_of)
    for layer in hidden:
        known, x_BxD = (z @ layer["kernel"] for z in (known, x_BxD))
        mean, var = known.mean(0), known.var(0)
        known, x_BxD = (jax.nn.relu((z - mean) * jax.lax.rsqrt(var + 1e-5)) for z in (known, x_BxD))
    return x_BxD @ last["kernel"] + last["bias"]


def loss(params: digits.Params, x_BxD, y_B) -> jax.Array:
    """Mean cross-entropy, nats."""
    return grids.loss(logits(params, x_BxD), y_B)


def hidden_of(params: digits.Params) -> list[jax.Array]:
    """The matrices that decay."""
    return [layer["kernel"] for layer in params["layers"][:-1]]


def norm(params: digits.Params) -> jax.Array:
    """Of the matrices that decay."""
    return instruments.norm(hidden_of(params))


def trace(params: digits.Params, x, y, key: jax.Array) -> jax.Array:
    """Hutchinson's estimate of the Hessian's trace over the hidden matrices."""

    def of_hidden(kernels):
        *hidden, last = params["layers"]
        layers = [{**layer, "kernel": k} for layer, k in zip(hidden, kernels, strict=True)]
        return loss({"layers": [*layers, last]}, x, y)

    def probe(key):
        kernels = hidden_of(params)
        keys = jax.random.split(key, len(kernels))
        signs = [
            jax.random.rademacher(k, w.shape, w.dtype) for k, w in zip(keys, kernels, strict=True)
        ]
        product = jax.jvp(jax.grad(of_hidden), (kernels,), (signs,))[1]
        return sum(jnp.vdot(s, p) for s, p in zip(signs, product, strict=True))

    return jax.lax.map(probe, jax.random.split(key, PROBES)).mean()


def curve(rows: list[Row], lr: float, exponent: float, column: str) -> np.ndarray:
    """A column over the windows, seeds by windows."""
    wanted = {"lr": lr, "exponent": exponent}
    found = [r[column] for r in rows if wanted.items() <= r.items()]
    return np.array(found, float).reshape(SEEDS, WINDOWS)


def end(rows: list[Row], lr: float, exponent: float, column: str) -> np.ndarray:
    """What was measured after the drop, over the seeds."""
    wanted = {"lr": lr, "exponent": exponent}
    found = [r[column] for r in rows if wanted.items() <= r.items() and column in r]
    return np.array(found, float)


def growth(rows: list[Row], exponent: float) -> np.ndarray:
    """Norm in the last quarter over that in the third, for each seed, at the large rate."""
    norms, quarter = curve(rows, LARGE, exponent, "norm"), WINDOWS // 4
    return norms[:, -quarter:].mean(1) / norms[:, -2 * quarter : -quarter].mean(1)


def draw(rows: list[Row]) -> Figure:
    """Batch loss and norm over the steps; test error after the drop."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    *panels, right = figure.subplots(1, 3)
    labels = {"loss": "batch loss (nats)", "norm": "norm of the hidden matrices"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        for lr, color in zip(RATES, ("C1", "C0"), strict=True):
            for exponent, style in zip(EXPONENTS, (":", "--", "-"), strict=True):
                values = curve(rows, lr, exponent, column)
                steps = np.linspace(1, WINDOWS, WINDOWS) / WINDOWS
                text = f"lr {lr:g}, E = {exponent:g}"
                axes.plot(steps, values.mean(0), style, color=color, label=text)
        axes.set(xlabel="share of the phase", ylabel=label, yscale="log")
    panels[0].legend(fontsize=8)
    for lr, color in zip(RATES, ("C1", "C0"), strict=True):
        errors = [100 * end(rows, lr, e, "test_error") for e in EXPONENTS]
        with_spread(right, EXPONENTS, errors, fmt="o-", color=color, label=f"lr {lr:g}")
    right.set(xlabel="decay exponent E", ylabel="test error after the drop, %")
    right.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The five statements at the large rate."""
    with_decay, without = growth(rows, ASKED), growth(rows, 0.0)
    tail = {e: curve(rows, LARGE, e, "loss")[:, -WINDOWS // 8 :].mean(1) for e in (0.0, ASKED)}
    ends = {
        column: [end(rows, LARGE, e, column) for e in (ASKED, 0.0)]
        for column in ("test_error", "sharpness")
    }
    still = np.abs(with_decay - 1)
    statements = {
        "the norm settles": bool(still.mean() < 0.05),
        "without decay it grows more": is_lower(with_decay, without),
        "the loss stays higher": is_lower(tail[0.0], tail[ASKED]),
        "test error lower after the drop": is_lower(*ends["test_error"]),
        "flatter after the drop": is_lower(*ends["sharpness"]),
    }
    gap = difference(*(100 * errors for errors in ends["test_error"]))
    numbers = {}
    for e in EXPONENTS:
        numbers[f"test error, E = {e:g}"] = 100.0 * end(rows, LARGE, e, "test_error")
        numbers[f"sharpness, E = {e:g}"] = end(rows, LARGE, e, "sharpness")
        numbers[f"growth of the norm, E = {e:g}"] = growth(rows, e)
    return Summary(
        question="Does decay with a large learning rate stabilize a BatchNorm MLP, and end best?",
        source="loss and norm settle; after the drop it is flatter and better (2310.04415)",
        number=f"test error after the drop, E = 20 less E = 0: {gap} points",
        agrees=agreement(list(statements.values())),
        measured=f"at lr {LARGE:g}; test error, %; sharpness: trace times squared norm",
        numbers=numbers,
        seeds=SEEDS,
        remark=in_words(statements) + ".",
    )


STUDY = Study("stabilized_mlp", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
