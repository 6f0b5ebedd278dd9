r"""A normal form of real-valued expressions: sums of products of powers of atoms.

Two expressions with one normal form are equal as functions of real numbers: :math:`-lr\,(u +
\lambda\theta)` and :math:`-lr\,u - (lr\,\lambda)\,\theta`, or :math:`\sqrt{v / c}` and
:math:`\sqrt v / \sqrt c` where both are known to be positive. The reverse does not hold: two forms
may differ and still be equal. Constants are compared to seven digits.
"""

import math
from collections.abc import Hashable, Iterable
from fractions import Fraction
from typing import Any, NamedTuple

# Atoms with their powers, in order; the empty product is the number 1.
Monomial = tuple[tuple[int, Any], ...]
Form = dict[Monomial, float]  # The coefficient of each product. Never changed once made.
ZERO: Form = {}
_ONE: Monomial = ()
_MOST_TERMS = 24  # Of a product that is multiplied out.
DIGITS = 7  # Of a constant: those of float32.
_ROUNDING = 1e-7  # Of a float32 constant, relative.
_CANCELLED = 1e-12  # Of a sum, relative to its parts: rounding.


class Atom(NamedTuple):
    """What is not taken apart; equal keys are the same."""

    key: Hashable
    scalar: bool  # Of shape (): the same for all entries of an array.
    nonnegative: bool = False
    at_most_one: bool = False
    inside: Form | None = None  # Of a sum that has a power.


