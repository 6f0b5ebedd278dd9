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
# Small, so that no clipping by a norm acts; of both signs and of several sizes.
_GRADIENTS = 1e-6 * np.asarray([1.0, -0.3, 4.0, 0.5, -2.0, 1.0])
_BETAS = ((0.9, 0.999), (0.9, 0.95), (0.9, 0.98), (0.9, 0.99), (0.95, 0.95))
# The same step under several names stands here under one.
CANDIDATES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("torch.AdamW", {"betas": betas}) for betas in _BETAS),
    *(("torch.AdamW", {"betas": betas, "eps": 1e-9}) for betas in ((0.9, 0.98), (0.9, 0.999))),
    *(("fairseq.Adam", {"betas": betas}) for betas in _BETAS[:2]),
    *(("timm.NAdamW", {"betas": betas}) for betas in _BETAS[:2]),
    ("torch.NAdam", {}),
    ("torch.RAdam", {}),
    ("bert.AdamWeightDecayOptimizer", {}),
    ("optax.lion", {}),
    ("torch.SGD", {}),
    ("torch.SGD", {"momentum": 0.9}),
    ("torch.RMSprop", {}),
    ("torch.Adagrad", {}),
    ("optax.adafactor", {}),
)
# What the first moment's decay is called, and its default.
_MOMENTUM = {"torch.SGD": 0.0, "torch.RMSprop": 0.0, "torch.Adagrad": 0.0, "optax.adafactor": 0.0}
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
    start = run.busiest_step(leaf)
    own, first, _ = _answers(run.traced, leaf.kinds[:1], start)
    found: list[Match] = []
    if not np.all(np.isfinite(own)) or not np.any(own):
        return None
    for name, arguments in CANDIDATES:
        theirs, unit = _of_candidate(name, tuple(arguments.items()), start)
        rates = first / unit  # The learning rate of each of the steps.
        if not np.all(np.isfinite(rates)):
            continue
        expected = theirs * rates
        scale = np.max(np.abs(own)) or 1.0
        error = float(np.max(np.abs(own - expected)) / scale)
        betas = arguments.get("betas", (0.9, 0.999))
        momentum = arguments.get("momentum", _MOMENTUM.get(name, betas[0]))
        found.append(Match(name, arguments, error, abs(float(rates[0])), momentum))
    best = min(found, key=lambda match: match.error, default=None)
    return best if best is not None and best.error < _NEAR else None


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


def _answers(traced: TracedOptimizer, kinds: Any, start: int) -> tuple[Array, Array, Array]:
    """The steps for _GRADIENTS in a row without the decay, those from a fresh state, the decay."""
    rows, fresh, shrinks = [], [], []
    state = traced.after(traced.start(1.0), np.asarray([start]))
    still = traced.after(traced.start(1.0), np.asarray([start]))
    for n, gradient in enumerate(_GRADIENTS):
        update, state = traced.window(state, 1.0, gradient, kinds)
        nothing, still = traced.window(still, 1.0, 0.0, kinds)
        alone = traced.after(traced.start(1.0), np.asarray([start + n]))
        once, _ = traced.window(alone, 1.0, _GRADIENTS[0], kinds)
        base = float(np.nan_to_num(np.ravel(nothing[0])[0]))
        rows.append(float(np.ravel(update[0])[0]) - base)
        fresh.append(float(np.ravel(once[0])[0]) - base)
        shrinks.append(-base)
    return np.asarray(rows), np.asarray(fresh), np.asarray(shrinks)


@functools.lru_cache(maxsize=512)
def _of_candidate(name: str, arguments: tuple, start: int) -> tuple[Array, Array]:
    traced = _traced_candidate(name, arguments)
    rows, fresh, _ = _answers(traced, (0,), start)
    return rows, fresh


@functools.cache
def _traced_candidate(name: str, arguments: tuple) -> TracedOptimizer:
    decay = {} if name == "optax.adafactor" else {"weight_decay": 0.0}
    tx = build(name, 1.0, **decay, **dict(arguments))
    return TracedOptimizer(tx, {"w": jax.ShapeDtypeStruct((4, 6), np.float32)})
