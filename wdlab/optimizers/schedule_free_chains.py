"""Schedule-free SGD and AdamW as chains: a direction, the decay, and the average around them."""

from typing import Any

import optax
from jax.typing import ArrayLike

from wdlab._core.arguments import answers
from wdlab._core.checks import check_number, check_whole, named_errors
from wdlab.optimizers.assembly import assemble, complete
from wdlab.optimizers.averaging import schedule_free
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import NO_BIAS_OR_NORM
from wdlab.schedules import ScalarOrSchedule, warmed_up

PyTree = Any


@answers
def schedule_free_sgd(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: ArrayLike = 0.9,
    warmup_steps: int = 0,
    r: ArrayLike = 0.0,
    weight_lr_power: ArrayLike = 2.0,
    decay_at: str = "y",
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Schedule-free SGD: plain steps of z, averaged (:func:`schedule_free`).

    One step of z is :math:`z \leftarrow z - lr_t g(y) - \kappa_t \lambda s p` with p the point
    ``decay_at``, :math:`lr_t` the learning rate times :math:`\min(t / \text{warmup}, 1)`. The
    reference means ``coupling="lr"``, which for plain SGD is "l2". :func:`schedule_free` and
    :func:`wdlab.optimizers.sgd` have the other Args and the Raises.

    >>> import jax.numpy as jnp
    >>> tx = schedule_free_sgd(0.5, weight_decay=0.25, coupling="lr")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(1.0)}
    >>> float(tx.update(grads, tx.init(params), params)[0]["kernel"])  # -0.5*1 - 0.5*0.25*4
    -1.0
    """
    average = {"b1": b1, "r": r, "weight_lr_power": weight_lr_power, "decay_at": decay_at}
    decay = weight_decay, coupling, rules, peak_learning_rate
    return _chain("schedule_free_sgd", None, learning_rate, warmup_steps, decay, average)


@answers
def schedule_free_adamw(
    learning_rate: ScalarOrSchedule,
    *,
    weight_decay: ScalarOrSchedule = 0.0,
    coupling: str | None = None,
    rules: PyTree = NO_BIAS_OR_NORM,
    b1: ArrayLike = 0.9,
    b2: ScalarOrSchedule = 0.999,
    eps: ScalarOrSchedule = 1e-8,
    warmup_steps: int = 0,
    r: ArrayLike = 0.0,
    weight_lr_power: ArrayLike = 2.0,
    decay_at: str = "y",
    peak_learning_rate: float | None = None,
) -> optax.GradientTransformation:
    r"""Schedule-free AdamW: steps of z by Adam without momentum, averaged (:func:`schedule_free`).

    One step of z is :math:`z \leftarrow z - lr_t g(y) / (\sqrt{\hat v} + \epsilon) - \kappa_t
    \lambda s p` with p the point ``decay_at``. The reference means ``coupling="lr"`` at y.
    :func:`schedule_free_sgd` and :func:`wdlab.optimizers.adam` have the Args and the Raises; ``b1``
    is the share of x in y.

    >>> import jax.numpy as jnp
    >>> tx = schedule_free_adamw(0.5, weight_decay=0.25, coupling="lr", decay_at="z")
    >>> params, grads = {"kernel": jnp.array(4.0)}, {"kernel": jnp.array(2.0)}
    >>> round(float(tx.update(grads, tx.init(params), params)[0]["kernel"]), 4)  # -0.5 - 0.5
    -1.0
    """
    average = {"b1": b1, "r": r, "weight_lr_power": weight_lr_power, "decay_at": decay_at}
    decay = weight_decay, coupling, rules, peak_learning_rate
    with named_errors("schedule_free_adamw"):
        direction = scale_by_adam(None, b2, eps)
    return _chain("schedule_free_adamw", direction, learning_rate, warmup_steps, decay, average)


def _chain(
    name: str,
    direction: optax.GradientTransformation | None,
    learning_rate: ScalarOrSchedule,
    warmup_steps: int,
    decay: tuple,
    average: dict[str, Any],
) -> optax.GradientTransformation:
    with named_errors(name):
        check_number("learning_rate", learning_rate, schedule=True)
        check_whole("warmup_steps", warmup_steps, least=0)
        rate = warmed_up(learning_rate, warmup_steps)
        base = assemble(name, direction, rate, *decay, complex_ok=True)
        return complete(name, schedule_free(base, rate, **average), decay[2], complex_ok=True)
