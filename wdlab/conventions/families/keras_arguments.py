"""The arguments that all of Keras' optimizers have: clipping, accumulation, averages."""

from collections.abc import Callable

import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number, check_whole
from wdlab.conventions.convention import Request
from wdlab.optimizers import complete
from wdlab.preconditioners import clip_by_global_norm, clip_by_leaf_norm

# Arguments of every Keras optimizer, that come before its step.
BEFORE = {
    "clipnorm": None,
    "clipvalue": None,
    "global_clipnorm": None,
    "gradient_accumulation_steps": None,
}
_CLIPS = {
    "clipnorm": clip_by_leaf_norm,  # Of each variable by itself.
    "clipvalue": optax.clip,
    "global_clipnorm": clip_by_global_norm,
}
_EMA = (
    "It changes no step: keep ema = optax.incremental_update(params, ema, 1 - ema_momentum) beside "
    "the params, and evaluate with it."
)
REFUSED = {
    "use_ema": _EMA,
    "ema_momentum": _EMA,
    "ema_overwrite_frequency": "Keep the average as use_ema says, and write it over the params.",
    "loss_scale_factor": "Scale the loss yourself, with flax.training.dynamic_scale for instance.",
}


def with_keras_arguments(
    make: Callable[[Request], optax.GradientTransformation],
) -> Callable[[Request], optax.GradientTransformation]:
    """Puts the clipping and the accumulation that all of Keras' optimizers take before one.

    >>> from wdlab import conventions
    >>> tx = conventions.build("keras.SGD", 0.5, clipvalue=1.0)
    >>> float(tx.update(jnp.array(9.0), tx.init(jnp.array(1.0)), jnp.array(1.0))[0])
    -0.5
    """

    def around(request: Request) -> optax.GradientTransformation:
        tx, steps = make(request), request["gradient_accumulation_steps"]
        clips = {name: request[name] for name in _CLIPS if request[name] is not None}
        if len(clips) > 1:
            raise ValueError(f"{request.name}: only one of {', '.join(clips)} can be given.")
        for name, bound in clips.items():
            check_number(name, bound, low_open=True)
            tx = optax.chain(_CLIPS[name](bound), tx)
        if steps is not None:
            check_whole("gradient_accumulation_steps", steps, least=2)
            dtype = jnp.result_type(float)  # Not float32 beside float64 weights.
            tx = optax.MultiSteps(tx, steps, accumulator_dtype=dtype).gradient_transformation()
        return complete(request.name, tx, request.rules) if clips or steps is not None else tx

    return around
