"""Scalar formulas of running moments, exact to the last digits of float32 as well.

``1 - b2**count`` loses four of float32's seven digits at the first step (b2 = 0.999), and the
length of RAdam's moving average loses more. PyTorch computes such scalars in double precision on
the host; a traced step cannot, so they are rewritten here into forms without cancellation. That
works as long as the decay rates are Python floats: a float32 array holds 1 - 0.999 only to 1.3e-5.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wdlab._core.checks import concrete

# Coefficients of coth(y) - 1/y = y/3 - y**3/45 + ..., in powers of y**2 after the factor y.
_LANGEVIN = (
    1 / 3,
    -1 / 45,
    2 / 945,
    -1 / 4725,
    2 / 93555,
    -1382 / 638512875,
    4 / 18243225,
    -3617 / 162820783125,
)
_LANGEVIN_SERIES_BELOW = 0.3  # The series above is exact to 1e-16 there.


def one_minus_power(b: ArrayLike, t: ArrayLike) -> ArrayLike:
    r"""Returns the bias correction :math:`1 - b^t`, without cancellation.

    Args:
      b: Decay rate, in [0, 1). A Python float keeps all digits (see the module's docstring).
      t: Number of updates, 1 at the first, shape ().

    >>> f"{float(one_minus_power(0.999, 1.0)):.5e}", f"{float(1 - jnp.float32(0.999)):.5e}"
    ('1.00000e-03', '9.99987e-04')
    """
    if concrete(b) == 0.0:
        return 1.0
    return -jnp.expm1(t * _log(b))


def rectification(b2: ArrayLike, t: ArrayLike, threshold: ArrayLike) -> tuple[jax.Array, jax.Array]:
    r"""Returns whether RAdam's variance is tractable at step t, and the factor :math:`r_t`.

    With :math:`\rho_\infty = 2/(1-b_2) - 1` and
    :math:`\rho_t = \rho_\infty - 2 t b_2^t / (1 - b_2^t)`, the variance is tractable where
    :math:`\rho_t >` ``threshold``, and there
    :math:`r_t^2 = \frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}`.

    Both :math:`\rho` are differences of numbers near :math:`2/(1-b_2)`. With
    :math:`a = -\log b_2` and :math:`L(y) = \coth y - 1/y` they are :math:`2/a + L(a/2)` and
    :math:`t + L(a/2) - t L(at/2)`, where nothing large cancels.

    Args:
      b2: Decay rate of the second moment, in (0, 1).
      t: Number of updates, 1 at the first, shape ().
      threshold: Length of the moving average from which on to rectify, at least 4.

    >>> [bool(rectification(0.999, float(t), 5.0)[0]) for t in (5, 6)]
    [False, True]

    Source: Liu et al., https://arxiv.org/abs/1908.03265, Algorithm 2.
    """
    a = -_log(b2)
    rho_limit = 2.0 / a + _langevin(0.5 * a)
    rho = jnp.asarray(t + _langevin(0.5 * a) - t * _langevin(0.5 * a * t))
    tractable = rho > threshold
    safe = jnp.where(tractable, rho, 6.0)
    ratio = (safe - 4.0) * (safe - 2.0) / safe * rho_limit
    return tractable, jnp.sqrt(ratio / ((rho_limit - 4.0) * (rho_limit - 2.0)))


def _log(b: ArrayLike) -> jax.Array | float:
    """Logarithm of a decay rate: in double precision where it is a number."""
    value = concrete(b)
    return jnp.log(b) if value is None else math.log(value)


def _langevin(y: ArrayLike) -> jax.Array:
    """Returns coth(y) - 1/y for y > 0."""
    y = jnp.asarray(y, jnp.result_type(float))
    small = jnp.minimum(y, _LANGEVIN_SERIES_BELOW)
    series = jnp.zeros_like(small)
    for coefficient in reversed(_LANGEVIN):
        series = coefficient + small * small * series
    large = jnp.maximum(y, _LANGEVIN_SERIES_BELOW)
    return jnp.where(
        y < _LANGEVIN_SERIES_BELOW, small * series, 1.0 / jnp.tanh(large) - 1.0 / large
    )
