"""Decay in the places that :func:`wdlab.conventions.parts.with_decay` does not know."""

from typing import Any

import jax.numpy as jnp
import optax

from wdlab._core.probing import trusted
from wdlab.conventions.convention import Request
from wdlab.conventions.parts import maximized, product, rate_of, with_decay
from wdlab.decay import decay_proximal, decay_weights, step_then_decay
from wdlab.optimizers import assemble, complete, scale_by_learning_rate
from wdlab.schedules import ScalarOrSchedule, Schedule, peak_of, peak_value, relative_to, value_at


def multiplier_for(request: Request) -> ScalarOrSchedule:
    """Returns what multiplies a decoupled decay: lr_t, eta_t, or lr_t eta_t.

    >>> from wdlab import conventions
    >>> request = conventions.get("timm.AdamW").request(0.5, {"corrected_weight_decay": True})
    >>> multiplier_for(request)
    0.5
    """
    rate = rate_of(request)
    if request.coupling in ("lr", "proximal"):
        return rate
    eta = relative_to(rate, peak_of(rate, request.peak_learning_rate))
    return eta if request.coupling == "schedule" else product(rate, eta)


def with_late_decay(
    request: Request, direction: optax.GradientTransformation
) -> optax.GradientTransformation:
    """As ``with_decay``, but a decoupled decay begins with the second step, as ADOPT's.

    >>> from wdlab import conventions
    >>> request = conventions.get("adopt.ADOPT").request(0.1, {"decouple": True})
    >>> tx = with_late_decay(request, optax.identity())
    """
    if request.coupling == "l2":
        return with_decay(request, direction)
    decay = product(request.weight_decay, _from_the_second_step(multiplier_for(request)))
    rate, rules = rate_of(request), request.rules
    return maximized(request, assemble(request.name, direction, rate, decay, "constant", rules))


def with_proximal_decay(
    request: Request,
    direction: optax.GradientTransformation,
    multiplier: ScalarOrSchedule | None = None,
) -> optax.GradientTransformation:
    """Puts the decay after the step, as a division by ``1 + multiplier lambda``: Adan's.

    >>> from wdlab import conventions
    >>> request = conventions.get("adan.Adan").request(0.1, {})
    >>> tx = with_proximal_decay(request, optax.identity())
    """
    kappa = multiplier_for(request) if multiplier is None else multiplier
    decay = decay_proximal(request.weight_decay, multiplier=kappa, rules=request.rules)
    tx = optax.chain(direction, scale_by_learning_rate(rate_of(request)), decay)
    return complete(request.name, tx, request.rules)


def with_decay_after(
    request: Request, direction: optax.GradientTransformation, *, late: bool = False
) -> optax.GradientTransformation:
    """Puts the decay after the step, on the updated weights.

    Args:
      request: With a decoupled coupling.
      direction: Transformation of the gradient without learning rate or sign.
      late: Whether the decay begins with the second step.

    >>> from wdlab import conventions
    >>> tx = with_decay_after(conventions.get("soap.SOAP").request(0.1, {}), optax.identity())
    """
    kappa = multiplier_for(request)
    kappa = _from_the_second_step(kappa) if late else kappa
    decay = decay_weights(request.weight_decay, multiplier=kappa, rules=request.rules)
    step = optax.chain(direction, scale_by_learning_rate(rate_of(request)))
    return complete(request.name, step_then_decay(step, decay), request.rules)


def _from_the_second_step(value: ScalarOrSchedule) -> ScalarOrSchedule:
    def late(count: Any) -> Any:
        return jnp.where(count == 0, 0.0, value_at(value, count))

    peak = peak_value(value)
    return trusted(late if peak is None else Schedule(late, peak), value)
