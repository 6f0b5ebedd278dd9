"""The numbers that a traced optimizer works with: its constants, and what it makes of the step."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jax.extend import core

from wdlab._core.equations import called_programs
from wdlab.instruments.equivalence.proof import Traced
from wdlab.instruments.plans import of_kind


def scalars_of_step(program: Traced) -> list[Any]:
    """Float variables of the update, of no shape, that only the number of updates before decides.

    So no gradient, weight, loss or array of the state; whether these are finite may: those that
    the doctor tries are.

    >>> import jax, optax
    >>> from wdlab.instruments.equivalence.proof import traced
    >>> leaf = jax.ShapeDtypeStruct((3,), "float32")
    >>> program = traced(optax.scale_by_schedule(lambda n: 0.5**n), leaf)
    >>> len(scalars_of_step(program)) > 0, scalars_of_step(traced(optax.scale(0.5), leaf))
    (True, [])
    """
    jaxpr, count = program.update.jaxpr, len(program.state)
    states = [n for n in range(count) if program.state[n].shape == ()]
    while True:  # Until those left go on to values of those left alone.
        known = {*jaxpr.constvars, *(jaxpr.invars[1 + n] for n in states)}
        found = [jaxpr.invars[1 + n] for n in states]
        for eqn in jaxpr.eqns:
            if _tells_finite(eqn) or all(
                isinstance(a, core.Literal) or a in known for a in eqn.invars
            ):
                known.update(eqn.outvars)
                found += [v for v in eqn.outvars if v.aval.shape == ()]
        after = [jaxpr.outvars[1 + n] for n in states]
        pairs = zip(states, after, strict=True)
        left = [n for n, v in pairs if isinstance(v, core.Literal) or v in known]
        if left == states:
            return [v for v in found if v.aval.dtype.kind == "f"]
        states = left


def _tells_finite(eqn: Any) -> bool:
    """Whether an operation has one result for all finite numbers: ``isfinite(x)``, ``x - x``."""
    name, given = eqn.primitive.name, eqn.invars
    return name == "is_finite" or (name == "sub" and given[0] is given[1])


def constants_of(program: Traced) -> tuple[float, ...]:
    """The sizes of all constants in ``init`` and ``update``, in [1e-32, 1e6], each once.

    >>> import jax, optax
    >>> from wdlab.instruments.equivalence.proof import traced
    >>> leaf = jax.ShapeDtypeStruct((3,), "float32")
    >>> constants_of(traced(optax.scale(-0.5), leaf))
    (0.5,)
    """
    found = {abs(x) for closed in (program.init, program.update) for x in _constants(closed)}
    return tuple(sorted(x for x in found if 1e-32 < x < 1e6))


def _constants(closed: Any) -> Iterator[float]:
    jaxpr = getattr(closed, "jaxpr", closed)
    for x in getattr(closed, "consts", ()):
        if np.size(x) == 1 and np.asarray(x).dtype.kind in "fiu":
            yield float(of_kind(np.ravel(x))[0])
    for atom in [a for eqn in jaxpr.eqns for a in eqn.invars] + list(jaxpr.outvars):
        if isinstance(atom, core.Literal) and np.size(atom.val) == 1:
            yield float(of_kind(np.ravel(np.asarray(atom.val)))[0])
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield float(eqn.params["length"])
        loops = [eqn.params[key] for key in ("cond_jaxpr", "body_jaxpr") if key in eqn.params]
        for inner in [*called_programs(eqn.params), *loops, *eqn.params.get("branches", ())]:
            yield from _constants(inner)
