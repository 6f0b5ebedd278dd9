"""Decay terms of recent papers: AdamC's correction, decay toward a moving average.

The others are near: cautious decay and decay toward the start in :func:`wdlab.decay_weights`
(``cautious``, ``toward="init"``), penalties other than the square in :mod:`wdlab.decay.penalties`,
AdamS in :mod:`wdlab.optimizers.stable_decay`, norms held instead of decayed in
:mod:`wdlab.decay.spheres` and :mod:`wdlab.decay.norm_bounds`, strengths from other quantities and
schedules for them in :mod:`wdlab.schedules.strengths`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, is_zero, require_params
from wdlab._core.dtypes import cast, is_fixed, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay.leafwise import check_decay, check_leaves, map_decayed, next_count
from wdlab.rules import ALL, decay_scales, normalize_rules
from wdlab.schedules import ScalarOrSchedule, peak_of, value_at

PyTree = Any


class DecayCorrectedState(NamedTuple):
    """State of :func:`decay_corrected`."""

    count: jax.Array  # int32, shape (): number of updates made


class DecayTowardEmaState(NamedTuple):
    """State of :func:`decay_toward_ema`."""

    count: jax.Array  # int32, shape (): number of updates made
    ema: PyTree  # like params, float32 or wider: moving average of the weights


def decay_corrected(
    weight_decay: ScalarOrSchedule,
    *,
    learning_rate: ScalarOrSchedule,
    normalized: PyTree,
    peak: float | None = None,
    rules: PyTree = ALL,
) -> optax.GradientTransformation:
    r"""AdamC's decay: by ``lr_t**2 / peak`` in normalized layers, by ``lr_t`` elsewhere.

    With the finished step :math:`u_t` and the learning rate :math:`\gamma_t`, one step is
    :math:`u_t \leftarrow u_t - \frac{\gamma_t^2}{\gamma_{max}}\lambda s\theta_{t-1}` for leaves
    whose output is normalized and :math:`u_t \leftarrow u_t - \gamma_t \lambda s\theta_{t-1}` for
    the others. Weight and gradient norm of a normalized layer then keep their ratio while the
    learning rate falls. Put it last in the chain.

    Args:
      weight_decay: ``lambda``, number >= 0 or schedule, as in torch's AdamW.
      learning_rate: ``lr_t``, number > 0 or schedule, the same as the optimizer's.
      normalized: Rules (or pytree) with a scale above 0 for the leaves followed by a
        normalization; in a pre-norm transformer every matrix but the output head (the paper).
      peak: Largest learning rate, > 0; required for a schedule that does not carry its peak.
      rules: Which leaves decay, and how much; see :func:`wdlab.decay_scales`.

    Raises:
      TypeError, ValueError: At construction for wrong numbers or an unknown peak; from
        ``init`` for a leaf that no rule decides or that is not a float; from ``update`` without
        ``params``.

    >>> from wdlab.rules import Rule
    >>> tx = decay_corrected(
    ...     1.0, learning_rate=lambda t: 0.25, peak=0.5, normalized=(Rule("head", 0.0), Rule(".*"))
    ... )
    >>> params = {"body": jnp.array(8.0), "head": jnp.array(8.0)}
    >>> updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    >>> float(updates["body"]), float(updates["head"])  # -0.25**2 / 0.5 * 8, -0.25 * 8
    (-1.0, -2.0)

    Source: Defazio 2025, arXiv 2506.02285 (AdamC).
    """
    check_number("learning_rate", learning_rate, schedule=True)
    check_decay(weight_decay, learning_rate)
    top = peak_of(learning_rate, peak, why="AdamC's decay lr_t**2 / peak")
    check_number("peak", top, low_open=True)
    rules, normalized = normalize_rules(rules), normalize_rules(normalized)

    def init_fn(params: PyTree) -> DecayCorrectedState:
        known = (weight_decay, learning_rate)
        check_leaves(params, rules, *known, needs="decay_corrected", complex_ok=True)
        decay_scales(params, normalized)  # Fail here, not in the first compiled step.
        return DecayCorrectedState(jnp.zeros([], jnp.int32))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DecayCorrectedState]:
        def decay(u: jax.Array, shrink: jax.Array, p: jax.Array, _: Any) -> jax.Array:
            return u - shrink * p

        rate = value_at(learning_rate, state.count)
        plain = 0.0 if is_zero(weight_decay) else value_at(weight_decay, state.count) * rate
        corrected = 0.0 if is_zero(weight_decay) else plain * (rate / top)
        inside, outside = _split(params, rules, normalized)
        updates = map_decayed("decay_corrected", decay, updates, params, inside, corrected)
        updates = map_decayed("decay_corrected", decay, updates, params, outside, plain)
        return updates, DecayCorrectedState(next_count(state.count))

    return transformation(init_fn, update_fn)


def _split(params: PyTree | None, rules: PyTree, normalized: PyTree) -> tuple[PyTree, PyTree]:
    """The scales of the normalized leaves and of the others, each zero where the other is not."""
    if params is None:
        return rules, rules  # map_decayed says what is missing.
    scales, inside = decay_scales(params, rules), decay_scales(params, normalized)
    return (
        jax.tree.map(lambda s, n: s if n > 0 else 0.0, scales, inside),
        jax.tree.map(lambda s, n: 0.0 if n > 0 else s, scales, inside),
    )


def decay_toward_ema(
    weight_decay: ScalarOrSchedule,
    *,
    ema_rate: ScalarOrSchedule,
    multiplier: ScalarOrSchedule | None = None,
    rules: PyTree = ALL,
) -> optax.GradientTransformation:
    r"""Decays the weights toward their own moving average instead of zero.

    With the finished step :math:`u_t`, one step is
    :math:`e_t = \rho e_{t-1} + (1 - \rho)\theta_{t-1}` from :math:`e_0 = \theta_0`, then
    :math:`u_t \leftarrow u_t - \kappa_t\lambda s(\theta_{t-1} - e_t)`. The average follows the
    weights as they were before the step. The distance of an undriven weight from it shrinks by
    :math:`\rho(1 - \kappa\lambda s)` a step. Put it last in the chain; one more copy of the
    weights is kept, in float32 for 16-bit ones.

    Args:
      weight_decay: ``lambda``, number >= 0 or schedule.
      ema_rate: ``rho`` in [0, 1], number or schedule: about ``1 / (1 - rho)`` steps of memory.
      multiplier: ``kappa_t``, number >= 0 or schedule; None is 1.
      rules: Which leaves decay, and how much; see :func:`wdlab.decay_scales`.

    Raises:
      TypeError, ValueError: At construction for wrong numbers; from ``init`` for a leaf that
        no rule decides or that is not a float; from ``update`` without ``params``.

    >>> tx = decay_toward_ema(0.5, ema_rate=0.75)
    >>> state = tx.init({"w": jnp.array(0.0)})
    >>> params, step = {"w": jnp.array(4.0)}, {"w": jnp.array(0.0)}
    >>> float(tx.update(step, state, params)[0]["w"])  # the average is 1: -0.5 * (4 - 1)
    -1.5

    Source: the equation above; decay to an average is in use as HeavyBall's weight_decay_to_ema.
    """
    kappa = 1.0 if multiplier is None else multiplier
    check_decay(weight_decay, kappa)
    check_number("ema_rate", ema_rate, high=1.0, schedule=True)
    rules = normalize_rules(rules)

    def init_fn(params: PyTree) -> DecayTowardEmaState:
        known = (weight_decay, kappa)
        check_leaves(params, rules, *known, needs="decay_toward_ema", complex_ok=True)
        ema = jax.tree.map(
            lambda p: p if is_fixed(p) else cast(p, working_dtype(p), copy=True), params
        )
        return DecayTowardEmaState(jnp.zeros([], jnp.int32), ema)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DecayTowardEmaState]:
        def decay(u: jax.Array, shrink: jax.Array, p: jax.Array, e: jax.Array) -> jax.Array:
            return u - shrink * (p - e)

        require_params("decay_toward_ema", params)
        ema = _moved(state.ema, params, value_at(ema_rate, state.count))
        shrink = value_at(kappa, state.count) * value_at(weight_decay, state.count)
        updates = map_decayed("decay_toward_ema", decay, updates, params, rules, shrink, ema)
        return updates, DecayTowardEmaState(next_count(state.count), ema)

    return transformation(init_fn, update_fn)


def _moved(ema: PyTree, params: PyTree, rate: Any) -> PyTree:
    leaves, structure = jax.tree.flatten(ema)

    def move(e: jax.Array, p: jax.Array) -> jax.Array:
        if is_fixed(e):
            return e
        rho = jnp.asarray(rate, e.dtype)
        return rho * e + (1 - rho) * jnp.asarray(p, e.dtype)

    return jax.tree.unflatten(structure, map(move, leaves, jax.tree.leaves(params)))
