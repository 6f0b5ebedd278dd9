"""The conventions that take a leaf's steps on the tried problems, the likeliest first."""

import functools
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from wdlab.conventions import get, names
from wdlab.instruments.recognition.argument_meanings import meaning
from wdlab.instruments.recognition.candidates import program, signature
from wdlab.instruments.recognition.checking import Rates
from wdlab.instruments.recognition.decay_of_fit import plainest, with_decay
from wdlab.instruments.recognition.fit import DECOUPLED, Fit
from wdlab.instruments.recognition.fitting import first_guess, fitted, improved
from wdlab.instruments.recognition.tried_problems import Tried
from wdlab.instruments.recognition.variants import variants

Array = Any
_USUAL = {"momentum", "nesterov"}  # Arguments that are given as often as not.
_TRIED = 2  # Fits whose numbers are looked for,
_SEARCHED = 2  # in each of the first waves.
_CLOSE = 0.5  # Error of a fit that is worth it.
_CAUTIOUS = 1e-2  # Error where a decay may act on some of the entries alone.
_ALIKE = 1e-7  # Between errors of direction that are one.
_ROUGH = 0.02  # Of learning rates that no scalar of the program is.
# Where several are the same: the first of these systems; the first few are tried before all others.
_FIRST = ("torch", "optax", "keras", "fairseq", "keller_jordan", "transformers", "bert", "timm")
_BEST_KNOWN = 3


def recognized(tried: Tried, coupling: str) -> tuple[list[tuple[Fit, Rates]], Fit | None]:
    """The conventions that take the leaf's steps, the likeliest first; or else the nearest.

    Args:
      tried: The leaf's answers.
      coupling: As measured: "decoupled", "gradient", "none" or "unknown".

    >>> import jax, optax
    >>> from wdlab.instruments.recognition.tried_problems import try_leaf
    >>> shape = jax.ShapeDtypeStruct((5,), "float32")
    >>> found, _ = recognized(try_leaf(optax.sgd(0.25, momentum=0.9), [shape], 0, 1), "none")
    >>> found[0][0].program.name, found[0][0].arguments, found[0][1].factor
    ('torch.SGD', {'momentum': 0.9}, 0.25)
    """
    if not any(problem.updates.any() for problem in tried.problems):
        return [], None
    l2 = coupling not in ("decoupled", "none")
    fits: list[Fit] = []
    found: list[tuple[Fit, Rates]] = []
    for wave, keys in enumerate(_waves(tried, coupling)):
        new = [fit for key in keys if (fit := _guessed(tried, key, l2)) is not None]
        most = _TRIED if wave < _SEARCHED else 0
        fits = sorted([*fits, *_searched(tried, new, most)], key=lambda fit: fit.error)
        near = [fit for fit in fits if fit.error < _CAUTIOUS]
        found = [pair for fit in near if (pair := _told(tried, fit)) is not None]
        if any(_order(tried, *pair)[:2] == (0, False) for pair in found):
            break
    found = [pair for pair in found if pair[1].rank < 2]
    found = sorted(found, key=lambda pair: _order(tried, *pair))
    if found:
        found[0] = plainest(tried, found[0][0]), found[0][1]
    # Of those as near as each other the one of the best known system.
    best = min((fit.direction for fit in fits), default=0.0)
    close = [fit for fit in fits if fit.direction <= 2 * best + _ALIKE]
    key = [(fit.decoupled != bool(fit.shares.any()), _system(fit)) for fit in close]
    return found, close[key.index(min(key))] if close else None


def _waves(tried: Tried, coupling: str) -> Iterator[list[tuple[str, tuple]]]:
    """Conventions whose state holds the same arrays, the best known first; then those of fewer.

    None is traced before its wave.
    """

    def alike(keys: Iterable[tuple[str, tuple]]) -> list[tuple[str, tuple]]:
        return [k for k in keys if signature(k[0], tried.wide_shape, k[1]) == tried.arrays]

    plain, known = _keys(False), [key for key in _keys(False) if _is_known(key)]
    yield alike(key for key in known if _may_decay_so(key, coupling))
    yield alike(k for k in plain if not _is_known(k) and _may_decay_so(k, coupling))
    yield alike(key for key in _keys(True) if _may_decay_so(key, coupling))
    yield alike(key for key in plain if not _may_decay_so(key, coupling))
    own, fewer = Counter(tried.arrays), []
    for key in known:
        arrays = signature(key[0], tried.wide_shape, key[1])
        if arrays is not None and arrays != tried.arrays and not Counter(arrays) - own:
            fewer.append(key)
    yield fewer


def _is_known(key: tuple[str, tuple]) -> bool:
    return key[0].split(".")[0] in _FIRST[:_BEST_KNOWN]


@functools.cache
def _keys(turned: bool) -> tuple[tuple[str, tuple], ...]:
    plain = [(name, ()) for name in names()]
    others = [(n, tuple(sorted(v.items()))) for n in names() for v in variants(n)]
    usual = [(n, fixed) for n, fixed in others if {name for name, _ in fixed} <= _USUAL]
    return tuple(x for x in others if x not in usual) if turned else (*plain, *usual)


