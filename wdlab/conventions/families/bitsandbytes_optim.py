"""The conventions of bitsandbytes with 32-bit states.

Adam, AdEMAMix, Lion, SGD, RMSprop and Adagrad are those of its CPU, Triton and default backends,
read in and run against 0.50.2; LAMB and LARS those of its CUDA kernels, read at 95f9af30.
"""

from typing import Any

import optax

from wdlab._core.checks import check_number
from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.families.adam_relatives import three
from wdlab.conventions.parts import (
    adam_direction,
    adam_with_decay,
    lion_with_decay,
    rate_of,
    with_decay,
)
from wdlab.decay import add_l2_gradient, decay_weights, map_decayed, step_then_decay
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import clip_by_weight_norm, momentum, scale_by_adam, scale_by_ademamix

PyTree = Any
_SOURCE = "https://github.com/bitsandbytes-foundation/bitsandbytes/blob/{}"
_PYTHON = _SOURCE.format("0.50.2/bitsandbytes/backends/cpu/ops.py")
_CUDA = _SOURCE.format("95f9af30/csrc/kernels.cu")
_DECAY = "theta <- (1 - lr_t lambda s) theta; "
_L2 = "g <- g + lambda s theta; "
_STATES = {
    "optim_bits": "8-bit states are not reproduced; this is optim_bits=32.",
    "args": "It carries the settings of the 8-bit states.",
    "min_8bit_size": "It says which leaves have 8-bit states; here none has.",
    "is_paged": "It says where the states lie, not what is computed.",
}
_RAISES = "The original raises an error."
_IGNORED = "The original takes it and ignores it."
_CUDA_TRAP = (
    "on CUDA the decay comes after the step and shrinks the fresh step too (issue 2010), on the "
    "other backends before"
)


def _ademamix(request: Request) -> optax.GradientTransformation:
    numbers = *three(request), request["alpha"], request["eps"]
    warmups = {"b3_warmup": request["t_beta3"], "alpha_warmup": request["t_alpha"]}
    return with_decay(request, scale_by_ademamix(*numbers, **warmups))


def _sgd(request: Request) -> optax.GradientTransformation:
    return with_decay(request, momentum(_momentum_of(request)))


def _rmsprop(request: Request) -> optax.GradientTransformation:
    alpha, eps = request["alpha"], request["eps"]
    return with_decay(request, scale_by_adam(b1=None, b2=alpha, eps=eps, bias_correction=False))


def _adagrad(request: Request) -> optax.GradientTransformation:
    return with_decay(request, scale_by_adam(b1=None, second_moment="sum", eps=request["eps"]))


def _lamb(request: Request) -> optax.GradientTransformation:
    """Adam, its step bounded by the norm of the weights, and the decay after it."""
    rate = rate_of(request)
    bounded = optax.chain(
        adam_direction(request),
        clip_by_weight_norm(request["max_unorm"]),
        scale_by_learning_rate(rate),
    )
    decay = decay_weights(request.weight_decay, multiplier=rate, rules=request.rules)
    return complete(request.name, step_then_decay(bounded, decay), request.rules)


def _lars(request: Request) -> optax.GradientTransformation:
    """Momentum with L2, bounded by the norm of the weights; this step's decay is not measured."""
    strength, rules = request.weight_decay, request.rules
    check_number("weight_decay", strength)

    def without_decay(updates: PyTree, params: PyTree) -> PyTree:
        subtract = lambda u, k, p, _: u - k * p  # noqa: E731
        return map_decayed(request.name, subtract, updates, params, rules, strength)

    parts = (
        add_l2_gradient(strength, rules=rules),
        momentum(_momentum_of(request)),
        clip_by_weight_norm(request["max_unorm"], measure=without_decay),
        scale_by_learning_rate(rate_of(request)),
    )
    return complete(request.name, optax.chain(*parts), rules)


def _momentum_of(request: Request) -> float:
    decayed = request["momentum"]
    hint = "The original has no SGD or LARS without momentum: give 0.9, or take torch.SGD."
    check_number("momentum", decayed, high=1.0, low_open=True, high_open=True, hint=hint)
    return decayed


def _bnb(name: str, coupling: str, order: str, *, cuda: bool = False, **facts: Any) -> Convention:
    return Convention(
        name=f"bitsandbytes.{name}",
        version="bitsandbytes 95f9af30, CUDA" if cuda else "bitsandbytes 0.50.2, not on CUDA",
        source=_CUDA if cuda else _PYTHON,
        coupling=coupling,
        order=order,
        refused={**_STATES, **facts.pop("refused", {})},
        **facts,
    )


