"""The bias that a bfloat16 flash kernel gives attention where the maximum of a row is repeated.

Question: Qiu & Yao (2025, arXiv:2510.04212) trace the divergence of GPT-2 small under bfloat16
flash attention without weight decay to biased rounding. Where several scores of a row equal its
maximum, several P = exp(S - max) are exactly 1; the sum P V then falls on halves of a bfloat16
step, and small terms of one sign push all of them the same way. The wrong output O makes
delta = sum dO O wrong, and with it the gradient. A shifted maximum cures it. Is it so, and in which
context?

Command: ``python -m examples.studies.attention_bias``; a minute on two CPU cores. The bias belongs
to a single row, so that no training and no long context is needed; the smallest published training
that it spoils is GPT-2 small at context 1024.

``examples.gpt.attention.flash_bf16`` on made-up heads of width 64, contexts 64, 256 and 1024; the
queries of the second half, 2,048 of them, each with all keys before it. 1, 2, 3, 4 or 8 keys share
the row's maximum, a score of 6 to 10; the others lie 10 to 25 below it. Values are normal with
standard deviation 0.5 and mean -1.5, 0 or 1.5; dO has mean 1 and standard deviation 0.5. The truth
is float64 on the same rounded inputs. The bias of O is the mean of O - O_64 over the mean of
|O_64|, in units of 2^-9, half a bfloat16 step of 1. That of delta is read off the kernel's own
gradient: all keys have a one where all queries have a zero, so that dQ there is
(delta_64 - delta) / sqrt(64); its unit is 2^-9 of the mean of sum |dO O_64|.

Written down before the first run. Five seeds, 95 % intervals over them; six statements, each for
both means other than 0 and all three contexts. With two equal maxima the bias of O has the sign of
v (the interval excludes 0), and so has that of delta. The interval lies within 0.1 of 0: for O with
one maximum; for O with two and the shifted maximum; for delta with two and delta in float32. With
two, a float32 softmax (``attention.plain``) has a bias of O below 0.001. Shown beside it, no part
of the answer: 3, 4 and 8 equal maxima, a mean of 0, and others that lie 0 to 5 below the maximum.
Whether a training diverges by it is not asked here.

(The last statement hangs on the processor, since a float32 sum of 1,024 weights is rounded too. In
context 1024 the bias is 0.00125 on one without AVX-512, at each compiler level and with one thread
as with two, and below 0.001 on one with it, where the answer was yes. In context 64: 0.00007.)
"""

import functools
import itertools
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from examples.gpt import attention

from .paired import Difference, agreement, difference, every, in_words
from .rows import Point, Row
from .study import Size, Study, Summary, main

CONTEXTS, TIES, MEANS, WIDTH, SEEDS = (64, 256, 1024), (1, 2, 3, 4, 8), (-1.5, 0.0, 1.5), 64, 5
QUERIES = 2_048  # of each seed
UNIT, NONE, EXACT = 2.0**-9, 0.1, 1e-3
FORMS = {
    "flash_bf16": attention.flash_bf16,
    "shifted": functools.partial(attention.flash_bf16, shifted=True),
    "float32 delta": functools.partial(attention.flash_bf16, float32_delta=True),
    "float32": attention.plain,
}
ASKED = {  # how far below the maximum the other scores lie, number of maxima -> forms
    **{("far", ties): FORMS if ties == 2 else ["flash_bf16"] for ties in TIES},
    **{("near", ties): ["flash_bf16"] for ties in (1, 2)},
}
CASES = [(form, *case) for case, forms in ASKED.items() for form in forms]


def points(size: Size) -> Sequence[Point]:
    """The contexts."""
    del size
    return [{"context": context} for context in CONTEXTS]


