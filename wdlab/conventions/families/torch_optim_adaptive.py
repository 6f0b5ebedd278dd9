"""The conventions of torch.optim 2.13.0 with a second moment alone: Adagrad and its descendants."""

import optax

from wdlab._core.checks import check_number
from wdlab._core.dtypes import step_number
from wdlab.conventions.convention import FACTORED_START, Convention, Request
from wdlab.conventions.families.torch_optim import L2_TRAP
from wdlab.conventions.parts import maximized, pair, rate_of, with_decay
from wdlab.optimizers import adafactor
from wdlab.preconditioners import momentum, scale_by_adam

_SOURCE = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/{}.py"
_VERSION = "torch 2.13.0"
_L2 = "g <- g + lambda s theta; "


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
    check_number("alpha", alpha)
    if request["centered"]:
        direction = optax.scale_by_stddev(decay=alpha, eps=eps, eps_in_sqrt=False)
    elif alpha < 1:
        direction = scale_by_adam(b1=None, b2=alpha, eps=eps, bias_correction=False)
    else:  # torch allows it: the average is never fed.
        direction = optax.scale_by_rms(decay=alpha, eps=eps, eps_in_sqrt=False)
    if request["momentum"]:
        direction = optax.chain(direction, momentum(request["momentum"]))
    return with_decay(request, direction)


def _adadelta(request: Request) -> optax.GradientTransformation:
    check_number("rho", request["rho"], high=1.0)
    check_number("eps", request["eps"])
    return with_decay(request, optax.scale_by_adadelta(request["rho"], request["eps"]))


def _adafactor(request: Request) -> optax.GradientTransformation:
    """Not reproduced: torch takes eps1 from the group's first parameter for all of them."""
    eps1, eps2 = pair(request, "eps")
    tx = adafactor(
        rate_of(request),
        weight_decay=request.weight_decay,
        coupling="lr",
        rules=request.rules,
        inverse_sqrt_cap=True,
        beta2_exponent=-request["beta2_decay"],
        axes="last",
        min_dim_size_to_factor=1,
        eps1=eps1,
        epsilon="clamped",
        parameter_scale=eps2,
        clipping_threshold=request["d"],
    )
    return maximized(request, tx)


CONVENTIONS = (
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
        bias_correction=FACTORED_START,
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
        traps=(L2_TRAP, "the sum starts at 0; in Optax and Keras at 0.1"),
        make=_adagrad,
    ),
    Convention(
        name="torch.Adadelta",
        version=_VERSION,
        source=_SOURCE.format("adadelta"),
        equation=(
            _L2 + "v <- rho v + (1 - rho) g**2; u = sqrt((a + eps) / (v + eps)) g; "
            "a <- rho a + (1 - rho) u**2; theta <- theta - lr_t u"
        ),
        coupling="l2",
        order="in the gradient",
        epsilon="inside both roots",
        learning_rate=1.0,
        defaults={"rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False},
        traps=(L2_TRAP, "the default learning rate is 1"),
        make=_adadelta,
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
        traps=(L2_TRAP,),
        make=_rmsprop,
    ),
)
