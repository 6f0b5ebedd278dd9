"""Which convention of the registry a leaf's steps are, and how that is known."""

import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from wdlab._core.names import first_line
from wdlab.conventions import get
from wdlab.instruments.diagnosis.examination import Examination, LeafFacts
from wdlab.instruments.equivalence import Equivalence
from wdlab.instruments.plans import TracedOptimizer, shares
from wdlab.instruments.recognition import (
    NOT_FINITE,
    Fit,
    Rates,
    Tried,
    checked,
    differing_term,
    first_moment,
    recognized,
    try_leaf,
)
from wdlab.rules import leaves_with_paths

Array = Any
_CHECKED = 3  # Of the conventions that answer alike, as long as none is the same.
# Of several leaves or runs with one program the answer is looked for once.
_KNOWN: dict[Any, Any] = {}
_MOST_KNOWN = 256
_UNTRIED = "a branch that no tried step takes, as of a clip behind the step"
_NEAR = 0.5  # Error above which nothing is called near.


@dataclass(frozen=True)
class Match:
    """The convention of a leaf, or the nearest."""

    name: str
    arguments: dict[str, Any]
    how: str  # "proved", "tested on N steps"; empty where it is not the same.
    same: tuple[str, ...]  # Others that take the same steps here, as far as was tested.
    term: str  # What differs, where it is not the same.
    clip: float | None  # Norm to which gradients are clipped before.
    learning_rate: float  # At the busiest step; 0 where it is not the same.
    momentum: float
    rates: Array  # The learning rates at the leaf's steps.

    @property
    def exact(self) -> bool:
        """Whether the steps are the same."""
        return bool(self.how)

    def __str__(self) -> str:
        """The name with its arguments."""
        arguments = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        name = f"{self.name}({arguments})" if arguments else self.name
        return name + (f" behind a clip to {self.clip:g}" if self.clip else "")


def nearest_convention(run: Examination, leaf: LeafFacts) -> Match | None:
    """The convention that the leaf's optimizer equals, or the nearest; None where none is near.

    >>> import optax
    >>> from wdlab.instruments.diagnosis.examination import examine
    >>> tx = optax.adamw(1e-3, b2=0.95, weight_decay=0.1)
    >>> run = examine(tx, {"kernel": jax.ShapeDtypeStruct((2, 3), "float32")}, steps=100)
    >>> found = nearest_convention(run, run.leaves[0])
    >>> str(found), found.exact, found.learning_rate
    ('torch.AdamW(betas=(0.9, 0.95), weight_decay=0.1)', True, 0.001)
    """
    if run.traced is None or not leaf.shape or not leaf.moves:
        return None
    key = ("convention", leaf.kinds, len(leaf.shape))
    if key not in run.cache:
        run.cache[key] = _nearest(run, leaf)
    return run.cache[key]


def why_untried(run: Examination, leaf: LeafFacts) -> str:
    """What the leaf's optimizer raises where it runs by itself: then it is compared with nothing.

    >>> import optax
    >>> from wdlab.instruments.diagnosis.examination import examine
    >>> run = examine(optax.sgd(0.1), {"kernel": jax.ShapeDtypeStruct((2, 3), "float32")}, steps=9)
    >>> nearest_convention(run, run.leaves[0]).name, why_untried(run, run.leaves[0])
    ('torch.SGD', '')
    """
    return run.cache.get(("untried", leaf.kinds, len(leaf.shape)), "")


def _nearest(run: Examination, leaf: LeafFacts) -> Match | None:
    place = [path for path, _ in leaves_with_paths(run.params)].index(leaf.path)
    calls = run.traced.calls if run.traced is not None else 1
    try:
        tried = try_leaf(run.tx, run.params, place, calls)
    except Exception as error:  # noqa: BLE001  What the leaf's optimizer raises by itself.
        run.cache["untried", leaf.kinds, len(leaf.shape)] = first_line(error)
        return None
    facts = leaf.coupling, calls, run.busiest_step(leaf), leaf.steps.tobytes()
    key = (*map(_digest, (tried.wide.init, tried.wide.update, tried.program.update)), *facts)
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = _recognized(run, leaf, tried, calls)
    return _KNOWN[key]


