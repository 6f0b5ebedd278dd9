"""A number over the steps of a run, small enough to be stored and compared: values and jumps."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any
LAST_STEP = 10**9
# Where values are stored, and said in messages.
PROBED_STEPS = (0, *(d * 10**k for k in range(9) for d in (1, 2, 5)), LAST_STEP)
# Where they are compared: each step of the first thousand, then one in a hundred.
GRID = np.unique(
    [*range(1025), *PROBED_STEPS, *np.geomspace(1e3, LAST_STEP, 1390).astype(np.int64)]
)
_MOST_JUMPS = 64
DIGITS = 5  # Significant ones; the others depend on the order of operations.


@dataclass(frozen=True)
class Curve:
    """Values at PROBED_STEPS, None where unknown; where it jumps; digests of what lies between."""

    values: tuple[float | None, ...]
    jumps: tuple[int, ...] = ()  # Steps whose value is another than the one before, elsewhere flat.
    between: tuple[tuple[int, str], ...] = ()  # (probed step, digest of the values up to the next)

    def as_json(self) -> dict[str, Any]:
        """The curve as JSON values; a value is left out where it is that of the step before.

        >>> Curve((0.1,) * len(PROBED_STEPS)).as_json()
        {'values': {'0': 0.1}}
        """
        changes = {
            str(step): value
            for n, (step, value) in enumerate(zip(PROBED_STEPS, self.values, strict=False))
            if n == 0 or value != self.values[n - 1]
        }
        more = {"jumps": list(self.jumps), "between": {str(s): d for s, d in self.between}}
        return {"values": changes} | {key: value for key, value in more.items() if value}

    def described(self) -> str:
        """First, largest and last value.

        >>> curve(np.where(GRID < 30, GRID, 20)).described()
        '0, 20 from step 20'
        """
        changes = [(int(step), value) for step, value in self.as_json()["values"].items()]
        known = [change for change in changes if change[1] is not None]
        largest = max(known, key=lambda change: abs(change[1]), default=changes[0])
        shown = dict.fromkeys([changes[0], largest, changes[-1]])
        texts = ["unknown" if value is None else f"{value:g}" for _, value in shown]
        when = [f" from step {step}" if step else "" for step, _ in shown]
        return ", ".join(text + at for text, at in zip(texts, when, strict=True))


def curve(values: Array, jumps: tuple[int, ...] = ()) -> Curve:
    """The curve of values on GRID.

    >>> curve(np.where(GRID < 30, 0.1, 0.2)).as_json()["values"]
    {'0': 0.1, '50': 0.2}
    """
    mantissa, exponent = _digits(values)
    probed = np.searchsorted(GRID, PROBED_STEPS)
    between = []
    for step, low, high in zip(PROBED_STEPS, probed, probed[1:], strict=False):
        rows = np.stack([mantissa[low:high], exponent[low:high]])
        if np.any(rows != rows[:, :1]):
            digest = hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()[:8]
            between.append((step, digest))
    return Curve(tuple(map(rounded, values[probed])), jumps, tuple(between))


def rounded(value: float) -> float | None:
    """The value with DIGITS significant digits; None for NaN.

    >>> rounded(0.123456789), rounded(float("nan"))
    (0.12346, None)
    """
    return float(f"{value:.{DIGITS}g}") + 0.0 if np.isfinite(value) else None


def find_jumps(values: Array, evaluate: Callable[[Array], Array]) -> tuple[int, ...]:
    """Where a curve that is flat left and right of a gap in GRID changes, to the step.

    Args:
      values: On GRID.
      evaluate: Steps -> values.

    >>> steps = lambda n: np.where(n < 123_456, 0.1, 0.2)
    >>> find_jumps(steps(GRID), steps)
    (123456,)
    """
    mantissa, exponent = _digits(values)
    same = (mantissa[1:] == mantissa[:-1]) & (exponent[1:] == exponent[:-1])
    flat = np.r_[True, same[:-1]] & np.r_[same[1:], True]
    gaps = np.flatnonzero(~same & flat)[:_MOST_JUMPS]
    if not len(gaps):
        return ()
    low, high = GRID[gaps], GRID[gaps + 1]
    while np.any(high - low > 1):
        middle = (low + high) // 2
        found = _digits(evaluate(middle))
        stays = (found[0] == mantissa[gaps]) & (found[1] == exponent[gaps])
        low, high = np.where(stays, middle, low), np.where(stays, high, middle)
    return tuple(map(int, high))


def _digits(values: Array) -> tuple[Array, Array]:
    """Significant digits as a whole number, and the power of ten; NaN is a number of its own."""
    sizes = np.where(np.isfinite(values) & (values != 0), np.abs(values), 1.0)
    exponent = np.floor(np.log10(sizes)).astype(np.int64) - DIGITS + 1
    mantissa = np.round(np.nan_to_num(values, posinf=0, neginf=0) / 10.0**exponent).astype(np.int64)
    return np.where(np.isfinite(values), mantissa, 10**DIGITS + 1), exponent
