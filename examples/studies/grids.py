"""What the studies of grids share: a task that needs decay, and tables of :mod:`wdlab.sweep`.

The task is made for overfitting: an MLP on the first digits alone, a share of whose labels is
wrong. Without decay it learns these by heart, and the loss on the held-out digits (whose labels are
right) grows with every one.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wdlab
from wdlab.sweep import Optimizer, Table, Train, sweep, train_function
from wdlab.sweep.table import OK, STATUS

from . import digits
from .dose import Dose
from .dose import dose as dose_of
from .rows import Row

WRONG = 0.2  # share of the training labels


def overfitting(
    optimizer: Optimizer,
    *,
    steps: int,
    batch_size: int,
    examples: int,
    init: Callable[[jax.Array], digits.Params] = digits.init,
    logits: Callable[[digits.Params, Any], jax.Array] = digits.logits,
) -> Train:
    """``train(hyperparameters, key)`` with ``val_loss`` and ``val_error`` on 360 clean digits."""
    train, (x_held, y_held) = mislabelled(examples)

    def error(params: digits.Params) -> jax.Array:
        return (logits(params, x_held).argmax(-1) != y_held).mean()

    return train_function(
        init,
        lambda params, batch: loss(logits(params, batch[0]), batch[1]),
        train,
        optimizer,
        steps=steps,
        batch_size=batch_size,
        held_out=(x_held, y_held),
        metrics=lambda params: {"val_error": error(params)},
    )


def mislabelled(examples: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Images and labels to train on, some of these wrong, and the held-out ones."""
    x, y, x_held, y_held = digits.data()
    rng = np.random.default_rng(1)
    wrong = rng.random(examples) < WRONG
    labels = np.where(wrong, rng.integers(digits.CLASSES, size=examples), y[:examples])
    return (x[:examples], labels.astype(np.int32)), (x_held, y_held)


def cosine(peak: Any, steps: int) -> wdlab.schedules.Schedule:
    """A half cosine from a peak, which may be traced, to 0."""
    shape = wdlab.schedules.cosine(1.0, decay_steps=steps)
    return wdlab.schedules.with_peak(lambda count: peak * shape(count), peak)


def dose(peak: float, decay: float, coupling: str, steps: int, momentum: float = 0.0) -> Dose:
    """The dose under a half cosine; L2 is decay under SGD, whose momentum makes steps longer.

    >>> dose(0.5, 0.25, "schedule", 10)  # 0.25 * (10 + 1) / 2
    Dose(exponent=1.375, lr_steps=5.0)
    """
    lr = cosine(peak, steps)
    if coupling == "l2" and not momentum:  # In Adam's gradient.
        return dose_of(lr, steps, None)
    kappa = lr if coupling == "l2" else wdlab.schedules.multiplier_of(coupling, lr)
    longer = 1 / (1 - momentum) if coupling == "l2" else 1.0
    return dose_of(lr, steps, longer * decay, kappa)


def loss(logits_BxC: jax.Array, y_B: Any) -> jax.Array:
    """Mean cross-entropy, nats, without a gather: its gradient is slow on a CPU."""
    chosen_BxC = jax.nn.one_hot(y_B, digits.CLASSES)
    return -jnp.sum(chosen_BxC * jax.nn.log_softmax(logits_BxC), axis=-1).mean()


def measure(train: Train, grid: Mapping[str, Sequence[Any]], seeds: int) -> list[Row]:
    """Every point of the grid for every seed, one compiled program; a row each."""
    table = sweep(train, grid, seeds=seeds, progress=False)
    columns = {name: values.tolist() for name, values in table.columns.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def table(rows: Sequence[Row], axes: Sequence[str], metric: str) -> Table:
    """The rows as wdlab's instruments read them; a value that is not finite is "diverged"."""
    columns = {
        name: np.array([float(row[name]) for row in rows]) for name in (*axes, "seed", metric)
    }
    finite = np.isfinite(columns[metric])
    good = finite & np.array([row.get("status", OK) == OK for row in rows])
    return Table(tuple(axes), columns | {STATUS: np.where(good, OK, "diverged")})


def powers(first: int, last: int, step: float = 1.0) -> list[float]:
    """Powers of 2 from ``2^first`` to ``2^last``.

    >>> powers(-2, 1)
    [0.25, 0.5, 1.0, 2.0]
    """
    return [float(v) for v in 2.0 ** np.arange(first, last + step / 2, step)]
