"""How a value scales with each leaf: y(c theta) = c**k y(theta), k known or not.

A leaf that a value does not depend on has no entry. Sets of leaves are bits of whole numbers, so
that a model of thousands of leaves costs little.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

# An epsilon of a normalization; the largest in use is Keras' and PyTorch's BatchNorm's 1e-3.
LARGEST_EPSILON = 1.001e-3


def bits(mask: int) -> Iterator[int]:
    """The numbers in a set.

    >>> list(bits(0b101))
    [0, 2]
    """
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


@dataclass(frozen=True)
class Degrees:
    """Of one value: for each leaf a degree other than 0, degree 0, or one that is not known."""

    powers: Mapping[int, Fraction] = field(default_factory=dict)
    zero: int = 0
    unknown: int = 0

    @property
    def leaves(self) -> int:
        """All leaves that the value depends on."""
        return self.zero | self.unknown | self._moving

    @property
    def _moving(self) -> int:
        return sum(1 << leaf for leaf in self.powers)

    def power(self, exponent: Fraction | int) -> "Degrees":
        """Of the value's power; exponent 0 is for its sign.

        >>> Degrees({0: Fraction(1)}).power(2).powers[0]
        Fraction(2, 1)
        """
        if exponent == 0:
            return Degrees({}, self.zero | self._moving, self.unknown)
        powers = {leaf: power * exponent for leaf, power in self.powers.items()}
        return Degrees(powers, self.zero, self.unknown)


INDEPENDENT = Degrees()


def of_any(operands: Sequence[Degrees]) -> Degrees:
    """Of a function about which nothing is known: what changes by no factor stays as it is.

    >>> of_any([Degrees({0: Fraction(1)}, zero=0b10)])
    Degrees(powers={}, zero=2, unknown=1)
    """
    unknown = zero = 0
    for degrees in operands:
        unknown |= degrees.unknown | degrees._moving
        zero |= degrees.zero
    return Degrees({}, zero & ~unknown, unknown)


def of_product(first: Degrees, second: Degrees) -> Degrees:
    """Of a value that is linear in both.

    >>> of_product(Degrees({0: Fraction(1)}), Degrees({0: Fraction(-1)})).zero
    1
    """
    unknown = first.unknown | second.unknown
    zero = (first.zero | second.zero) & ~unknown
    if not second.powers:
        powers = {leaf: power for leaf, power in first.powers.items() if not unknown >> leaf & 1}
        return Degrees(powers, zero & ~sum(1 << leaf for leaf in powers), unknown)
    sums = dict(first.powers)
    for leaf, power in second.powers.items():
        sums[leaf] = sums.get(leaf, Fraction(0)) + power
    powers = {leaf: power for leaf, power in sums.items() if power and not unknown >> leaf & 1}
    balanced = sum(1 << leaf for leaf, power in sums.items() if not power)
    moving = sum(1 << leaf for leaf in powers)
    return Degrees(powers, (zero | balanced) & ~moving & ~unknown, unknown)


def of_sum(operands: Sequence[tuple[Degrees, float | None]]) -> tuple[Degrees, float]:
    """Of a sum, a maximum, or a choice: all must scale alike.

    Args:
      operands: Each with its number, if it is a known one: 0 and the infinities scale like
        anything, and so does, nearly, an epsilon.

    Returns:
      The degrees, and the largest epsilon that was left out.

    >>> of_sum([(Degrees({0: Fraction(2)}), None), (INDEPENDENT, 1e-5)])
    (Degrees(powers={0: Fraction(2, 1)}, zero=0, unknown=0), 1e-05)
    >>> of_sum([(Degrees({0: Fraction(2)}), None), (INDEPENDENT, 1.0)])[0].unknown
    1
    """
    parts = [degrees for degrees, number in operands if not _scales_like_anything(number)]
    left_out = [abs(number) for _, number in operands if number and _is_epsilon(number)]
    moving = {leaf for degrees in parts for leaf in degrees.powers}
    epsilon = max(left_out, default=0.0) if moving else 0.0
    unknown = zero = 0
    for degrees, _ in operands:
        unknown |= degrees.unknown
        zero |= degrees.zero
    powers = {}
    for leaf in moving:
        first, *others = (degrees.powers.get(leaf) for degrees in parts)
        if first is not None and all(power == first for power in others):
            powers[leaf] = first
        else:
            unknown |= 1 << leaf
    kept = {leaf: power for leaf, power in powers.items() if not unknown >> leaf & 1}
    return Degrees(kept, zero & ~unknown & ~sum(1 << leaf for leaf in kept), unknown), epsilon


def _is_epsilon(number: float) -> bool:
    return 0 < abs(number) <= LARGEST_EPSILON


def _scales_like_anything(number: float | None) -> bool:
    return number is not None and (not math.isfinite(number) or abs(number) <= LARGEST_EPSILON)
