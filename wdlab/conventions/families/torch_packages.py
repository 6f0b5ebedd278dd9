"""The conventions of packages around PyTorch: Transformers, fairseq, Composer, apex, DeepSpeed."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab.conventions.convention import CORRECTED, HAT, OUTSIDE, Convention, Request
from wdlab.conventions.parts import (
    adam_direction,
    adam_with_decay,
    lion_with_decay,
    pair,
    rate_of,
    torch_momentum,
    with_decay,
)
from wdlab.decay import decay_weights, step_then_decay
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import momentum, scale_by_adam
from wdlab.schedules import multiplier_of

_COMPOSER = (
    "https://github.com/mosaicml/composer/blob/main/composer/optim/decoupled_weight_decay.py"
)
_ADAM = "theta - lr_t (m / c1) / (sqrt(v / c2) + eps)"
_BETAS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}


def _transformers_adamw(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request)
    rate, correct = rate_of(request), request["correct_bias"]
    direction = scale_by_adam(b1, b2, request["eps"], epsilon="hat", bias_correction=correct)
    decay = decay_weights(
        request.weight_decay, multiplier=multiplier_of("lr", rate), rules=request.rules
    )
    tx = step_then_decay(optax.chain(direction, scale_by_learning_rate(rate)), decay)
    return complete(request.name, tx, request.rules)


def _hat_adam(request: Request) -> optax.GradientTransformation:
    return with_decay(request, adam_direction(request, epsilon="hat"))


def _nag(request: Request) -> optax.GradientTransformation:
    decayed = request["momentum"]
    return with_decay(request, momentum(decayed, nesterov=decayed != 0))


def _sgdw(request: Request) -> optax.GradientTransformation:
    return with_decay(request, torch_momentum(request))


def _mode(arguments: Mapping[str, Any]) -> str:
    decoupled = arguments.get("adam_w_mode", arguments.get("adamw_mode"))
    return "lr" if decoupled else "l2"


def _fused(name: str, version: str, source: str, mode: str, order: str, *traps: str) -> Convention:
    """Apex' FusedAdam and its two descendants in DeepSpeed, the same but for a name."""
    step = "theta <- theta - lr_t (m^ / (sqrt(v^) + eps) + lambda s theta)"
    if order == "before":
        step = f"theta <- (1 - lr_t lambda s) theta; theta <- {_ADAM}"
    return Convention(
        name=name,
        version=version,
        source=source,
        equation=f"{step}; with {mode}=False L2, g <- g + lambda s theta",
        coupling="lr",
        order=order,
        epsilon=OUTSIDE,
        bias_correction=f"{CORRECTED}, unless bias_correction=False",
        learning_rate=1e-3,
        defaults={"bias_correction": True, **_BETAS, mode: True},
        refused={"amsgrad": "The original raises or ignores it."},
        traps=(f"{mode}=True is the default, so the class called Adam is AdamW", *traps),
        make=adam_with_decay,
        coupling_of=_mode,
    )


