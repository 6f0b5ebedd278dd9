"""L2 on both factors of a product is the nuclear norm of the product, and lowers its rank.

Question: Kobayashi, Akram and von Oswald (NeurIPS 2024, arXiv:2410.23819) show that L2 of A and B
in a loss of A B^T turns, exponentially fast, into the nuclear norm of A B^T, and find that AdamW's
decay lowers the rank of W_Q W_K^T in attention. Do the 5 x 5 matrices of their Figure 1 do so, and
does a single attention head?

Command: ``python -m examples.studies.product_nuclear_norm``; seconds on two CPU cores. The first
case has the published size. The second is the smallest attention that has a rank to lose; the
published ones are vision models and language models of 125M parameters.

"matrices": gradient descent on ||A B^T - D||^2 / 2 + lambda / 2 (||A||^2 + ||B||^2), D = diag(.2,
.4, .6, .8, 1), lambda in 0, .1, .3, .5, lr .1, 2,000 steps. What theory says: A^T A - B^T B shrinks
by exp(-2 lambda) in a unit of time, and the singular values end at max(0, d - lambda).
"attention": 8 keys of 16 Gaussian numbers, a query that is a key's first 4 numbers plus noise, a
value in -1 or 1 for each key, to be read from the key that the query means; so 4 directions
suffice. W_Q and W_K are 16 x 16, AdamW at lr 3e-3, 3,000 steps of 64 fresh tasks, E = 0 or 6. The
rank is the number of singular values that make up 95 % of their sum.

Written down before the first run. Five paired seeds, five statements. Matrices: the rate of A^T A -
B^T B is within 5 % of 2 lambda for all three lambda > 0; all singular values end within .01 of
max(0, d - lambda); without decay the difference between (||A||^2 + ||B||^2) / 2 and the nuclear
norm is still above a tenth of the latter. Attention: with decay the rank of W_Q W_K^T is lower; so
is that difference relative to the nuclear norm.

Settings tried before: the same with a mistake. A parameter named "b" is a bias under the default
rules, so that in the first case A alone decayed; the singular values then missed the theory by
nearly lambda. Now both decay, by ``rules=1.0``; nothing else was changed. The rate is theory's in
the limit of small steps; at lambda = .5 a step of .05 makes that of the decay alone 1.026 times it.
"""

import itertools
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
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row, rows_over
from .study import Size, Study, Summary, at_end, main

SEEDS, WINDOWS = 5, 50
TARGET, STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0), (0.0, 0.1, 0.3, 0.5)
RATE, STEPS = {"matrices": 0.1, "attention": 3e-3}, {"matrices": 2_000, "attention": 3_000}
EXPONENTS, KEYS, WIDTH, NEEDED, NOISE, BATCH = (0.0, 6.0), 8, 16, 4, 0.3, 64


def points(size: Size) -> Sequence[Point]:
    """Every strength of both cases."""
    del size
    strengths = {"matrices": STRENGTHS, "attention": EXPONENTS}
    return [{"case": case, "decay": d} for case, values in strengths.items() for d in values]


def dose(point: Point, size: Size) -> Dose:
    """The attention's strength is chosen for its exponent."""
    del size
    case, decay = point["case"], point["decay"]
    lr_steps = RATE[case] * STEPS[case]
    return Dose(decay if case == "attention" else decay * lr_steps, lr_steps)


