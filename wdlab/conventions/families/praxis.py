"""The conventions of praxis."""

from typing import Any

import jax.numpy as jnp
import optax

from wdlab._core.dtypes import step_number
from wdlab.conventions.convention import ADDED, REQUIRED, Convention, Request
from wdlab.conventions.parts import rate_of, with_decay
from wdlab.decay import decay_weights
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import (
    clip_by_block_rms,
    one_minus_power,
    scale_by_adam,
    scale_by_factored_rms,
    scale_by_parameter_scale,
)
from wdlab.schedules import beta2_power

_STEP = "u = clip(g / sqrt(V)); "
_PRAXIS = "https://github.com/google/praxis/blob/main/praxis/optimizers.py"


def _praxis_adam(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adam(
        request["beta1"], request["beta2"], request["epsilon"], request["epsilon_root"]
    )
    if request["update_capping"] > 0:
        direction = optax.chain(direction, clip_by_block_rms(request["update_capping"]))
    return with_decay(request, direction)


def _praxis_adafactor(request: Request) -> optax.GradientTransformation:
    rate, beta1 = rate_of(request), request["beta1"]
    if beta1 and request["quantized_dtype"] not in ("float32", "bfloat16"):
        raise ValueError(
            f"{request.name}: momentum in {request['quantized_dtype']} is not built; write "
            "quantized_dtype='float32' (or 'bfloat16'), or beta1=0.0."
        )
    parts = [
        scale_by_factored_rms(
            _praxis_beta2(request),
            axes="last" if request["factored"] else "never",
            min_dim_size_to_factor=1,
            eps=request["epsilon1_grad_sq_reg"],
        )
    ]
    if request["clip_threshold"] is not None:
        parts.append(clip_by_block_rms(request["clip_threshold"]))
    if request["multiply_by_parameter_scale"]:
        parts.append(scale_by_parameter_scale(request["epsilon2_param_scale_reg"]))
    parts.append(scale_by_learning_rate(rate))
    if beta1:
        kept = jnp.dtype(request["quantized_dtype"]) if request["quantized_dtype"] else None
        kept = None if kept == jnp.float32 else kept
        parts.append(optax.ema(beta1, debias=False, accumulator_dtype=kept))
    decay = decay_weights(request.weight_decay, multiplier=rate, rules=request.rules)
    return complete(request.name, optax.chain(*parts, decay), request.rules)


def _praxis_beta2(request: Request) -> Any:
    method, b2 = request["decay_method"], request["decay_adam"]
    if method == "pow":
        return beta2_power(request["decay_pow"])
    if method != "adam":
        raise ValueError(
            f"{request.name}: decay_method must be 'adam' (with decay_adam) or 'pow' (with "
            f"decay_pow), got {method!r}."
        )
    if not 0.0 < b2 < 1.0:
        raise ValueError(f"{request.name}: decay_adam must be a number in (0, 1), got {b2!r}.")

    def beta2(count: Any) -> Any:
        """B (1 - b**(t-1)) / (1 - b**t): Adam's rate with the bias correction inside."""
        return 1.0 - (1.0 - b2) / one_minus_power(b2, step_number(count))

    return beta2


CONVENTIONS = (
    Convention(
        name="praxis.sharded_adam",
        version="praxis feeaff1",
        source=_PRAXIS,
        equation=(
            "u = m^ / (sqrt(v^ + eps_root) + eps), capped to an RMS of update_capping; "
            "theta <- theta - lr_t (u + lambda s theta)"
        ),
        coupling="lr",
        order="joint",
        epsilon="outside: sqrt(v / c2 + epsilon_root) + epsilon",
        bias_correction="inside the rates, b (1 - b**(t-1)) / (1 - b**t): the same moments",
        defaults={
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-6,
            "epsilon_root": 0.0,
            "update_capping": 1.0,
            "weight_decay": 0.0,
        },
        refused={
            "maybe_inf_to_nan": "Infinities stay what they are.",
            "clip_threshold": "It is "
            "update_capping in the function; the class Adam calls it clip_threshold.",
        },
        traps=(
            "defaults are those of the class Adam; the function has none",
            "the update of a leaf is capped to an RMS of 1, before the decay",
            "epsilon is 1e-6",
            "SKIP_LP_REGULARIZATION is ignored: everything decays",
        ),
        make=_praxis_adam,
    ),
    Convention(
        name="praxis.sharded_adafactor",
        version="praxis feeaff1",
        source=_PRAXIS,
        equation=(_STEP + "m <- b1 m + (1 - b1) lr_t u; theta <- theta - m - lr_t lambda s theta"),
        coupling="lr",
        order="joint",
        epsilon=ADDED,
        bias_correction="none with decay_method 'pow'; inside the rate with 'adam'",
        defaults={
            "weight_decay": None,
            "decay_method": REQUIRED,
            "decay_adam": 0.0,
            "decay_pow": 0.0,
            "beta1": 0.0,
            "clip_threshold": 1.0,
            "factored": True,
            "epsilon1_grad_sq_reg": 1e-30,
            "quantized_dtype": "int8",
            "multiply_by_parameter_scale": False,
            "epsilon2_param_scale_reg": 1e-3,
        },
        required={
            "decay_method": "Write decay_method='adam', decay_adam=0.99, or decay_method='pow', "
            "decay_pow=0.8."
        },
        refused={
            "layerwise_adaptation": "Chain optax.scale_by_trust_ratio yourself.",
            "sort_factored_second_moment_dims": "Leaves are factored over their last two axes.",
            "min_dim_size_to_factor": "It acts with sort_factored_second_moment_dims only.",
        },
        traps=(
            "the decay is not multiplied by the parameter scale, and its dict of patterns takes "
            "the last match: write rules, where the first wins",
            "no parameter scale unless multiply_by_parameter_scale=True",
            "momentum is kept in int8 unless quantized_dtype says otherwise; int8 is not built",
        ),
        make=_praxis_adafactor,
    ),
)
