"""The conventions of Adam's relatives in their authors' code: AdEMAMix, Adan, ADOPT."""

from typing import Any

import optax

from wdlab._core.checks import check_number
from wdlab.conventions.convention import OUTSIDE, OUTSIDE_ROOT, Convention, Request
from wdlab.conventions.decay_places import with_late_decay, with_proximal_decay
from wdlab.conventions.parts import pair, with_decay
from wdlab.preconditioners import (
    clip_by_global_norm,
    scale_by_adan,
    scale_by_ademamix,
    scale_by_adopt,
)

_ADEMAMIX = "https://github.com/apple/ml-ademamix/blob/c3d73c0/{}/ademamix.py"
_MIXED = "theta <- theta - lr_t ((m / c1 + alpha s) / (sqrt(v / c2) + eps) + lambda s theta)"
_SLOW = "the slow average s starts at 0 and is not corrected"
ADAN = "u = (m / c1 + b2 d / c2) / (sqrt(n / c3) + eps); "
PROXIMAL_TRAP = (
    "the decay divides the stepped weight by 1 + lr_t lambda: the fresh step shrinks too, and no "
    "lambda turns a sign"
)
ADOPT_TRAPS = (
    "the first step moves nothing: it fills v, and a decoupled decay starts with the second",
    "L2 by default, and the moment divides it: no decoupled number is equal to it",
)


def three(request: Request, argument: str = "betas") -> tuple[Any, Any, Any]:
    """Returns an argument that is three numbers, such as Adan's ``betas``.

    >>> from wdlab import conventions
    >>> three(conventions.get("adan.Adan").request(0.1, {}))
    (0.98, 0.92, 0.99)
    """
    value = request[argument]
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise TypeError(f"{request.name}: {argument} must be three numbers, got {value!r}.")
    return value[0], value[1], value[2]


def _ademamix(request: Request) -> optax.GradientTransformation:
    b1, b2, b3 = three(request)
    warmups = {"b3_warmup": request["beta3_warmup"], "alpha_warmup": request["alpha_warmup"]}
    mixed = scale_by_ademamix(
        b1, b2, b3, request["alpha"], request["eps"], warmup_eps=1e-8, **warmups
    )
    return with_decay(request, mixed)


def _ademamix_optax(request: Request) -> optax.GradientTransformation:
    scheduled = {"b3": request["b3_scheduler"], "alpha": request["alpha_scheduler"]}
    for name, schedule in scheduled.items():
        if schedule is None:
            scheduled[name] = request[name]
        elif not callable(schedule):
            raise TypeError(f"{name}_scheduler must be a function of the step, got {schedule!r}.")
    numbers = request["b1"], request["b2"], scheduled["b3"], scheduled["alpha"]
    mixed = scale_by_ademamix(*numbers, request["eps"], request["eps_root"])
    return with_decay(request, mixed)


