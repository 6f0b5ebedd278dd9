"""Hyper-parameters in the optimizer's state, to be read and set while training."""

import inspect
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax

from wdlab.schedules import peak_of


def inject_hyperparams(
    factory: Callable[..., optax.GradientTransformation],
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """``optax.inject_hyperparams`` without its traps: hyper-parameters in the state, in float32.

    Optax's own casts them to the dtype of the first parameter, so that b2 = 0.999 becomes 1.0
    beside bfloat16 parameters and the updates NaN (optax 0.2.8, issue 1414); and a schedule's peak
    is lost once it is a number. This keeps both. Rules need no care: they are no functions.

    Args:
      factory: One of :mod:`wdlab.optimizers`, or any function of hyper-parameters.

    Returns:
      A function of the factory's arguments; its state has ``hyperparams``, to be read and set.

    >>> from wdlab.optimizers import adamw
    >>> tx = inject_hyperparams(adamw)(1e-3, weight_decay=0.1, coupling="lr")
    >>> float(tx.init({"kernel": jnp.zeros(2, jnp.bfloat16)}).hyperparams["b2"])
    0.999...
    """
    signature = inspect.signature(factory)

    def make(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        arguments = signature.bind(*args, **kwargs).arguments
        learning_rate, coupling = arguments.get("learning_rate"), arguments.get("coupling")
        if callable(learning_rate) and coupling == "schedule":
            peak = peak_of(learning_rate, arguments.get("peak_learning_rate"))
            arguments["peak_learning_rate"] = peak
        factory(**arguments)  # Refuses bad numbers now; from here on they are traced.
        # Without a coupling there is no decay, and there must be none later: 0.0 stays 0.0.
        fixed = coupling is None and "coupling" in signature.parameters
        return optax.inject_hyperparams(
            factory,
            static_args=("weight_decay",) if fixed else (),
            hyperparam_dtype=jnp.result_type(float),
        )(**arguments)

    return make
