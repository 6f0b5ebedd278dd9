"""A user's schedule, looked at once before training: a function of the step, of finite numbers."""

import contextlib
import math
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import jaxpr_as_fun

from wdlab._core.names import first_line

# Of a million steps the first twelve, then one in eight percent.
STEPS = np.unique([0, *np.geomspace(1, 1e6, 181).astype(np.int32)]).astype(np.int32)
_FIRST = 2  # Steps at the start of every run: what is wrong there cannot be meant.
_SLACK = 1e-5  # Of a peak in float32.
_trusted: weakref.WeakSet = weakref.WeakSet()
_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


class ScheduleWarning(UserWarning):
    """A schedule whose values make no sense from some later step on."""


def trusted(schedule: Any, *parents: Any) -> Any:
    """Marks a schedule as made of checked numbers and of trusted parents: it is not probed.

    >>> values_of(trusted(lambda count: -1.0)) is None
    True
    """
    # One that carries a traced peak has no hash: its values are not known before the run anyway.
    with contextlib.suppress(TypeError):
        if all(parent in _trusted for parent in parents if callable(parent)):
            _trusted.add(schedule)
    return schedule


def values_of(schedule: Callable[[Any], Any], name: str = "schedule") -> np.ndarray | None:
    """The values at :data:`STEPS`, float64; None where they are not known before the run.

    Raises:
      TypeError: If it is no function of one step count to one number.

    >>> values_of(lambda count: 0.5 * count)[:3].tolist()
    [0.0, 0.5, 1.0]
    """
    try:
        if schedule in _trusted:
            return None
        if schedule not in _known:
            _known[schedule] = _values(schedule, name)
        return _known[schedule]
    except TypeError as error:
        if str(error).startswith(name):
            raise
        return _values(schedule, name)  # It has no hash, or no weak references to it.


def _values(schedule: Callable[[Any], Any], name: str) -> np.ndarray | None:
    wanted = f"{name} must map a step count, shape () int32, to a number"
    try:
        traced, out = jax.make_jaxpr(schedule, return_shape=True)(np.int32(0))
    except Exception as error:  # noqa: BLE001  Whatever the user's function raises.
        raise TypeError(f"{wanted}; calling it raised {first_line(error)}") from None
    kind = getattr(out, "dtype", np.dtype(bool)).kind
    if getattr(out, "shape", None) != () or kind in "bc":
        raise TypeError(f"{wanted}; it returned {out}.")
    try:
        with jax.ensure_compile_time_eval():
            run = jaxpr_as_fun(traced)
            if not traced.eqns:
                return np.full(len(STEPS), np.asarray(run(np.int32(0))[0], np.float64))
            return np.asarray(jax.jit(jax.vmap(lambda count: run(count)[0]))(STEPS), np.float64)
    except Exception:  # noqa: BLE001  Traced numbers inside, callbacks, effects: known in the run.
        return None


def check_schedule(
    name: str, schedule: Callable[[Any], Any], *, low: float = 0.0, high: float = math.inf
) -> None:
    """Refuses what is not a schedule, and values that are not finite numbers of ``[low, high]``.

    What is wrong in the first two steps is an error. What is wrong later only, as of a line that
    goes below 0 after the end of the run, is a warning.

    Args:
      name: The argument's name, for the message.
      schedule: Step count -> number; with a ``peak``, if it carries one.
      low: Smallest value allowed.
      high: Largest value allowed.

    Raises:
      TypeError: If it is no function of one step count to one number.
      ValueError: If a value is out of range, or above the peak that the schedule carries.

    >>> check_schedule("learning_rate", lambda count: -1e-3)
    Traceback (most recent call last):
    ValueError: learning_rate is -0.001 at step 0; ...
    """
    values = values_of(schedule, name)
    if values is None:
        return
    right = check_values(name, values, STEPS, low=low, high=high)
    peak, top = getattr(schedule, "peak", None), int(np.argmax(np.where(right, values, -1.0)))
    if isinstance(peak, int | float) and values[top] > peak * (1 + _SLACK):
        raise ValueError(
            f"{name} carries the peak {peak:g} and is {values[top]:g} at step {STEPS[top]:,}. Give "
            f"it its largest value: wdlab.schedules.with_peak(schedule, {values[top]:g})."
        )


def check_values(
    name: str,
    values: np.ndarray,
    steps: np.ndarray,
    *,
    low: float = 0.0,
    high: float = math.inf,
    always: bool = False,
) -> np.ndarray:
    """Refuses values out of range in the first two steps, or ``always``, and warns of later ones.

    Returns:
      Which values are in range.

    >>> check_values("lr", np.array([0.1, np.nan]), np.array([0, 1]))
    Traceback (most recent call last):
    ValueError: lr is nan at step 1; a schedule must give a finite number >= 0 at every step ...
    """
    finite = np.isfinite(values)
    # A cosine in float32 may end below 0.
    rounding = _SLACK * np.max(values, where=finite, initial=0.0)
    right = finite & (values >= low - rounding) & (values <= high + rounding)
    if not right.all():
        first = int(np.argmin(right))
        limit = f">= {low:g}" if math.isinf(high) else f"of [{low:g}, {high:g}]"
        message = (
            f"{name} is {values[first]:g} at step {steps[first]:,}; a schedule must give a finite "
            f"number {limit} at every step of the run."
        )
        if always or first < _FIRST:
            raise ValueError(message)
        warnings.warn(f"{message} Is the run over before?", ScheduleWarning, stacklevel=5)
    return right