def measure(point: Point, size: Size) -> list[Row]:
    """Both biases for each case, mean of the values and seed."""
    del size
    programs = {name: _with_gradient(form) for name, form in FORMS.items()}
    rows: list[Row] = []
    late = slice(point["context"] // 2, None)
    for seed, (others, ties) in itertools.product(range(SEEDS), ASKED):
        made = {mean: heads(seed, point["context"], ties, mean, others) for mean in MEANS}
        q, k, *_ = made[MEANS[0]]  # They do not depend on the mean of the values.
        shares = exact_shares(q, k, late)
        for mean, (_, _, v, d_out) in made.items():
            true = shares @ v[:, :, 0].astype(float)
            size_of_delta = np.abs(d_out[:, late, 0] * true).sum(-1).mean()
            for form in ASKED[others, ties]:
                out, d_q = programs[form](q, k, v, d_out)
                wrong_delta = -np.asarray(d_q[:, late, 0, 1], float).mean() * WIDTH**0.5
                wrong_out = (np.asarray(out[:, late, 0], float) - true).mean()
                rows.append(
                    {"seed": seed, "form": form, "others": others, "ties": ties, "mean": mean}
                    | {"out": wrong_out / np.abs(true).mean() / UNIT}
                    | {"delta": wrong_delta / size_of_delta / UNIT}
                )
    return rows


def _with_gradient(form):
    @jax.jit
    def run(q, k, v, d_out):
        out, backward = jax.vjp(form, q, k, v)
        return out, backward(d_out)[0]

    return run


def heads(seed: int, context: int, ties: int, mean: float, others: str) -> list[np.ndarray]:
    """Queries, keys, values and dO, bfloat16 numbers in float32, (sequences, context, 1, width)."""
    rng = np.random.default_rng(seed)
    shape = (2 * QUERIES // context, context, 1, WIDTH)
    q, k = np.zeros(shape), np.zeros(shape)
    top = WIDTH**0.5  # A key of this size has the query's first number as its score.
    q[..., 0] = rng.uniform(6, 10, shape[:-1])
    low, high = {"far": (-1.5, -0.75), "near": (0.5, 0.99)}[others]
    k[..., 0] = top * rng.uniform(low, high, shape[:-1])
    k[:, :ties, :, 0] = top
    k[..., 1] = 1.0
    v, d_out = (0.5 * rng.normal(size=shape) + middle for middle in (mean, 1.0))
    return [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (q, k, v, d_out)]


def exact_shares(q: np.ndarray, k: np.ndarray, rows: slice) -> np.ndarray:
    """What some queries take of each key, in float64, (sequences, queries, keys)."""
    q, k = (x[:, :, 0].astype(float) for x in (q, k))
    scores = q[:, rows, :1] * k[:, None, :, 0] / WIDTH**0.5
    weights = np.exp(scores - scores.max(-1, keepdims=True)) * np.tri(q.shape[1])[rows]
    return weights / weights.sum(-1, keepdims=True)


def bias(rows: list[Row], column: str, form: str = "flash_bf16", others: str = "far", **point):
    """A bias for each seed."""
    wanted = {"form": form, "others": others, **point}
    found = {r["seed"]: r[column] for r in rows if wanted.items() <= r.items()}
    return np.array([found[seed] for seed in sorted(found)], float)


def has_sign(gap: Difference, sign: float) -> bool | None:
    """Whether the interval lies on this side of 0."""
    low, high = sorted((sign * gap.low, sign * gap.high))
    return True if low > 0 else False if high < 0 else None


def is_within(gap: Difference, bound: float) -> bool | None:
    """Whether the interval lies within a bound of 0."""
    if -bound < gap.low and gap.high < bound:
        return True
    return False if gap.low > bound or gap.high < -bound else None


def draw(rows: list[Row]) -> Figure:
    """Both biases over the number of maxima; and with two, the cures."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    *panels, right = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    for axes, (column, label) in zip(panels, {"out": "O", "delta": "delta"}.items(), strict=True):
        for mean, color in zip(MEANS, ("C0", "gray", "C3"), strict=True):
            for context, style in zip(CONTEXTS, ("o-", "s--", "^:"), strict=True):
                point = {"mean": mean, "context": context}
                values = [bias(rows, column, ties=t, **point).mean() for t in TIES]
                text = f"v {mean:+g}, context {context}"
                axes.plot(range(len(TIES)), values, style, color=color, label=text, markersize=4)
        axes.axhline(0, color="black", linewidth=0.5)
        axes.set_xticks(range(len(TIES)), TIES)
        axes.set(xlabel="keys that share the row's maximum", ylabel=f"bias of {label} ($2^{{-9}}$)")
    for i, (form, column) in enumerate(CURES):
        for mean, color in ((-1.5, "C0"), (1.5, "C3")):
            values = [bias(rows, column, form, ties=2, mean=mean, context=c) for c in CONTEXTS]
            right.plot(np.full(len(CONTEXTS) * SEEDS, i), np.ravel(values), ".", color=color)
    right.axhline(0, color="black", linewidth=0.5)
    names = [f"{form},\n{'O' if column == 'out' else column}" for form, column in CURES]
    right.set_xticks(range(len(CURES)), names, rotation=45, fontsize=8)
    right.set(title="two maxima, each seed and context", ylabel="bias ($2^{-9}$)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=8
    )
    return figure


CURES = (
    ("flash_bf16", "out"), ("shifted", "out"), ("float32", "out"),
    ("flash_bf16", "delta"), ("float32 delta", "delta"),
)  # fmt: skip


def summarize(rows: list[Row]) -> Summary:
    """The six statements."""
    signed = [(m, c) for m in MEANS if m for c in CONTEXTS]

    def gaps(column: str, form: str, ties: int) -> list[Difference]:
        found = [bias(rows, column, form, ties=ties, mean=m, context=c) for m, c in signed]
        return [difference(values, np.zeros(len(values))) for values in found]

    def of_sign(column: str) -> bool | None:
        found = gaps(column, "flash_bf16", 2)
        return every([has_sign(g, m) for (m, _), g in zip(signed, found, strict=True)])

    def none(column: str, form: str, ties: int, bound: float = NONE) -> bool | None:
        return every([is_within(g, bound) for g in gaps(column, form, ties)])

    statements = {
        "two maxima bias O to v's sign": of_sign("out"),
        "and delta": of_sign("delta"),
        "one maximum does not": none("out", "flash_bf16", 1),
        "nor two under a shifted maximum": none("out", "shifted", 2),
        "delta in float32 has none": none("delta", "float32 delta", 2),
        "nor has a float32 softmax": none("out", "float32", 2, EXACT),
    }
    numbers = {
        f"{form}, {others}, {ties} equal, v {mean:+g}, context {c}: {column}": bias(
            rows, column, form, others, ties=ties, mean=mean, context=c
        )
        for form, others, ties in CASES
        for mean in MEANS
        for c in CONTEXTS
        for column in ("out", "delta")
        if (mean and c == CONTEXTS[0]) or (form, others, ties) == ("flash_bf16", "far", 2)
    }
    near = bias(rows, "out", others="near", ties=2, mean=MEANS[-1], context=CONTEXTS[0])
    two = [
        np.mean([bias(rows, "out", ties=2, mean=m, context=c) for c in CONTEXTS])
        for m in (MEANS[0], MEANS[-1])
    ]
    return Summary(
        question="Does a bfloat16 flash kernel bias attention where maxima are repeated?",
        source="two equal maxima: O and delta are biased; a shift cures it (2510.04212)",
        number=f"bias of O, two maxima: {two[0]:+.2f} (v -1.5), {two[1]:+.2f} (v 1.5) of 2^-9",
        agrees=agreement(list(statements.values())),
        measured="bias in units of 2^-9 of the mean size",
        numbers=numbers,
        seeds=SEEDS,
        remark=in_words(statements)
        + f". Where the others lie 0 to 5 below two maxima it is {near.mean():+.3f} (v 1.5, "
        f"context {CONTEXTS[0]}). It decides the bias of the kernel; it does not show that a "
        "training diverges by it, or that decay would prevent that.",
    )


STUDY = Study(
    "attention_bias",
    points,
    measure,
    draw,
    summarize,
    "one evaluation of attention: no training, so no decay",
    "more queries",
    ("tiny",),
)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