_NUMBERS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
_CORRECTIONS = {"epsilon": OUTSIDE, "bias_correction": CORRECTED, "learning_rate": 1e-3}
_ADAM = {
    "equation": f"{_DECAY}theta <- theta - lr_t m^ / (sqrt(v^) + eps)",
    "refused": {"amsgrad": _IGNORED},
    "make": adam_with_decay,
    **_CORRECTIONS,
}
_VELOCITY = {"momentum": 0, "weight_decay": 0}
_UNUSED = {name: _IGNORED for name in ("dampening", "nesterov")}
CONVENTIONS = (
    _bnb(
        "Adam",
        "lr",
        "before",
        defaults=_NUMBERS,
        traps=(
            "called Adam, it runs AdamW's kernel: weight_decay is decoupled, and L2 does not exist",
            _CUDA_TRAP,
        ),
        **_ADAM,
    ),
    _bnb(
        "AdamW",
        "lr",
        "before",
        defaults={**_NUMBERS, "weight_decay": 1e-2},
        traps=(_CUDA_TRAP, "bitsandbytes.Adam but for the default of weight_decay"),
        **_ADAM,
    ),
    _bnb(
        "AdEMAMix",
        "lr",
        "before",
        equation=(
            f"{_DECAY}theta <- theta - lr_t (m / c1 + alpha s) / (sqrt(v / c2) + eps), "
            "s the average of rate b3"
        ),
        epsilon=OUTSIDE,
        bias_correction="m by 1 - b1**t and v by 1 - b2**t, s not",
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999, 0.9999),
            "alpha": 5.0,
            "t_alpha": None,
            "t_beta3": None,
            "eps": 1e-8,
            "weight_decay": 1e-2,
        },
        traps=(_CUDA_TRAP, "the default decay is 1e-2, the authors' 0; alpha is 5, theirs 2"),
        make=_ademamix,
    ),
    _bnb(
        "Lion",
        "lr",
        "before",
        equation=f"{_DECAY}theta <- theta - lr_t sign(b1 m + (1 - b1) g)",
        learning_rate=1e-4,
        defaults={"betas": (0.9, 0.99), "weight_decay": 0.0},
        traps=("decoupled, where the other optimizers with one state there have L2",),
        make=lion_with_decay,
    ),
    _bnb(
        "SGD",
        "l2",
        "in the gradient",
        equation=f"{_L2}b <- mu b + g, first b = g; theta <- theta - lr_t b",
        defaults=_VELOCITY,
        refused=_UNUSED,
        traps=(
            "dampening and nesterov are taken and ignored",
            "momentum=0, the default, is an error there",
        ),
        make=_sgd,
    ),
    _bnb(
        "RMSprop",
        "l2",
        "in the gradient",
        equation=f"{_L2}v <- a v + (1 - a) g**2; theta <- theta - lr_t g / (sqrt(v) + eps)",
        epsilon="outside: sqrt(v) + eps",
        learning_rate=1e-2,
        defaults={"alpha": 0.99, "eps": 1e-8, "weight_decay": 0},
        refused={"momentum": _IGNORED, "centered": _RAISES},
        traps=("momentum is taken and ignored",),
        make=_rmsprop,
    ),
    _bnb(
        "Adagrad",
        "l2",
        "in the gradient",
        equation=f"{_L2}v <- v + g**2; theta <- theta - lr_t g / (sqrt(v) + eps)",
        epsilon="outside: sqrt(v) + eps",
        learning_rate=1e-2,
        defaults={"weight_decay": 0, "eps": 1e-10},
        refused={name: _RAISES for name in ("lr_decay", "initial_accumulator_value")},
        traps=("L2 under Adagrad is no decay: the sum of squares divides it ever more",),
        make=_adagrad,
    ),
    _bnb(
        "LAMB",
        "lr",
        "after",
        cuda=True,
        equation=(
            "u = m^ / (sqrt(v^) + eps); theta <- theta - lr_t min(1, max_unorm |theta| / |u|) u; "
            "theta <- (1 - lr_t lambda s) theta"
        ),
        defaults={**_NUMBERS, "weight_decay": 0, "max_unorm": 1.0},
        refused={name: _IGNORED for name in ("amsgrad", "adam_w_mode", "bias_correction")},
        traps=(
            "no trust ratio: the step is bounded by the norm of the weights, never enlarged; the "
            "decay is decoupled",
            "its CPU backend measures m / sqrt(v) without bias correction, and decays first",
        ),
        make=_lamb,
        **_CORRECTIONS,
    ),
    _bnb(
        "LARS",
        "l2",
        "in the gradient",
        cuda=True,
        equation=(
            "n = |mu b + g|; b <- mu b + g + lambda s theta, first b without mu; "
            "theta <- theta - lr_t min(1, max_unorm |theta| / n) b"
        ),
        defaults={**_VELOCITY, "max_unorm": 0.02},
        refused=_UNUSED,
        traps=(
            "no rate of each leaf's own: the step is bounded by 0.02 of the norm of the weights",
            "dampening and nesterov are taken and ignored",
            "the CPU backend counts this step's decay in the norm, CUDA does not",
        ),
        make=_lars,
    ),
)
