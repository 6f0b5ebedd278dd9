"""The conventions of the papers themselves."""

import math
from collections.abc import Mapping
from typing import Any

import optax

from wdlab._core.checks import check_number, is_zero
from wdlab.conventions.convention import (
    ADDED,
    CORRECTED,
    FACTORED_START,
    OUTSIDE,
    REQUIRED,
    Convention,
    Request,
)
from wdlab.conventions.parts import adam_direction, rate_of, with_decay
from wdlab.decay import decay_weights
from wdlab.optimizers import adafactor, complete, scale_by_learning_rate
from wdlab.preconditioners import momentum, scale_by_adam
from wdlab.schedules import cosine_restarts, multiplier_of, relative_step, restarts_weight_decay

_ADAMW = "Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101, {}"
_PEAK_TRAP = (
    "lambda is multiplied by eta_t alone: torch.AdamW's number times the peak learning rate"
)


def _sgdw(request: Request) -> optax.GradientTransformation:
    """The learning rate comes before the momentum (Algorithm 1, line 8)."""
    rate = rate_of(request)
    multiplier = multiplier_of("schedule", rate, request.peak_learning_rate)
    decay = decay_weights(request.weight_decay, multiplier=multiplier, rules=request.rules)
    velocity = momentum(request["beta1"])
    tx = optax.chain(scale_by_learning_rate(rate), velocity, decay)
    return complete(request.name, tx, request.rules)


def _adamw(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adam(request["beta1"], request["beta2"], request["eps"])
    return with_decay(request, direction)


def _adamwr(request: Request) -> optax.GradientTransformation:
    """A number as the learning rate is restarted; a schedule is taken to restart by itself."""
    rate = rate_of(request)
    steps, factor = request["first_steps"], request["factor"]
    if not callable(rate):
        rate = cosine_restarts(rate, first_steps=steps, factor=factor)
    direction = scale_by_adam(request["beta1"], request["beta2"], request["eps"])
    multiplier = multiplier_of("schedule", rate, request.peak_learning_rate)
    normalized = request.weight_decay
    check_number("weight_decay", normalized)
    strength = 0.0
    if not is_zero(normalized):
        strength = restarts_weight_decay(normalized, first_steps=steps, factor=factor)
    decay = decay_weights(strength, multiplier=multiplier, rules=request.rules)
    tx = optax.chain(direction, scale_by_learning_rate(rate), decay)
    return complete(request.name, tx, request.rules)


def _adafactor(request: Request) -> optax.GradientTransformation:
    rate = relative_step(1e-2) if request.learning_rate is None else request.learning_rate
    return adafactor(
        rate,
        rules=request.rules,
        axes="last",
        min_dim_size_to_factor=1,
        eps1=request["eps1"],
        parameter_scale=request["eps2"],
        clipping_threshold=request["d"],
        beta2_exponent=request["decay_exponent"],
    )


def _radam(request: Request) -> optax.GradientTransformation:
    return with_decay(request, adam_direction(request, epsilon="hat", rectification_threshold=4.0))


def _restart_factor(arguments: Mapping[str, Any]) -> float:
    steps = arguments["first_steps"]
    if steps is REQUIRED:
        raise ValueError(
            "paper.AdamWR: the decay of a restart is weight_decay / sqrt(its steps); say "
            "first_steps to convert it."
        )
    return 1.0 / math.sqrt(steps)


_ADAM_DEFAULTS = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}

CONVENTIONS = (
    Convention(
        name="paper.SGDW",
        version="arXiv 1711.05101v3",
        source=_ADAMW.format("Algorithm 1"),
        equation="m <- b1 m + eta_t alpha g; theta <- theta - m - eta_t lambda s theta",
        coupling="schedule",
        order="joint",
        defaults={"beta1": 0.9, "weight_decay": 0.0},
        traps=(
            _PEAK_TRAP,
            "the learning rate is inside the momentum; in torch and Composer after it",
            "the paper gives beta1 no default; 0.9 is that of its experiments",
        ),
        make=_sgdw,
    ),
    Convention(
        name="paper.AdamW",
        version="arXiv 1711.05101v3",
        source=_ADAMW.format("Algorithm 2"),
        equation="theta <- theta - eta_t (alpha m^ / (sqrt(v^) + eps) + lambda s theta)",
        coupling="schedule",
        order="joint",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults=_ADAM_DEFAULTS,
        traps=(_PEAK_TRAP,),
        make=_adamw,
    ),
    Convention(
        name="paper.AdamWR",
        version="arXiv 1711.05101v3",
        source=_ADAMW.format("Appendix B"),
        equation=(
            "paper.AdamW with eta_t = (1 + cos(pi t' / T_i)) / 2 after t' of the T_i steps of "
            "restart i, T_i = first_steps factor**i, and lambda_i = weight_decay / sqrt(T_i)"
        ),
        coupling="schedule",
        order="joint",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={**_ADAM_DEFAULTS, "first_steps": REQUIRED, "factor": 1},
        required={"first_steps": "Write first_steps=, the updates in the first restart."},
        traps=(
            "weight_decay is normalized: 0.025 over 10,000 steps is a lambda of 2.5e-4",
            "a number as the learning rate is restarted by first_steps and factor; a schedule is "
            "taken as it is",
        ),
        make=_adamwr,
        factor_of=_restart_factor,
    ),
    Convention(
        name="paper.Adafactor",
        version="arXiv 1804.04235v1",
        source="Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, Algorithms 4 to 6",
        equation=("theta <- theta - max(eps2, RMS theta) min(1e-2, 1 / sqrt t) clip(g / sqrt(V))"),
        coupling="none",
        order="none",
        epsilon=ADDED,
        bias_correction=FACTORED_START,
        decay_argument=None,
        defaults={"eps1": 1e-30, "eps2": 1e-3, "d": 1.0, "decay_exponent": 0.8},
        traps=(
            "The paper's Adafactor does not decay: choose whose decay you mean, such as "
            "t5x.Adafactor, palm.Adafactor or transformers.Adafactor.",
            "None as the learning rate is the relative step",
        ),
        make=_adafactor,
    ),
    Convention(
        name="paper.RAdam",
        version="arXiv 1908.03265v4",
        source=(
            "Liu et al. 2020, https://arxiv.org/abs/1908.03265, Algorithm 2; decay and epsilon "
            "from https://github.com/LiyuanLucasLiu/RAdam, radam/radam.py"
        ),
        equation=(
            "theta <- (1 - lr_t lambda s) theta; theta <- theta - lr_t r_t (m / c1) sqrt(c2) / "
            "(sqrt(v) + eps) if rho_t > 4, else - lr_t m / c1"
        ),
        coupling="lr",
        order="before",
        epsilon="hat: sqrt(v) + eps; the algorithm itself has none, eps=0.0",
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0},
        traps=(
            "the algorithm has neither decay nor epsilon; both are the authors' code's",
            "the authors' code takes no step at all, decay included, before rho_t >= 5; torch "
            "rectifies from rho_t > 5 on, the algorithm from rho_t > 4",
        ),
        make=_radam,
    ),
)
