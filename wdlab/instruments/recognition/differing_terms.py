"""What differs between a leaf's steps and those of the nearest convention, in words and numbers."""

from typing import Any

import numpy as np

from wdlab.conventions import get
from wdlab.instruments.recognition.fit import EXACT, Fit
from wdlab.instruments.recognition.tried_problems import Tried

Array = Any
_TIMES = {
    "lr": "multiplied by the learning rate", "schedule": "multiplied by the schedule alone",
    "constant": "multiplied by nothing", "lr2": "multiplied by the learning rate's square",
    "lr2_over_peak": "multiplied by the learning rate's square", "none": "none",
    "l2": "part of the gradient", "trust_ratio": "inside the trust ratio",
    "proximal": "a division after the step", "averaged": "of an averaged iterate",
}  # fmt: skip
_CLOSE = 1e-3  # Error of steps whose form is the same, an epsilon apart.


def differing_term(tried: Tried, fit: Fit) -> str:
    """The first of these that differs: the bias correction, the decay, the step's direction.

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.matching_conventions import recognized
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> shape = jax.ShapeDtypeStruct((5,), "float32")
    >>> lion = optax.lion(optax.linear_schedule(1e-3, 1e-4, 9), weight_decay=0.0)
    >>> chain = optax.chain(lion, optax.add_decayed_weights(-1e-4))
    >>> tried = try_leaf(chain, [shape], 0, 1)
    >>> differing_term(tried, recognized(tried, "decoupled")[1])
    'decay: here multiplied by nothing, there multiplied by the learning rate'
    """
    size = len(tried.problems[0].losses)
    if fit.direction < EXACT and fit.shares.any() and _is_of_program(tried, fit.rates):
        return _decay(fit)
    if np.max(fit.errors[:size]) < _CLOSE:
        words = _bias_correction(tried, fit)
        if words:
            return words
    if fit.direction < EXACT:
        some = fit.rates[fit.rates != 0]
        return (
            "size of the step: in proportion to no learning rate of the program, "
            f"{some[0]:.4g} at first and {some[-1]:.4g} after {size} steps"
        )
    return _direction(fit, size)


def _decay(fit: Fit) -> str:
    known = get(fit.program.name)
    there = _TIMES.get(fit.coupling, known.coupling)
    some = (fit.rates != 0) & (fit.shares != 0)
    rates, shares = fit.rates[some], fit.shares[some]
    here = f"a schedule of its own, {shares[0]:.3g} at first and {shares[-1]:.3g} then"
    for words, power in ((_TIMES["lr"], 1), (_TIMES["constant"], 0), (_TIMES["lr2"], 2)):
        if np.ptp(shares / rates**power) < 1e-4 * np.max(np.abs(shares / rates**power)):
            here = words
    if np.all(shares < 0):
        here += ", with the wrong sign"
    if here == there:
        here, there = f"{here} on all entries", f"{there} on some of them"
    return f"decay: here {here}, there {there}"


def _bias_correction(tried: Tried, fit: Fit) -> str:
    """Which moments are corrected, where that alone makes the rates the program's."""
    settings = fit.program.arguments(fit.program.defaults) | dict(get(fit.program.name).defaults)
    settings |= fit.arguments
    pairs = [x for a, x in settings.items() if a.endswith("betas")]
    pairs.append((settings.get("b1"), settings.get("b2")))
    betas = next((x for x in pairs if x and all(isinstance(b, float) for b in x)), ())
    if len(betas) < 2:
        return ""
    steps = np.arange(1, len(fit.rates) + 1)
    first, second = (1 - np.power(float(b or 0), steps) for b in betas[:2])
    there = get(fit.program.name).bias_correction
    for words, ratio in (
        ("none", first / np.sqrt(second)),
        ("of the first moment alone", 1 / np.sqrt(second)),
        ("of the second moment alone", first),
    ):
        if _is_of_program(tried, fit.rates / ratio):
            return f"bias correction: here {words}, there {there}"
    return ""


def _is_of_program(tried: Tried, rates: Array) -> bool:
    some = rates != 0
    rows = [np.ones(len(rates)), *(row for row in tried.sequences if np.ptp(row))]
    with np.errstate(all="ignore"):
        ratios = [rates[some] / row[some] for row in rows]
    return any(np.ptp(x) < 1e-3 * np.abs(x).max() for x in ratios if np.isfinite(x).all())


def _direction(fit: Fit, size: int) -> str:
    """Where the fitted steps are off, by the gradients that they are off at."""
    usual, tiny = fit.errors[:size], fit.errors[size:]
    worst = f"by up to {np.max(fit.errors):.2g} of it"
    if np.max(usual) < _CLOSE:
        return f"epsilon: the steps differ at tiny gradients alone, {worst}"
    if usual[0] < EXACT:
        at = int(np.argmax(usual > EXACT))
        return (
            f"what is kept of earlier gradients: the first step is the same, step {at} is off "
            f"by {usual[at]:.2g} of it, later ones {worst}"
        )
    if np.max(tiny) < EXACT:
        return f"large gradients: the steps differ at these alone, {worst}"
    return f"direction: the first step is off by {usual[0]:.2g} of it, later ones {worst}"
