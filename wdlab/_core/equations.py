"""What JAX's equations call their parts: the names change between its versions."""

from collections.abc import Mapping
from typing import Any


def called_programs(params: Mapping[str, Any]) -> list[Any]:
    """The programs that an equation calls once, as of ``jit`` or ``custom_jvp``.

    >>> import jax
    >>> traced = jax.make_jaxpr(jax.jit(lambda x: x + 1.0))(2.0)
    >>> len(called_programs(traced.eqns[0].params))
    1
    """
    return [params[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in params]


def counts_of_scan(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of a scan's operands are constants, and how many are carried.

    >>> import jax
    >>> step = lambda w: lambda c, x: ((c[0] * w, 2 * c[1]), x)
    >>> scan = lambda w: jax.lax.scan(step(w), (1.0, 2.0), jax.numpy.ones(3))
    >>> counts_of_scan(jax.make_jaxpr(scan)(3.0).eqns[-1].params)
    (1, 2)
    """
    if "ft_in" in params:  # From jax 0.12 on: the constants, what is carried, and the rows.
        constants, carried, _ = params["ft_in"].unpack()
        return len(constants), len(carried)
    return params["num_consts"], params["num_carry"]
