"""Which convention of the registry a leaf's steps are, and with which learning rate and decay.

The optimizer's answers to a few small gradients are compared with those of each candidate at a
learning rate of 1. Their ratio is the learning rate; what they have beside it is the decay.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wdlab.conventions import build
from wdlab.instruments.diagnosis.examination import Examination, LeafFacts
from wdlab.instruments.plans import TracedOptimizer, shares

Array = Any
# Of both signs and of several sizes. Small, so that no clipping by a norm acts; large; and large
# ones as a clipping by a norm leaves them.
_SEQUENCE = np.asarray([1.0, -0.3, 4.0, 0.5, -2.0, 1.0])
_SMALL, _LARGE, _CLIPPED = 1e-6 * _SEQUENCE, _SEQUENCE, 1e-2 * np.sign(_SEQUENCE)
_BETAS = ((0.9, 0.999), (0.9, 0.95), (0.9, 0.98), (0.9, 0.99), (0.95, 0.95))
# The same step under several names stands here under one.
CANDIDATES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("torch.AdamW", {"betas": betas}) for betas in _BETAS),
    *(("torch.AdamW", {"betas": betas, "eps": 1e-9}) for betas in ((0.9, 0.98), (0.9, 0.999))),
    *(("fairseq.Adam", {"betas": betas}) for betas in _BETAS[:2]),
    ("timm.NAdamW", {}),
    ("optax.adamw", {"nesterov": True}),
    ("torch.NAdam", {}),
    ("torch.RAdam", {}),
    ("bert.AdamWeightDecayOptimizer", {}),
    ("optax.lion", {}),
    ("torch.SGD", {}),
    ("torch.SGD", {"momentum": 0.9}),
    ("torch.RMSprop", {}),
    ("torch.Adagrad", {}),
    ("optax.adafactor", {}),
    ("torch.Adafactor", {}),
)
# What the first moment's decay is called, and its default.
_MOMENTUM = {
    "torch.SGD": 0.0,
    "torch.RMSprop": 0.0,
    "torch.Adagrad": 0.0,
    "optax.adafactor": 0.0,
    "torch.Adafactor": 0.0,
}
_EXACT, _NEAR = 1e-4, 0.15


@dataclass(frozen=True)
class Match:
    """The nearest convention of a leaf."""

    name: str
    arguments: dict[str, Any]
    error: float  # The largest relative difference of the steps compared.
    learning_rate: float  # At the busiest step.
    momentum: float

    @property
    def exact(self) -> bool:
        """Whether the steps are the same."""
        return self.error < _EXACT

    def __str__(self) -> str:
        """The name with its arguments, and how far it is off."""
        told = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        name = f"{self.name}({told})" if told else self.name
        return name if self.exact else f"nearest {name}: steps differ by up to {self.error:.0%}"


def nearest_convention(run: Examination, leaf: LeafFacts) -> Match | None:
    """The candidate whose steps are most like the leaf's; None where these are unknown.

    >>> import optax
    >>> from wdlab.instruments.diagnosis.examination import examine
    >>> tx = optax.adamw(3e-4, b2=0.95, weight_decay=0.1)
    >>> run = examine(tx, {"kernel": jax.ShapeDtypeStruct((2, 3), "float32")}, steps=100)
    >>> found = nearest_convention(run, run.leaves[0])
    >>> str(found), round(found.learning_rate, 7)
    ('torch.AdamW(betas=(0.9, 0.95))', 0.0003)
    """
    if run.traced is None or leaf.coupling == "gradient":
        return None  # An L2 term acts on every step.
    found = [_compared(run, leaf, name, arguments) for name, arguments in CANDIDATES]
    best = min(found, key=lambda match: match.error)
    return best if best.error < _NEAR else None


def _compared(run: Examination, leaf: LeafFacts, name: str, arguments: dict[str, Any]) -> Match:
    """The match with one candidate: the worst of its errors, infinite where there is no answer."""
    start = run.busiest_step(leaf)
    error, rate = _error(run, leaf, (name, arguments), start, _SMALL, _SMALL)
    for other in (start, 0):
        if error < _NEAR:
            tried = [
                _error(run, leaf, (name, arguments), other, _LARGE, seen)[0]
                for seen in (_LARGE, _CLIPPED)
            ]
            error = max(error, min(tried))
    momentum = arguments.get("momentum", _MOMENTUM.get(name, arguments.get("betas", (0.9,))[0]))
    return Match(name, arguments, error, rate, momentum)


def _error(
    run: Examination, leaf: LeafFacts, candidate: Any, start: int, given: Array, seen: Array
) -> tuple[float, float]:
    """How far the leaf's steps are from the candidate's, and the first one's learning rate.

    Args:
      run: The examination.
      leaf: Its leaf.
      candidate: Name and arguments.
      start: The step from which on they are compared.
      given: The gradients that the leaf gets.
      seen: What the candidate gets: these, or those after a clipping.
    """
    name, arguments = candidate
    key = ("answers", leaf.kinds, start, given.tobytes())
    if key not in run.cache:
        run.cache[key] = _answers(run.traced, leaf.kinds[:1], start, given)
    own, first = run.cache[key]
    theirs, unit = _of_candidate(name, tuple(arguments.items()), start, tuple(seen))
    with np.errstate(all="ignore"):
        rates = np.where(first == 0, 0.0, first / unit)  # The learning rate of each of the steps.
        error = np.max(np.abs(own - theirs * rates)) / np.max(np.abs(own))
    return (float(error), abs(float(rates[0]))) if np.isfinite(error) else (np.inf, 0.0)


def learning_rates(run: Examination, leaf: LeafFacts, match: Match) -> Array:
    """The learning rate at each of the leaf's steps, as the convention counts it.

    >>> import optax
    >>> from wdlab.instruments.diagnosis.examination import examine
    >>> run = examine(optax.adam(0.5), {"w": jax.ShapeDtypeStruct((2,), "float32")}, steps=3)
    >>> match = nearest_convention(run, run.leaves[0])
    >>> learning_rates(run, run.leaves[0], match).round(6).tolist()
    [0.5, 0.5, 0.5]
    """
    traced = _traced_candidate(match.name, tuple(match.arguments.items()))
    with np.errstate(all="ignore"):
        found = np.abs(leaf.response / shares(traced, [0], leaf.steps)[0][2])
    busiest = found[np.searchsorted(leaf.steps, run.busiest_step(leaf))]
    return found * (match.learning_rate / busiest)  # A clip at a gradient of 1 divides all alike.


def _answers(traced: Any, kinds: Any, start: int, given: Array) -> tuple[Array, Array]:
    """The steps for gradients in a row without the decay, and those from a fresh state each."""
    rows, fresh = [], []
    begun = traced.start(1.0)
    state = still = traced.after(begun, np.asarray([start]))
    for n, gradient in enumerate(given):
        update, state = traced.window(state, 1.0, gradient, kinds)
        nothing, still = traced.window(still, 1.0, 0.0, kinds)
        alone = traced.after(begun, np.asarray([start + n]))
        once, _ = traced.window(alone, 1.0, given[0], kinds)
        base = float(np.nan_to_num(np.ravel(nothing[0])[0]))
        rows.append(float(np.ravel(update[0])[0]) - base)
        fresh.append(float(np.ravel(once[0])[0]) - base)
    return np.asarray(rows), np.asarray(fresh)


@functools.lru_cache(maxsize=2048)
def _of_candidate(name: str, arguments: tuple, start: int, given: tuple) -> tuple[Array, Array]:
    return _answers(_traced_candidate(name, arguments), (0,), start, np.asarray(given))


@functools.cache
def _traced_candidate(name: str, arguments: tuple) -> TracedOptimizer:
    decay = {} if name == "optax.adafactor" else {"weight_decay": 0.0}
    tx = build(name, 1.0, **decay, **dict(arguments))
    return TracedOptimizer(tx, {"w": jax.ShapeDtypeStruct((4, 6), np.float32)})
