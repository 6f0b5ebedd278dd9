"""A decay that grows with the root of the width: does it keep a layer's gain?

Question: Fan et al. (2025, arXiv:2510.15262): in networks with normalizations AdamW's steady state
sets the size of a matrix, its largest singular value goes as sqrt(lr / lambda) d**0.75 with the
width d, so that under muP (lr of matrices ~ 1 / d) a decay ~ sqrt(d) keeps the gain of a sublayer,
its output's RMS over its input's, the same at every width. Is it so?

Command: ``python -m examples.studies.transfer_by_decay``; a minute on two CPU cores. The
smallest published scales are LLaMA-like models of width 256 and a synthetic task, of which we know
no more than that it is minimal; ours is another one. It measures the powers of the width well (to
.05 with five seeds), but they are those of a network with ten outputs: that of the singular value
was 1.03, as for aligned matrices of rank one. Whether the source's .75 holds where it was found
would need transformers of width 256 and more; size paper has ten times the steps, and no others.

The network and teacher of ``one_pass_mlp`` with hidden layers of d = 32, 64, 128, 256: the one
matrix between them decays, lr-coupled, and has the learning rate 3e-3 * 32 / d, constant; the
head's rate goes as 1 / d too, all else has 3e-3 and no decay. 5,000 steps, batch 32. E is 30 at
width 32; three rules for lambda: constant (E ~ 1 / d, 3.75 at the widest), sqrt(d), d (E = 30).
The gain is measured before the normalization, on held-out samples, at the end. (Random matrices
would have the power 0.5 instead of 0.75, aligned ones of rank one 1.)

Written down before the first run. Five paired seeds; powers by least squares over the four widths,
for each seed. Two statements. The power of the largest singular value over sqrt(lr / lambda), under
lambda ~ sqrt(d), has a 95 % interval within 0.6 and 0.9 ("no" if wholly outside). Among the three
rules that of sqrt(d) has the power of the gain nearest to 0: its size is lower than that of either
other rule (paired; "no" if it is higher than one of them).
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

from . import digits
from . import one_pass_pool as task
from .dose import Dose
from .paired import agreement, difference, every, in_words, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, at_end, main
from .timescale import is_within

WIDTHS, STEPS, SEEDS = (32, 64, 128, 256), {"tiny": 5_000, "paper": 50_000}, 5
LR, EXPONENT, BASE = 3e-3, 30.0, 32
RULES = {"constant": 0.0, "sqrt(d)": 0.5, "d": 1.0}  # lambda's power of the width
MATRIX = (wdlab.Rule("layers/1/kernel"), wdlab.Rule(".*", 0.0))
ASKED, LOW, HIGH = "sqrt(d)", 0.6, 0.9


def points(size: Size) -> Sequence[Point]:
    """Each width, with the three rules as one program."""
    del size
    return [{"width": width} for width in WIDTHS]


def dose(point: Point, size: Size) -> Dose:
    """Of the strongest rule, the same at every width."""
    del point
    return Dose(EXPONENT, LR * STEPS[size])


def measure(point: Point, size: Size) -> list[Row]:
    """Gain and largest singular value of every rule and seed."""
    width, steps = point["width"], STEPS[size]
    run = functools.partial(one, width, steps)
    drawn = task.pools(SEEDS, steps * task.BATCH, width)
    return task.side_by_side(run, {"power": list(RULES.values())}, drawn)


def one(width: int, steps: int, values: dict[str, jax.Array], seed: task.Pool):
    """What one training makes of the matrix; lambda is that of width 32 times a power."""
    wider = width / BASE
    strength = EXPONENT / (LR * steps) * wider ** values["power"]
    rates = {"rest": LR, "matrix": LR / wider}
    tx = optax.chain(
        optax.partition({k: wdlab.optimizers.adamw(lr) for k, lr in rates.items()}, labels_of),
        wdlab.decay_weights(strength, multiplier=LR / wider, rules=MATRIX),
    )
    params = task.train(tx, seed.params, seed.x_NxD, seed.y_N, task.BATCH)
    kernel = params["layers"][1]["kernel"]
    inner = first_layer(params, seed.x_held[:1_024])
    gain = jnp.sqrt(jnp.square(inner @ kernel).mean() / jnp.square(inner).mean())
    largest = jnp.linalg.norm(kernel, 2)
    scale = jnp.sqrt(LR / wider / strength)
    loss = task.held_out_loss(params, seed)
    return {"gain": gain, "largest": largest, "scaled": largest / scale, "loss": loss}


def labels_of(params: digits.Params) -> digits.Params:
    """The matrix and the head learn at a rate that falls with the width."""
    labels = jax.tree.map(lambda _: "rest", params)
    for layer in labels["layers"][1:]:
        layer["kernel"] = "matrix"
    return labels


def first_layer(params: digits.Params, x_BxD) -> jax.Array:
    """What the matrix gets: the first hidden layer's output."""
    first = params["layers"][0]
    x_BxD = x_BxD @ first["kernel"]
    x_BxD *= jax.lax.rsqrt(jnp.square(x_BxD).mean(-1, keepdims=True) + 1e-6)
    return jax.nn.relu(x_BxD * first["norm"]["scale"] + first["bias"])


