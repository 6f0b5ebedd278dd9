"""Checks of the numbers a user passes, at construction, with the line to write instead."""

import argparse
import contextlib
import math
import numbers
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from wdlab._core.probing import check_schedule


def concrete(value: Any) -> float | None:
    """Returns ``value`` as a float, or None where it is a schedule or a traced number.

    >>> concrete(0.1), concrete(lambda count: 0.1)
    (0.1, None)
    """
    if callable(value) or isinstance(value, jax.core.Tracer):
        return None
    return float(value)


def is_zero(value: Any) -> bool:
    """Whether a number is known to be 0, so that the work can be left out.

    >>> is_zero(0.0), is_zero(jax.numpy.zeros([]))
    (True, False)
    """
    return isinstance(value, int | float) and value == 0


def require_params(name: str, params: Any) -> None:
    """Refuses an update without params with the line to write, where Python's error has none.

    >>> require_params("decay_weights", None)
    Traceback (most recent call last):
    ValueError: decay_weights needs the current params. Write tx.update(grads, opt_state, params).
    """
    if params is None:
        raise ValueError(
            f"{name} needs the current params. Write tx.update(grads, opt_state, params)."
        )


def require_same_shapes(name: str, updates: Any, params: Any) -> None:
    """Refuses an update that NumPy's rules would stretch over its parameter.

    >>> require_same_shapes("adamw", {"w": np.ones(3)}, {"w": np.ones((2, 3))})
    Traceback (most recent call last):
    ValueError: adamw: the gradient of w has shape (3,), the parameter (2, 3). Write ...
    """
    given, own = jax.tree.leaves(updates), jax.tree_util.tree_leaves_with_path(params)
    if len(given) != len(own):
        return  # The walk over both trees says so.
    for leaf, (path, param) in zip(given, own, strict=True):
        if np.shape(leaf) != np.shape(param):
            where = jax.tree_util.keystr(path, simple=True, separator="/") or "the parameter"
            raise ValueError(
                f"{name}: the gradient of {where} has shape {np.shape(leaf)}, the parameter "
                f"{np.shape(param)}. Write tx.update(grads, opt_state, params), with the gradients "
                "of these parameters."
            )


@contextlib.contextmanager
def named_errors(name: str) -> Iterator[None]:
    """Puts a name before the messages of the checks inside.

    >>> with named_errors("adamw"):
    ...     check_whole("steps", 0)
    Traceback (most recent call last):
    ValueError: adamw: steps must be a whole number >= 1, got 0.
    """
    try:
        yield
    except (TypeError, ValueError) as error:
        is_ours = type(error) in (TypeError, ValueError)
        if not is_ours or str(error).startswith((f"{name}:", f"{name} ")):
            raise
        raise type(error)(f"{name}: {error}") from None


def check_number(
    name: str,
    value: Any,
    *,
    low: float = 0.0,
    high: float = math.inf,
    high_open: bool = False,
    low_open: bool = False,
    schedule: bool = False,
    hint: str = "",
) -> None:
    """Refuses what is not a finite number of ``[low, high]``, naming argument and value.

    Traced scalars pass unchecked: their value is not known before the program runs.

    Args:
      name: The argument's name, for the message.
      value: What the user passed.
      low: Smallest number allowed.
      high: Largest number allowed.
      high_open: Whether ``high`` itself is refused.
      low_open: Whether ``low`` itself is refused.
      schedule: Whether a callable of the step count is allowed too; it is looked at at a few
        steps, see :func:`wdlab._core.probing.check_schedule`.
      hint: What to write instead, appended to the message.

    Raises:
      TypeError: If ``value`` is not a number (None, a bool, a string, an array that is not
        a scalar), or a callable that is not a schedule.
      ValueError: If it is NaN, infinite or out of range.

    >>> check_number("b2", 1.5, high=1.0, high_open=True)
    Traceback (most recent call last):
    ValueError: b2 must be a number in [0, 1), got 1.5.
    """
    if schedule and callable(value):
        check_schedule(name, value, low=max(low, 0.0), high=high)
        return
    high = math.inf if concrete(high) is None else high  # Another argument may be the limit.
    tail = f" {hint}" if hint else ""
    interval = _interval(low, high, low_open, high_open)
    kind = "a number or a schedule" if schedule else "a number"
    if isinstance(value, jax.core.Tracer):
        if value.ndim == 0:
            return
        raise TypeError(f"{name} must be one number, got an array of shape {value.shape}.{tail}")
    is_array = isinstance(value, np.ndarray | jax.Array) and np.ndim(value) == 0
    if isinstance(value, bool) or not (isinstance(value, numbers.Real) or is_array):
        found = f"{value!r}" if np.ndim(value) == 0 else f"an array of shape {np.shape(value)}"
        raise TypeError(f"{name} must be {kind} in {interval}, got {found}.{tail}")
    number = float(value)
    above = number >= high if high_open else number > high
    below = number <= low if low_open else number < low
    if not math.isfinite(number) or above or below:
        raise ValueError(f"{name} must be {kind} in {interval}, got {number:g}.{tail}")


def _interval(low: float, high: float, low_open: bool, high_open: bool) -> str:
    left = "(" if low_open or math.isinf(low) else "["
    right = ")" if high_open or math.isinf(high) else "]"
    return f"{left}{low:g}, {high:g}{right}"


def check_whole(name: str, value: Any, *, least: int = 1, hint: str = "") -> None:
    """Refuses what is not a whole number of at least ``least``.

    >>> check_whole("factor", 1.5)
    Traceback (most recent call last):
    ValueError: factor must be a whole number >= 1, got 1.5.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        tail = f" {hint}" if hint else ""
        raise ValueError(f"{name} must be a whole number >= {least}, got {value!r}.{tail}")


def read_whole(text: str) -> int:
    """Reads a whole number as people type it; argparse tells its errors.

    >>> read_whole("5e4"), read_whole("50_000")
    (50000, 50000)
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not number.is_integer() or abs(number) > 2**53:
        raise argparse.ArgumentTypeError(f"write a whole number up to 2**53, got {text[:40]!r}")
    return int(number)


def check_choice(name: str, value: Any, choices: Iterable[str], *, hint: str = "") -> None:
    """Refuses what is none of the choices, and lists them.

    >>> check_choice("which", "small", ("largest", "magnitude"))
    Traceback (most recent call last):
    ValueError: which must be 'largest' or 'magnitude', got 'small'.
    """
    *others, last = map(repr, choices)
    if not isinstance(value, str) or repr(value) not in (*others, last):
        tail = f" {hint}" if hint else ""
        listed = f"{', '.join(others)} or {last}" if others else last
        raise ValueError(f"{name} must be {listed}, got {value!r}.{tail}")
