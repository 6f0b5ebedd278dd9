"""What an optimizer does to each kind of leaf: how much of a weight it takes, and how it steps."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wdlab.instruments.plans.traced_optimizer import State, TracedOptimizer

Array = Any
# Weights and gradients of the cases that are compared.
_WEIGHTS = np.asarray([0.0, 1.0, 2.0, 1.0]).reshape(1, 4, 1)
_GRADIENTS = np.asarray([0.0, 0.0, 0.0, 1.0]).reshape(1, 4, 1)
# Given from the start, one after the other: they tell momentum, second moment, epsilon, clipping.
TRIED_GRADIENTS = (1e-6, 1.0, -0.3, 4.0, 1e4, -2.0)
_TOGETHER = 64  # Kinds of leaves that are looked at at once: it bounds the memory.
_NOISE = 1e-12
_same = functools.partial(np.allclose, rtol=1e-4, atol=_NOISE)


@dataclass(frozen=True)
class Measured:
    """Of the leaves of a kind; arrays over the steps asked for, NaN where unknown."""

    coupling: str
    decay: Array
    response: Array  # What a gradient of 1 adds to the update.
    trials: Array  # The updates for TRIED_GRADIENTS; in further rows, of other entries.
    program: str  # A digest of what is computed.
    kinds: tuple[int, ...]


def measure(traced: TracedOptimizer, steps: Array) -> list[Measured]:
    """Measures every leaf at these steps; those of a kind share one object.

    A decay is what an update takes from a weight where the gradient is zero and the state is that
    of the start, moved on to the step: for weights of 0, 1 and 2, each from its own ``init``. Where
    the update asks for the loss, that is 1.

    Args:
      traced: The optimizer.
      steps: Numbers of updates made before.

    >>> import jax, optax
    >>> shapes = {"w": jax.ShapeDtypeStruct((64, 64), np.float32)}
    >>> tx = optax.adamw(0.5, weight_decay=0.25)
    >>> found = measure(TracedOptimizer(tx, shapes), np.arange(2))[0]
    >>> found.coupling, found.decay.tolist(), found.response.round(6).tolist()
    ('decoupled', [0.125, 0.125], [-0.5, -0.372068])
    """
    trials, found = _trials(traced), []
    for first in range(0, len(traced.updates), _TOGETHER):
        kinds = range(first, min(first + _TOGETHER, len(traced.updates)))
        for kind, columns in zip(kinds, shares(traced, kinds, steps), strict=True):
            decay = _decay(traced, kind, columns[0], columns[1], steps)
            program = traced.program(kind)
            found.append(Measured(*decay, columns[2], trials[kind], program, (kind,)))
    joined = {kinds: _joined([found[n] for n in kinds]) for kinds in set(traced.kinds_of_leaf)}
    return [joined[kinds] for kinds in traced.kinds_of_leaf]


def shares(
    traced: TracedOptimizer, kinds: Sequence[int], steps: Array, *, own_start: bool = True
) -> list[tuple[Array, Array, Array]]:
    """Of each kind the share taken of weights of 1 and of 2, and the response; over the steps.

    >>> import jax, optax
    >>> traced = TracedOptimizer(optax.add_decayed_weights(-0.5), jax.ShapeDtypeStruct((), float))
    >>> [x.tolist() for x in shares(traced, [0], np.arange(1))[0]]
    [[0.5], [0.5], [1.0]]
    """
    start = traced.start(_WEIGHTS if own_start else 0.0)
    cold = _shares(traced, start, kinds, steps)
    lost = [n for n, (once, *_) in enumerate(cold) if np.isnan(once).all()]
    if lost:  # 0 / 0 where the first gradient is zero: after one that is not.
        start = traced.window(start, _WEIGHTS, 1.0, ())[1]
        warm = _shares(traced, start, [kinds[n] for n in lost], steps)
        for n, columns in zip(lost, warm, strict=True):
            cold[n] = columns
    return cold


def _shares(traced: TracedOptimizer, start: State, kinds: Sequence[int], steps: Array) -> list:
    before = traced.after(start, np.reshape(steps, (1, 1, -1)))
    updates, after = traced.window(before, _WEIGHTS, _GRADIENTS, kinds)
    updates = [np.asarray(u) + np.zeros((1, 4, 1)) for u in updates]
    still = functools.reduce(np.logical_and, [np.all(u == 0, -2, keepdims=True) for u in updates])
    unknown = np.where(still & traced.midway(before, after), np.nan, 0.0)
    return [_compared(u + unknown, len(steps)) for u in updates]


def _compared(update: Array, steps: int) -> tuple[Array, Array, Array]:
    update = np.broadcast_to(update, (len(update), 4, steps))
    nothing = np.nan_to_num(update[:, 0])
    once, twice = nothing - update[:, 1], (nothing - update[:, 2]) / 2
    columns = (once, twice, update[:, 3] - update[:, 1])
    return tuple(_agreed(np.where(np.abs(x) < _NOISE, 0.0, x)) for x in columns)


def _agreed(rows: Array) -> Array:
    """What is the same in all rows: for the least and the largest entry of constants."""
    return np.where(np.isclose(rows, rows[:1], rtol=1e-6, atol=_NOISE).all(0), rows[0], np.nan)


def _joined(entries: list[Measured]) -> Measured:
    """What is the same for all entries of a leaf."""
    first = entries[0]
    if len(entries) == 1:
        return first
    return Measured(
        coupling=first.coupling if len({x.coupling for x in entries}) == 1 else "unknown",
        decay=_agreed(np.stack([x.decay for x in entries])),
        response=_agreed(np.stack([x.response for x in entries])),
        trials=np.unique(np.concatenate([x.trials for x in entries]), axis=0),
        program=" ".join(sorted(x.program for x in entries)),
        kinds=tuple(n for x in entries for n in x.kinds),
    )


def _decay(
    traced: TracedOptimizer, kind: int, once: Array, twice: Array, steps: Array
) -> tuple[str, Array]:
    """The coupling and what is taken of a weight of 1."""
    if not traced.depends_on_weights(kind):
        return "none", np.zeros(len(steps))
    known = np.isfinite(once) & np.isfinite(twice)
    if not known.any():
        return "unknown", np.full(len(steps), np.nan)
    if not _same(once[known], twice[known]):
        return "gradient", once
    some = np.flatnonzero(known)[:: max(len(steps) // 32, 1)]
    later = _after_gradients(traced, kind, steps[some])
    if not np.any(once[known]):
        return _hidden(traced, kind, later, steps)
    even = later.mean(axis=0)
    share = even[0] - even[1]
    if traced.copies(kind)[0] or np.isnan(even).any():
        return "decoupled", once
    # Half of it where it acts for one sign only: a cautious decay.
    stays = any(_same(share, part * once[some]) for part in (1.0, 0.5))
    return "decoupled" if stays and _same(even[1], even[4]) else "gradient", once


def _after_gradients(traced: TracedOptimizer, kind: int, steps: Array) -> Array:
    """The updates after some gradients, of both signs, all else equal.

    The mean over the signs does not come from the gradients: it is the decay. Shape: sign, weights
    before and now of (0, 0), (1, 1), (2, 2), (1, 2), (2, 1), step.
    """
    before, now = [0.0, 1.0, 2.0, 1.0, 2.0] * 2, [0.0, 1.0, 2.0, 2.0, 1.0] * 2
    before, now = np.reshape(before, (1, 10, 1)), np.reshape(now, (1, 10, 1))
    signs = np.repeat([1.0, -1.0], 5).reshape(1, 10, 1)
    state = traced.start(before)
    for size in (1.0, 0.5):
        state = traced.window(state, before, size * signs, ())[1]
    state = traced.after(state, np.reshape(steps, (1, 1, -1)))
    (update,), _ = traced.window(state, now, 0.25 * signs, [kind])
    update = np.asarray(update) + np.zeros((1, 10, 1))
    return np.broadcast_to(_agreed(update), (10, len(steps))).reshape(2, 5, -1)


def _hidden(traced: TracedOptimizer, kind: int, later: Array, steps: Array) -> tuple[str, Array]:
    """The coupling of an update that uses the weights, and takes nothing of them at the start."""
    even, unknown = later.mean(axis=0), np.full(len(steps), np.nan)
    if not _same(even[:3], even[0], equal_nan=True):
        return "gradient", unknown
    used, constant = traced.copies(kind)
    if used:  # A pull toward them; one of 1, where weights are computed from them, is none.
        toward, *_ = shares(traced, [kind], steps, own_start=False)[0]
        if not np.any(toward) or np.allclose(toward, 1.0):
            return "none", np.zeros(len(steps))
        known = constant and np.isfinite(toward).all()
        return ("decoupled", toward) if known else ("unknown", unknown)
    if not _same(even, even[0], equal_nan=True):  # A norm that is kept.
        return "gradient", unknown
    # Weights may scale the step that gradients make: a trust ratio. Else, why is not known.
    scaled = not _same(later, later[:, :1], equal_nan=True)
    return ("none", np.zeros(len(steps))) if scaled else ("unknown", unknown)


def _trials(traced: TracedOptimizer) -> list[Array]:
    state, rows = traced.start(1.0), []
    for gradient in TRIED_GRADIENTS:
        updates, state = traced.window(state, 1.0, gradient)
        rows.append([np.ravel(update) for update in updates])
    columns = [np.stack(np.broadcast_arrays(*column), -1) for column in zip(*rows, strict=True)]
    return [np.unique(column, axis=0) for column in columns]
