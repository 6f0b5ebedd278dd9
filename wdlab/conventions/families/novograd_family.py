"""The conventions of NovoGrad, in timm and in apex."""

import functools
from collections.abc import Mapping
from typing import Any

import optax

from wdlab._core.checks import check_choice, check_number
from wdlab.conventions.convention import CORRECTED, Convention, Request
from wdlab.conventions.families.lamb_lars import decoupled
from wdlab.conventions.parts import pair, rate_of, with_decay
from wdlab.decay import add_l2_gradient
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import one_minus_power, scale_by_leaf_norms

_TIMM = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/optim/{}.py"
_APEX = "https://github.com/NVIDIA/apex/blob/6424da3b/csrc/multi_tensor_{}.cu"


def _timm_novograd(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request)
    normed = scale_by_leaf_norms(b2, request["eps"], amsgrad=request["amsgrad"])
    check_number("betas[0]", b1, high=1.0, high_open=True)
    velocity = optax.ema(b1, debias=False) if request["grad_averaging"] else optax.trace(b1)
    if request["decoupled_decay"]:
        return with_decay(request, optax.chain(normed, velocity))
    return _in_the_momentum(request, normed, velocity)


def _apex_novograd(request: Request) -> optax.GradientTransformation:
    (b1, b2), corrected = pair(request), request["bias_correction"]
    check_number("betas[0]", b1, high=1.0, high_open=True)
    check_choice("norm_type", str(request["norm_type"]), ("2", "0"))
    velocity = optax.ema(b1, debias=False)
    if not request["grad_averaging"]:
        velocity = optax.trace(b1)
    if corrected:
        velocity = optax.chain(velocity, _divided_by_correction(b1))
    normed = functools.partial(
        scale_by_leaf_norms,
        *(b2, request["eps"]),
        norm="l2" if request["norm_type"] == 2 else "max",
        start_at_zero=request["init_zero"],
        bias_correction=corrected,
    )
    if request["reg_inside_moment"]:
        return _in_the_momentum(request, normed(), velocity)
    return with_decay(request, normed(numerator=velocity))


def _in_the_momentum(
    request: Request, normed: optax.GradientTransformation, velocity: optax.GradientTransformation
) -> optax.GradientTransformation:
    decay = add_l2_gradient(request.weight_decay, rules=request.rules)
    tx = optax.chain(normed, decay, velocity, scale_by_learning_rate(rate_of(request)))
    return complete(request.name, tx, request.rules)


def _divided_by_correction(b1: Any) -> optax.GradientTransformation:
    return optax.scale_by_schedule(lambda count: 1.0 / one_minus_power(b1, count + 1.0))


def _of_timm(arguments: Mapping[str, Any]) -> str:
    return decoupled(arguments) or "momentum"


CONVENTIONS = (
    Convention(
        name="timm.NvNovoGrad",
        version="timm 1.0.31",
        source=_TIMM.format("nvnovograd"),
        equation=(
            "v <- b2 v + (1 - b2) |g|**2, first v = |g|**2; m <- b1 m + g / (sqrt(v) + eps) + "
            "lambda s theta; theta <- theta - lr_t m; with decoupled_decay "
            "theta <- (1 - lr_t lambda s) theta instead"
        ),
        coupling="momentum",
        order="in the momentum",
        epsilon="outside: sqrt(v) + eps",
        learning_rate=1e-3,
        defaults={
            "betas": (0.95, 0.98),
            "eps": 1e-8,
            "weight_decay": 0,
            "grad_averaging": False,
            "amsgrad": False,
            "decoupled_decay": False,
            "corrected_weight_decay": False,
        },
        traps=(
            "the momentum, a sum without grad_averaging, amplifies the decay by 1 / (1 - b1) = 20",
            "the second moment is float32 for float64 weights too",
        ),
        make=_timm_novograd,
        coupling_of=_of_timm,
    ),
    Convention(
        name="apex.FusedNovoGrad",
        version="apex 6424da3b",
        source=_APEX.format("novograd"),
        equation=(
            "n <- sqrt(b2 n**2 + (1 - b2) |g|**2), first n = |g|; m <- b1 m + (1 - b1) g; "
            "theta <- theta - lr_t (m / c1 / (n / sqrt(c2) + eps) + lambda s theta); with "
            "reg_inside_moment m is of g / (n / sqrt(c2) + eps) + lambda s theta"
        ),
        coupling="lr",
        order="joint",
        epsilon="outside: n / sqrt(c2) + eps",
        bias_correction=f"{CORRECTED}, unless bias_correction=False",
        learning_rate=1e-3,
        defaults={
            "bias_correction": True,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "reg_inside_moment": False,
            "grad_averaging": True,
            "norm_type": 2,
            "init_zero": False,
        },
        refused={"amsgrad": "The original raises an error."},
        traps=(
            "n starts at the first norm and is corrected all the same: the first step is 0.03 of "
            "what it is without bias_correction",
            "decoupled by default, where the paper and timm have the decay in the momentum",
        ),
        make=_apex_novograd,
        coupling_of=lambda arguments: "momentum" if arguments["reg_inside_moment"] else "lr",
    ),
)
