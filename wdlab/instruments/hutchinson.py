"""The trace of the Hessian by random probes, on the device or step by step.

See :mod:`wdlab.instruments.curvature` for what a loss is, and its minibatches.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from wdlab._core.checks import check_number
from wdlab._core.dtypes import widen
from wdlab.instruments.hessian import Loss, PyTree, mean_over
from wdlab.instruments.jacobians import Estimate, rademacher_like
from wdlab.instruments.norms import dot


def hessian_trace(
    loss: Loss,
    params: PyTree,
    key: jax.Array,
    batches: PyTree | None = None,
    *,
    tolerance: float = 1e-3,
    min_probes: int = 10,
    max_probes: int = 100,
    probes_at_once: int = 1,
    stopped: Callable[[], bool] | None = None,
) -> Estimate:
    r"""Hutchinson's estimate of the Hessian's trace: the mean of :math:`v^T \nabla^2 L\, v`.

    The entries of v are +1 or -1. It stops when new probes change the mean by less than
    ``tolerance`` of its value, as PyHessian does, or at ``max_probes``.

    Args:
      loss: See the module's docstring.
      params: Pytree of float arrays.
      key: Random key of the probes.
      batches: None, or minibatches along the leading axis.
      tolerance: Smallest relative change of the mean to go on for, >= 0.
      min_probes: Probes before the first look at the change, >= 2: two probes that agree by chance
        (PyHessian stops there) have no error bar.
      max_probes: Probes at most, >= ``min_probes``; rounded up to a multiple of the next.
      probes_at_once: Probes in one vectorized product, >= 1: faster, and as many times the memory.
      stopped: Asked before each product whether to stop, with the probes made until then. The loops
        over probes and minibatches then run here instead of on the device, which is faster on a
        CPU: there XLA (jaxlib 0.10) computes gradients of convolutions ten times slower in loops.

    Returns:
      The trace, its standard error and the number of probes.

    >>> loss = lambda w: 3 * w[0] ** 2 + w[1] ** 2
    >>> trace = hessian_trace(loss, jnp.ones(2), jax.random.key(0))
    >>> float(trace.value), float(trace.standard_error), int(trace.probes)
    (8.0, 0.0, 10)

    Source: Hutchinson 1990; Yao et al. 2020, arXiv 1912.07145 (PyHessian), for the stopping rule.
    """
    check_number("tolerance", tolerance)
    check_number("min_probes", min_probes, low=2)
    check_number("max_probes", max_probes, low=min_probes)
    check_number("probes_at_once", probes_at_once, low=1)
    rule = tolerance, min_probes, max_probes
    if stopped is None:
        return _trace(loss, params, key, batches, rule, probes_at_once)
    return _trace_in_steps(loss, params, key, batches, rule, probes_at_once, stopped)


@partial(jax.jit, static_argnums=(0, 5))
def _trace(loss, params, key, batches, rule, chunk) -> Estimate:
    def add(carry: tuple) -> tuple:
        probe_key = jax.random.fold_in(key, carry[0])
        forms = partial(_forms, loss, chunk, params, probe_key)
        return _merged(carry, mean_over(lambda *batch: forms(batch), batches))

    return _estimate(jax.lax.while_loop(lambda carry: _goes_on(carry, rule), add, _nothing(params)))


def _trace_in_steps(loss, params, key, batches, rule, chunk, stopped) -> Estimate:
    number = 1 if batches is None else len(jax.tree.leaves(batches)[0])
    carry = _nothing(params)
    while _goes_on(carry, rule):
        probe_key, total = jax.random.fold_in(key, carry[0]), jnp.zeros(chunk)
        for i in range(number):
            if stopped():
                return _estimate(carry)
            batch = () if batches is None else (jax.tree.map(lambda x, i=i: x[i], batches),)
            total += _forms(loss, chunk, params, probe_key, batch)
        carry = _merged(carry, total / number)
    return _estimate(carry)


@partial(jax.jit, static_argnums=(0, 1))
def _forms(loss, chunk, params, chunk_key, batch) -> jax.Array:
    params = widen(params)

    def form(probe_key: jax.Array) -> jax.Array:
        v = rademacher_like(params, probe_key)
        return dot(v, jax.jvp(jax.grad(lambda p: loss(p, *batch)), (params,), (v,))[1])

    return jax.vmap(form)(jax.random.split(chunk_key, chunk))


def _nothing(params: PyTree) -> tuple:
    """Number of probes, mean, sum of squares about it, relative change of the mean: none yet."""
    zero = jnp.zeros_like(dot(widen(params), widen(params)))
    return jnp.zeros([], jnp.int32), zero, zero, zero


def _merged(carry: tuple, x: jax.Array) -> tuple:
    count, mean, squares, _ = carry
    chunk, new = len(x), jnp.mean(x)
    total = count + chunk
    merged = mean + (new - mean) * chunk / total
    squares += jnp.sum(jnp.square(x - new)) + jnp.square(new - mean) * count * chunk / total
    return total, merged, squares, jnp.abs(merged - mean) / (jnp.abs(mean) + 1e-6)


def _goes_on(carry: tuple, rule: tuple) -> jax.Array:
    (count, _, _, change), (tolerance, min_probes, max_probes) = carry, rule
    return (count < max_probes) & ((count < min_probes) | (change >= tolerance))


def _estimate(carry: tuple) -> Estimate:
    count, mean, squares, _ = carry
    return Estimate(mean, jnp.sqrt(squares / (count * (count - 1))), count)
