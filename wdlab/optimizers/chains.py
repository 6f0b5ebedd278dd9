"""Optimizers as chains short enough to see where the decay term sits.

Every factory has the shape ``(learning_rate, *, weight_decay=0.0, coupling, rules, ...)``; the
coupling (:mod:`wdlab.schedules.couplings`) has no default. All of them compute in float32 for
16-bit parameters, keep their state's structure whether a number or a schedule is given, and put
their name before every complaint.
"""

from typing import Any

import optax

from wdlab._core.arguments import answers
from wdlab._core.checks import check_number, is_zero, named_errors
from wdlab.optimizers.adafactor_chain import adafactor as adafactor
from wdlab.optimizers.assembly import assemble
from wdlab.preconditioners import scale_by_adam, scale_by_lion
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule

PyTree = Any


@answers
def sgd(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    momentum: ScalarOrSchedule = 0.0,
    nesterov: bool = False,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""SGD with momentum; with ``coupling="l2"`` the weight decay of torch.optim.SGD.

    One step is :math:`b \leftarrow \mu b + g + \lambda s \theta`,
    :math:`\theta \leftarrow \theta - lr_t b` for "l2". Momentum then amplifies the decay by about
    :math:`1/(1-\mu)`; the other couplings (:func:`sgdw`) keep it out of the momentum.

    Args:
      learning_rate: Number >= 0 or schedule of the step count.
      weight_decay: ``lambda`` >= 0, number or schedule; its unit depends on ``coupling``.
      coupling: One of :data:`wdlab.schedules.COUPLINGS`; required unless ``weight_decay`` is 0.
      rules: Which leaves decay, and how much; see :func:`wdlab.decay_scales`. Integer leaves that
        they exempt stay as they are.
      momentum: ``mu`` in [0, 1); 0 keeps no buffer.
      nesterov: Whether the step looks ahead by one momentum step.
      peak_learning_rate: Required for "schedule" with a schedule that does not carry its peak.

    Raises:
      TypeError, ValueError: At construction for numbers out of range or a missing coupling; from
        ``init`` for leaves that are not floats or that no rule decides.

    >>> import jax.numpy as jnp
    >>> tx = sgd(0.5, weight_decay=0.25, coupling="l2")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(1.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5 * (1 + 0.25 * 4)
    -1.0
    """
    decay = weight_decay, coupling, rules, peak_learning_rate
    return _sgd("sgd", learning_rate, decay, momentum, nesterov)


@answers
def sgdw(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    momentum: ScalarOrSchedule = 0.0,
    nesterov: bool = False,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""SGD with momentum and decoupled decay (Loshchilov & Hutter 2019, Algorithm 1).

    One step is :math:`b \leftarrow \mu b + g`,
    :math:`\theta \leftarrow \theta - lr_t b - \kappa_t \lambda s \theta`. The learning rate comes
    after the momentum, as in torch; in the paper it comes before, which differs while it changes.
    :func:`sgd` has the Args and Raises.

    >>> import jax.numpy as jnp
    >>> tx = sgdw(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(1.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5*1 - 0.5*0.25*4
    -1.0
    """
    decay = weight_decay, coupling, rules, peak_learning_rate
    return _sgd("sgdw", learning_rate, decay, momentum, nesterov)


def _sgd(
    name: str, learning_rate: ScalarOrSchedule, decay: tuple, momentum: Any, nesterov: bool
) -> optax.GradientTransformation:
    with named_errors(name):
        check_number("momentum", momentum, high=1.0, high_open=True)
        direction = None if is_zero(momentum) else optax.trace(decay=momentum, nesterov=nesterov)
        return assemble(name, direction, learning_rate, *decay, complex_ok=True)


@answers
def adam(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Adam; with ``coupling="l2"`` the weight decay of torch.optim.Adam.

    One step is :math:`\theta \leftarrow \theta - lr_t \hat m / (\sqrt{\hat v} + \epsilon)` with
    :math:`g + \lambda s \theta` in both moments for "l2". That is not weight decay: the
    preconditioner divides it by the gradient's own size (Loshchilov & Hutter 2019, Proposition 2).
    :func:`sgd` has the other Args and the Raises.

    Args:
      learning_rate: Number >= 0 or schedule of the step count.
      weight_decay: ``lambda`` >= 0, number or schedule; its unit depends on ``coupling``.
      coupling: As in :func:`sgd`.
      rules: As there.
      b1: Decay of the first moment, in [0, 1).
      b2: Decay of the second moment, in [0, 1).
      eps: Added to the root of the bias-corrected second moment, >= 0; unit: gradient.
      peak_learning_rate: As there.

    >>> import jax.numpy as jnp
    >>> tx = adam(0.5)
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4)
    -0.5
    """
    decay = weight_decay, coupling, rules, peak_learning_rate
    return _adam("adam", learning_rate, decay, b1, b2, eps)


@answers
def adamw(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Adam with decoupled weight decay (Loshchilov & Hutter 2019, Algorithm 2).

    One step is :math:`\theta \leftarrow \theta - lr_t \hat m / (\sqrt{\hat v} + \epsilon) -
    \kappa_t \lambda s \theta`. The paper, Composer and big_vision mean ``coupling="schedule"``;
    torch.optim.AdamW and optax.adamw mean "lr", which is 1/lr times weaker for the same number.
    :func:`adam` has the Args and Raises.

    >>> import jax.numpy as jnp
    >>> tx = adamw(0.5, weight_decay=0.25, coupling="schedule")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> step = tx.update(grads, tx.init(params), params)[0]["kernel"]
    >>> round(float(step), 4)  # -0.5 - 0.25 * 4
    -1.5
    """
    decay = weight_decay, coupling, rules, peak_learning_rate
    return _adam("adamw", learning_rate, decay, b1, b2, eps)


@answers
def radamw(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    threshold: float = 5.0,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""RAdam with decoupled weight decay (Liu et al. 2020, arXiv 1908.03265, Algorithm 2).

    One step is :math:`\theta \leftarrow \theta - lr_t r_t \hat m / (\sqrt{\hat v} + \epsilon) -
    \kappa_t \lambda s \theta`; while the variance of the adaptive rate is intractable it is
    :math:`lr_t \hat m` alone, with the decay in full. ``b2`` must be above 0, ``threshold``, the
    length of the moving average from which on to rectify, at least 4: it is 5 in the authors' code,
    torch and Optax, 4 in the paper. :func:`adam` has the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = radamw(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> step = tx.update(grads, tx.init(params), params)[0]["kernel"]
    >>> round(float(step), 4)  # -0.5 * 2 - 0.5 * 0.25 * 4
    -1.5
    """
    decay = weight_decay, coupling, rules, peak_learning_rate
    return _adam("radamw", learning_rate, decay, b1, b2, eps, rectification_threshold=threshold)


def _adam(
    name: str, learning_rate: ScalarOrSchedule, decay: tuple, *numbers: Any, **conventions: Any
) -> optax.GradientTransformation:
    with named_errors(name):
        check_number("b1", numbers[0], high=1.0, high_open=True)
        direction = scale_by_adam(*numbers, **conventions)
        return assemble(name, direction, learning_rate, *decay, complex_ok=True)


@answers
def lionw(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: ScalarOrSchedule = 0.9,
    b2: ScalarOrSchedule = 0.99,
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Lion with decoupled weight decay (Chen et al. 2023, arXiv 2302.06675, Algorithm 2).

    One step is :math:`\theta \leftarrow \theta - lr_t\, sign(\beta_1 m + (1-\beta_1) g) -
    \kappa_t \lambda s \theta`, then :math:`m \leftarrow \beta_2 m + (1-\beta_2) g`, so that
    ``learning_rate`` is the size of every entry's step. The paper means ``coupling="lr"``.
    ``b1`` is the weight of the momentum in the step, ``b2`` its decay, both in [0, 1).
    :func:`sgd` has the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = lionw(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5 - 0.5 * 0.25 * 4
    -1.0
    """
    with named_errors("lionw"):
        decay = weight_decay, coupling, rules, peak_learning_rate
        return assemble("lionw", scale_by_lion(b1, b2), learning_rate, *decay)