def _adan(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adan(*three(request), request["eps"])
    limit = request["max_grad_norm"]
    check_number("max_grad_norm", limit)
    tx = (with_decay if request["no_prox"] else with_proximal_decay)(request, direction)
    return optax.chain(clip_by_global_norm(limit, eps=request["eps"]), tx) if limit > 0 else tx


def _adopt(request: Request) -> optax.GradientTransformation:
    exponent = request["clip_lambda"]
    if exponent is not None:
        hint = "It is the exponent of t: 0.25 for the original's lambda step: step**0.25."
        check_number("clip_lambda", exponent, hint=hint)
    direction = scale_by_adopt(*pair(request), request["eps"], clip_exponent=exponent)
    return with_late_decay(request, direction)


CONVENTIONS = (
    Convention(
        name="ademamix.AdEMAMix",
        version="apple/ml-ademamix c3d73c0",
        source=_ADEMAMIX.format("pytorch"),
        equation=f"{_MIXED}, s the average of rate b3",
        coupling="lr",
        order="joint",
        epsilon=OUTSIDE,
        bias_correction="m by 1 - b1**t and v by 1 - b2**t, s not",
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.999, 0.9999),
            "alpha": 2.0,
            "beta3_warmup": None,
            "alpha_warmup": None,
            "eps": 1e-8,
            "weight_decay": 0.0,
        },
        traps=(
            _SLOW,
            "alpha is 2 here, 5 in its Optax variant, in optax.contrib and in bitsandbytes",
            "both warm-ups, part of the paper's algorithm, are off by default",
            "the warm-up of beta3 adds 1e-8 inside the logarithm: it ends at a 1 - b3 that is 1e-4 "
            "smaller than that of b3 = 0.9999",
        ),
        make=_ademamix,
    ),
    Convention(
        name="ademamix.ademamix",
        version="apple/ml-ademamix c3d73c0",
        source=_ADEMAMIX.format("optax"),
        equation=f"{_MIXED}, s the average of rate b3",
        coupling="lr",
        order="joint",
        epsilon=OUTSIDE_ROOT,
        bias_correction="m by 1 - b1**t and v by 1 - b2**t, s not",
        defaults={
            "b1": 0.9,
            "b2": 0.999,
            "b3": 0.9999,
            "alpha": 5.0,
            "b3_scheduler": None,
            "alpha_scheduler": None,
            "eps": 1e-8,
            "eps_root": 0.0,
            "weight_decay": 0.0,
        },
        refused={
            "mask": "Write rules=(Rule(pattern, scale), ...).",
            "mu_dtype": "The averages are float32 or wider.",
        },
        traps=(
            _SLOW,
            "the schedulers get the number of updates before, from 0; in PyTorch they count from 1",
        ),
        make=_ademamix_optax,
    ),
    Convention(
        name="adan.Adan",
        version="sail-sg/Adan 2c65bea",
        source="https://github.com/sail-sg/Adan/blob/2c65bea/adan.py",
        equation=(
            ADAN + "theta <- (theta - lr_t u) / (1 + lr_t lambda s); with no_prox "
            "theta <- (1 - lr_t lambda s) theta - lr_t u"
        ),
        coupling="proximal",
        order="after",
        epsilon="outside: sqrt(n / c3) + eps",
        bias_correction="all three averages, 1 - b**t",
        learning_rate=1e-3,
        defaults={
            "betas": (0.98, 0.92, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "max_grad_norm": 0.0,
            "no_prox": False,
        },
        traps=(
            PROXIMAL_TRAP,
            "the paper's beta is 1 - b here; optax.adan mixes both up, and its decay is additive",
            "max_grad_norm writes the clipped gradient back into p.grad",
        ),
        make=_adan,
        coupling_of=lambda arguments: "lr" if arguments["no_prox"] else "proximal",
    ),
    Convention(
        name="adopt.ADOPT",
        version="iShohei220/adopt 6468572",
        source="https://github.com/iShohei220/adopt/blob/6468572/src/adopt/adopt.py",
        equation=(
            "g <- g + lambda s theta; m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), "
            "(t - 1)**p); theta <- theta - lr_t m; v <- b2 v + (1 - b2) g**2, first v = g**2 and "
            "no step; with decouple theta <- (1 - lr_t lambda s) theta first"
        ),
        coupling="l2",
        order="in the gradient",
        epsilon="clamped: the root at least eps",
        bias_correction="none: v is that of before the step and starts at g**2",
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.9999),
            "eps": 1e-6,
            "clip_lambda": 0.25,
            "weight_decay": 0.0,
            "decouple": False,
            "maximize": False,
        },
        traps=(
            *ADOPT_TRAPS,
            "clip_lambda is a function there, t**0.25; here its exponent, None for no clipping",
        ),
        make=_adopt,
        coupling_of=lambda arguments: "lr" if arguments["decouple"] else "l2",
    ),
)
