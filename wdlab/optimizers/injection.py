"""Hyper-parameters in the optimizer's state, to be read and set while training."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab.schedules import peak_value


def inject_hyperparams(
    factory: Callable[..., optax.GradientTransformation],
) -> Callable[..., optax.GradientTransformationExtraArgs]:
    """``optax.inject_hyperparams`` without its traps: hyper-parameters in the state, in float32.

    Optax's own casts them to the dtype of the first parameter, so that b2 = 0.999 becomes 1.0
    beside bfloat16 parameters and the updates NaN (optax 0.2.8, issue 1414); a schedule's peak is
    lost once it is a number; ``**hyperparameters`` are not looked into; and numbers that decide
    shapes or which formula is used cannot be traced. This keeps the peak, takes every argument, and
    leaves such numbers as they are. Rules need no care: they are not functions.

    Args:
      factory: One of :mod:`wdlab.optimizers`, ``functools.partial(wdlab.conventions.build, name)``,
        or any function of hyper-parameters.

    Returns:
      A function of the factory's arguments; its state has ``hyperparams``, to be read and set.

    >>> from wdlab.optimizers import adamw
    >>> tx = inject_hyperparams(adamw)(1e-3, weight_decay=0.1, coupling="lr")
    >>> float(tx.init({"kernel": jnp.zeros(2, jnp.bfloat16)}).hyperparams["b2"])
    0.999...
    """
    signature = inspect.signature(factory)

    def make(*args: Any, **kwargs: Any) -> optax.GradientTransformationExtraArgs:
        factory(*args, **kwargs)  # Refuses bad arguments now; from here on numbers are traced.
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = dict(zip(signature.parameters, bound.args, strict=False)) | bound.kwargs
        if "peak_learning_rate" in arguments:
            arguments["peak_learning_rate"] = _peak(arguments)
        named = lambda **given: factory(**given)  # noqa: E731
        keywords = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in arguments]
        named.__signature__ = inspect.Signature(keywords)  # pyrefly: ignore[missing-attribute]
        return optax.inject_hyperparams(
            named,
            static_args=[
                name for name in arguments if not _may_be_traced(factory, arguments, name)
            ],
            hyperparam_dtype=jnp.result_type(float),
        )(**arguments)

    return make


def _peak(arguments: dict[str, Any]) -> float | None:
    """The peak as given, or that of the learning rate: as a number it would not tell its own."""
    given, rate = arguments["peak_learning_rate"], arguments["learning_rate"]
    return given if given is not None or rate is None else (peak_value(rate) or None)


def _may_be_traced(factory: Callable[..., Any], arguments: dict[str, Any], name: str) -> bool:
    """Whether the factory takes a traced number: not where it decides a shape or a formula."""
    if name == "peak_learning_rate":
        return False
    value = arguments[name]
    if isinstance(value, bool) or not isinstance(value, int | float | jax.Array | np.ndarray):
        return True  # Optax leaves it as it is, or asks the schedule.
    try:
        jax.eval_shape(lambda number: factory(**{**arguments, name: number}) and 0, value)
    except (TypeError, ValueError):
        return False
    return True
