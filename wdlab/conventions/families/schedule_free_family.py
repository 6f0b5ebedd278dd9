"""The conventions of schedule-free training: the authors' package and Optax."""

from typing import Any

import jax.numpy as jnp
import optax

from wdlab._core.dtypes import step_number
from wdlab._core.probing import trusted
from wdlab.conventions.convention import OUTSIDE, Convention, Request
from wdlab.conventions.parts import pair, rate_of
from wdlab.decay import decay_weights
from wdlab.optimizers import complete, scale_by_learning_rate, schedule_free
from wdlab.preconditioners import rectification, scale_by_adam
from wdlab.schedules import ScalarOrSchedule, Schedule, peak_value, value_at, warmed_up

_SOURCE = "https://github.com/facebookresearch/schedule_free/blob/main/schedulefree/{}.py"
_AVERAGES = "x <- (1 - c) x + c z, y = b1 x + (1 - b1) z"
_OPTAX = "https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_schedule_free.py"


def _adamw(request: Request) -> optax.GradientTransformation:
    _, b2 = pair(request)
    return _averaged(request, scale_by_adam(None, b2, request["eps"]), pair(request)[0])


def _sgd(request: Request) -> optax.GradientTransformation:
    return _averaged(request, None, request["momentum"])


def _averaged(
    request: Request, direction: optax.GradientTransformation | None, b1: Any
) -> optax.GradientTransformation:
    rate = warmed_up(rate_of(request), request["warmup_steps"])
    tx = schedule_free(
        _base(request, direction, rate),
        rate,
        b1=b1,
        r=request["r"],
        weight_lr_power=request["weight_lr_power"],
        decay_at="z" if request.arguments.get("decay_at_z", False) else "y",
    )
    return complete(request.name, tx, request.rules)


def _base(
    request: Request, direction: optax.GradientTransformation | None, rate: ScalarOrSchedule
) -> optax.GradientTransformation:
    """What z steps by. The decay is lr_t lambda p: of plain SGD that is L2 too."""
    parts = (scale_by_learning_rate(rate), _decay(request, rate))
    return optax.chain(*([direction] if direction else []), *parts)


def _decay(request: Request, rate: ScalarOrSchedule) -> optax.GradientTransformation:
    return decay_weights(request.weight_decay, multiplier=rate, rules=request.rules)


def _radam(request: Request) -> optax.GradientTransformation:
    (b1, b2), given = pair(request), rate_of(request)
    silent = request["silent_sgd_phase"]

    def factor(count: Any, *, of_decay: bool) -> Any:
        tractable, r = rectification(b2, step_number(count), 4.0)
        return jnp.where(tractable, r if of_decay else 1.0, 0.0 if silent else 1.0)

    def scaled(of_decay: bool) -> ScalarOrSchedule:
        at = lambda count: value_at(given, count) * factor(count, of_decay=of_decay)  # noqa: E731
        known = peak_value(given)
        return trusted(Schedule(at, known) if known else at, given)

    direction = scale_by_adam(None, b2, request["eps"], rectification_threshold=4.0)
    # The direction has its factor inside; decay and average have it with the rate.
    step = scale_by_learning_rate(scaled(of_decay=False))
    rate = scaled(of_decay=True)
    tx = schedule_free(
        optax.chain(direction, step, _decay(request, rate)),
        rate,
        b1=b1,
        r=request["r"],
        weight_lr_power=request["weight_lr_power"],
    )
    return complete(request.name, tx, request.rules)


def _optax_adamw(request: Request) -> optax.GradientTransformation:
    return _optax(request, scale_by_adam(None, request["b2"], request["eps"]))


def _optax_sgd(request: Request) -> optax.GradientTransformation:
    return _optax(request, None)


def _optax(
    request: Request, direction: optax.GradientTransformation | None
) -> optax.GradientTransformation:
    """Its warm-up starts at 0, and its average is weighted by the rate of the next step."""
    rate, warmup = rate_of(request), request["warmup_steps"]
    if warmup is not None:
        given = rate
        rate = lambda count: value_at(given, count) * jnp.minimum(count / warmup, 1.0)  # noqa: E731
    ahead = (lambda count: rate(count + 1)) if callable(rate) else rate
    average = {"b1": request["b1"], "weight_lr_power": request["weight_lr_power"]}
    tx = schedule_free(_base(request, direction, rate), ahead, **average)
    return complete(request.name, tx, request.rules)


