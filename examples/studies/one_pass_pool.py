"""The task of ``one_pass_mlp`` for many runs side by side: its samples are drawn beforehand.

A pool is what all runs of one seed share: the student's start, samples to train on and others to
measure the loss on. Random numbers inside the step take ten times as long to compile as the step,
and a program with 50 runs side by side takes a fifth of the time of 50 in a row.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wdlab

from . import digits
from . import one_pass_mlp as task
from .rows import Row, rows_over
from .study import at_end

BATCH, HIDDEN, HELD_OUT = task.BATCH, task.HIDDEN["tiny"], 8_192
RULES = task.RULES  # The two hidden matrices decay.


class Pool(NamedTuple):
    """Arrays of one seed; with seeds as the first axis where all are stacked."""

    params: digits.Params  # the student's start
    x_NxD: Any  # float32
    y_N: Any  # int32
    x_held: Any
    y_held: Any


def pool(seed: int, count: int, width: int = HIDDEN) -> Pool:
    """A teacher's samples, ``count`` of them to train on, and a student."""
    rng = np.random.default_rng(seed)

    def network(widths: tuple[int, ...], *, norm: bool) -> digits.Params:
        # Shapes, names and scales as there; only the kernels are drawn.
        shapes = jax.eval_shape(lambda: task.mlp(jax.random.key(0), widths, norm=norm))
        layers = []
        for i, layer in enumerate(shapes["layers"]):
            gain = 3.0 if i == len(widths) - 2 and not norm else 2**0.5
            kernel = rng.standard_normal(widths[i : i + 2]) * gain * widths[i] ** -0.5
            drawn = {"kernel": kernel.astype(np.float32), "bias": np.zeros(widths[i + 1], "f4")}
            if "norm" in layer:
                drawn["norm"] = {"scale": np.ones(widths[i + 1], "f4")}
            layers.append(drawn)
        return {"layers": layers}

    teacher = network((task.INPUTS, task.TEACHER, task.CLASSES), norm=False)
    params = network((task.INPUTS, width, width, task.CLASSES), norm=True)
    x = rng.standard_normal((count + HELD_OUT, task.INPUTS)).astype(np.float32)
    first, last = teacher["layers"]
    hidden = np.maximum(x @ first["kernel"], 0)
    # The largest of logits plus Gumbel noise is a draw from their probabilities.
    y = (hidden @ last["kernel"] + rng.gumbel(size=(len(x), task.CLASSES))).argmax(1)
    y = y.astype(np.int32)
    return Pool(params, x[:count], y[:count], x[count:], y[count:])


@functools.lru_cache(maxsize=2)
def pools(seeds: int, count: int, width: int = HIDDEN) -> Pool:
    """The pools of all seeds, stacked."""
    return jax.tree.map(lambda *a: np.stack(a), *(pool(s, count, width) for s in range(seeds)))


def train(
    tx: optax.GradientTransformation, start: digits.Params, x_NxD: Any, y_N: Any, batch: int
) -> digits.Params:
    """One pass over the samples in their order; traceable."""
    batches = (x_NxD.reshape(-1, batch, x_NxD.shape[-1]), y_N.reshape(-1, batch))

    def step(carry, batch):
        params, state = carry
        updates, state = tx.update(jax.grad(task.loss)(params, *batch), state, params)
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, tx.init(start)), batches)[0][0]


def one_pass_loss(tx: optax.GradientTransformation, seed: Pool, batch: int = BATCH) -> jax.Array:
    """The held-out loss after one pass over all samples, nats."""
    params = train(tx, seed.params, seed.x_NxD, seed.y_N, batch)
    return held_out_loss(params, seed)


def held_out_loss(params: digits.Params, seed: Pool) -> jax.Array:
    """Mean cross-entropy of samples that no run trains on, nats."""
    return task.loss(params, seed.x_held, seed.y_held)


def side_by_side(
    run: Callable[[dict[str, jax.Array], Any], Mapping[str, jax.Array]],
    axes: Mapping[str, Sequence[float]],
    drawn: Any,
) -> list[Row]:
    """Every combination of the axes' values for every seed as one vmapped program; a row each.

    ``run(values, seed)`` gets a number for each axis and one seed's part of ``drawn``, a pool or
    other arrays with the seeds as first axis, and returns scalars.
    """
    grid = np.stack([v.ravel() for v in np.meshgrid(*axes.values(), indexing="ij")], 1)
    values = {name: jnp.asarray(grid[:, i], jnp.float32) for i, name in enumerate(axes)}
    of_grid = jax.vmap(run, in_axes=(0, None))
    found: dict[str, Any] = jax.jit(
        lambda drawn: jax.lax.map(lambda seed: of_grid(values, seed), drawn)
    )(drawn)
    shape = (len(jax.tree.leaves(drawn)[0]), *map(len, axes.values()))
    arrays = {name: np.asarray(array).reshape(shape) for name, array in found.items()}
    return rows_over(arrays, seed=range(shape[0]), **axes)


def best(
    rows: Sequence[Row], metric: str, axes: Iterable[str], **point: Any
) -> tuple[Row, np.ndarray]:
    """Of the rows with these values the setting of the lowest mean, and the metric of each seed.

    >>> rows = [{"lr": lr, "seed": s, "loss": lr + s} for lr in (1, 2) for s in (0, 1)]
    >>> best(rows, "loss", ["lr"])
    ({'lr': 1}, array([1., 2.]))
    """
    axes = tuple(axes)
    settings = {tuple(row[a] for a in axes) for row in rows if point.items() <= row.items()}
    found = {s: at_end(rows, metric, **dict(zip(axes, s, strict=True)), **point) for s in settings}
    means = {s: np.nan_to_num(values.mean(), nan=np.inf) for s, values in found.items()}
    chosen = min(means, key=means.__getitem__)
    return dict(zip(axes, chosen, strict=True)), found[chosen]


def falling(shape: Callable[[Any], Any], peak: Any) -> wdlab.schedules.Schedule:
    """A schedule of that shape, whose largest value is 1, times a peak that may be traced."""
    return wdlab.schedules.with_peak(lambda count: peak * shape(count), peak)


def linear_to_zero(steps: int, constant: float = 0.0) -> Callable[[Any], jax.Array]:
    """1, after a share of the steps that is constant falling in a line to 0.

    >>> [round(float(linear_to_zero(10, 0.5)(t)), 2) for t in (0, 5, 6, 10)]
    [1.0, 1.0, 0.8, 0.0]
    """
    return lambda count: jnp.clip((1 - count / steps) / (1 - constant), 0.0, 1.0)


def total(schedule: Callable[[Any], jax.Array], steps: int) -> jax.Array:
    """The sum of a schedule over the steps."""
    return jax.vmap(schedule)(jnp.arange(steps)).sum()
