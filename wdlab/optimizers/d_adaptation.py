"""D-Adaptation of Adam, Lion and Adan: the rate is multiplied by a growing estimate d.

d is the distance from the start to the solution, estimated from below: it never falls.
"""

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
    estimating,
    grown,
    quotient,
    total,
    zeros,
)
from wdlab.preconditioners import one_minus_power
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


@answers
def dadapt_adam(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    bias_correction: bool = False,
    d0: float = 1e-6,
    growth_rate: float | None = None,
    rests_at_zero_rate: bool = True,
) -> optax.GradientTransformation:
    r"""Adam with D-Adaptation; the rate is inside the first moment.

    With :math:`\rho_t = d_{t-1} lr_t c_t`, :math:`m_t = \beta_1 m_{t-1} + (1-\beta_1) \rho_t g_t`
    and :math:`v_t` Adam's, one step is :math:`\theta_t = \theta_{t-1} - m_t / (\sqrt{v_t} +
    \epsilon) - \rho_t \lambda s \theta_{t-1}` for ``coupling="d_lr"``. The authors' default is
    "l2". :func:`wdlab.optimizers.prodigy` has the Args and Raises.

    >>> tx = dadapt_adam(weight_decay=0.5, coupling="d_lr", d0=0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> round(float(updates["kernel"]), 4)  # -0.1 * 0.5 / sqrt(0.001) - 0.5 * 0.5 * 4
    -2.5811

    Source: Defazio & Mishchenko 2023, https://arxiv.org/abs/2301.07733, Algorithm 4;
    dadaptation 3.2, dadapt_adam.py.
    """

    def formula(h: Given) -> Step:
        c = one_minus_power(b2, h.t) ** 0.5 / one_minus_power(b1, h.t) if bias_correction else 1.0
        rate, root, old = h.d * h.lr * c, b2**0.5, h.trees
        weighted = jax.tree.map(lambda s, v: s / (jnp.sqrt(v) + eps), old["s"], old["nu"])
        seen = rate * total(jnp.multiply, h.g, weighted)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * rate * g, old["mu"], h.g)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, old["nu"], h.g)
        s = jax.tree.map(lambda s, g: root * s + (1 - root) * rate * g, old["s"], h.g)
        size, r = total(jnp.abs, s), root * h.numbers["r"] + (1 - root) * seen
        d = grown(h.d, quotient(r, (1 - root) * size), growth_rate)
        updates = jax.tree.map(lambda m, v: -quotient(m, jnp.sqrt(v) + eps), mu, nu)
        idle = (size == 0) | ((h.lr == 0) & rests_at_zero_rate)
        return Step(updates, rate, d, {"r": r}, {"mu": mu, "nu": nu, "s": s}, idle)

    with named_errors("dadapt_adam"):
        check_settings(growth_rate, eps, b1=b1, b2=b2)
        init = lambda p: {"mu": zeros(p), "nu": zeros(p), "s": zeros(p)}  # noqa: E731
        decay = weight_decay, coupling, rules
        return estimating("dadapt_adam", learning_rate, decay, d0, init, {"r": 0.0}, formula)


@answers
def dadapt_lion(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.99,
    d0: float = 1e-6,
) -> optax.GradientTransformation:
    r"""Lion with D-Adaptation: :math:`\theta_t = (1 - d lr_t \lambda s)\theta - d lr_t\, sign(u)`.

    With :math:`\rho_t = d_{t-1} lr_t`, :math:`u_t = \beta_1 m_{t-1} + (1-\beta_1) g_t` and
    :math:`m_t = \beta_2 m_{t-1} + (1-\beta_2) \rho_t g_t`: the momentum is in units of the step,
    the gradient beside it is not. :func:`wdlab.optimizers.prodigy` has the Args and Raises;
    ``coupling`` is "d_lr" alone.

    >>> tx = dadapt_lion(weight_decay=0.5, coupling="d_lr", d0=0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5 - 0.5 * 0.5 * 4
    -1.5

    Source: dadaptation 3.2, dadapt_lion.py.
    """

    def formula(h: Given) -> Step:
        rate, root, old = h.d * h.lr, b2**0.5, h.trees
        u = jax.tree.map(lambda m, g: jnp.sign(b1 * m + (1 - b1) * g), old["mu"], h.g)
        mu = jax.tree.map(lambda m, g: b2 * m + (1 - b2) * rate * g, old["mu"], h.g)
        r = root * h.numbers["r"] + (1 - root) * rate * total(jnp.multiply, u, old["s"])
        s = jax.tree.map(lambda s, u: root * s + (1 - root) * rate * u, old["s"], u)
        size = total(jnp.abs, s)
        known = (size > 0) & (h.lr > 0)
        d = jnp.where(known, grown(h.d, quotient(r, (1 - root) * size), None), h.d)
        r = jnp.where(size > 0, r, h.numbers["r"])
        updates = jax.tree.map(lambda u: -rate * u, u)
        return Step(updates, rate, d, {"r": r}, {"mu": mu, "s": s}, jnp.zeros([], bool))

    with named_errors("dadapt_lion"):
        check_settings(None, 0.0, b1=b1, b2=b2)
        init = lambda p: {"mu": zeros(p), "s": zeros(p)}  # noqa: E731
        decay = weight_decay, coupling, rules
        return estimating(
            "dadapt_lion", learning_rate, decay, d0, init, {"r": 0.0}, formula, couplings=("d_lr",)
        )