CONVENTIONS = (
    Convention(
        name="transformers.AdamW",
        version="transformers 4.40.0; gone in 5.0",
        source=(
            "https://github.com/huggingface/transformers/blob/v4.40.0/src/transformers/"
            "optimization.py"
        ),
        equation=(
            "theta <- theta - lr_t sqrt(c2) / c1 m / (sqrt(v) + eps); "
            "theta <- (1 - lr_t lambda s) theta"
        ),
        coupling="lr",
        order="after",
        epsilon=HAT,
        bias_correction=f"{CORRECTED}, unless correct_bias=False",
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "weight_decay": 0.0,
            "correct_bias": True,
        },
        traps=(
            "the decay acts on the updated weights, the fresh step included",
            "eps is 1e-6 and before the correction: as 3e-5 of torch's in the first step",
            "the default decay is 0, torch's 1e-2",
        ),
        make=_transformers_adamw,
    ),
    Convention(
        name="fairseq.Adam",
        version="fairseq 3d262bb2",
        source="https://github.com/facebookresearch/fairseq/blob/main/fairseq/optim/adam.py",
        equation=(
            "theta <- (1 - lr_t lambda s) theta; "
            "theta <- theta - lr_t sqrt(c2) / c1 m / (sqrt(v) + eps)"
        ),
        coupling="lr",
        order="before",
        epsilon=HAT,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={**_BETAS, "amsgrad": False},
        traps=(
            "called Adam, it is AdamW",
            "on a GPU with apex' deprecated fused Adam, fairseq's default, the decay is multiplied "
            "by sqrt(c2) / c1 too, 0.32 in the first step; this is the Python class",
        ),
        make=_hat_adam,
    ),
    Convention(
        name="fairseq.NAG",
        version="fairseq 3d262bb2",
        source="https://github.com/facebookresearch/fairseq/blob/main/fairseq/optim/nag.py",
        equation=(
            "theta <- (1 - lr_t lambda s) theta; b <- mu b + g; theta <- theta - lr_t (g + mu b)"
        ),
        coupling="lr",
        order="before",
        defaults={"momentum": 0.0, "weight_decay": 0.0},
        traps=(
            "decoupled, where torch.SGD(nesterov=True) is L2",
            "the buffer there is kept in units of the last learning rate and divided by it: after "
            "a step with rate 0 the original fails; here the buffer has no unit",
            "--momentum is 0.99 on the command line, 0 in the class",
        ),
        make=_nag,
    ),
    Convention(
        name="composer.DecoupledSGDW",
        version="composer 640518880",
        source=_COMPOSER,
        equation=(
            "b <- mu b + (1 - tau) g, first b = g; theta <- (1 - eta_t lambda s) theta; "
            "theta <- theta - lr_t b"
        ),
        coupling="schedule",
        order="before",
        defaults={"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False},
        traps=(
            "eta_t = lr_t / the lr of the constructor: with another lr there, lambda means "
            "something else; 1 where that lr is 0",
        ),
        make=_sgdw,
    ),
    Convention(
        name="composer.DecoupledAdamW",
        version="composer 640518880",
        source=_COMPOSER,
        equation=f"theta <- (1 - eta_t lambda s) theta; theta <- {_ADAM}",
        coupling="schedule",
        order="before",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 1e-5, "amsgrad": False},
        traps=(
            "torch.AdamW's 0.1 at lr 6e-4 is 6e-5 here; 0.1 takes a tenth of every weight a step",
            "eta_t = lr_t / the lr of the constructor: with another lr there, lambda means "
            "something else; 1 where that lr is 0",
            "betas are (0.9, 0.95), torch's (0.9, 0.999)",
        ),
        make=adam_with_decay,
    ),
    _fused(
        "apex.FusedAdam",
        "apex 6424da3b",
        "https://github.com/NVIDIA/apex/blob/master/csrc/multi_tensor_adam.cu",
        "adam_w_mode",
        "joint",
    ),
    _fused(
        "deepspeed.FusedAdam",
        "DeepSpeed 38327e07f",
        "https://github.com/deepspeedai/DeepSpeed/blob/master/csrc/adam/multi_tensor_adam.cu",
        "adam_w_mode",
        "joint",
        'the config {"type": "Adam"} is AdamW for the same reason',
    ),
    _fused(
        "deepspeed.DeepSpeedCPUAdam",
        "DeepSpeed 38327e07f",
        "https://github.com/deepspeedai/DeepSpeed/blob/master/csrc/adam/cpu_adam_impl.cpp",
        "adamw_mode",
        "before",
        "a weight_decay below 0 is ignored there, refused here",
    ),
    Convention(
        name="lion_pytorch.Lion",
        version="lion-pytorch 0.2.5",
        source="https://github.com/lucidrains/lion-pytorch/blob/main/lion_pytorch/lion_pytorch.py",
        equation=(
            "theta <- (1 - lr_t lambda s) theta; theta <- theta - lr_t sign(b1 m + (1 - b1) g); "
            "with decoupled_weight_decay eta_t lambda in place of lr_t lambda"
        ),
        coupling="lr",
        order="before",
        learning_rate=1e-4,
        defaults={
            "betas": (0.9, 0.99),
            "weight_decay": 0.0,
            "decoupled_weight_decay": False,
        },
        traps=(
            "decoupled_weight_decay divides the number by the constructor's lr: eta_t lambda; "
            "torch.Adam has an argument of that name that turns L2 into lr_t lambda",
        ),
        make=lion_with_decay,
        coupling_of=lambda a: "schedule" if a["decoupled_weight_decay"] else "lr",
    ),
)
