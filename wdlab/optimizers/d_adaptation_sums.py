"""D-Adaptation of SGD and AdaGrad, which walk from the start by a sum of gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import named_errors
from wdlab.optimizers.distance_estimates import (
    Given,
    Step,
    check_settings,
    copies,
    estimating,
    grown,
    quotient,
    total,
    zeros,
)
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


@answers
def dadapt_sgd(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    momentum: float = 0.0,
    d0: float = 1e-6,
    growth_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""SGD with D-Adaptation, in units of the first gradient, as averages from the start.

    With :math:`\rho_t = d_{t-1} lr_t / \lVert g_1 \rVert` and :math:`s_t = s_{t-1} + \rho_t
    (g_t + \lambda s \theta_{t-1})`, one step is :math:`\theta_t = \mu \theta_{t-1} + (1 - \mu)
    (\theta_0 - s_t)`. ``coupling`` is "l2" alone. The norm of the first gradient is without the
    decay: the original computes it with, and drops the result.
    :func:`wdlab.optimizers.prodigy` has the other Args and the Raises.

    >>> tx = dadapt_sgd(d0=0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])
    -0.5

    Source: dadaptation 3.2, dadapt_sgd.py.
    """
    with named_errors("dadapt_sgd"):
        check_settings(growth_rate, 0.0, momentum=momentum)

        def formula(h: Given) -> Step:
            norm = jnp.where(h.t == 1, jnp.sqrt(total(jnp.square, h.raw)), h.numbers["first_norm"])
            rate = quotient(h.d * h.lr, norm)
            r = h.numbers["r"] + rate * total(jnp.multiply, h.g, h.trees["s"])
            s = jax.tree.map(lambda s, g: s + rate * g, h.trees["s"], h.g)
            size = jnp.sqrt(total(jnp.square, s))
            d = grown(h.d, quotient(2.0 * r, size), growth_rate)
            updates = jax.tree.map(
                lambda x0, s, p: (1 - momentum) * (x0 - s - p), h.trees["x0"], s, h.p
            )
            numbers = {"r": r, "first_norm": norm}
            idle = (size == 0) | (h.lr == 0) | (norm == 0)
            return Step(updates, rate, d, numbers, {"s": s, "x0": h.trees["x0"]}, idle)

        numbers = {"r": 0.0, "first_norm": 0.0}
        return estimating(
            *("dadapt_sgd", learning_rate, (weight_decay, coupling, rules), d0, _started),
            *(numbers, formula),
            couplings=("l2",),
        )


@answers
def dadapt_adagrad(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    momentum: float = 0.0,
    eps: float = 1e-6,
    d0: float = 1e-6,
    growth_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""AdaGrad with D-Adaptation, as averages from the start.

    With :math:`\rho_t = d_{t-1} lr_t`, :math:`g'_t = g_t + \lambda s \theta_{t-1}`,
    :math:`a_t = a_{t-1} + g'^2_t` from 1e-6 and :math:`s_t = s_{t-1} + \rho_t g'_t`, one step is
    :math:`\theta_t = \mu \theta_{t-1} + (1 - \mu) (\theta_0 - s_t / (\sqrt{a_t} + \epsilon))`.
    ``coupling`` is "l2" alone. :func:`wdlab.optimizers.prodigy` has the other Args and the Raises.

    >>> tx = dadapt_adagrad(d0=0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4)
    -0.5

    Source: dadaptation 3.2, dadapt_adagrad.py, for dense gradients.
    """
    with named_errors("dadapt_adagrad"):
        check_settings(growth_rate, eps, momentum=momentum)

        def init(params: PyTree) -> dict[str, PyTree]:
            start = jax.tree.map(lambda x: x + jnp.asarray(1e-6, x.dtype), zeros(params))
            return {**_started(params), "sum": start}

        def formula(h: Given) -> Step:
            rate = h.d * h.lr
            sums = jax.tree.map(lambda a, g: a + g * g, h.trees["sum"], h.g)
            s = jax.tree.map(lambda s, g: s + rate * g, h.trees["s"], h.g)
            square = lambda x, a: x * x / (jnp.sqrt(a) + eps)  # noqa: E731
            g_sq = h.numbers["g_sq"] + rate**2 * total(square, h.g, sums)
            size = total(jnp.abs, s)
            d = grown(h.d, quotient(total(square, s, sums) - g_sq, size), growth_rate)
            d = jnp.where(h.lr > 0, d, h.d)
            updates = jax.tree.map(
                lambda x0, s, a, p: (1 - momentum) * (x0 - s / (jnp.sqrt(a) + eps) - p),
                *(h.trees["x0"], s, sums, h.p),
            )
            trees = {"s": s, "x0": h.trees["x0"], "sum": sums}
            return Step(updates, rate, d, {"g_sq": g_sq}, trees, size == 0)

        return estimating(
            *("dadapt_adagrad", learning_rate, (weight_decay, coupling, rules), d0, init),
            *({"g_sq": 0.0}, formula),
            couplings=("l2",),
        )


def _started(params: PyTree) -> dict[str, PyTree]:
    return {"s": zeros(params), "x0": copies(params)}
