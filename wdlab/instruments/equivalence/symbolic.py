"""A jaxpr in normal forms: shapes and places are kept, rounding and the names of steps are not."""

import hashlib
import itertools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from wdlab._core.equations import called_programs
from wdlab.instruments.equivalence.arithmetic import ARITHMETIC, exponential, selected
from wdlab.instruments.equivalence.normal_forms import ZERO, Algebra, Form
from wdlab.instruments.plans import ELEMENTWISE, of_kind

Array = Any
_SAME = {
    "copy", "copy_p", "device_put", "mesh_cast", "optimization_barrier", "reduce_precision",
    "reshard", "sharding_constraint", "stop_gradient",
}  # fmt: skip
# Entries change places, so that f(x, y) of them is f of x and y whose entries did.
_MOVES = {
    "broadcast_in_dim", "expand_dims", "reshape", "rev", "slice", "squeeze", "transpose",
}  # fmt: skip
_ANY_ORDER = {"and", "eq", "max", "min", "ne", "or", "xor"}
_LOGIC = {"and", "not", "or", "xor"}  # Of integers it is not folded.
_TURNED = {"gt": "lt", "ge": "le"}
_LARGEST = 2**31 - 1
_NONNEGATIVE = {"abs", "exp", "exp2", "logistic", "sqrt"}
_OF_NONNEGATIVE = {"max", "min", "reduce_sum", "reduce_max", "reduce_min", "select_n", "cbrt"}
# How an equation runs, not what it computes.
_MACHINERY = {"sharding", "out_sharding", "precision", "preferred_element_type", "accuracy"}


