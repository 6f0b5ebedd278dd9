"""The conventions of LAMB and LARS, in timm and in apex."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab._core.checks import is_zero
from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.decay_places import multiplier_for
from wdlab.conventions.parts import caution, pair, rate_of, torch_momentum
from wdlab.decay import add_l2_gradient, decay_then_step, decay_weights
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import (
    clip_by_global_norm,
    scale_by_adam,
    scale_by_lars,
    scale_by_trust_ratio,
)
from wdlab.rules import ALL

_TIMM = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/optim/{}.py"
_APEX = "https://github.com/NVIDIA/apex/blob/6424da3b/csrc/multi_tensor_{}.cu"
_R = "r = m^ / (sqrt(v^) + eps)"
_CLIPPED = "g <- g min(1, max_grad_norm / |all g|); "
_CLIP_TRAP = "max_grad_norm=1 clips the gradients of all leaves together, by default"
_SKIP_TRAP = "a leaf that does not decay gets no trust ratio: exempting it changes its step too"
_INSIDE_TRAP = (
    "without a gradient a leaf shrinks by lr_t whatever lambda is: the trust ratio divides it out"
)


def _timm_lamb(request: Request) -> optax.GradientTransformation:
    return _lamb(request, always=request["always_adapt"], decoupled=request["decoupled_decay"])


def _apex_lamb(request: Request) -> optax.GradientTransformation:
    mode = request["adam_w_mode"]
    return _lamb(request, always=request["use_nvlamb"], decoupled=False, in_gradient=not mode)


def _lamb(
    request: Request, *, always: bool, decoupled: bool, in_gradient: bool = False
) -> optax.GradientTransformation:
    """Clipping, Adam, decay, trust ratio, rate; the decay first if it is decoupled."""
    rate, rules, (b1, b2) = rate_of(request), request.rules, pair(request)
    adam = scale_by_adam(b1, b2, request["eps"], bias_correction=request["bias_correction"])
    parts = [caution(adam) if request.arguments.get("caution") else adam]
    if not request["grad_averaging"]:
        parts.append(optax.scale(1.0 / (1.0 - b1)))
    l2 = add_l2_gradient(0.0 if decoupled else request.weight_decay, rules=rules)
    parts.insert(0 if in_gradient else len(parts), l2)
    if request["max_grad_norm"] is not None:
        parts.insert(0, clip_by_global_norm(request["max_grad_norm"]))
    if always or not is_zero(request.weight_decay):
        most = 1.0 if request.arguments.get("trust_clip") else None
        parts.append(scale_by_trust_ratio(max_ratio=most, rules=ALL if always else rules))
    tx = optax.chain(*parts, scale_by_learning_rate(rate))
    if decoupled:
        multiplier = multiplier_for(request)
        decay = decay_weights(request.weight_decay, multiplier=multiplier, rules=rules)
        tx = decay_then_step(decay, tx)
    return complete(request.name, tx, rules)


def _timm_lars(request: Request) -> optax.GradientTransformation:
    rate = rate_of(request)
    scaled = scale_by_lars(
        request.weight_decay,
        coefficient=request["trust_coeff"],
        eps=request["eps"],
        max_step=rate if request["trust_clip"] else None,
        rules=request.rules,
        always=request["always_adapt"],
    )
    velocity = torch_momentum(request) or optax.identity()
    tx = optax.chain(scaled, velocity, scale_by_learning_rate(rate))
    return complete(request.name, tx, request.rules)


def _of_timm_lamb(arguments: Mapping[str, Any]) -> str:
    return decoupled(arguments) or "trust_ratio"


def decoupled(arguments: Mapping[str, Any]) -> str | None:
    """Returns the coupling of timm's ``decoupled_decay``; None where it is not given.

    >>> decoupled({"decoupled_decay": True, "corrected_weight_decay": False})
    'lr'
    """
    if not arguments["decoupled_decay"]:
        return None
    return "lr2_over_peak" if arguments["corrected_weight_decay"] else "lr"


CONVENTIONS = (
    Convention(
        name="timm.Lamb",
        version="timm 1.0.31",
        source=_TIMM.format("lamb"),
        equation=(
            f"{_CLIPPED}{_R} + lambda s theta; theta <- theta - lr_t |theta| / |r| r; with "
            "decoupled_decay theta <- (1 - lr_t lambda s) theta first, and r without it"
        ),
        coupling="trust_ratio",
        order="in the trust ratio",
        epsilon=OUTSIDE,
        bias_correction=f"{CORRECTED}, unless bias_correction=False",
        learning_rate=1e-3,
        defaults={
            "bias_correction": True,
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "weight_decay": 0.01,
            "grad_averaging": True,
            "max_grad_norm": 1.0,
            "trust_clip": False,
            "always_adapt": False,
            "caution": False,
            "decoupled_decay": False,
            "corrected_weight_decay": False,
        },
        traps=(_INSIDE_TRAP, _SKIP_TRAP, _CLIP_TRAP, "the ratio is that of the decayed weights"),
        make=_timm_lamb,
        coupling_of=_of_timm_lamb,
    ),
    Convention(
        name="timm.Lars",
        version="timm 1.0.31",
        source=_TIMM.format("lars"),
        equation=(
            "r = trust_coeff |theta| / (|g| + lambda s |theta| + eps); "
            "b <- mu b + (1 - tau) r (g + lambda s theta), first b without "
            "tau; theta <- theta - lr_t b"
        ),
        coupling="leaf_rate",
        order="in the trust ratio",
        learning_rate=1.0,
        defaults={
            "momentum": 0,
            "dampening": 0,
            "weight_decay": 0,
            "nesterov": False,
            "trust_coeff": 0.001,
            "eps": 1e-8,
            "trust_clip": False,
            "always_adapt": False,
        },
        traps=(
            "where a leaf's gradient is all zero its rate is 1, and not about 1e-3: it decays a "
            "thousand times faster in that step",
            _SKIP_TRAP,
        ),
        make=_timm_lars,
    ),
    Convention(
        name="apex.FusedLAMB",
        version="apex 6424da3b",
        source=_APEX.format("lamb"),
        equation=(
            f"{_CLIPPED}{_R} + lambda s theta; theta <- theta - lr_t |theta| / |r| r; with "
            "adam_w_mode=False L2, g <- g + lambda s theta after the clipping"
        ),
        coupling="trust_ratio",
        order="in the trust ratio",
        epsilon=OUTSIDE,
        bias_correction=f"{CORRECTED}, unless bias_correction=False",
        learning_rate=1e-3,
        defaults={
            "bias_correction": True,
            "betas": (0.9, 0.999),
            "eps": 1e-6,
            "weight_decay": 0.01,
            "adam_w_mode": True,
            "grad_averaging": True,
            "max_grad_norm": 1.0,
            "use_nvlamb": False,
        },
        refused={"amsgrad": "The original raises an error."},
        traps=(
            _INSIDE_TRAP,
            _SKIP_TRAP,
            _CLIP_TRAP,
            "its docstring gives other defaults: eps 1e-8",
        ),
        make=_apex_lamb,
        coupling_of=lambda arguments: "trust_ratio" if arguments["adam_w_mode"] else "l2",
    ),
)
