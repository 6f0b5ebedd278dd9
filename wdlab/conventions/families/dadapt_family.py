"""D-Adaptation's conventions, which estimate their learning rate, and Optax's of them."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import optax

from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.parts import pair, rate_of
from wdlab.optimizers import (
    dadapt_adagrad,
    dadapt_adam,
    dadapt_adan,
    dadapt_lion,
    dadapt_sgd,
)

_DADAPT = "https://github.com/facebookresearch/dadaptation/blob/main/dadaptation/{}.py"
_OPTAX = "https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_dadapt_adamw.py"
UNLIMITED = math.inf
# Of Prodigy too.
REFUSED = {
    "fsdp_in_use": "Sums over sharded arrays are those of the whole arrays.",
    "log_every": "The state's d can be read at any step.",
}
ALL_TRAPS = (
    "everything decays, biases and norms too",
    "d is the estimate of all leaves together: under optax.partition of each part by itself",
)
D_TRAP = (
    "the decay is multiplied by d too, which starts at 1e-6 and grows with the run: no number of "
    "another optimizer is equal"
)
RESTS = "a step with rate 0 leaves the moments as they are too"


def shared_arguments(request: Request) -> dict[str, Any]:
    """The arguments of our optimizer that D-Adaptation and Prodigy have in common.

    >>> from wdlab import conventions
    >>> request = conventions.get("prodigyopt.Prodigy").request(1.0, {"growth_rate": 1.02})
    >>> shared_arguments(request)["growth_rate"]
    1.02
    """
    growth = request.arguments.get("growth_rate", UNLIMITED)
    unlimited = isinstance(growth, float) and math.isinf(growth)
    common = {
        "weight_decay": request.weight_decay,
        "coupling": request.coupling,
        "rules": request.rules,
        "d0": request.arguments.get("d0", request.arguments.get("estim_lr0")),
    }
    if "growth_rate" in request.arguments:
        common["growth_rate"] = None if unlimited else growth
    return common


def decoupled_or_l2(arguments: Mapping[str, Any]) -> str:
    """The coupling that ``decouple`` switches.

    >>> decoupled_or_l2({"decouple": True})
    'd_lr'
    """
    return "d_lr" if arguments["decouple"] else "l2"


def _adam(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request)
    of_optax = request.name.startswith("optax")
    return dadapt_adam(
        rate_of(request),
        b1=b1,
        b2=b2,
        eps=request["eps"],
        bias_correction=request.arguments.get("use_bias_correction", True),
        rests_at_zero_rate=not of_optax,
        **shared_arguments(request),
    )


def _lion(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request)
    return dadapt_lion(rate_of(request), b1=b1, b2=b2, **shared_arguments(request))


def _adan(request: Request) -> optax.GradientTransformation:
    betas = request["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 3:
        raise TypeError(f"{request.name}: betas must be three numbers, got {betas!r}.")
    given = dict(zip(("b1", "b2", "b3"), betas, strict=True))
    given |= shared_arguments(request) | {"coupling": "d_lr" if request["no_prox"] else "proximal"}
    return dadapt_adan(rate_of(request), eps=request["eps"], **given)


def _sgd(request: Request) -> optax.GradientTransformation:
    return dadapt_sgd(rate_of(request), momentum=request["momentum"], **shared_arguments(request))


def _adagrad(request: Request) -> optax.GradientTransformation:
    momentum, eps = request["momentum"], request["eps"]
    return dadapt_adagrad(rate_of(request), momentum=momentum, eps=eps, **shared_arguments(request))


def _dadapt(
    name: str,
    file: str,
    equation: str,
    make: Callable[[Request], optax.GradientTransformation],
    defaults: Mapping[str, Any],
    traps: tuple[str, ...],
    **facts: Any,
) -> Convention:
    place: dict[str, Any] = {"coupling": "d_lr", "order": "before", **facts}
    return Convention(
        name=f"dadaptation.{name}",
        version="dadaptation 3.2",
        source=_DADAPT.format(file),
        equation=equation,
        defaults=defaults,
        refused=REFUSED,
        traps=(*traps, *ALL_TRAPS),
        make=make,
        learning_rate=1.0,
        **place,
    )


_L2 = {"coupling": "l2", "order": "in the gradient"}
_GROWTH = {"d0": 1e-6, "growth_rate": UNLIMITED}

CONVENTIONS = (
    _dadapt(
        "DAdaptAdam",
        "dadapt_adam",
        "g <- g + lambda s theta; rho_t = d lr_t; m <- b1 m + (1 - b1) rho_t g; theta <- theta - "
        "m / (sqrt(v) + eps); with decouple=True theta <- (1 - rho_t lambda s) theta first",
        _adam,
        {
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "decouple": False,
            "use_bias_correction": False,
            **_GROWTH,
        },
        ("L2 by default, and the estimate sees it; Prodigy's default is decoupled", RESTS),
        coupling_of=decoupled_or_l2,
        epsilon="outside: sqrt(v) + eps",
        bias_correction="none, unless use_bias_correction=True: then rho_t sqrt(c2) / c1",
        **_L2,
    ),
    _dadapt(
        "DAdaptSGD",
        "dadapt_sgd",
        "g <- g + lambda s theta; s <- s + d lr_t / |g_1| g; "
        "theta <- mu theta + (1 - mu) (theta_0 - s)",
        _sgd,
        {"momentum": 0.0, "weight_decay": 0, **_GROWTH},
        (
            "|g_1| is without the decay: line 107 adds it and throws the sum away",
            "a rate of 0 or a first gradient of 0 makes the original fail; nothing moves here",
        ),
        **_L2,
    ),
    _dadapt(
        "DAdaptAdaGrad",
        "dadapt_adagrad",
        "g <- g + lambda s theta; a <- a + g**2, first 1e-6; s <- s + d lr_t g; "
        "theta <- mu theta + (1 - mu) (theta_0 - s / (sqrt(a) + eps))",
        _adagrad,
        {"momentum": 0, "weight_decay": 0.0, "eps": 1e-6, **_GROWTH},
        ("of sparse gradients, which are not built, nothing decays",),
        epsilon="outside: sqrt(a) + eps",
        **_L2,
    ),
    _dadapt(
        "DAdaptLion",
        "dadapt_lion",
        "theta <- (1 - d lr_t lambda s) theta; theta <- theta - d lr_t sign(b1 m + (1 - b1) g); "
        "m <- b2 m + (1 - b2) d lr_t g",
        _lion,
        {"betas": (0.9, 0.99), "weight_decay": 0.0, "d0": 1e-6},
        (D_TRAP, "the momentum is in units of the step, the gradient beside it is not"),
    ),
    _dadapt(
        "DAdaptAdan",
        "dadapt_adan",
        "rho_t = d lr_t; theta <- (theta - (m + b2 n) / (sqrt(v) + eps)) / (1 + rho_t lambda s); "
        "with no_prox theta <- (1 - rho_t lambda s) theta first",
        _adan,
        {
            "betas": (0.98, 0.92, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.02,
            "no_prox": False,
            **_GROWTH,
        },
        (D_TRAP, "the decay is 0.02 by default, 0 in the other four", "betas are the shares kept"),
        order="after",
        epsilon="outside: sqrt(v) + eps",
    ),
    Convention(
        name="optax.contrib.dadapt_adamw",
        version="optax 0.2.8",
        source=_OPTAX,
        equation=(
            "rho_t = d lr_t sqrt(c2) / c1; m <- b1 m + (1 - b1) rho_t g; theta <- theta - "
            "m / (sqrt(v) + eps) - rho_t lambda s theta"
        ),
        coupling="d_lr",
        order="joint",
        epsilon="outside: sqrt(v) + eps",
        bias_correction="always: rho_t sqrt(c2) / c1",
        defaults={
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "estim_lr0": 1e-6,
            "weight_decay": 0.0,
        },
        traps=(
            D_TRAP,
            "NaN until the first gradient that is not 0, and for ever after; nothing moves here",
            "decoupled and corrected for bias, which dadaptation.DAdaptAdam is not by default",
            *ALL_TRAPS,
        ),
        make=_adam,
        learning_rate=1.0,
    ),
)
