"""A program on uniform arrays: what is computed twice from the same operands has one number.

A program over a model of 5,000 leaves becomes one of a few hundred numbers, and runs for many cases
(steps, weights, gradients) at once.
"""

import functools
import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from wdlab.instruments.plans.uniform_arrays import (
    Operation,
    of_kind,
)

Array = Any
Number = Any  # An int: all entries are equal; or an array of ints, of a small constant's entries.
MOST_ENTRIES = 16  # Of a constant that is looked at entry by entry.


class Program:
    """Numbers of what is computed, each from those before it.

    >>> program = Program()
    >>> x = program.input("x")
    >>> square = program.apply(Operation(("square",), np.square), [x])
    >>> square == program.apply(Operation(("square",), np.square), [x])
    True
    >>> program.run({x: np.asarray([1.0, 10.0])}, [square])[0][0].tolist()
    [1.0, 100.0]
    """

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._made_by: list[tuple[Operation | None, tuple[int, ...]]] = []
        self._texts: list[str] = []
        self._constants: dict[int, tuple[Array, Array]] = {}
        self._needed: dict[tuple[int, ...], list[int]] = {}
        self._spread = False  # Whether a large constant has entries that differ.

    def input(self, name: str) -> int:
        """A new operand; equal names are the same one."""
        return self._number(("input", name), None, ())

    def constant(self, value: Array) -> Number:
        """The number of an array; of a small one whose entries differ, the numbers of its entries.

        A large one whose entries differ is tried with the least and with the largest.
        """
        if jax.dtypes.issubdtype(getattr(value, "dtype", float), jax.dtypes.extended):
            return self.unknown(())
        array = of_kind(value)
        if array.size == 0 or (array == array.flat[0]).all() or np.isnan(array).all():
            low = high = array.flat[0] if array.size else array.dtype.type(0)
            key = ("constant", array.dtype.kind, str(low))
        elif array.size <= MOST_ENTRIES:
            return np.reshape([self.constant(entry) for entry in array.flat], array.shape)
        elif array.dtype.kind == "c":
            return self.unknown(())
        else:
            low, high = array.min(), array.max()
            key = ("constants", array.dtype.kind, str(low), str(high), str(array.mean()))
            self._spread = True
        number = self._number(key, None, ())
        self._constants[number] = low, high
        return number

    def unknown(self, operands: Sequence[Number], place: int = 0) -> int:
        """What is computed from these in a way that is not followed; one of its results."""
        entries = tuple(int(n) for operand in operands for n in np.ravel(operand))
        return self._number((("unknown", place), *entries), None, entries)

    def apply(self, what: Operation | None, operands: Sequence[int]) -> int:
        """The number of an operation's result; a product with the constant 0 is that constant."""
        if what is None:
            return self.unknown(operands)
        if what.key == ("mul",):
            for operand in operands:
                if self._constants.get(operand) == (0, 0):
                    return operand
        return self._number((what.key, *operands), what, tuple(operands))

    def _number(self, key: Any, what: Operation | None, operands: tuple[int, ...]) -> int:
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._made_by)
            self._made_by.append((what, operands))
            words = repr((key[0] if operands else key, *(self._texts[n] for n in operands)))
            self._texts.append(hashlib.sha256(words.encode()).hexdigest()[:16])
        return number

    def text(self, number: int) -> str:
        """What is computed, as a short digest; the same in every process."""
        return self._texts[number]

    def needed(self, wanted: Sequence[int], *, finite: bool = False) -> list[int]:
        """All numbers from which those are computed, in order.

        Args:
          wanted: Of this program.
          finite: Whether questions if a number is finite are left out: they are answered by yes.
        """
        key = (finite, *wanted)
        if key not in self._needed:
            seen, left = set(), list(wanted)
            while left:
                number = left.pop()
                if number not in seen:
                    seen.add(number)
                    left += (
                        () if finite and self._asks_if_finite(number) else self._made_by[number][1]
                    )
            self._needed[key] = sorted(seen)
        return self._needed[key]

    def _asks_if_finite(self, number: int) -> bool:
        what, operands = self._made_by[number]
        name = what.key[0] if what is not None else ""
        return name == "is_finite" or (name in ("ne", "eq", "sub") and len(set(operands)) == 1)

    def run(self, given: dict[int, Any], wanted: Sequence[int]) -> list[tuple[Array, Array]]:
        """The wanted numbers, and where they are unknown.

        Args:
          given: The inputs: arrays, or pairs of one and of where it is unknown.
          wanted: Numbers of this program.

        Returns:
          Arrays that broadcast against the inputs; a first of three axes may be for the least and
          the largest entry of constants.
        """
        found: dict[int, tuple[Array, Array]] = {}
        with np.errstate(all="ignore"):
            for number in self.needed(wanted):
                what, operands = self._made_by[number]
                if number in given:
                    value = given[number]
                    found[number] = value if isinstance(value, tuple) else (value, np.False_)
                elif number in self._constants:
                    low, high = self._constants[number]
                    value = np.reshape([low, high], (2, 1, 1)) if self._spread else low
                    found[number] = value, np.False_
                elif what is None:
                    found[number] = np.float64(0.0), np.True_
                else:
                    found[number] = _applied(what, [found[n] for n in operands])
        return [found[number] for number in wanted]

    def single(self, number: Number) -> int:
        """The number as one; of entries that differ, an unknown one."""
        return number if isinstance(number, int) else self.unknown([number])

    def entries(self, number: Number, shape: tuple[int, ...]) -> list[int]:
        """The numbers of a small array's entries; one number for a large one."""
        if math.prod(shape) > MOST_ENTRIES:
            return [self.single(number)]
        return np.broadcast_to(number, shape).ravel().tolist()

    def joined(self, left: Iterator[int], shape: tuple[int, ...]) -> Number:
        """The next array of those that ``entries`` took apart."""
        size = math.prod(shape)
        if size > MOST_ENTRIES:
            return next(left)
        return folded(np.reshape([next(left) for _ in range(size)], shape)) if size else 0


def folded(entries: Array) -> Number:
    """Equal entries as one number.

    >>> folded(np.asarray([3, 3])), folded(np.asarray([3, 4])).tolist()
    (3, [3, 4])
    """
    entries = np.asarray(entries)
    return int(entries.flat[0]) if entries.size and (entries == entries.flat[0]).all() else entries


def _applied(what: Operation, operands: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    values, flags = [x for x, _ in operands], [flag for _, flag in operands]
    if all(flag is np.False_ for flag in flags):
        return what.function(*values), np.False_
    if what.unknown is not None:
        flag = what.unknown(values, flags)
    else:
        flag = functools.reduce(np.logical_or, flags)
    if np.all(flag):
        return np.float64(0.0), np.True_
    return what.function(*values), flag
