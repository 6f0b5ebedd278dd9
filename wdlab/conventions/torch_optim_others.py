"""The other conventions of torch.optim 2.13.0: SGD, Adafactor, Adagrad, RMSprop."""

from typing import Any

import optax

from wdlab._core.checks import check_number
from wdlab._core.dtypes import step_number
from wdlab.conventions.adafactor_presets import PRESETS
from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.parts import maximized, pair, rate_of, torch_momentum, with_decay
from wdlab.optimizers import adafactor
from wdlab.preconditioners import momentum, scale_by_adam

_SOURCE = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/{}.py"
_VERSION = "torch 2.13.0"
_L2 = "g <- g + lambda s theta; "
_L2_TRAP = (
    "weight_decay is an L2 gradient: the preconditioner divides it by the gradient's own size, so "
    "no decoupled number is equal to it"
)


def _sgd(request: Request) -> optax.GradientTransformation:
    return with_decay(request, torch_momentum(request), complex_ok=True)


def _adagrad(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adam(
        b1=None,
        second_moment="sum",
        eps=request["eps"],
        initial_second_moment=request["initial_accumulator_value"],
    )
    slowing = request["lr_decay"]
    check_number("lr_decay", slowing)
    if slowing == 0:
        return with_decay(request, direction)
    slower = optax.scale_by_schedule(lambda count: 1.0 / (1.0 + (step_number(count) - 1) * slowing))
    return with_decay(request, optax.chain(direction, slower))


def _rmsprop(request: Request) -> optax.GradientTransformation:
    alpha, eps = request["alpha"], request["eps"]
    if request["centered"]:
        direction = optax.scale_by_stddev(decay=alpha, eps=eps, eps_in_sqrt=False)
    else:
        direction = scale_by_adam(b1=None, b2=alpha, eps=eps, bias_correction=False)
    if request["momentum"]:
        direction = optax.chain(direction, momentum(request["momentum"]))
    return with_decay(request, direction)


def _adafactor(request: Request) -> optax.GradientTransformation:
    eps1, eps2 = pair(request, "eps")
    arguments: dict[str, Any] = {
        **PRESETS["torch.Adafactor"].arguments,
        "learning_rate": rate_of(request),
        "weight_decay": request.weight_decay,
        "rules": request.rules,
        "beta2_exponent": -request["beta2_decay"],
        "eps1": eps1,
        "parameter_scale": eps2,
        "clipping_threshold": request["d"],
    }
    return maximized(request, adafactor(**arguments))


CONVENTIONS = (
    Convention(
        name="torch.SGD",
        version=_VERSION,
        source=_SOURCE.format("sgd"),
        equation=_L2 + "b <- mu b + (1 - tau) g, first b = g; theta <- theta - lr_t b",
        coupling="l2",
        order="in the gradient",
        learning_rate=1e-3,
        defaults={
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            "maximize": False,
        },
        traps=(
            "momentum amplifies the decay by about 1 / (1 - mu); without it, it is lr_t lambda",
            "torch has no SGDW: fairseq's NAG and Keras' SGD are decoupled, this is not",
        ),
        make=_sgd,
        l2_shrinks=lambda arguments: arguments["momentum"] == 0,
    ),
    Convention(
        name="torch.Adafactor",
        version=_VERSION,
        source=_SOURCE.format("_adafactor"),
        equation=(
            "alpha_t = max(eps2, RMS theta) min(lr_t, 1 / sqrt t); "
            "theta <- (1 - lr_t lambda s) theta - alpha_t clip(g / sqrt(V))"
        ),
        coupling="lr",
        order="before",
        epsilon="clamped: mean R at least eps1, V at least eps1**2; None is the machine epsilon",
        bias_correction="none: b2_t = 1 - t**-0.8 starts at 0",
        learning_rate=1e-2,
        defaults={
            "beta2_decay": -0.8,
            "eps": (None, 1e-3),
            "d": 1.0,
            "weight_decay": 0.0,
            "maximize": False,
        },
        traps=(
            "the decay follows lr_t, the step min(lr_t, 1 / sqrt t): late in a run the decay "
            "outgrows the step",
            "the default decay is 0; the docstring says 1e-2",
            "RMS theta is that of before the decay; in Keras that of after",
        ),
        make=_adafactor,
    ),
    Convention(
        name="torch.Adagrad",
        version=_VERSION,
        source=_SOURCE.format("adagrad"),
        equation=(
            _L2 + "v <- v + g**2; theta <- theta - lr_t / (1 + (t - 1) slowing) g / (sqrt(v) + eps)"
        ),
        coupling="l2",
        order="in the gradient",
        epsilon="outside: sqrt(v) + eps",
        learning_rate=1e-2,
        defaults={
            "lr_decay": 0.0,
            "weight_decay": 0.0,
            "initial_accumulator_value": 0.0,
            "eps": 1e-10,
            "maximize": False,
        },
        traps=(_L2_TRAP, "the sum starts at 0; in Optax and Keras at 0.1"),
        make=_adagrad,
    ),
    Convention(
        name="torch.RMSprop",
        version=_VERSION,
        source=_SOURCE.format("rmsprop"),
        equation=_L2 + "v <- a v + (1 - a) g**2; theta <- theta - lr_t g / (sqrt(v) + eps)",
        coupling="l2",
        order="in the gradient",
        epsilon="outside: sqrt(v) + eps",
        learning_rate=1e-2,
        defaults={
            "alpha": 0.99,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "momentum": 0.0,
            "centered": False,
            "maximize": False,
        },
        traps=(_L2_TRAP,),
        make=_rmsprop,
    ),
)