def _may_decay_so(key: tuple[str, tuple], coupling: str) -> bool:
    """Whether the convention's decay can be seen as the leaf's is."""
    known = get(key[0])
    own = known.coupling_for({**known.defaults, **dict(key[1])})
    return not (coupling == "gradient" and own in DECOUPLED - {"none"})


def _guessed(tried: Tried, key: tuple[str, tuple], l2: bool) -> Fit | None:
    found = program(key[0], tried.shape, key[1])
    if found is None or found.keeps_weights != tried.keeps_weights:
        return None
    return first_guess(tried, found, l2=l2)


def _searched(tried: Tried, fits: list[Fit], most: int) -> list[Fit]:
    """The fits with better numbers: looked for in the best, then tried in the others."""
    left = sorted(fits, key=lambda fit: fit.error)
    done: list[Fit] = []
    while left and len(done) < most and left[0].error < _CLOSE and not left[0].exact:
        done.append(improved(tried, left.pop(0)))
        if done[-1].exact:
            break
    exact = [fit for fit in [*done, *left] if fit.exact][:_TRIED]
    for other in exact:
        left = [fit if fit.exact else _with_numbers_of(tried, fit, other) for fit in left]
    return [*done, *left]


def _with_numbers_of(tried: Tried, fit: Fit, other: Fit) -> Fit:
    """The fit with the numbers of another in the slots of the same meaning."""
    known = {meaning(*slot): v for slot, v in zip(other.program.slots, other.values, strict=True)}
    found, own = fit.program, {slot.argument for slot in fit.program.slots}
    fixed = dict(found.fixed)
    for argument, value in get(found.name).defaults.items():
        if argument not in own and isinstance(value, float) and meaning(argument) in known:
            fixed[argument] = known[meaning(argument)]
    if fixed != dict(found.fixed):
        found = program(found.name, tried.shape, tuple(sorted(fixed.items()))) or found
    pairs = zip(fit.program.slots, fit.values, strict=True)
    values = {slot: known.get(meaning(*slot), v) for slot, v in pairs}
    new = [values.get(slot, v) for slot, v in zip(found.slots, found.defaults, strict=True)]
    rates = other.rates if fit.program.keeps_weights else None
    return min(fit, fitted(tried, found, new, rates), key=lambda fit: fit.error)


def _told(tried: Tried, fit: Fit) -> tuple[Fit, Rates] | None:
    """A fit with its decay and its rates; None where no decay of its kind makes it exact."""
    if not fit.rates.any():
        return None
    moved = fit.rates / (1 - fit.shares) if fit.is_after else fit.rates
    rates = _rates(tried, moved, 1e-6 if fit.exact else 1e-2)
    found = with_decay(tried, fit, rates.values)
    return None if found is None else (found, rates)


def _rates(tried: Tried, rates: Array, tolerance: float) -> Rates:
    """The learning rates as numbers or scalars of the program."""
    some = rates != 0
    known = rates[some]
    if np.ptp(known) < tolerance * np.abs(known).max() and some.all():
        value = float(np.mean(known))
        near = [x for x in tried.numbers if abs(x / value - 1) < tolerance]
        value = near[0] if near else float(f"{value:.7g}")
        return Rates(np.full(len(rates), value), (), value, 0 if near else 1)
    places, factors = [], []
    for place, row in enumerate(tried.sequences):
        if np.isfinite(row).all() and np.ptp(row) and np.array_equal(row != 0, some):
            ratio = known / row[some]
            if np.ptp(ratio) < tolerance * np.abs(ratio).max():
                places.append(place)
                factors.append(float(f"{np.mean(ratio):.7g}"))
    if places:
        exact = [n for n, x in enumerate(factors) if abs(abs(x) - 1) < tolerance]
        best = exact[-1] if exact else len(places) - 1
        same = [n for n, x in zip(places, factors, strict=True) if x == factors[best]]
        factor = float(np.sign(factors[best])) if exact else factors[best]
        values = tried.sequences[places[best]] * factor
        return Rates(values, tuple(reversed(same)), factor, 0 if exact else 1)
    rough = np.abs(np.diff(rates, 2)).sum() / np.abs(rates).sum()
    return Rates(rates, None, 1.0, 1 if rough < _ROUGH and not len(tried.sequences) else 2)


def _system(fit: Fit) -> tuple[int, int, str]:
    system = fit.program.name.split(".")[0]
    place = _FIRST.index(system) if system in _FIRST else len(_FIRST)
    return place, len(fit.arguments), fit.program.name


def _order(tried: Tried, fit: Fit, rates: Rates) -> Any:
    """The likeliest first: numbers of the program as they are, few switches, a known system."""
    decay, given = get(fit.program.name).decay_argument, fit.arguments
    own = decay not in given or given[decay] in tried.numbers
    switches = {name for name, _ in fit.program.fixed} - _USUAL
    return rates.rank, not own, len(switches), *_system(fit)[:1], len(given), fit.program.name
