"""Decoupled decay with another penalty than the square: proximal, L1 and Huber.

Each goes last in a chain, where :func:`wdlab.decay_weights` would stand, and takes its multiplier
and rules. The first two look at the stepped weight z = theta + u, as proximal operators do.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_number, is_zero
from wdlab._core.transformation import transformation
from wdlab.decay.leafwise import check_leaves, check_shrink, map_decayed, next_count
from wdlab.rules import ALL, normalize_rules
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class PenaltyState(NamedTuple):
    """State of the transformations of this module."""

    count: jax.Array  # int32, shape (): number of updates made


def decay_proximal(
    weight_decay: ScalarOrSchedule,
    *,
    multiplier: ScalarOrSchedule | None = None,
    rules: PyTree = ALL,
    of: str = "stepped",
) -> optax.GradientTransformation:
    r"""Divides the weights by ``1 + kappa_t * weight_decay * s``: decay without an upper limit.

    With the finished step :math:`u_t` and :math:`k_t = \kappa_t \lambda s`, one step is

    - ``of="stepped"``: :math:`\theta_t = (\theta_{t-1} + u_t) / (1 + k_t)`, the proximal operator
      of :math:`\frac{k_t}{2}\lVert\theta\rVert^2` applied to the stepped weight: MoMo, Algorithms
      1 and 2, and its authors' PyTorch code; Adan (arXiv 2208.06677);
    - ``of="previous"``: :math:`\theta_t = \theta_{t-1} / (1 + k_t) + u_t`, the step itself is not
      divided: ``optax.contrib.momo`` and ``momo_adam`` (optax 0.2.8).

    No strength flips a sign, unlike :math:`1 - k_t` above 1. An undriven weight is
    :math:`\theta_0 (1 + k)^{-T}` after T steps.

    Args:
      weight_decay: ``lambda``, number >= 0 or schedule.
      multiplier: ``kappa_t``, number >= 0 or schedule; None is 1, the learning rate is MoMo's.
      rules: Which leaves, and how much; see :func:`wdlab.decay_scales`.
      of: "stepped" or "previous": which weight is divided.

    Raises:
      TypeError, ValueError: At construction for wrong arguments; from ``init`` for a leaf that
        no rule decides or that is not a float; from ``update`` without ``params``.

    >>> tx = optax.chain(optax.sgd(0.5), decay_proximal(1.0))
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # (4 - 1) / 2 - 4
    -2.5

    Source: Schaipp et al. 2023, arXiv 2305.07583.
    """
    check_choice("of", of, ("stepped", "previous"))

    def shrink(u: jax.Array, k: jax.Array, p: jax.Array, _: Any) -> jax.Array:
        divided = k / (1 + k)
        return u - divided * (p + u if of == "stepped" else p)

    return _penalty("decay_proximal", shrink, weight_decay, multiplier, rules, complex_ok=True)


def decay_l1(
    weight_decay: ScalarOrSchedule,
    *,
    multiplier: ScalarOrSchedule | None = None,
    rules: PyTree = ALL,
) -> optax.GradientTransformation:
    r"""Soft threshold: moves every stepped weight toward zero by the same amount, and stops there.

    With the finished step :math:`u_t`, :math:`z = \theta_{t-1} + u_t` and
    :math:`k_t = \kappa_t \lambda s`, one step is
    :math:`\theta_t = \mathrm{sign}(z) \max(|z| - k_t, 0)`. It is the proximal operator of
    :math:`k_t \lVert\theta\rVert_1`: weights become exactly zero, none is carried across zero, as
    subtracting :math:`k_t\,\mathrm{sign}(\theta)` would. An undriven weight is
    :math:`\mathrm{sign}(\theta_0)\max(|\theta_0| - kT, 0)` after T steps.

    Args:
      weight_decay: ``lambda``, number >= 0 or schedule; ``kappa_t lambda s`` is in units of the
        weights, no share of them: 1e-5 a step removes 0.1 in 10,000 steps.
      multiplier: ``kappa_t``, number >= 0 or schedule; None is 1, the learning rate is ISTA's.
      rules: Which leaves, and how much; see :func:`wdlab.decay_scales`.

    Raises:
      TypeError, ValueError: As :func:`decay_proximal`.

    >>> tx = optax.chain(optax.sgd(0.5), decay_l1(0.25))
    >>> params, grads = jnp.array([4.0, 1.0, -1.0]), jnp.array([2.0, 2.0, 0.0])
    >>> optax.apply_updates(params, tx.update(grads, tx.init(params), params)[0]).tolist()
    [2.75, 0.0, -0.75]

    Source: the proximal gradient step, Daubechies et al. 2004, arXiv math/0307152.
    """

    def threshold(u: jax.Array, k: jax.Array, p: jax.Array, _: Any) -> jax.Array:
        z = p + u
        # Minus the weight itself gives an exact zero; u - k sign(z) loses nothing to cancellation.
        return jnp.where(jnp.abs(z) <= k, -p, u - k * jnp.sign(z))

    return _penalty("decay_l1", threshold, weight_decay, multiplier, rules)


def decay_huber(
    weight_decay: ScalarOrSchedule,
    *,
    delta: float,
    multiplier: ScalarOrSchedule | None = None,
    rules: PyTree = ALL,
) -> optax.GradientTransformation:
    r"""Decay of the Huber penalty: proportional up to ``delta``, constant for larger weights.

    With the finished step :math:`u_t`, one step is
    :math:`u_t \leftarrow u_t - \kappa_t\lambda s\,\mathrm{clip}(\theta_{t-1}, -\delta, \delta)`:
    the gradient of :math:`\theta^2/2` where :math:`|\theta|\le\delta` and of
    :math:`\delta|\theta| - \delta^2/2` beyond. An infinite delta would be
    :func:`wdlab.decay_weights`.

    Args:
      weight_decay: ``lambda``, number >= 0 or schedule.
      delta: Where the penalty turns linear, > 0, in units of the weights.
      multiplier: ``kappa_t``, number >= 0 or schedule; None is 1, the learning rate is AdamHD's.
      rules: Which leaves, and how much; see :func:`wdlab.decay_scales`.

    Raises:
      TypeError, ValueError: As :func:`decay_proximal`.

    >>> tx = decay_huber(0.5, delta=1.0)
    >>> params = jnp.array([4.0, 0.5, -4.0])
    >>> tx.update(jnp.zeros(3), tx.init(params), params)[0].tolist()
    [-0.5, -0.25, 0.5]

    Source: AdamHD, Guo & Fan 2025, arXiv 2511.14721, the gradient of its penalty; Huber 1964.
    """
    check_number("delta", delta, low_open=True)

    def pull(u: jax.Array, k: jax.Array, p: jax.Array, _: Any) -> jax.Array:
        limit = jnp.asarray(delta, p.dtype)
        return u - k * jnp.clip(p, -limit, limit)

    return _penalty("decay_huber", pull, weight_decay, multiplier, rules, limited=True)


def _penalty(
    name: str,
    function: Callable[[jax.Array, jax.Array, jax.Array, Any], jax.Array],
    weight_decay: ScalarOrSchedule,
    multiplier: ScalarOrSchedule | None,
    rules: PyTree,
    *,
    limited: bool = False,
    complex_ok: bool = False,
) -> optax.GradientTransformation:
    """A term of the step, its strength k and the weight; ``limited``: k must not be above 1."""
    kappa = 1.0 if multiplier is None else multiplier
    check_number("weight_decay", weight_decay, schedule=True)
    check_number("multiplier", kappa, schedule=True)
    known = (weight_decay, kappa) if limited else ()
    if limited:
        check_shrink(*known)
    rules = normalize_rules(rules)

    def init_fn(params: PyTree) -> PenaltyState:
        check_leaves(params, rules, *known, needs=name, complex_ok=complex_ok)
        return PenaltyState(jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, PenaltyState]:
        coefficient = 0.0
        if not is_zero(weight_decay):
            coefficient = value_at(kappa, state.count) * value_at(weight_decay, state.count)
        updates = map_decayed(name, function, updates, params, rules, coefficient)
        return updates, PenaltyState(next_count(state.count))

    return transformation(init_fn, update_fn)