def _shape(leaf: LeafFacts) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, np.float32)


def _digest(closed: Any) -> str:
    """Equal for equal programs."""
    consts = [np.asarray(x).tobytes() for x in closed.consts if not hasattr(x, "_base_array")]
    return hashlib.sha256(b"".join([str(closed.jaxpr).encode(), *consts])).hexdigest()


def _recognized(run: Examination, leaf: LeafFacts, tried: Tried, calls: int) -> Match | None:
    found, near = recognized(tried, leaf.coupling)
    unlike: Match | None = None
    for fit, rates in found[:_CHECKED]:
        try:
            values = _over_the_run(tried, fit, rates, leaf)
            peak = float(np.nanmax(values, initial=0.0)) or 1.0
            answer, untried = checked(tried, fit, rates, peak, calls)
        except ValueError:  # Numbers that the convention refuses: a decay of 100.
            continue
        how = _how(tried, answer)
        if how and untried:
            unlike = unlike or _match(run, leaf, fit, 0 * values, peak, "", (), _UNTRIED)
        elif how:
            same = [other.program.name for other, _ in found if other is not fit]
            return _match(run, leaf, fit, values, peak, how, tuple(dict.fromkeys(same)), "")
        if unlike is None and answer is not None and answer.difference is not None:
            d = answer.difference
            words = f"{d.term}: at step {d.step:,} here {d.one:.7g}, there {d.two:.7g}"
            unlike = _match(run, leaf, fit, 0 * values, peak, "", (), words)
    if unlike is not None:
        return unlike
    if near is None or near.direction > _NEAR or not near.rates.any():
        return None
    return _match(run, leaf, near, 0 * leaf.steps, 1.0, "", (), differing_term(tried, near))


def _how(tried: Tried, answer: Equivalence | None) -> str:
    """How it is known that the two are the same; empty where they are not."""
    count = sum(len(problem.losses) for problem in tried.problems)
    if answer is None:
        return f"tested on {count} steps"
    if answer.difference is not None and answer.difference.term == NOT_FINITE:
        return f"tested on {count} steps, with finite gradients"
    return answer.how if answer else ""


def _match(
    run: Examination, leaf: LeafFacts, fit: Fit, rates: Array, peak: float, how: str,
    same: tuple[str, ...], term: str,
) -> Match:  # fmt: skip
    settings = {**get(fit.program.name).defaults, **fit.arguments}
    at = np.searchsorted(leaf.steps, run.busiest_step(leaf))
    return Match(
        name=fit.program.name,
        arguments=fit.arguments_at(peak),
        how=how,
        same=tuple(name for name in same if name != fit.program.name),
        term=term,
        clip=fit.clip,
        learning_rate=float(rates[at]),
        momentum=first_moment(settings),
        rates=rates,
    )


def _over_the_run(tried: Tried, fit: Fit, rates: Rates, leaf: LeafFacts) -> Array:
    """The learning rates at the leaf's steps."""
    if rates.places == ():
        return np.full(len(leaf.steps), abs(rates.factor))
    if rates.places:
        return np.abs(tried.values(rates.places[0], leaf.steps) * rates.factor)
    small = 1e-3  # A decay may be large that torch multiplies by the learning rate.
    theirs = TracedOptimizer(fit.transformation(small, small), _shape(leaf))
    with np.errstate(all="ignore"):
        found = np.abs(leaf.response / shares(theirs, [0], leaf.steps)[0][2])
    first = int(np.flatnonzero(rates.values)[-1])
    return found * (abs(rates.values[first]) / found[np.searchsorted(leaf.steps, first)])
