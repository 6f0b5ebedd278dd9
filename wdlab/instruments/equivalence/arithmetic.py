"""What JAX's arithmetic does to normal forms."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from wdlab.instruments.equivalence.normal_forms import Algebra, Form


def exponential(algebra: Algebra, eqn: Any, form: Form) -> Form:
    """The form of ``exp``; powers of a constant are written with it as well.

    >>> algebra = Algebra()
    >>> exponential(algebra, None, algebra.constant(0.0)) == algebra.constant(1.0)
    True
    """
    value = algebra.value(form)
    if value is not None:
        return algebra.constant(math.exp(value))
    falls = algebra.nonnegative(algebra.scaled(form, -1.0))
    known = {"scalar": eqn.outvars[0].aval.shape == (), "nonnegative": True}
    return algebra.atom(("exp", algebra.key(form)), at_most_one=falls, **known)


def selected(algebra: Algebra, which: Form, cases: Sequence[Form], scalar: bool) -> Form:
    """The case that ``which`` counts from 0.

    >>> algebra = Algebra()
    >>> which, x = (algebra.atom(name, scalar=True) for name in "wx")
    >>> selected(algebra, which, [x, x], True) == x
    True
    """
    keys = [algebra.key(case) for case in cases]
    if len(set(keys)) == 1:
        return cases[0]
    chosen = algebra.value(which)
    if chosen is not None:
        return cases[int(min(max(chosen, 0), len(cases) - 1))]
    nonnegative = all(map(algebra.nonnegative, cases))
    key = ("select_n", algebra.key(which), *keys)
    return algebra.atom(key, scalar=scalar, nonnegative=nonnegative)


def _sub(algebra: Algebra, eqn: Any, one: Form, two: Form) -> Form:
    return algebra.add(one, algebra.scaled(two, -1.0))


def _div(algebra: Algebra, eqn: Any, one: Form, two: Form) -> Form:
    return algebra.multiply(one, algebra.power(two, -1))


def _expm1(algebra: Algebra, eqn: Any, form: Form) -> Form:
    return algebra.add(exponential(algebra, eqn, form), algebra.constant(-1.0))


ARITHMETIC: dict[str, Callable[..., Form]] = {
    "add": lambda algebra, eqn, *forms: algebra.add(*forms),
    "add_any": lambda algebra, eqn, *forms: algebra.add(*forms),
    "div": _div,
    "exp": exponential,
    "expm1": _expm1,
    "integer_pow": lambda algebra, eqn, form: algebra.power(form, eqn.params["y"]),
    "mul": lambda algebra, eqn, one, two: algebra.multiply(one, two),
    "neg": lambda algebra, eqn, form: algebra.scaled(form, -1.0),
    "rsqrt": lambda algebra, eqn, form: algebra.power(form, -0.5),
    "sqrt": lambda algebra, eqn, form: algebra.power(form, 0.5),
    "square": lambda algebra, eqn, form: algebra.power(form, 2),
    "sub": _sub,
}
