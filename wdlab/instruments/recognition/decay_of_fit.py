"""The decay and the plainest arguments of a convention that fits a leaf's steps."""

from dataclasses import replace
from typing import Any

import numpy as np

from wdlab.conventions import get
from wdlab.instruments.recognition.fit import Fit
from wdlab.instruments.recognition.tried_problems import Problem, Tried

Array = Any


def with_decay(tried: Tried, fit: Fit, rates: Array) -> Fit | None:
    """The fit with its decay as an argument; None where no number makes the steps the same.

    Args:
      tried: The leaf.
      fit: An exact one, or one of a decay for some of the entries alone.
      rates: Its learning rates, without the noise of the fit.

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.candidates import program
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> from wdlab.instruments.recognition.fitting import first_guess
    >>> leaf, tx = jax.ShapeDtypeStruct((5,), "float32"), optax.adamw(0.5, weight_decay=0.1)
    >>> tried = try_leaf(tx, [leaf], 0, 1)
    >>> fit = first_guess(tried, program("torch.AdamW", tried.shape, ()), l2=False)
    >>> with_decay(tried, fit, np.full(5, 0.5)).arguments
    {'weight_decay': 0.1}
    """
    decay, shares = get(fit.program.name).decay_argument, fit.shares
    places = [n for n, slot in enumerate(fit.program.slots) if slot.argument == decay]
    some = np.flatnonzero(rates)
    options = [0.0]
    if not fit.exact and not shares.any():
        return None
    if shares.any() and places and len(some):
        at = some[-1]
        taken = shares[at] / (1 - shares[at]) if fit.is_after else shares[at]
        options = [x / rates[at] ** power for power in (1, 0, 2) for x in {taken, shares[at]}]
        options += [] if fit.exact else [x for x in tried.numbers if x <= 10]
    if not fit.decoupled and places:
        options = [fit.values[places[0]]]
    for option in options:
        values = list(fit.values)
        if places:
            values[places[0]] = float(f"{option:.6g}")
        answers = tried.answers(fit.program, tuple(values), rates)
        if _same(tried.problems[0], answers, shares, 1e-5 if fit.exact else 1e-4):
            return replace(fit, values=tuple(values), shares=np.zeros_like(shares), rates=rates)
    return None


def plainest(tried: Tried, fit: Fit) -> Fit:
    """The fit with its defaults for the numbers that the leaf's steps do not depend on.

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.candidates import program
    >>> from wdlab.instruments.recognition.fitting import fitted
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> leaf = jax.ShapeDtypeStruct((5,), "float32")
    >>> tried = try_leaf(optax.sgd(0.5), [leaf], 0, 1)
    >>> found = program("torch.SGD", tried.shape, ())
    >>> changed = [0.3 if slot.argument == "dampening" else x  # Unused without momentum.
    ...            for slot, x in zip(found.slots, found.defaults)]
    >>> plainest(tried, fitted(tried, found, changed)).values == found.defaults
    True
    """
    decay = get(fit.program.name).decay_argument
    for n, slot in enumerate(fit.program.slots):
        if slot.argument != decay and fit.values[n] != fit.program.defaults[n]:
            values = (*fit.values[:n], fit.program.defaults[n], *fit.values[n + 1 :])
            one, two = (tried.answers(fit.program, v, fit.rates) for v in (fit.values, values))
            if np.array_equal(one, two):
                fit = replace(fit, values=values)
    return fit


def _same(problem: Problem, answers: Array, shares: Array, tolerance: float) -> bool:
    for u, c, w, s in zip(problem.updates, answers, problem.weights, shares, strict=True):
        size = np.linalg.norm(u)
        if s:
            size = min(size, abs(s) * np.linalg.norm(w))
        if not np.linalg.norm(u - c) <= tolerance * size:
            return False
    return True