class Symbolic:
    """Runs jaxprs on forms; one algebra for all of them, so that their results can be compared.

    >>> symbolic = Symbolic(Algebra())
    >>> x = symbolic.algebra.atom("x", scalar=False)
    >>> one, two = (jax.make_jaxpr(f)(np.ones(3)) for f in (lambda x: x + x, lambda x: 2 * x))
    >>> symbolic.run(one, [x]) == symbolic.run(two, [x])
    True
    """

    def __init__(self, algebra: Algebra):
        self.algebra = algebra

    def run(self, closed: Any, operands: Sequence[Form]) -> list[Form]:
        """The forms of a jaxpr's results, given those of its arguments."""
        jaxpr = getattr(closed, "jaxpr", closed)
        known: dict[Any, Form] = dict(zip(jaxpr.invars, operands, strict=True))
        constants = getattr(closed, "consts", ())
        known |= {v: self.constant(c) for v, c in zip(jaxpr.constvars, constants, strict=True)}

        def form(atom: Any) -> Form:
            return self.constant(atom.val) if isinstance(atom, core.Literal) else known[atom]

        for eqn in jaxpr.eqns:
            results = self._equation(eqn, [form(atom) for atom in eqn.invars])
            known |= dict(zip(eqn.outvars, results, strict=True))
        return [form(atom) for atom in jaxpr.outvars]

    def constant(self, value: Any) -> Form:
        """The form of an array: a number where all entries are equal."""
        if jax.dtypes.issubdtype(getattr(value, "dtype", float), jax.dtypes.extended):
            return self.algebra.atom(("key", str(jax.random.key_data(value))), scalar=False)
        array = np.asarray(value)
        if array.size and array.dtype.kind != "c" and (array == array.flat[0]).all():
            return self.algebra.constant(float(of_kind(array.ravel()[:1])[0]))
        digest = hashlib.sha256(array.tobytes()).hexdigest()
        return self.algebra.atom(("array", array.shape, digest), scalar=array.ndim == 0)

    def _equation(self, eqn: Any, forms: list[Form]) -> list[Form]:
        name, params = eqn.primitive.name, eqn.params
        inner = called_programs(params)
        if name == "cond":
            branches = [self.run(branch, forms[1:]) for branch in params["branches"]]
            cases = zip(eqn.outvars, zip(*branches, strict=True), strict=True)
            return [selected(self.algebra, forms[0], case, v.aval.shape == ()) for v, case in cases]
        if name in ("scan", "while"):
            return self._loop(eqn, forms)
        if inner and name not in ("shard_map", "custom_root", "custom_linear_solve"):
            return self.run(inner[0], forms)
        if name in _SAME or (name == "convert_element_type" and not _cuts(eqn)):
            return forms
        if name in ARITHMETIC and not (name == "div" and _is_integer(eqn.outvars)):
            return [ARITHMETIC[name](self.algebra, eqn, *forms)]
        if name in _RULES:
            return [_RULES[name](self, eqn, *forms)]
        if name in _MOVES:
            return [self._moved(eqn, forms[0])]
        return self._opaque(eqn, forms)

    def _pow(self, eqn: Any, base: Form, exponent: Form) -> Form:
        number, power = self.algebra.value(base), self.algebra.value(exponent)
        if power is not None:
            return self.algebra.power(base, power)
        if number is not None and number > 0:
            return exponential(self.algebra, eqn, self.algebra.scaled(exponent, math.log(number)))
        return self._opaque(eqn, [base, exponent])[0]

    def _select_n(self, eqn: Any, which: Form, *cases: Form) -> Form:
        return selected(self.algebra, which, cases, eqn.outvars[0].aval.shape == ())

    def _lt(self, eqn: Any, one: Form, two: Form) -> Form:
        if _is_integer(eqn.invars) and self.algebra.value(two) == _LARGEST:
            return self.algebra.constant(1.0)  # Optax keeps its counts from going round.
        return self._opaque(eqn, [one, two])[0]

    def _abs(self, eqn: Any, form: Form) -> Form:
        if self.algebra.nonnegative(form):
            return form
        if len(form) != 1:
            return self._opaque(eqn, [form])[0]
        ((monomial, c),) = form.items()
        return self.algebra.scaled(self._opaque(eqn, [{monomial: 1.0}])[0], abs(c))

    def _reduce_sum(self, eqn: Any, form: Form) -> Form:
        size = math.prod(eqn.invars[0].aval.shape) / max(math.prod(eqn.outvars[0].aval.shape), 1)
        parts = []
        for monomial, c in form.items():
            scalar, rest = self.algebra.scalars_apart(monomial)
            one = {rest: 1.0}
            total = self._opaque(eqn, [one])[0] if rest else self.algebra.constant(size)
            parts.append(self.algebra.scaled(self.algebra.multiply({scalar: 1.0}, total), c))
        return self.algebra.add(*parts)

    def _dot_general(self, eqn: Any, one: Form, two: Form) -> Form:
        if len(one) * len(two) > 4:  # Powers of a matrix would grow without end.
            return self._opaque(eqn, [one, two])[0]
        parts = []
        for (m, c), (n, d) in itertools.product(one.items(), two.items()):
            (scalar, left), (more, right) = map(self.algebra.scalars_apart, (m, n))
            product = self._opaque(eqn, [{left: 1.0}, {right: 1.0}])[0]
            factors = self.algebra.multiply({scalar: 1.0}, {more: 1.0})
            parts.append(self.algebra.scaled(self.algebra.multiply(factors, product), c * d))
        return self.algebra.add(*parts)

    def _moved(self, eqn: Any, form: Form) -> Form:
        """The form with each atom's entries moved."""
        if (
            eqn.primitive.name == "reshape"
            and eqn.invars[0].aval.shape == eqn.outvars[0].aval.shape
        ):
            return form
        parts = []
        for monomial, c in form.items():
            factors = [self.algebra.power(self._moved_atom(eqn, a), p) for a, p in monomial]
            parts.append(self.algebra.scaled(self.algebra.product_of(factors), c))
        return self.algebra.add(*parts) if parts else ZERO

    def _moved_atom(self, eqn: Any, number: int) -> Form:
        atom = self.algebra.atoms[number]
        if atom.scalar:
            return {((number, 1),): 1.0}
        if atom.inside is not None:
            return self._moved(eqn, atom.inside)
        key = (eqn.primitive.name, self._params(eqn), number)
        known = {"nonnegative": atom.nonnegative, "at_most_one": atom.at_most_one}
        return self.algebra.atom(key, scalar=eqn.outvars[0].aval.shape == (), **known)

    def _opaque(self, eqn: Any, forms: Sequence[Form]) -> list[Form]:
        """An operation that is not taken apart, of operands in normal form."""
        algebra, name = self.algebra, eqn.primitive.name
        values = [algebra.value(form) for form in forms]
        if name in ELEMENTWISE and None not in values and forms and not _is_integer(eqn.outvars):
            kind = np.bool_ if name in _LOGIC else np.float64
            with np.errstate(all="ignore"):
                return [algebra.constant(float(ELEMENTWISE[name](*map(kind, values))))]
        if name in _TURNED:
            name, forms = _TURNED[name], forms[::-1]
        keys = [algebra.key(form) for form in forms]
        if name in _ANY_ORDER:
            keys = sorted(keys, key=repr)
        shapes = tuple(v.aval.shape for v in eqn.invars)
        sure = name in _OF_NONNEGATIVE and all(map(algebra.nonnegative, forms))
        known = {"nonnegative": name in _NONNEGATIVE or sure}
        moved = name in ELEMENTWISE or len(set(shapes)) < 2
        key = (name, self._params(eqn), () if moved and name in ELEMENTWISE else shapes, *keys)
        return [
            algebra.atom((n, *key), scalar=v.aval.shape == (), **known)
            for n, v in enumerate(eqn.outvars)
        ]

    def _loop(self, eqn: Any, forms: Sequence[Form]) -> list[Form]:
        """A scan or a while loop, named by what its body computes of named arguments."""
        inside = []
        for key in ("jaxpr", "cond_jaxpr", "body_jaxpr"):
            if key in eqn.params:
                jaxpr = eqn.params[key]
                arguments = [
                    self.algebra.atom(("argument", n, v.aval.shape), scalar=v.aval.shape == ())
                    for n, v in enumerate(jaxpr.jaxpr.invars)
                ]
                inside.append(tuple(map(self.algebra.key, self.run(jaxpr, arguments))))
        keys = [self.algebra.key(form) for form in forms]
        key = (eqn.primitive.name, self._params(eqn), *inside, *keys)
        return [
            self.algebra.atom((n, *key), scalar=v.aval.shape == ())
            for n, v in enumerate(eqn.outvars)
        ]

    def _params(self, eqn: Any) -> str:
        found = {
            k: v
            for k, v in eqn.params.items()
            if k not in _MACHINERY and not k.endswith("jaxpr") and not callable(v)
        }
        return re.sub(r" at 0x[0-9a-f]+", "", repr(sorted(found.items(), key=lambda item: item[0])))


_RULES: dict[str, Callable[..., Form]] = {
    "abs": Symbolic._abs,
    "dot_general": Symbolic._dot_general,
    "lt": Symbolic._lt,
    "pow": Symbolic._pow,
    "reduce_sum": Symbolic._reduce_sum,
    "select_n": Symbolic._select_n,
}


def _is_integer(variables: Sequence[Any]) -> bool:
    return any(getattr(v.aval.dtype, "kind", "") in "iu" for v in variables)


def _cuts(eqn: Any) -> bool:
    """Whether a conversion changes a number, other than by rounding it."""
    new, old = np.dtype(eqn.params["new_dtype"]), eqn.invars[0].aval.dtype
    real = jax.numpy.issubdtype(old, jax.numpy.floating)
    return (new.kind in "iu" and real) or (new.kind == "b" and old.kind != "b")
