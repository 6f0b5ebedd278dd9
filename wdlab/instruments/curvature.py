"""Curvature of any loss: Hessian trace, top eigenvalues, Jacobian norm, scale invariance.

A loss is ``loss(params) -> scalar``, or ``loss(params, batch)`` with ``batches`` a pytree whose
leading axis counts minibatches of equal size: their mean is meant, and they are scanned, so that
activations of one minibatch are in memory at a time. Every function is one compiled program, kept
as long as ``loss`` is the same function object; data belongs in ``batches``, since what ``loss``
closes over is copied into the program. 16-bit parameters are taken as float32.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from wdlab._core.checks import check_number
from wdlab._core.dtypes import widen
from wdlab.instruments.hessian import (
    Loss,
    mean_over,
)
from wdlab.instruments.norms import Scalars, dot, norm
from wdlab.rules import ALL, decay_scales, leaves_with_paths

PyTree = Any


@partial(jax.jit, static_argnums=0)
def gradient_weight_cosines(loss: Loss, params: PyTree, batches: PyTree | None = None) -> Scalars:
    r"""How far each leaf's gradient is from orthogonal to it: :math:`|g \cdot w| / (|g| |w|)`.

    A loss that does not change when a leaf is rescaled has a gradient orthogonal to that leaf
    (Euler's theorem for functions of degree 0).

    Args:
      loss: See the module's docstring.
      params: Pytree of float arrays.
      batches: None, or minibatches along the leading axis.

    Returns:
      Path -> a number in [0, 1], 0 where gradient or leaf is zero.

    >>> loss = lambda p: p["w"][0] / jnp.linalg.norm(p["w"]) + p["b"] ** 2
    >>> cosines = gradient_weight_cosines(loss, {"w": jnp.array([3.0, 4.0]), "b": jnp.array(1.0)})
    >>> {path: round(float(value), 4) for path, value in cosines.items()}
    {'b': 1.0, 'w': 0.0}
    """
    params = widen(params)
    grads = mean_over(lambda *batch: jax.grad(lambda p: loss(p, *batch))(params), batches)
    pairs = zip(leaves_with_paths(params), jax.tree.leaves(grads), strict=True)
    return {path: _cosine(w, g) for (path, w), g in pairs}


def _cosine(w: jax.Array, g: jax.Array) -> jax.Array:
    sizes = norm(w) * norm(g)
    return jnp.abs(dot(w, g)) / jnp.where(sizes > 0, sizes, 1.0)


def rescaling_error(
    loss: Loss,
    params: PyTree,
    batches: PyTree | None = None,
    *,
    factor: float = 3.0,
    rules: PyTree = ALL,
) -> jax.Array:
    r"""How much the loss changes when weights are rescaled: :math:`|L(c\,\theta) - L(\theta)|`.

    Args:
      loss: See the module's docstring.
      params: Pytree of float arrays.
      batches: None, or minibatches along the leading axis.
      factor: c > 0.
      rules: Leaves with a scale above 0 are multiplied, see :func:`wdlab.decay_scales`.

    >>> loss = lambda p: p["w"][0] / jnp.linalg.norm(p["w"]) + p["b"] ** 2
    >>> params = {"w": jnp.array([3.0, 4.0]), "b": jnp.array(1.0)}
    >>> float(rescaling_error(loss, params))
    8.0
    >>> round(float(rescaling_error(loss, params, rules={"w": 1.0, "b": 0.0})), 6)
    0.0
    """
    check_number("factor", factor, low_open=True)
    rescaled = jax.tree.map(
        lambda p, s: p * factor if s > 0 else p, widen(params), decay_scales(params, rules)
    )
    return jnp.abs(_value(loss, rescaled, batches) - _value(loss, widen(params), batches))


@partial(jax.jit, static_argnums=0)
def _value(loss: Loss, params: PyTree, batches: PyTree | None) -> jax.Array:
    return mean_over(lambda *batch: loss(params, *batch), batches)
