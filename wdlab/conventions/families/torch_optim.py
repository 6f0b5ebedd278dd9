"""The conventions of torch.optim's Adam family, read in and run against torch 2.13.0."""

from typing import Any

import optax

from wdlab.conventions.convention import CORRECTED, HAT, OUTSIDE, Convention, Request
from wdlab.conventions.parts import adam_direction, adam_with_decay, with_decay

_SOURCE = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/{}.py"
_VERSION = "torch 2.13.0"
_L2 = "g <- g + lambda s theta; "
_SWITCH = "decoupled_weight_decay=True makes it theta <- (1 - lr_t lambda s) theta: one number, "
L2_TRAP = (
    "weight_decay is an L2 gradient: the preconditioner divides it by the gradient's own size, so "
    "no decoupled number is equal to it"
)


def _nadam(request: Request) -> optax.GradientTransformation:
    return with_decay(
        request,
        adam_direction(request, first_moment="nadam", momentum_decay=request["momentum_decay"]),
    )


def _radam(request: Request) -> optax.GradientTransformation:
    return with_decay(request, adam_direction(request, epsilon="hat", rectification_threshold=5.0))


def _adamax(request: Request) -> optax.GradientTransformation:
    return with_decay(request, adam_direction(request, second_moment="max", epsilon="inside"))


def _switched(arguments: Any) -> str:
    return "lr" if arguments["decoupled_weight_decay"] else "l2"


CONVENTIONS = (
    Convention(
        name="torch.Adam",
        version=_VERSION,
        source=_SOURCE.format("adam"),
        equation=_L2 + "theta <- theta - lr_t (m / c1) / (sqrt(v / c2) + eps)",
        coupling="l2",
        order="in the gradient",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "amsgrad": False,
            "maximize": False,
            "decoupled_weight_decay": False,
        },
        traps=(L2_TRAP, _SWITCH + "two meanings"),
        make=adam_with_decay,
        coupling_of=_switched,
    ),
    Convention(
        name="torch.AdamW",
        version=_VERSION,
        source=_SOURCE.format("adamw"),
        equation=(
            "theta <- (1 - lr_t lambda s) theta; "
            "theta <- theta - lr_t (m / c1) / (sqrt(v / c2) + eps)"
        ),
        coupling="lr",
        order="before",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 1e-2,
            "amsgrad": False,
            "maximize": False,
        },
        traps=(
            "the default decay is 1e-2: 100 times optax.adamw's, 2.5 times keras.AdamW's",
            "everything decays: biases and norms are exempt only in the user's parameter groups",
            "with bfloat16 parameters 1 - lr lambda rounds to 1 below 2**-9: no decay at all",
        ),
        make=adam_with_decay,
    ),
    Convention(
        name="torch.NAdam",
        version=_VERSION,
        source=_SOURCE.format("nadam"),
        equation=(
            _L2 + "theta <- theta - lr_t (mu' m / (1 - p mu') + (1 - mu) g / (1 - p)) / "
            "(sqrt(v / c2) + eps), mu = b1 (1 - 0.96**(t psi) / 2), p the product of all mu"
        ),
        coupling="l2",
        order="in the gradient",
        epsilon=OUTSIDE,
        bias_correction="v by 1 - b2**t, m by the product of its warming rates",
        learning_rate=2e-3,
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum_decay": 4e-3,
            "decoupled_weight_decay": False,
            "maximize": False,
        },
        traps=(
            L2_TRAP,
            _SWITCH + "two meanings",
            "the momentum warms up; optax.nadam and timm's NAdamW keep it constant",
        ),
        make=_nadam,
        coupling_of=_switched,
    ),
    Convention(
        name="torch.RAdam",
        version=_VERSION,
        source=_SOURCE.format("radam"),
        equation=(
            _L2 + "theta <- theta - lr_t r_t (m / c1) sqrt(c2) / (sqrt(v) + eps) if rho_t > 5, "
            "else - lr_t m / c1"
        ),
        coupling="l2",
        order="in the gradient",
        epsilon=HAT,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "decoupled_weight_decay": False,
            "maximize": False,
        },
        traps=(
            L2_TRAP,
            _SWITCH + "two meanings",
            "the threshold is 5, the paper's 4; in the unrectified first steps the decay is full",
        ),
        make=_radam,
        coupling_of=_switched,
    ),
    Convention(
        name="torch.Adamax",
        version=_VERSION,
        source=_SOURCE.format("adamax"),
        equation=_L2 + "v <- max(b2 v, |g| + eps); theta <- theta - lr_t (m / c1) / v",
        coupling="l2",
        order="in the gradient",
        epsilon="inside the maximum",
        bias_correction="m alone, 1 - b1**t",
        learning_rate=2e-3,
        defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "maximize": False},
        traps=(L2_TRAP,),
        make=_adamax,
    ),
)