class Algebra:
    """The atoms that are known, and arithmetic on forms of them.

    >>> algebra = Algebra()
    >>> x, y = (algebra.atom(name, scalar=False) for name in "xy")
    >>> both = algebra.multiply(algebra.add(x, y), algebra.constant(2.0))
    >>> algebra.key(both) == algebra.key(algebra.add(x, y, x, y))
    True
    """

    def __init__(self) -> None:
        self.atoms: list[Atom] = []
        self._numbers: dict[Hashable, int] = {}
        self._texts: dict[float, str] = {}  # Of coefficients; and all of these.
        self._known: set[str] = set()

    def atom(self, key: Hashable, *, scalar: bool, **known: Any) -> Form:
        """The form of one atom; ``known`` are the other fields of :class:`Atom`."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.atoms)
            self.atoms.append(Atom(key, scalar, **known))
        return {((number, 1),): 1.0}

    def constant(self, value: float) -> Form:
        """The form of a number."""
        return {_ONE: float(value)} if value != 0 else ZERO

    def value(self, form: Form) -> float | None:
        """The number that a form is; None if it is none."""
        if not form:
            return 0.0
        return form[_ONE] if len(form) == 1 and _ONE in form else None

    def key(self, form: Form) -> Hashable:
        """Equal for equal forms."""
        return tuple(sorted(((m, self._text(c)) for m, c in form.items()), key=repr))

    def _text(self, c: float) -> str:
        """The digits of a number; those of an earlier one where they are a rounding apart."""
        if c not in self._texts:
            near = [f"{x:.{DIGITS}g}" for x in (c, c * (1 - _ROUNDING), c * (1 + _ROUNDING))]
            self._texts[c] = next((text for text in near if text in self._known), near[0])
            self._known.add(self._texts[c])
        return self._texts[c]

    def add(self, *forms: Form) -> Form:
        """The sum; terms that cancel are gone."""
        total: dict[Monomial, float] = {}
        sizes: dict[Monomial, float] = {}
        for form in forms:
            for monomial, c in form.items():
                total[monomial] = total.get(monomial, 0.0) + c
                sizes[monomial] = max(sizes.get(monomial, 0.0), abs(c))
        return {m: c for m, c in total.items() if not abs(c) <= _CANCELLED * sizes[m]}

    def scaled(self, form: Form, factor: float) -> Form:
        """The product with a number."""
        return {m: c * factor for m, c in form.items()} if factor else ZERO

    def multiply(self, one: Form, two: Form) -> Form:
        """The product, multiplied out unless that is long."""
        for form, other in ((one, two), (two, one)):
            number = self.value(form)
            if number is not None:
                return self.scaled(other, number)
        if len(one) * len(two) > _MOST_TERMS:
            one, two = self._closed(one), self._closed(two)
        parts = []
        for m, c in one.items():
            for n, d in two.items():
                parts.append(self.scaled(self._product(m, n), c * d))
        return self.add(*parts)

    def power(self, form: Form, exponent: Any) -> Form:
        """The form to the power of a number, as for positive numbers where that is no integer."""
        exponent = Fraction(exponent).limit_denominator(10**6)
        exponent = int(exponent) if exponent.denominator == 1 else exponent
        if exponent == 0 or not form:
            return self.constant(1.0) if exponent == 0 else ZERO if exponent > 0 else self._inf()
        if exponent == 1:
            return form
        if len(form) == 1:
            ((monomial, c),) = form.items()
            return self._term_power(monomial, c, exponent)
        if isinstance(exponent, int) and 1 < exponent <= 3:
            return self.multiply(form, self.power(form, exponent - 1))
        lead = self._lead(form)
        size = lead if isinstance(exponent, int) else abs(lead)
        whole = self.scaled(form, 1 / size)
        return self.scaled(self._raised(self._as_atom(whole), exponent), float(size) ** exponent)

    def nonnegative(self, form: Form) -> bool:
        """Whether the form is known to be at least 0 for all values of its atoms."""
        constant = form.get(_ONE, 0.0)
        negative = [(m, c) for m, c in form.items() if c < 0]
        if len(negative) == 1 and negative[0][1] >= -constant:  # 1 - b**t
            return self._at_most_one(negative[0][0]) and all(
                self._nonnegative(m) for m, c in form.items() if c > 0
            )
        return not negative and all(self._nonnegative(m) for m in form)

    def scalars_apart(self, monomial: Monomial) -> tuple[Monomial, Monomial]:
        """The factors of shape (), and the others."""
        scalar = tuple(part for part in monomial if self.atoms[part[0]].scalar)
        return scalar, tuple(part for part in monomial if part not in scalar)

    def is_scalar(self, form: Form) -> bool:
        """Whether all atoms are of shape ()."""
        return all(self.atoms[a].scalar for m in form for a, _ in m)

    def product_of(self, factors: Iterable[Form]) -> Form:
        """The product of several."""
        total = self.constant(1.0)
        for factor in factors:
            total = self.multiply(total, factor)
        return total

    def _nonnegative(self, monomial: Monomial) -> bool:
        return all(
            self.atoms[a].nonnegative or (isinstance(p, int) and p % 2 == 0) for a, p in monomial
        )

    def _at_most_one(self, monomial: Monomial) -> bool:
        return all(
            self.atoms[a].at_most_one and self.atoms[a].nonnegative and p > 0 for a, p in monomial
        )

    def _lead(self, form: Form) -> float:
        return form[min(form, key=repr)]

    def _inf(self) -> Form:
        return {_ONE: math.inf}

    def _as_atom(self, form: Form) -> Monomial:
        key = ("sum", self.key(form))
        known = {"nonnegative": self.nonnegative(form), "inside": form}
        ((monomial, _),) = self.atom(key, scalar=self.is_scalar(form), **known).items()
        return monomial

    def _closed(self, form: Form) -> Form:
        """A long sum as one atom that is not multiplied out again."""
        if len(form) == 1:
            return form
        lead = self._lead(form)
        whole = self.scaled(form, 1 / lead)
        known = {"scalar": self.is_scalar(form), "nonnegative": self.nonnegative(whole)}
        return self.scaled(self.atom(("long sum", self.key(whole)), **known), lead)

    def _raised(self, monomial: Monomial, exponent: Any) -> Form:
        return self._joined([(a, p * exponent) for a, p in monomial])

    def _product(self, one: Monomial, two: Monomial) -> Form:
        return self._joined([*one, *two])

    def _joined(self, parts: list[tuple[int, Any]]) -> Form:
        powers: dict[int, Any] = {}
        for atom, p in parts:
            powers[atom] = powers.get(atom, 0) + p
        powers = {a: int(p) if p == int(p) else p for a, p in powers.items() if p}
        # A sum is written out where its power is whole again.
        whole = [a for a, p in powers.items() if self.atoms[a].inside and p in (1, 2)]
        rest = {tuple(sorted((a, p) for a, p in powers.items() if a not in whole)): 1.0}
        for a in whole:
            rest = self.multiply(rest, self.power(self.atoms[a].inside or ZERO, powers[a]))
        return rest

    def _term_power(self, monomial: Monomial, c: float, exponent: Any) -> Form:
        if isinstance(exponent, int):
            return self.scaled(self._raised(monomial, exponent), float(c) ** exponent)
        if c < 0:
            monomial, c = self._as_atom({monomial: -1.0}), -c
        known = [part for part in monomial if self.atoms[part[0]].nonnegative]
        rest = tuple(part for part in monomial if part not in known)
        raised = self._raised(tuple(known), exponent)
        if rest:
            raised = self.multiply(raised, self._raised(self._as_atom({rest: 1.0}), exponent))
        return self.scaled(raised, c ** float(exponent))
