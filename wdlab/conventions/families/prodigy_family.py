"""Prodigy's convention, which estimates its learning rate, and Optax's of it."""

import optax

from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.families.dadapt_family import (
    ALL_TRAPS,
    D_TRAP,
    REFUSED,
    RESTS,
    UNLIMITED,
    decoupled_or_l2,
    shared_arguments,
)
from wdlab.conventions.parts import pair, rate_of
from wdlab.optimizers import prodigy

_PRODIGY = "https://github.com/konstmish/prodigy/blob/main/prodigyopt/prodigy.py"
_OPTAX = "https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_prodigy.py"


def _prodigy(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request)
    of_optax = request.name.startswith("optax")
    return prodigy(
        rate_of(request),
        b1=b1,
        b2=b2,
        b3=request["beta3"],
        eps=request["eps"],
        safeguard_warmup=request["safeguard_warmup"],
        d_coef=request["estim_lr_coef" if of_optax else "d_coef"],
        bias_correction=request.arguments.get("use_bias_correction", True),
        slice_every=request.arguments.get("slice_p", 1),
        rests_at_zero_rate=not of_optax,
        **shared_arguments(request),
    )


CONVENTIONS = (
    Convention(
        name="prodigyopt.Prodigy",
        version="prodigyopt 1.1.2",
        source=_PRODIGY,
        equation=(
            "rho_t = d lr_t; theta <- (1 - rho_t lambda s) theta; m, v of d g; theta <- theta - "
            "rho_t m / (sqrt(v) + d_t eps); d_t = max(d, r / |s|_1)"
        ),
        coupling="d_lr",
        coupling_of=decoupled_or_l2,
        order="before",
        epsilon="outside: sqrt(v) + d eps",
        bias_correction="none, unless use_bias_correction=True: then rho_t sqrt(c2) / c1",
        defaults={
            "betas": (0.9, 0.999),
            "beta3": None,
            "eps": 1e-8,
            "weight_decay": 0,
            "decouple": True,
            "use_bias_correction": False,
            "safeguard_warmup": False,
            "d0": 1e-6,
            "d_coef": 1.0,
            "growth_rate": UNLIMITED,
            "slice_p": 1,
        },
        refused=REFUSED,
        traps=(D_TRAP, RESTS, *ALL_TRAPS),
        make=_prodigy,
        learning_rate=1.0,
    ),
    Convention(
        name="optax.contrib.prodigy",
        version="optax 0.2.8",
        source=_OPTAX,
        equation=(
            "rho_t = d lr_t sqrt(c2) / c1; m, v of d g; theta <- theta - rho_t (m / (sqrt(v) + "
            "d_t eps) + lambda s theta); d_t = max(d, r / |s|_1)"
        ),
        coupling="d_lr",
        order="joint",
        epsilon="outside: sqrt(v) + d eps",
        bias_correction="always: rho_t sqrt(c2) / c1",
        defaults={
            "betas": (0.9, 0.999),
            "beta3": None,
            "eps": 1e-8,
            "estim_lr0": 1e-6,
            "estim_lr_coef": 1.0,
            "weight_decay": 0.0,
            "safeguard_warmup": False,
        },
        traps=(
            D_TRAP,
            "NaN until the first gradient that is not 0, and for ever after; nothing moves here",
            "always corrected for bias, which prodigyopt is not by default",
            *ALL_TRAPS,
        ),
        make=_prodigy,
        learning_rate=1.0,
    ),
)
