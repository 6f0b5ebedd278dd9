"""The conventions of optimi, read in and run against optimi 0.3.3."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import optax

from wdlab._core.checks import check_number
from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.decay_places import multiplier_for, with_proximal_decay
from wdlab.conventions.families.adam_relatives import ADAN, PROXIMAL_TRAP, three
from wdlab.conventions.parts import adam_direction, pair, rate_of, with_decay
from wdlab.decay import decay_weights
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import momentum, scale_by_adan, scale_by_lion, scale_by_stable_adam
from wdlab.schedules import peak_of, relative_to

_SOURCE = "https://github.com/warner-benjamin/optimi/blob/v0.3.3/optimi/{}.py"
_ADAM = "m^ / (sqrt(v^) + eps)"
_DECAY = "theta <- (1 - w_t lambda s) theta, w_t = lr_t, or lr_t / max_lr with decouple_lr; "
_L2 = "g <- g + lambda s theta; with decouple_wd or decouple_lr the weights decay instead; "
_LR_TRAP = (
    "decouple_lr divides lr_t by max_lr, the lr of the constructor if None: the number is then "
    "torch's times the peak learning rate; from 1e-3 on optimi warns"
)
_WD_TRAP = "L2 unless decouple_wd or decouple_lr is given"
_OWN_NUMBERS = "eps is 1e-6 and the second moment's rate 0.99; torch's 1e-8 and 0.999"
_LR = {"decouple_lr": False, "max_lr": None}


def _peaked(request: Request) -> Request:
    """max_lr is the peak, where it is given."""
    if request["max_lr"] is None:
        return request
    check_number("max_lr", request["max_lr"], low_open=True)
    return dataclasses.replace(request, peak_learning_rate=request["max_lr"])


def _adam(request: Request) -> optax.GradientTransformation:
    return with_decay(_peaked(request), adam_direction(request))


def _radam(request: Request) -> optax.GradientTransformation:
    return with_decay(_peaked(request), adam_direction(request, rectification_threshold=5.0))


def _lion(request: Request) -> optax.GradientTransformation:
    return with_decay(_peaked(request), scale_by_lion(*pair(request)))


def _sgd(request: Request) -> optax.GradientTransformation:
    """With dampening an average; torch_init starts it at the first gradient."""
    decayed, dampened = request["momentum"], request["dampening"]
    check_number("momentum", decayed, high=1.0, high_open=True)
    direction = None if decayed == 0 else momentum(decayed)
    if dampened and direction is not None:
        direction = optax.ema(decayed, debias=False)
        if request["torch_init"]:
            direction = momentum(decayed, dampening=decayed)
    return with_decay(_peaked(request), direction)


def _stable_adamw(request: Request) -> optax.GradientTransformation:
    rate, multiplier = rate_of(request), multiplier_for(_peaked(request))
    decay = decay_weights(request.weight_decay, multiplier=multiplier, rules=request.rules)
    step = optax.chain(scale_by_learning_rate(rate), decay)
    tx = scale_by_stable_adam(*pair(request), request["eps"], step=step)
    return complete(request.name, tx, request.rules)


def _adan(request: Request) -> optax.GradientTransformation:
    request, multiplier = _peaked(request), None
    if request["decouple_lr"]:
        rate = rate_of(request)
        multiplier = relative_to(rate, peak_of(rate, request.peak_learning_rate))
    direction = scale_by_adan(*three(request), request["eps"])
    return with_proximal_decay(request, direction, multiplier)


def _switched(arguments: Mapping[str, Any]) -> str:
    if arguments["decouple_lr"]:
        return "schedule"
    return "lr" if arguments["decouple_wd"] else "l2"


def _decoupled(arguments: Mapping[str, Any]) -> str:
    return "schedule" if arguments["decouple_lr"] else "lr"


def _optimi(name: str, coupling: str, **facts: Any) -> Convention:
    return Convention(
        name=f"optimi.{name}",
        version="optimi 0.3.3",
        source=_SOURCE.format(name.lower()),
        coupling=coupling,
        refused={
            "kahan_sum": "For 16-bit parameters: wdlab.training.kahan.",
            "gradient_release": "It frees each gradient after its step and changes no number.",
        },
        **facts,
    )


_BETAS = {"betas": (0.9, 0.99), "weight_decay": 0.0, "eps": 1e-6}
CONVENTIONS = (
    _optimi(
        "Adam",
        "l2",
        equation=f"{_L2}theta <- theta - lr_t {_ADAM}",
        order="in the gradient",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        defaults={**_BETAS, "decouple_wd": False, **_LR},
        traps=(_WD_TRAP, _LR_TRAP, _OWN_NUMBERS),
        make=_adam,
        coupling_of=_switched,
    ),
    _optimi(
        "AdamW",
        "lr",
        equation=f"{_DECAY}theta <- theta - lr_t {_ADAM}",
        order="before",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        defaults={**_BETAS, "weight_decay": 1e-2, **_LR},
        traps=(_LR_TRAP, _OWN_NUMBERS),
        make=_adam,
        coupling_of=_decoupled,
    ),
    _optimi(
        "RAdam",
        "l2",
        equation=f"{_L2}theta <- theta - lr_t r_t {_ADAM} if rho_t > 5, else - lr_t m^",
        order="in the gradient",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        defaults={**_BETAS, "decouple_wd": False, **_LR},
        traps=(_WD_TRAP, _LR_TRAP, _OWN_NUMBERS, "epsilon is outside, in torch.RAdam before c2"),
        make=_radam,
        coupling_of=_switched,
    ),
    _optimi(
        "Lion",
        "lr",
        equation=f"{_DECAY}theta <- theta - lr_t sign(b1 m + (1 - b1) g)",
        order="before",
        defaults={"betas": (0.9, 0.99), "weight_decay": 0.0, **_LR},
        traps=(_LR_TRAP,),
        make=_lion,
        coupling_of=_decoupled,
    ),
    _optimi(
        "SGD",
        "l2",
        equation=(f"{_L2}b <- mu b + g, with dampening mu b + (1 - mu) g; theta <- theta - lr_t b"),
        order="in the gradient",
        defaults={
            "momentum": 0.0,
            "weight_decay": 0.0,
            "dampening": False,
            "decouple_wd": False,
            **_LR,
            "torch_init": False,
        },
        traps=(
            _WD_TRAP,
            _LR_TRAP,
            "dampening is a switch: the average of rate mu, started at 0 and not corrected",
        ),
        make=_sgd,
        coupling_of=_switched,
        l2_shrinks=lambda arguments: arguments["momentum"] == 0,
    ),
    _optimi(
        "StableAdamW",
        "lr",
        equation=(
            "lr' = lr_t / max(1, RMS(g / max(sqrt(v^), eps))) of each leaf; "
            f"theta <- (1 - w_t lambda s) theta, w_t = lr', or lr' / max_lr; theta <- theta - lr' "
            f"{_ADAM}"
        ),
        order="before",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        defaults={**_BETAS, "weight_decay": 1e-2, **_LR},
        traps=(
            "the decay is divided along with the learning rate: where the gradients of a leaf "
            "grow, it decays less; timm's clipping_threshold leaves the decay alone",
            _LR_TRAP,
            _OWN_NUMBERS,
        ),
        make=_stable_adamw,
        coupling_of=_decoupled,
    ),
    _optimi(
        "Adan",
        "proximal",
        equation=(
            f"{ADAN}theta <- (theta - lr_t u) / (1 + w_t lambda s), w_t = lr_t, "
            "or lr_t / max_lr with decouple_lr"
        ),
        order="after",
        epsilon="outside: sqrt(n / c3) + eps",
        bias_correction="all three averages, 1 - b**t",
        defaults={
            "betas": (0.98, 0.92, 0.99),
            "weight_decay": 2e-2,
            "eps": 1e-6,
            **_LR,
            "adam_wd": False,
        },
        traps=(
            PROXIMAL_TRAP,
            _LR_TRAP,
            "the class does not hand its adam_wd on: it decays as Adan with either value",
            "the default decay is 2e-2, the authors' 0",
        ),
        make=_adan,
        power_of=lambda arguments: 0 if arguments["decouple_lr"] else 1,
    ),
)
