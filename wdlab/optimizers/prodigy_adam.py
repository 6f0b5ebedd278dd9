"""Prodigy: Adam whose learning rate is multiplied by a growing estimate of the distance to go."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import check_number, check_whole, named_errors
from wdlab._core.dtypes import on_values
from wdlab.optimizers.distance_estimates import (
    Given,
    Step,
    check_settings,
    copies,
    estimating,
    quotient,
    total,
    zeros,
)
from wdlab.preconditioners import one_minus_power
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


@answers
def prodigy(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.999,
    b3: float | None = None,
    eps: float = 1e-8,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: float = 1.0,
    growth_rate: float | None = None,
    slice_every: int = 1,
    rests_at_zero_rate: bool = True,
) -> optax.GradientTransformation:
    r"""Prodigy: Adam whose learning rate is multiplied by an estimate d of the distance to go.

    With :math:`\rho_t = d_{t-1} lr_t c_t`, :math:`c_t` Adam's bias correction or 1, one step is
    :math:`\theta_t = \theta_{t-1} - \rho_t m_t / (\sqrt{v_t} + d_t \epsilon) - \rho_t \lambda s
    \theta_{t-1}` for ``coupling="d_lr"``, with m and v the moments of :math:`d_{t-1} g_t`. The
    estimate is :math:`\hat d_t = r_t / \lVert s_t \rVert_1`,
    :math:`r_t = \beta_3 r_{t-1} + (d_{t-1}/d_0) \rho_t \langle g_t, \theta_0 - \theta_{t-1}
    \rangle`, :math:`s_t = \beta_3 s_{t-1} + (d_{t-1}/d_0) \rho_t g_t`, over all leaves, exempt ones
    too; d never falls.

    So the decay starts a million times weaker than AdamW's and follows d: a weight_decay of 0.01
    takes ``0.01 d lr`` of a weight. While there has been no gradient nothing moves, and no weight
    decays. Under ``optax.partition`` each part has an estimate of its own.

    Args:
      learning_rate: Number >= 0 or schedule; its peak is 1.
      weight_decay: ``lambda``, number >= 0 or schedule.
      coupling: "d_lr" (the authors' default, optax) or "l2", which enters the estimate; required
        unless ``weight_decay`` is 0.
      rules: Which leaves decay, and how much; see :func:`wdlab.decay_scales`.
      b1: Decay rate of the first moment, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      b3: Decay rate of r and s, in [0, 1); None: the root of b2.
      eps: Epsilon, >= 0, in units of the gradient.
      bias_correction: Whether :math:`c_t = \sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`; optax's always.
      safeguard_warmup: Whether s is without the learning rate.
      d0: First estimate, > 0, in units of the weights.
      d_coef: Factor of the estimate, > 0; to tune by.
      growth_rate: Largest factor by which d grows a step, >= 1; None: no limit.
      slice_every: Whole number p >= 1: the estimate sees every p-th entry of each leaf.
      rests_at_zero_rate: Whether a learning rate of 0 leaves the moments as they are too.

    Raises:
      TypeError, ValueError: At construction for wrong numbers; from ``init`` for leaves that are
        not floats or that no rule decides; from ``update`` without ``params``.

    >>> tx = prodigy(weight_decay=0.5, coupling="d_lr", d0=0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> round(float(updates["kernel"]), 4)  # -0.5 * 0.1 / sqrt(0.001) - 0.5 * 0.5 * 4
    -2.5811

    Source: Mishchenko & Defazio 2023, https://arxiv.org/abs/2306.06101, Algorithm 4 (for Adam);
    prodigyopt 1.1.2, prodigy.py. ``optax.contrib.prodigy`` 0.2.8 gives NaN until the first gradient
    and keeps d in the narrowest dtype of the parameters.
    """
    with named_errors("prodigy"):
        check_settings(growth_rate, eps, b1=b1, b2=b2, b3=0.0 if b3 is None else b3)
        check_number("d_coef", d_coef, low_open=True)
        check_whole("slice_every", slice_every)
        b3 = b2**0.5 if b3 is None else b3

        def sliced(x: jax.Array) -> jax.Array:
            return x if slice_every == 1 else x.reshape(-1)[::slice_every]

        def init(params: PyTree) -> dict[str, PyTree]:
            some = jax.tree.map(lambda p: on_values(sliced, p), params)
            return {"mu": zeros(params), "nu": zeros(params), "s": zeros(some), "p0": copies(some)}

        def formula(h: Given) -> Step:
            c = one_minus_power(b2, h.t) ** 0.5 / one_minus_power(b1, h.t)
            rate = h.d * h.lr * (c if bias_correction else 1.0)
            some = jax.tree.map(sliced, h.g)
            way = jax.tree.map(lambda p0, p: p0 - sliced(p), h.trees["p0"], h.p)
            r = b3 * h.numbers["r"] + (h.d / d0) * rate * total(jnp.multiply, some, way)
            weight = (h.d / d0) * (h.d if safeguard_warmup else rate)
            s = jax.tree.map(lambda s, g: b3 * s + weight * g, h.trees["s"], some)
            size = total(jnp.abs, s)
            idle = (size == 0) | ((h.lr == 0) & rests_at_zero_rate)
            found = quotient(d_coef * r, size)
            first = jnp.asarray(d0, h.d.dtype)
            d = jnp.where(h.d == first, jnp.maximum(h.d, found), h.d)
            d_max = jnp.maximum(h.numbers["d_max"], found)
            d = jnp.minimum(d_max, math.inf if growth_rate is None else d * growth_rate)
            mu = jax.tree.map(lambda m, g: b1 * m + h.d * (1 - b1) * g, h.trees["mu"], h.g)
            nu = jax.tree.map(lambda v, g: b2 * v + h.d**2 * (1 - b2) * g * g, h.trees["nu"], h.g)
            updates = jax.tree.map(lambda m, v: -quotient(rate * m, jnp.sqrt(v) + d * eps), mu, nu)
            trees = {"mu": mu, "nu": nu, "s": s, "p0": h.trees["p0"]}
            return Step(updates, rate, d, {"r": r, "d_max": d_max}, trees, idle)

        numbers = {"r": 0.0, "d_max": d0}
        decay = weight_decay, coupling, rules
        return estimating("prodigy", learning_rate, decay, d0, init, numbers, formula)