_SCHEDULE_FREE = {"version": "schedulefree 1.4.1", "coupling": "averaged", "order": "joint"}
_WEIGHTS = {"weight_decay": 0, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0}
_BETAS = {"betas": (0.9, 0.999), "eps": 1e-8}
_TRAPS = (
    "everything decays, biases and norms too",
    "the decay is subtracted from z, of which the weights are an average: the first steps shrink a "
    "weight by lr_t lambda, later ones by less and less",
    "without .eval() the model is evaluated, and saved, at y",
)
_ADAM = "z <- z - lr_t (g(y) / (sqrt(v / c2) + eps) + lambda s y); "
_OPTAX_TRAPS = (
    *_TRAPS[:2],
    "the average is weighted by the learning rate of the next step",
    "b1 must be above 0; of bfloat16 weights the sum of the average's weights stops growing at 256",
)

CONVENTIONS = (
    Convention(
        name="schedulefree.AdamWScheduleFree",
        source=_SOURCE.format("adamw_schedulefree"),
        equation=_ADAM + _AVERAGES,
        epsilon=OUTSIDE,
        bias_correction="the second moment, 1 - b2**t; there is no first",
        learning_rate=2.5e-3,
        defaults={**_BETAS, **_WEIGHTS},
        traps=_TRAPS,
        make=_adamw,
        **_SCHEDULE_FREE,
    ),
    Convention(
        name="schedulefree.AdamWScheduleFreeReference",
        source=_SOURCE.format("adamw_schedulefree_reference"),
        equation=f"{_ADAM}with decay_at_z lambda s z in place of lambda s y; {_AVERAGES}",
        epsilon=OUTSIDE,
        bias_correction="the second moment, 1 - b2**t; there is no first",
        learning_rate=2.5e-3,
        defaults={**_BETAS, **_WEIGHTS, "r": 0, "weight_lr_power": 2, "decay_at_z": False},
        traps=(*_TRAPS, "decay_at_z is in this class alone"),
        make=_adamw,
        **_SCHEDULE_FREE,
    ),
    Convention(
        name="schedulefree.SGDScheduleFree",
        source=_SOURCE.format("sgd_schedulefree"),
        equation=f"z <- z - lr_t (g(y) + lambda s y); {_AVERAGES}",
        learning_rate=1.0,
        defaults={"momentum": 0.9, **_WEIGHTS, "weight_lr_power": 2},
        traps=(*_TRAPS, "momentum is b1, the share of x in y, and must be above 0"),
        make=_sgd,
        **_SCHEDULE_FREE,
    ),
    Convention(
        name="schedulefree.RAdamScheduleFree",
        source=_SOURCE.format("radam_schedulefree"),
        equation=(
            "rho_t = lr_t r_t, r_t the rectification, 0 while it is unknown (1 without "
            "silent_sgd_phase, and g for the direction); z <- z - rho_t (g(y) / (sqrt(v / c2) + "
            f"eps) + lambda s y); {_AVERAGES}"
        ),
        epsilon=OUTSIDE,
        bias_correction="the second moment, 1 - b2**t; there is no first",
        learning_rate=2.5e-3,
        defaults={
            **_BETAS,
            "weight_decay": 0,
            "r": 0.0,
            "weight_lr_power": 2.0,
            "silent_sgd_phase": True,
        },
        traps=(
            *_TRAPS,
            "the decay is multiplied by the rectification too: none in the first steps",
        ),
        make=_radam,
        **_SCHEDULE_FREE,
    ),
    Convention(
        name="optax.contrib.schedule_free_adamw",
        version="optax 0.2.8",
        source=_OPTAX,
        equation=_ADAM + _AVERAGES,
        coupling="averaged",
        order="joint",
        epsilon=OUTSIDE,
        bias_correction="the second moment, 1 - b2**t; there is no first",
        learning_rate=2.5e-3,
        defaults={
            "warmup_steps": None,
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "weight_lr_power": 2.0,
        },
        refused={"state_dtype": "z is kept in float32, in float64 for float64 weights."},
        traps=_OPTAX_TRAPS,
        make=_optax_adamw,
    ),
    Convention(
        name="optax.contrib.schedule_free_sgd",
        version="optax 0.2.8",
        source=_OPTAX,
        equation=f"z <- z - lr_t (g(y) + lambda s y); {_AVERAGES}",
        coupling="averaged",
        order="joint",
        learning_rate=1.0,
        defaults={
            "warmup_steps": None,
            "b1": 0.9,
            "weight_decay": None,
            "weight_lr_power": 2.0,
        },
        refused={"state_dtype": "z is kept in float32, in float64 for float64 weights."},
        traps=_OPTAX_TRAPS,
        make=_optax_sgd,
    ),
)