def of(rows: list[Row], column: str, rule: str) -> np.ndarray:
    """A column, widths by seeds."""
    return np.array([at_end(rows, column, width=w, power=RULES[rule]) for w in WIDTHS])


def power(rows: list[Row], column: str, rule: str) -> np.ndarray:
    """The power of the width, for each seed."""
    return np.polyfit(np.log2(WIDTHS), np.log2(of(rows, column, rule)), 1)[0]


def draw(rows: list[Row]) -> Figure:
    """Gain and largest singular value over the width."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    labels = {"gain": "gain of the sublayer", "largest": "largest singular value"}
    for axes, (column, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        for rule, style in zip(RULES, ("s--", "o-", "^:"), strict=True):
            values = of(rows, column, rule)
            text = f"lambda {'~ ' if RULES[rule] else ''}{rule}"
            axes.errorbar(
                WIDTHS, values.mean(1), values.std(1, ddof=1), fmt=style, capsize=3, label=text
            )
        axes.set(xscale="log", yscale="log", xlabel="width d", ylabel=label)
        axes.set_xticks(WIDTHS, map(str, WIDTHS), minor=False)
        axes.set_xticks([], minor=True)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The two statements."""
    gains = {rule: power(rows, "gain", rule) for rule in RULES}
    scaled = {rule: power(rows, "scaled", rule) for rule in RULES}
    zero = np.zeros(SEEDS)
    intervals = {rule: difference(p, zero) for rule, p in gains.items()}
    singular = difference(scaled[ASKED], zero)
    nearest = [
        is_lower(abs(gains[ASKED]), abs(values)) for rule, values in gains.items() if rule != ASKED
    ]
    statements = {
        "the largest singular value goes as d^0.75": is_within(singular, LOW, HIGH),
        "lambda ~ sqrt(d) keeps the gain best": every(nearest),
    }
    return Summary(
        question="Does a decay that grows with the root of the width keep a layer's gain?",
        source="largest singular value ~ sqrt(lr / lambda) d^0.75: sqrt(d) (2510.15262)",
        number="power of the gain: "
        + ", ".join(f"{p.mean():+.2f} ({rule})" for rule, p in gains.items()),
        agrees=agreement(list(statements.values())),
        measured="powers of the width, 32 to 256; loss at the widest, nats",
        numbers={f"gain, lambda {rule}": p for rule, p in gains.items()}
        | {f"largest singular value over sqrt(lr / lambda), {r}": p for r, p in scaled.items()}
        | {f"loss at width {WIDTHS[-1]}, lambda {r}": of(rows, "loss", r)[-1] for r in RULES},
        seeds=SEEDS,
        remark=in_words(statements)
        + f". Largest singular value {singular}; gain "
        + ", ".join(f"{rule} {interval}" for rule, interval in intervals.items())
        + ".",
    )


STUDY = Study(
    "transfer_by_decay", points, measure, draw, summarize, dose,
    larger="transformers of width 256 and more, which no size here has",
)  # fmt: skip

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