def measure(point: Point, size: Size) -> list[Row]:
    """Rows of the curve for each seed; singular values of the product at its end."""
    del size
    case, steps = point["case"], STEPS[point["case"]]
    start, loss = {"matrices": (matrices, fit), "attention": (head, attend)}[case]
    lr, decay = RATE[case], point["decay"]
    if case == "matrices":
        tx = wdlab.optimizers.sgd(lr, weight_decay=decay, coupling="l2", rules=1.0)
    else:
        tx = wdlab.optimizers.adamw(lr, weight_decay=decay / (lr * steps), coupling="lr", rules=1.0)

    def run(key):
        start_key, data_key = jax.random.split(key)
        params = start(start_key)

        def step(carry, key):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params, key)
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), value

        def window(carry, keys):
            carry, losses = jax.lax.scan(step, carry, keys)
            return carry, measured(carry[0]) | {"loss": losses.mean()}

        keys = jax.random.split(data_key, steps).reshape(WINDOWS, -1)
        (params, _), curve = jax.lax.scan(window, (params, tx.init(params)), keys)
        return curve, jnp.linalg.svd(product(params), compute_uv=False)

    curve, values = digits.over_seeds(run, SEEDS)
    windows = [(w + 1) * steps // WINDOWS for w in range(WINDOWS)]
    rows = rows_over(curve, seed=range(SEEDS), step=windows)
    return rows + rows_over({"value": values}, seed=range(SEEDS), number=range(values.shape[1]))


def matrices(key: jax.Array) -> dict[str, jax.Array]:
    """Two 5 x 5 matrices, normal with deviation 1/2."""
    a_key, b_key = jax.random.split(key)
    shape = (len(TARGET), len(TARGET))
    return {"a": jax.random.normal(a_key, shape) / 2, "b": jax.random.normal(b_key, shape) / 2}


def fit(params: dict[str, jax.Array], key: jax.Array) -> jax.Array:
    """Half the squared distance of the product from the target."""
    del key
    return jnp.square(product(params) - jnp.diag(jnp.array(TARGET))).sum() / 2


def head(key: jax.Array) -> dict[str, jax.Array]:
    """W_Q and W_K of one head, with the variance of fan-in."""
    a_key, b_key = jax.random.split(key)
    shape, scale = (WIDTH, WIDTH), WIDTH**-0.5
    return {"a": jax.random.normal(a_key, shape) * scale} | {
        "b": jax.random.normal(b_key, shape) * scale
    }


def attend(params: dict[str, jax.Array], key: jax.Array) -> jax.Array:
    """The squared error of what the head reads, on fresh tasks."""
    keys_key, noise_key, value_key = jax.random.split(key, 3)
    keys_BxKxD = jax.random.normal(keys_key, (BATCH, KEYS, WIDTH))
    meant_BxD = keys_BxKxD[:, 0] * (jnp.arange(WIDTH) < NEEDED)
    query_BxD = meant_BxD + NOISE * jax.random.normal(noise_key, meant_BxD.shape)
    values_BxK = jax.random.rademacher(value_key, (BATCH, KEYS), float)
    scores_BxK = jnp.einsum("bd,de,bke->bk", query_BxD, product(params), keys_BxKxD)
    read_B = (jax.nn.softmax(scores_BxK / WIDTH**0.5) * values_BxK).sum(-1)
    return jnp.square(read_B - values_BxK[:, 0]).mean()


def product(params: dict[str, jax.Array]) -> jax.Array:
    """A B^T."""
    return params["a"] @ params["b"].T


def measured(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Norms of the factors and of their product, and its rank."""
    a, b = params["a"], params["b"]
    values = jnp.linalg.svd(a @ b.T, compute_uv=False)
    nuclear = values.sum()
    halves = (jnp.square(a).sum() + jnp.square(b).sum()) / 2
    rank = (jnp.cumsum(values) < 0.95 * nuclear).sum() + 1
    return {
        "gap": (halves - nuclear) / nuclear,
        "imbalance": jnp.linalg.norm(a.T @ a - b.T @ b),
        "rank": rank,
    }


def curve(rows: list[Row], case: str, decay: float, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps, and a column over them, seeds by windows."""
    wanted = {"case": case, "decay": decay}
    found = [r for r in rows if wanted.items() <= r.items() and column in r]
    values = np.array([r[column] for r in found], float).reshape(SEEDS, -1)
    return np.array([r["step"] for r in found[: values.shape[1]]], float), values


def rate(rows: list[Row], decay: float) -> np.ndarray:
    """How fast the imbalance falls in a unit of time, over the windows above rounding."""
    steps, values = curve(rows, "matrices", decay, "imbalance")
    seen = values.min(0) > 1e-4
    return -np.polyfit(steps[seen] * RATE["matrices"], np.log(values[:, seen]).T, 1)[0]


def values(rows: list[Row], case: str, decay: float) -> np.ndarray:
    """Singular values of the product, numbers by seeds."""
    wanted = {"case": case, "decay": decay}
    count = len(TARGET) if case == "matrices" else WIDTH
    return np.stack([at_end(rows, "value", number=i, **wanted) for i in range(count)])


def draw(rows: list[Row]) -> Figure:
    """The difference to the nuclear norm; singular values against theory; those of attention."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for i, decay in enumerate(STRENGTHS):
        steps, gaps = curve(rows, "matrices", decay, "gap")
        left.plot(steps, np.maximum(gaps.mean(0), 1e-8), color=f"C{i}", label=f"{decay:g}")
        found = values(rows, "matrices", decay)
        middle.plot(range(1, 6), found.mean(1), "o", color=f"C{i}", label=f"lambda {decay:g}")
        wanted = np.maximum(np.array(TARGET)[::-1] - decay, 0)
        middle.plot(range(1, 6), wanted, ":", color=f"C{i}")
    left.set(yscale="log", xlabel="step", ylabel="(L2 - nuclear norm) / nuclear norm")
    middle.set(xlabel="number", ylabel="singular value of A B^T (dotted: theory)")
    middle.legend(loc="upper right")
    for exponent, style in zip(EXPONENTS, ("s--", "o-"), strict=True):
        found = values(rows, "attention", exponent)
        right.plot(range(1, WIDTH + 1), found.mean(1) + 1e-6, style, label=f"E = {exponent:g}")
    right.set(yscale="log", xlabel="number", ylabel="singular value of W_Q W_K^T")
    right.set_xticks(range(1, WIDTH + 1, 3))
    right.legend(loc="upper right")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The five statements."""
    rates = {d: rate(rows, d) / (2 * d) for d in STRENGTHS[1:]}
    off = {
        d: np.abs(values(rows, "matrices", d).T - np.maximum(np.array(TARGET)[::-1] - d, 0)).max(1)
        for d in STRENGTHS
    }
    free = curve(rows, "matrices", 0.0, "gap")[1][:, -1]
    ends = {
        (name, e): curve(rows, "attention", e, name)[1][:, -1]
        for name, e in itertools.product(("rank", "gap"), EXPONENTS)
    }
    pairs = {name: (ends[name, EXPONENTS[1]], ends[name, 0.0]) for name in ("rank", "gap")}
    statements = {
        "A^T A - B^T B falls at the rate 2 lambda": all(
            np.abs(v - 1).max() < 0.05 for v in rates.values()
        ),
        "singular values are max(0, d - lambda)": bool(max(v.max() for v in off.values()) < 0.01),
        "not so without decay": bool(free.min() > 0.1),
        "attention: lower rank": is_lower(*pairs["rank"]),
        "attention: nearer to the nuclear norm": is_lower(*pairs["gap"]),
    }
    gap = difference(*pairs["rank"])
    return Summary(
        question="Is L2 on two factors the nuclear norm of their product, and lowers its rank?",
        source="yes, exponentially fast; AdamW lowers attention's rank (2410.23819)",
        number=f"rank of W_Q W_K^T, of {WIDTH}: {pairs['rank'][0].mean():.1f} with decay, "
        f"{pairs['rank'][1].mean():.1f} without",
        agrees=agreement(list(statements.values())),
        measured="rate over 2 lambda; largest distance from theory; rank at 95 % of the sum",
        numbers={f"rate over 2 lambda, lambda = {d:g}": v for d, v in rates.items()}
        | {f"distance of singular values from theory, lambda = {d:g}": v for d, v in off.items()}
        | {"difference to the nuclear norm, matrices, lambda = 0": free}
        | {f"{name}, attention, E = {e:g}": v for (name, e), v in ends.items()},
        seeds=SEEDS,
        remark=in_words(statements) + f"; rank with decay less without {gap}.",
    )


STUDY = Study(
    "product_nuclear_norm", points, measure, draw, summarize, dose, "more steps", ("tiny",)
)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