@answers
def dadapt_adan(
    learning_rate: ScalarOrSchedule = 1.0,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.98,
    b2: float = 0.92,
    b3: float = 0.99,
    eps: float = 1e-8,
    d0: float = 1e-6,
    growth_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Adan with D-Adaptation; b1, b2 and b3 are the shares that are kept.

    With :math:`\rho_t = d_{t-1} lr_t`, the difference :math:`\delta_t = g_t - g_{t-1}` and the
    averages m of :math:`\rho_t g_t`, n of :math:`\rho_t \delta_t`, v of :math:`(g_t + \beta_2
    \delta_t)^2`, one step is :math:`u_t = -(m_t + \beta_2 n_t) / (\sqrt{v_t} + \epsilon)` and
    :math:`\theta_t = (\theta_{t-1} + u_t) / (1 + \rho_t \lambda s)` for ``coupling="proximal"``,
    the authors' default, :math:`(1 - \rho_t \lambda s)\theta_{t-1} + u_t` for "d_lr", ``no_prox``.
    :func:`wdlab.optimizers.prodigy` has the other Args and the Raises.

    >>> tx = dadapt_adan(weight_decay=2.0, coupling="proximal", b1=0.0, b3=0.0, d0=0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # (4 - 0.5) / 2 - 4
    -2.25

    Source: dadaptation 3.2, dadapt_adan.py.
    """

    def formula(h: Given) -> Step:
        rate, old = h.d * h.lr, h.trees
        # Before the first step that moves there is no gradient to differ from.
        change = jax.tree.map(lambda g, p: jnp.where(h.t == 1, 0.0, g - p), h.g, old["last"])
        ahead = jax.tree.map(lambda g, c: g + b2 * c, h.g, change)
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * rate * g, old["mu"], h.g)
        diff = jax.tree.map(lambda n, c: b2 * n + (1 - b2) * rate * c, old["diff"], change)
        nu = jax.tree.map(lambda v, a: b3 * v + (1 - b3) * a * a, old["nu"], ahead)
        s = jax.tree.map(lambda s, g: b3 * s + (1 - b3) * rate * g, old["s"], h.g)
        square = lambda x, v: quotient(x * x, jnp.sqrt(v) + eps)  # noqa: E731
        g_sq, s_sq, size = total(square, h.g, nu), total(square, s, nu), total(jnp.abs, s)
        seen = b3 * h.numbers["g_sq"] + (1 - b3) * rate**2 * g_sq
        d = grown(h.d, quotient(s_sq / (1 - b3) - seen, size), growth_rate)
        d = jnp.where(h.lr > 0, d, h.d)
        step = lambda m, n, v: -quotient(m + b2 * n, jnp.sqrt(v) + eps)  # noqa: E731
        trees = {"mu": mu, "diff": diff, "nu": nu, "s": s, "last": h.g}
        updates = jax.tree.map(step, mu, diff, nu)
        return Step(updates, rate, d, {"g_sq": seen}, trees, size == 0)

    with named_errors("dadapt_adan"):
        check_settings(growth_rate, eps, b1=b1, b2=b2, b3=b3)
        names = ("mu", "diff", "nu", "s", "last")
        init = lambda p: {name: zeros(p) for name in names}  # noqa: E731
        decay = weight_decay, coupling, rules
        couplings = ("proximal", "d_lr")
        return estimating(
            *("dadapt_adan", learning_rate, decay, d0, init, {"g_sq": 0.0}, formula),
            couplings=couplings,
        )
