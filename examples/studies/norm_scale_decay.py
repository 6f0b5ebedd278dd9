"""Decaying a norm's scale: before a linear layer, and after one.

Question: Wang et al. (2026, arXiv:2605.26895) prove and find that weight decay of a norm's scale
helps where the norm stands before a linear layer ("Input-Norm": the layer can do whatever the scale
does, decay only keeps the product from becoming sharp) and hurts where it stands after one
("Output-Norm": there the scale is all that sets the size of the output). Is it so in a small
network?

Command: ``python -m examples.studies.norm_scale_decay``; a minute on two CPU cores. The smallest
published scale is a language model of .12B parameters and gains of about .01 nats; paired seeds see
as much here, but depth, attention and their gradient noise are missing.

A residual network of two blocks of width 48 on the teacher and fresh samples of ``one_pass_mlp``:
x + W2 relu(W1 (scale * norm(x))) with the norm before, x + scale * norm(W2 relu(W1 x)) with it
after; the embedding and the head stand outside. AdamW under a cosine, 3,000 steps at lr 3e-3, all
matrices of the blocks decay with E = 3, the scales of the blocks with E = 0 or 3. The loss is that
of 16,384 samples that were not seen.

Written down before the first run. Five paired seeds, two statements. With the norm before, decay of
its scales lowers the loss. With the norm after, it raises it.
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

from . import digits, grids
from . import one_pass_mlp as task
from .dose import Dose
from .dose import dose as dose_of
from .error_bars import with_interval
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row, rows_over
from .study import Size, Study, Summary, at_end, main

PLACES, DECAYED = ("before", "after"), (False, True)
RATE, STEPS, SEEDS, WIDTH, BLOCKS, EXPONENT = 3e-3, 3_000, 5, 48, 2, 3.0


def points(size: Size) -> Sequence[Point]:
    """Both places of the norm, with and without decay of its scale."""
    del size
    return [{"place": place, "decayed": decayed} for place in PLACES for decayed in DECAYED]


def dose(point: Point, size: Size) -> Dose:
    """Of the matrices, which decay everywhere."""
    del point, size
    return Dose(EXPONENT, dose_of(RATE, STEPS, 0.0).lr_steps)


def rules(decayed: bool) -> tuple[wdlab.Rule, ...]:
    """The matrices of the blocks decay, and their scales or not; nothing else."""
    scale = wdlab.Rule("blocks/./scale", float(decayed))
    return (scale, wdlab.Rule("blocks/./w[12]"), wdlab.Rule(".*", 0.0))


def measure(point: Point, size: Size) -> list[Row]:
    """The loss of each seed, and the mean square of the scales."""
    del size
    found = digits.over_seeds(functools.partial(one, point["place"], point["decayed"]), SEEDS)
    return rows_over(found, seed=range(SEEDS))


def one(place: str, decayed: bool, key: jax.Array) -> dict[str, jax.Array]:
    """One training: loss and size of the scales at its end."""
    teacher_key, start_key, data_key, held_key = jax.random.split(key, 4)
    teacher = task.mlp(teacher_key, (task.INPUTS, task.TEACHER, task.CLASSES), norm=False)
    rate = grids.cosine(RATE, STEPS)
    total = jax.vmap(rate)(jnp.arange(STEPS)).sum()
    tx = wdlab.optimizers.adamw(
        rate, weight_decay=EXPONENT / total, coupling="lr", rules=rules(decayed)
    )

    def loss(params, x_BxD, y_B):
        return grids.loss(logits(place, params, x_BxD), y_B)

    def step(carry, key):
        params, state = carry
        grads = jax.grad(loss)(params, *task.samples(teacher, key, task.BATCH))
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    params = init(start_key)
    start = (params, tx.init(params))
    (params, _), _ = jax.lax.scan(step, start, jax.random.split(data_key, STEPS))
    scales = jnp.stack([block["scale"] for block in params["blocks"]])
    held = task.samples(teacher, held_key, task.HELD_OUT)
    return {"loss": loss(params, *held), "scale": jnp.sqrt(jnp.square(scales).mean())}


def init(key: jax.Array) -> digits.Params:
    """Matrices with the variance of fan-in, scales of 1."""
    keys = iter(jax.random.split(key, 2 + 2 * BLOCKS))

    def matrix(*shape):
        return jax.random.normal(next(keys), shape) * shape[0] ** -0.5

    return {
        "embedding": matrix(task.INPUTS, WIDTH),
        "blocks": [
            {"w1": matrix(WIDTH, WIDTH), "w2": matrix(WIDTH, WIDTH), "scale": jnp.ones(WIDTH)}
            for _ in range(BLOCKS)
        ],
        "head": matrix(WIDTH, task.CLASSES),
    }


def logits(place: str, params: digits.Params, x_BxD: jax.Array) -> jax.Array:
    """The residual network with its norms before or after the layers of a block."""
    x_BxD = x_BxD @ params["embedding"]
    for block in params["blocks"]:
        inner_BxD = block["scale"] * normalized(x_BxD) if place == "before" else x_BxD
        out_BxD = jax.nn.relu(inner_BxD @ block["w1"]) @ block["w2"]
        x_BxD += out_BxD if place == "before" else block["scale"] * normalized(out_BxD)
    return normalized(x_BxD) @ params["head"]


def normalized(x_BxD: jax.Array) -> jax.Array:
    """With a root mean square of 1."""
    return x_BxD * jax.lax.rsqrt(jnp.square(x_BxD).mean(-1, keepdims=True) + 1e-6)


def gaps(rows: list[Row]) -> dict[str, list[np.ndarray]]:
    """Losses with and without decay of the scales, for each place."""
    return {p: [at_end(rows, "loss", place=p, decayed=d) for d in (True, False)] for p in PLACES}


def draw(rows: list[Row]) -> Figure:
    """The difference that the decay of the scales makes, with its 95 % interval; their size."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, (place, (decayed, free)) in enumerate(gaps(rows).items()):
        gap = difference(decayed, free)
        with_interval(left, [i], [gap], fmt="o", color=f"C{i}")
        left.plot(np.full(free.shape, i + 0.1), decayed - free, ".", color=f"C{i}")
        for decays, marker in ((False, "s"), (True, "o")):
            scale = at_end(rows, "scale", place=place, decayed=decays)
            label = ("decay" if decays else "no decay") if i == 0 else None
            at = np.full(scale.shape, i + 0.1 * decays)
            right.plot(at, scale, marker, color="C0" if decays else "C1", label=label)
    left.axhline(0, color="gray", linestyle=":")
    left.set_ylabel("loss with decay of scale - without (nats)")
    right.set(ylabel="root mean square of the scales", ylim=(0, None))
    right.legend(loc="center")
    for axes in (left, right):
        axes.set_xticks([0, 1], ["norm before", "norm after"])
        axes.set_xlim(-0.5, 1.5)
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The two statements."""
    pairs = gaps(rows)
    statements = {
        "before, decay lowers the loss": is_lower(*pairs["before"]),
        "after, decay raises the loss": is_lower(*reversed(pairs["after"])),
    }
    apart = {place: difference(*pair) for place, pair in pairs.items()}
    return Summary(
        question="Does decay of a norm's scale help before a layer, and hurt after one?",
        source="helps before, hurts after (2605.26895)",
        number="loss: "
        + ", ".join(f"{place} {gap.mean:+.4f}" for place, gap in apart.items())
        + " nats",
        agrees=agreement(list(statements.values())),
        measured="loss on fresh samples, nats; root mean square of the scales",
        numbers={
            f"{column}, norm {p}, {'decay' if d else 'no decay'} of its scale": at_end(
                rows, column, place=p, decayed=d
            )
            for column in ("loss", "scale")
            for p in PLACES
            for d in DECAYED
        },
        seeds=SEEDS,
        remark=in_words(statements)
        + "; differences "
        + ", ".join(f"{place} {gap}" for place, gap in apart.items())
        + ".",
    )


STUDY = Study(
    "norm_scale_decay", points, measure, draw, summarize, dose, "a language model", ("tiny",)
)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
