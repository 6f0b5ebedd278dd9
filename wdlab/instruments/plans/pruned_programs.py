"""A traced program with other results, and only the operations that these need."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

Array = Any


def needed(jaxpr: Any, wanted: list[Any]) -> set[Any]:
    """The wanted variables, and all from which they are computed.

    >>> jaxpr = jax.make_jaxpr(lambda x, y: (x + 1, y))(1.0, 2.0).jaxpr
    >>> needed(jaxpr, jaxpr.outvars[1:]) == {jaxpr.invars[1]}
    True
    """
    found = {v for v in wanted if not isinstance(v, core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if found.intersection(eqn.outvars):
            found.update(a for a in eqn.invars if not isinstance(a, core.Literal))
    return found


def with_results(closed: Any, variables: list[Any], *, keep: bool = True) -> Any:
    """A jaxpr with some of its variables as results, behind its own or, else, in their place.

    >>> program = jax.make_jaxpr(lambda x: 3 * (x + 1))(2.0)
    >>> only = with_results(program, program.eqns[0].outvars, keep=False)
    >>> len(only.eqns), jax.core.eval_jaxpr(only.jaxpr, only.consts, 2.0)
    (1, [Array(3., dtype=float32, weak_type=True)])
    """
    jaxpr, results = closed.jaxpr, [*[*closed.jaxpr.outvars] * keep, *variables]
    only = _reduced(jaxpr, results, needed(jaxpr, results), jaxpr.invars)
    return core.ClosedJaxpr(only, closed.consts)


def pruned(closed: Any, places: list[int]) -> tuple[Callable[[list[Array]], list[Array]], list]:
    """Some of a jaxpr's results as a function of what they need alone; which arguments that is.

    >>> only, asked = pruned(jax.make_jaxpr(lambda x, y: (x + 1, 2 * y))(1.0, 2.0), [1])
    >>> asked, only([3.0])
    ([1], [Array(6., dtype=float32, weak_type=True)])
    """
    jaxpr = closed.jaxpr
    results = [jaxpr.outvars[n] for n in places]
    used = needed(jaxpr, results)
    asked = [n for n, v in enumerate(jaxpr.invars) if v in used]
    program = _reduced(jaxpr, results, used, [jaxpr.invars[n] for n in asked])
    return lambda given: jax.core.eval_jaxpr(program, closed.consts, *given), asked


def _reduced(jaxpr: Any, results: list[Any], used: set[Any], arguments: list[Any]) -> Any:
    return jaxpr.replace(
        eqns=[eqn for eqn in jaxpr.eqns if used.intersection(eqn.outvars)],
        invars=arguments,
        outvars=results,
    )
