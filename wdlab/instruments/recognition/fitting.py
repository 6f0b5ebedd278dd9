"""How well a convention explains the steps of a leaf, and with which numbers."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wdlab.conventions import get
from wdlab.instruments.recognition.candidates import CLIP, NO_CLIP, Program, Slot, program
from wdlab.instruments.recognition.fit import Fit
from wdlab.instruments.recognition.tried_problems import Tried

Array = Any
_MOST_ROUNDS = 3
_FAR = 0.5
_BETTER = 0.9  # Of an error: less is noise.
_MOST_COUNT = 20  # Of what is counted: iterations, a frequency.


def fitted(tried: Tried, found: Program, values: Sequence[float], rates: Any = None) -> Fit:
    """Fits learning rate and decay of each update; with ``rates`` none is fitted.

    Of each update u = r d - s w is asked for r and s, where d is the convention's at a learning
    rate of 1 and without a decoupled decay.

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.candidates import program
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> shape = jax.ShapeDtypeStruct((5,), "float32")
    >>> tried = try_leaf(optax.sgd(0.5), [shape], 0, 1)
    >>> found = program("torch.SGD", tried.shape, ())
    >>> fitted(tried, found, found.defaults).rates.round(6).tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5]
    """
    if rates is None and found.keeps_weights:
        rates = np.ones(len(tried.problems[0].losses))
    errors, rows, shares = [], [], []
    for place, problem in enumerate(tried.problems):
        count = len(problem.losses)
        if errors and np.mean(errors) > _FAR:  # The further ones would be as far.
            errors += [1.0] * count
            continue
        given = np.ones(count) if rates is None else rates[:count]
        answers = tried.answers(found, tuple(values), given, place)
        for n in range(count):
            u, w, d = (np.ravel(x[n]) for x in (problem.updates, problem.weights, answers))
            if rates is None:
                r, s, error = _least_squares(u, w, d)
            else:
                r, s, error = given[n], 0.0, _relative(u - d, np.linalg.norm(u))
            errors.append(error)
            rows.append(r)
            shares.append(s)
    first = len(tried.problems[0].losses)
    errors, rows = np.asarray(errors), np.asarray(rows)
    both = zip(rows[:first], rows[first:], strict=False)
    apart = [abs(a - b) / max(abs(a), abs(b)) for a, b in both if a and b]
    error = float(np.mean(errors) + np.mean(np.minimum(apart, 1.0)) if apart else np.mean(errors))
    facts = rows[:first], np.asarray(shares[:first]), errors
    return Fit(found, tuple(values), error, *facts)


def _least_squares(u: Array, w: Array, d: Array) -> tuple[Any, Any, float]:
    if not np.isfinite(d).all() or not np.isfinite(u).all():
        return 0.0, 0.0, 1.0
    if not u.any():
        return 0.0, 0.0, 0.0
    scale = np.linalg.norm(d) or 1.0
    if abs(np.dot(d, w)) > (1 - 1e-9) * scale * np.linalg.norm(w):
        return 0.0, 0.0, 1.0  # A step along the weights: rate and decay look alike.
    (r, s), *_ = np.linalg.lstsq(np.stack([d / scale, -w], 1), u, rcond=1e-13)
    s = 0.0 if abs(s) * np.linalg.norm(w) < 1e-10 * np.linalg.norm(u) else s
    r = 0.0 if abs(r) < 1e-9 * np.linalg.norm(u) else r
    gap, step = u - r * d / scale + s * w, np.linalg.norm(u + s * w)
    return r / scale, s, _relative(gap, max(step, 1e-9 * np.linalg.norm(u)))


def _relative(gap: Array, size: Any) -> float:
    if not np.isfinite(gap).all():
        return 1.0
    return float(min(np.linalg.norm(gap) / size, 1.0)) if size else float(bool(gap.any()))


def first_guess(tried: Tried, found: Program, *, l2: bool) -> Fit:
    """The convention with its defaults, or the numbers of the program that are nearest to them.

    Args:
      tried: The leaf.
      found: The convention.
      l2: Whether the decay may act through the gradient.

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.candidates import program
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> shape = jax.ShapeDtypeStruct((5,), "float32")
    >>> tried = try_leaf(optax.sgd(0.5), [shape], 0, 1)
    >>> first_guess(tried, program("torch.SGD", tried.shape, ()), l2=False).exact
    True
    """
    numbers, decay = _numbers(tried), get(found.name).decay_argument
    values = [value if value == 0 else _nearest(value, numbers) for value in found.defaults]
    values[0] = NO_CLIP if tried.clip is None else tried.clip
    options: list[Any] = [None]
    if found.keeps_weights:
        options = _rate_sequences(tried)
    best = min((fitted(tried, found, values, x) for x in options), key=lambda fit: fit.error)
    places = [n for n, slot in enumerate(found.slots) if slot.argument == decay]
    if l2 and places and not best.decoupled and not best.exact:
        for x in (x for x in tried.numbers if x <= 10):
            values[places[0]] = x
            rates = best.rates if found.keeps_weights else None
            best = min(best, fitted(tried, found, values, rates), key=lambda fit: fit.error)
    if best.values[0] != NO_CLIP and "max_grad_norm" in [slot.argument for slot in found.slots]:
        rates = best.rates if found.keeps_weights else None
        bare = fitted(tried, found, (NO_CLIP, *best.values[1:]), rates)
        best = bare if bare.error <= best.error * 1.01 + 1e-9 else best
    return best


def improved(tried: Tried, fit: Fit) -> Fit:
    """The fit with other numbers of the program, changed one at a time.

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.candidates import program
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> shape = jax.ShapeDtypeStruct((5,), "float32")
    >>> tried = try_leaf(optax.sgd(0.5), [shape], 0, 1)
    >>> fit = first_guess(tried, program("torch.SGD", tried.shape, ()), l2=False)
    >>> improved(tried, fit).exact
    True
    """
    best = fit
    own = fit.program.keeps_weights
    for _ in range(_MOST_ROUNDS):
        before = best.error
        for found, values in _changed(tried, best):
            new = fitted(tried, found, values, best.rates if own else None)
            best = new if new.error < _BETTER * best.error else best
            if best.exact:
                return best
        if best.error > 0.99 * before:
            return best
    return best


def _changed(tried: Tried, fit: Fit) -> Iterator[tuple[Program, list[float]]]:
    numbers = _numbers(tried)
    decay = get(fit.program.name).decay_argument
    for n, slot in enumerate(fit.program.slots):
        if slot.argument == decay and fit.decoupled:
            continue
        for value in _options(slot, fit.program.defaults[n], numbers, decay):
            yield fit.program, [*fit.values[:n], value, *fit.values[n + 1 :]]
    for fixed in _other_fixed(fit.program, numbers):
        found = program(fit.program.name, tried.shape, fixed)
        if found is not None:
            known = dict(zip(fit.program.slots, fit.values, strict=True))
            pairs = zip(found.slots, found.defaults, strict=True)
            yield found, [known.get(slot, value) for slot, value in pairs]


def _options(slot: Slot, default: float, numbers: Sequence[float], decay: Any) -> list[float]:
    if slot.argument == CLIP:
        return []  # It is measured.
    if slot.argument == decay:
        return [0.0, *numbers]
    if 0.3 <= default < 1:
        return [0.0, *(x for x in numbers if x < 1)]
    if default < 1e-2:
        return [0.0, *(x for x in numbers if x < 0.1)]
    return list(numbers)


def _other_fixed(found: Program, numbers: Sequence[float]) -> Iterator[tuple]:
    """Other values of numbers that are part of the program."""
    slots = {slot.argument for slot in found.slots}
    settings = dict(get(found.name).defaults) | dict(found.fixed)
    for argument, value in settings.items():
        if argument in slots or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if isinstance(value, int):
            options = [int(x) for x in numbers if x == int(x) and 0 < x <= _MOST_COUNT]
        else:
            options = [x for x in numbers if (x < 1) == (value < 1)]
        for option in options:
            if option != value:
                yield tuple(sorted((dict(found.fixed) | {argument: option}).items()))


def _numbers(tried: Tried) -> list[float]:
    """The program's numbers, and 1 - x for each of them below 1."""
    less = {float(f"{1 - x:.7g}") for x in tried.numbers if x < 1}
    return sorted({*tried.numbers, *less})


def _nearest(value: float, numbers: Sequence[float]) -> float:
    """The number that is nearest in size; of those below 1, to it or to 1."""
    if value in numbers or not numbers:
        return value
    if 0.3 <= value < 1:
        some = [x for x in numbers if 0.3 <= x < 1]
        return min(some, key=lambda x: abs(np.log((1 - x) / (1 - value))), default=value)
    some = [x for x in numbers if abs(np.log10(x / value)) < 4] if 0 < value < 1e-2 else []
    return min(some, key=lambda x: abs(np.log(x / value)), default=value)


def _rate_sequences(tried: Tried) -> list[Array]:
    count = len(tried.problems[0].losses)
    constant = [np.full(count, x) for x in tried.numbers if 1e-6 < x < 100]
    own = [np.abs(x) for x in tried.sequences if np.isfinite(x).all() and np.ptp(x)]
    return [*constant, *own]
