"""The best weight decay grows with the number of epochs.

Question: Kim et al. (2025, arXiv:2509.14786) find that language models which see little data many
times want up to 30 times the usual weight decay. Does the best decay grow with the repetition here,
and by how much?

Command: ``python -m examples.studies.many_epochs``; two minutes on two CPU cores. The smallest
published scale is 150M parameters on 200M tokens; a small network can show the direction and a
factor of its own, not theirs.

The normalized network, teacher and samples of ``one_pass_mlp`` (two hidden layers of 48). AdamW at
lr 3e-3 under a cosine, 2,000 steps of 32 samples; its two hidden matrices decay with exponent E =
1/4 to 512 by factors of 2. The samples are all fresh (1 epoch), or drawn from the first 8,000 (8
epochs) or 1,000 (64 epochs). The loss is that of 16,384 samples that were not seen. The best E of a
seed is the vertex of the parabola, in log2 E, through the lowest loss and its neighbours; at an end
of the grid it is that end.

Written down before the first run. Five paired seeds (start, teacher and held-out samples shared),
two statements: the best E is larger with 8 epochs than with 1; and with 64 than with 8. The factor
from 1 to 64 epochs is the number beside the paper's 30.

Settings tried before: the grid up to 128. Both statements held; with 64 epochs the best was at that
end for all seeds, 40 times the best of one epoch or more. So the grid was made longer, up to 512,
where a step at the peak decays by half of a weight; more would overshoot zero.
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
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row, rows_over
from .study import Size, Study, Summary, ends_over, main

EPOCHS, EXPONENTS = (1, 8, 64), tuple(grids.powers(-2, 9))
RATE, STEPS, SEEDS = 3e-3, 2_000, 5
SAMPLES = STEPS * task.BATCH  # of one epoch


def points(size: Size) -> Sequence[Point]:
    """The numbers of epochs, each with its exponents as one program."""
    del size
    return [{"epochs": epochs} for epochs in EPOCHS]


def dose(point: Point, size: Size) -> Dose:
    """The largest of the grid: the strength is chosen for its exponent."""
    del point, size
    return Dose(max(EXPONENTS), dose_of(RATE, STEPS, 0.0).lr_steps)


def measure(point: Point, size: Size) -> list[Row]:
    """The loss of every exponent and seed."""
    del size
    run = functools.partial(one, SAMPLES // point["epochs"])
    found = digits.over_seeds(run, SEEDS, EXPONENTS)
    return rows_over(found, seed=range(SEEDS), exponent=EXPONENTS)


def one(samples: int, key: jax.Array, exponent: jax.Array) -> dict[str, jax.Array]:
    """Losses of one training, on samples unseen and on those it had."""
    teacher_key, start_key, data_key, order_key, held_key = jax.random.split(key, 5)
    teacher = task.mlp(teacher_key, (task.INPUTS, task.TEACHER, task.CLASSES), norm=False)
    width = task.HIDDEN["tiny"]
    params = task.mlp(start_key, (task.INPUTS, width, width, task.CLASSES), norm=True)
    x_NxD, y_N = task.samples(teacher, data_key, samples)
    order = jax.vmap(lambda k: jax.random.permutation(k, samples))(
        jax.random.split(order_key, -(-SAMPLES // samples))
    )
    batches = order.reshape(-1)[:SAMPLES].reshape(STEPS, -1)
    rate = grids.cosine(RATE, STEPS)
    total = jax.vmap(rate)(jnp.arange(STEPS)).sum()
    tx = wdlab.optimizers.adamw(
        rate, weight_decay=exponent / total, coupling="lr", rules=task.RULES
    )

    def step(carry, batch_B):
        params, state = carry
        grads = jax.grad(task.loss)(params, x_NxD[batch_B], y_N[batch_B])
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), batches)
    held = task.samples(teacher, held_key, task.HELD_OUT)
    return {"loss": task.loss(params, *held), "train_loss": task.loss(params, x_NxD, y_N)}


def best(exponents: Sequence[float], values: np.ndarray) -> np.ndarray:
    """log2 of the best exponent for each seed; exponents are powers of 2, one after another.

    >>> best((1.0, 2.0, 4.0), np.array([[1.0, 0.0, 1.0], [3.0, 2.0, 1.0], [4.0, 0.0, 2.0]]))
    array([1.        , 2.        , 1.16666667])
    """
    logs, found = np.log2(exponents), []
    for row in values:
        i = int(np.argmin(row))
        if 0 < i < len(row) - 1:
            left, middle, right = row[i - 1 : i + 2]
            found.append(logs[i] + (left - right) / (left - 2 * middle + right) / 2)
        else:
            found.append(logs[i])
    return np.array(found)


def draw(rows: list[Row]) -> Figure:
    """The loss over the exponent, less the lowest; the best exponent over the epochs."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, epochs in enumerate(EPOCHS):
        values = ends_over(rows, "loss", EXPONENTS, epochs=epochs)
        above = values - values.min(1, keepdims=True)
        label = f"{epochs} epoch{'s' if epochs > 1 else ''}"
        left.plot(EXPONENTS, above.mean(0), "o-", color=f"C{i}", label=label)
        chosen = 2 ** best(EXPONENTS, values)
        right.plot(np.full(chosen.shape, epochs), chosen, "o", color=f"C{i}")
    left.set(xscale="log", xlabel="decay exponent E", ylabel="loss above the lowest (nats)")
    left.set_ylim(0, 0.5)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    right.set(xscale="log", yscale="log", xlabel="epochs", ylabel="best decay exponent E")
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The two statements, and the factor."""
    losses = {e: ends_over(rows, "loss", EXPONENTS, epochs=e) for e in EPOCHS}
    chosen = {epochs: best(EXPONENTS, values) for epochs, values in losses.items()}
    one_epoch, few, many = EPOCHS
    statements = {
        f"larger with {few} epochs than with {one_epoch}": is_lower(chosen[one_epoch], chosen[few]),
        f"larger with {many} epochs than with {few}": is_lower(chosen[few], chosen[many]),
    }
    gap = difference(chosen[many], chosen[one_epoch])
    factor = " ".join(f"{2**v:.3g}" for v in (gap.mean, gap.low, gap.high))
    mean, low, high = factor.split()
    least = "at least " if np.all(chosen[many] == np.log2(EXPONENTS[-1])) else ""
    return Summary(
        question="Does the best weight decay grow with the number of epochs?",
        source="with many epochs it is up to 30 times the usual (2509.14786)",
        number=f"best decay, {many} epochs over {one_epoch}: {least}{mean} [{low}, {high}] times",
        agrees=agreement(list(statements.values())),
        measured="best decay exponent E; loss on unseen samples there, nats",
        numbers={f"best E, epochs {epochs}": 2**v for epochs, v in chosen.items()}
        | {f"lowest loss, epochs {e}": values.min(1) for e, values in losses.items()},
        seeds=SEEDS,
        remark=in_words(statements) + ".",
    )


STUDY = Study("many_epochs", points, measure, draw, summarize, dose, "a language model", ("tiny",))

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
