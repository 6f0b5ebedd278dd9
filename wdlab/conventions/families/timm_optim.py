"""The conventions of timm."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.parts import adam_direction, caution, pair, torch_momentum, with_decay
from wdlab.preconditioners import scale_by_lion, scale_by_nesterov_adam, scale_by_stable_adam

_FIRST = "theta <- (1 - w_t lambda s) theta, w_t = lr_t, or lr_t**2 / peak if corrected; "


def _timm_adamw(request: Request) -> optax.GradientTransformation:
    if request["clipping_threshold"] is None:
        return _timm(request, adam_direction(request))
    return _timm(request, _clipped(request, amsgrad="raw" if request["amsgrad"] else "off"))


def _timm_nadamw(request: Request) -> optax.GradientTransformation:
    if request["clipping_threshold"] is None:
        return _timm(request, scale_by_nesterov_adam(*pair(request), request["eps"]))
    return _timm(request, _clipped(request, first_moment="nesterov_plain"))


def _clipped(request: Request, **conventions: Any) -> optax.GradientTransformation:
    threshold = request["clipping_threshold"]
    return scale_by_stable_adam(
        *(*pair(request), request["eps"]), threshold=threshold, root_epsilon="added", **conventions
    )


def _timm_lion(request: Request) -> optax.GradientTransformation:
    return _timm(request, scale_by_lion(*pair(request)))


def _timm_sgdw(request: Request) -> optax.GradientTransformation:
    return _timm(request, torch_momentum(request))


def _timm(
    request: Request, direction: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    if request["caution"] and direction is not None:
        direction = caution(direction)
    return with_decay(request, direction)


def _corrected(arguments: Mapping[str, Any]) -> str:
    return "lr2_over_peak" if arguments["corrected_weight_decay"] else "lr"


_TIMM = {"version": "timm 1.0.31", "order": "before", "coupling": "lr", "coupling_of": _corrected}
_TIMM_SOURCE = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/optim/{}.py"
_TIMM_TRAPS = (
    "corrected_weight_decay takes the peak from the constructor's lr, not the group's, and "
    "corrects every leaf, where AdamC corrects the layers that are followed by a norm",
    "timm.optim.create_optimizer exempts biases and leaves of rank below 2, the classes nothing",
)
_CLIP_TRAP = (
    "clipping_threshold divides the step of a leaf whose gradient has grown and not its decay; "
    "StableAdamW divides both"
)
_CAUTIOUS = {"caution": False, "corrected_weight_decay": False, "maximize": False}

CONVENTIONS = (
    Convention(
        name="timm.AdamW",
        source=_TIMM_SOURCE.format("adamw"),
        equation=_FIRST + "theta <- theta - lr_t (m / c1) / (sqrt(v / c2) + eps)",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 1e-2,
            "amsgrad": False,
            **_CAUTIOUS,
            "clipping_threshold": None,
        },
        traps=(
            *_TIMM_TRAPS,
            _CLIP_TRAP,
            "the class is called AdamWLegacy since 1.0; 'adamw' there is torch's",
        ),
        make=_timm_adamw,
        **_TIMM,
    ),
    Convention(
        name="timm.NAdamW",
        source=_TIMM_SOURCE.format("nadamw"),
        equation=(
            _FIRST + "theta <- theta - lr_t ((b1 m + (1 - b1) g) / c1) / (sqrt(v / c2) + eps)"
        ),
        epsilon=OUTSIDE,
        bias_correction=f"{CORRECTED}; the look-ahead by this step's too",
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 1e-2,
            **_CAUTIOUS,
            "clipping_threshold": None,
        },
        traps=(*_TIMM_TRAPS, _CLIP_TRAP, "neither torch.NAdam (warming momentum) nor optax.nadamw"),
        make=_timm_nadamw,
        **_TIMM,
    ),
    Convention(
        name="timm.SGDW",
        source=_TIMM_SOURCE.format("sgdw"),
        equation=_FIRST + "b <- mu b + (1 - tau) g, first b = g; theta <- theta - lr_t b",
        learning_rate=1e-3,
        defaults={
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            **_CAUTIOUS,
        },
        traps=_TIMM_TRAPS,
        make=_timm_sgdw,
        **_TIMM,
    ),
    Convention(
        name="timm.Lion",
        source=_TIMM_SOURCE.format("lion"),
        equation=_FIRST + "theta <- theta - lr_t sign(b1 m + (1 - b1) g)",
        learning_rate=1e-4,
        defaults={"betas": (0.9, 0.99), "weight_decay": 0.0, **_CAUTIOUS},
        traps=_TIMM_TRAPS,
        make=_timm_lion,
        **_TIMM,
    ),
)
