"""Adam's relatives as chains: AdEMAMix, Adan, ADOPT, LAMB, MARS, Signum."""

from typing import Any

import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import check_number, is_zero, named_errors
from wdlab.decay import add_l2_gradient, decay_proximal
from wdlab.optimizers.assembly import assemble, complete, scale_by_learning_rate
from wdlab.preconditioners import (
    reduce_variance,
    scale_by_adam,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
    scale_by_trust_ratio,
)
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule, check_coupling, multiplier_of

PyTree = Any


@answers
def ademamix(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: float = 1e-8,
    warmup: float | None = None,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""AdEMAMix (Pagliardini et al. 2024, arXiv 2409.03137) with decay where the coupling says.

    One step is :math:`\theta \leftarrow \theta - lr_t\, u - \kappa_t \lambda s \theta` with the
    direction of :func:`wdlab.preconditioners.scale_by_ademamix`. ``warmup`` is the number of steps
    over which b3 and alpha rise, above 0: the whole run in the paper; None: they are constant. The
    authors mean ``coupling="lr"``. :func:`wdlab.optimizers.adam` has the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = ademamix(0.5, weight_decay=0.25, coupling="lr", alpha=0.0)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4)
    -1.0
    """
    with named_errors("ademamix"):
        rises = {"b3_warmup": warmup, "alpha_warmup": warmup}
        direction = scale_by_ademamix(b1, b2, b3, alpha, eps, **rises)
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("ademamix", direction, learning_rate, *decay)


@answers
def adan(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.98,
    b2: float = 0.92,
    b3: float = 0.99,
    eps: float = 1e-8,
    proximal: bool = True,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Adan (Xie et al. 2022, arXiv 2208.06677) with its proximal decay, or a decoupled one.

    One step is :math:`\theta \leftarrow (\theta - lr_t u) / (1 + \kappa_t \lambda s)` with the
    direction of :func:`wdlab.preconditioners.scale_by_adan`; without ``proximal``
    :math:`\theta - lr_t u - \kappa_t \lambda s \theta`. The authors mean ``coupling="lr"``.
    :func:`wdlab.optimizers.adam` has the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = adan(0.5, weight_decay=2.0, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> step = tx.update(grads, tx.init(params), params)[0]["kernel"]
    >>> round(float(step), 4)  # (4 - 0.5) / (1 + 0.5 * 2) - 4
    -2.25
    """
    with named_errors("adan"):
        direction = scale_by_adan(b1, b2, b3, eps)
        decay = weight_decay, coupling, rules, peak_learning_rate
        if not proximal or coupling == "l2":
            return assemble("adan", direction, learning_rate, *decay)
        check_number("learning_rate", learning_rate, schedule=True)
        coupling = check_coupling("adan", coupling, learning_rate, weight_decay)
        multiplier = multiplier_of(coupling, learning_rate, peak_learning_rate)
        shrink = decay_proximal(weight_decay, multiplier=multiplier, rules=rules)
        step = scale_by_learning_rate(learning_rate)
        return complete("adan", optax.chain(direction, step, shrink), rules)


@answers
def adopt(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.9999,
    eps: float = 1e-6,
    clip_exponent: float | None = 0.25,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""ADOPT (Taniguchi et al. 2024, arXiv 2411.02853) with decay where the coupling says.

    One step is :math:`\theta \leftarrow \theta - lr_t\, u - \kappa_t \lambda s \theta` with the
    direction of :func:`wdlab.preconditioners.scale_by_adopt`, 0 in the first step, which decays
    here and does not in the authors' code (``conventions.build("adopt.ADOPT", ...)``). They default
    to ``coupling="l2"``, and mean "lr" with ``decouple=True``. :func:`wdlab.optimizers.adam` has
    the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = adopt(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5 * 0.25 * 4
    -0.5
    """
    with named_errors("adopt"):
        direction = scale_by_adopt(b1, b2, eps, clip_exponent=clip_exponent)
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("adopt", direction, learning_rate, *decay)


@answers
def lamb(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    max_ratio: float | None = None,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""LAMB (You et al. 2019, arXiv 1904.00962) with decay outside or inside its trust ratio.

    With Adam's direction u and :math:`\tau(x) = x \lVert\theta\rVert / \lVert x\rVert` one step is
    :math:`\theta \leftarrow \theta - lr_t \tau(u) - \kappa_t \lambda s \theta`; with
    ``coupling="trust_ratio"``, which the paper and Optax mean,
    :math:`\theta - lr_t \tau(u + \lambda s \theta)`: a leaf without gradient then shrinks by
    :math:`lr_t` whatever lambda is. ``max_ratio`` > 0 bounds the ratio (1: LAMBC).
    :func:`wdlab.optimizers.adam` has the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> for coupling in ("lr", "trust_ratio"):
    ...     tx = lamb(0.5, weight_decay=0.25, coupling=coupling)
    ...     print(round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4))
    -2.5
    -2.0
    """
    with named_errors("lamb"):
        parts = [scale_by_adam(b1, b2, eps), scale_by_trust_ratio(max_ratio=max_ratio)]
        if coupling == "trust_ratio":
            parts.insert(1, add_l2_gradient(weight_decay, rules=rules))
            weight_decay, coupling = 0.0, None
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("lamb", optax.chain(*parts), learning_rate, *decay)


@answers
def mars(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    gamma: float = 0.025,
    b1: float = 0.95,
    b2: float = 0.99,
    eps: float = 1e-8,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""MARS-AdamW (Yuan et al. 2024, arXiv 2411.10438) with decay where the coupling says.

    One step is :math:`\theta \leftarrow \theta - lr_t\, u - \kappa_t \lambda s \theta`, u Adam's
    direction of :func:`wdlab.preconditioners.reduce_variance`'s gradients, for all leaves. The
    authors' code trains those that are not of rank 2 with AdamW, at a decay of its own
    (``conventions.build("mars.MARS", ...)``); it means ``coupling="lr"``.
    :func:`wdlab.optimizers.adam` has the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = mars(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4)
    -1.0
    """
    with named_errors("mars"):
        direction = optax.chain(reduce_variance(gamma, b1), scale_by_adam(b1, b2, eps))
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("mars", direction, learning_rate, *decay)


@answers
def signum(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    momentum: float = 0.9,
    nesterov: bool = False,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Signum (Bernstein et al. 2018, arXiv 1802.04434) with decay where the coupling says.

    One step is :math:`b \leftarrow \mu b + g`, :math:`\theta \leftarrow \theta -
    lr_t\, sign(b) - \kappa_t \lambda s \theta`; ``optax.signum`` has no weight decay.
    :func:`wdlab.optimizers.sgd` has the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = signum(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5 - 0.5 * 0.25 * 4
    -1.0
    """
    with named_errors("signum"):
        check_number("momentum", momentum, high=1.0, high_open=True)
        parts = [] if is_zero(momentum) else [optax.trace(momentum, nesterov=nesterov)]
        direction = optax.chain(*parts, optax.scale_by_sign())
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("signum", direction, learning_rate, *decay)
