"""The convention of PyTorch's Distributed Shampoo, with its four meanings of weight decay."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab._core.checks import check_choice, check_number
from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.parts import product, rate_of, with_decay
from wdlab.decay import add_l2_gradient
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import Grafting, scale_by_shampoo
from wdlab.schedules import ScalarOrSchedule, peak_of, relative_to

_COUPLINGS = {
    "L2": "l2",
    "DECOUPLED": "lr",
    "CORRECTED": "lr2_over_peak",
    "INDEPENDENT": "schedule",
}
_CLASSIC = {"momentum": 0.5, "dampening": 0.0, "use_nesterov": False}
_MOMENTUM_HINT = (
    "Write it as ClassicMomentumConfig's arguments: {'momentum': 0.9, 'dampening': 0.0}."
)


def _shampoo(request: Request) -> optax.GradientTransformation:
    b1, b2 = request["betas"]
    beta3, start = request["beta3"], request["start_preconditioning_step"]
    grafting = request["grafting_config"]
    if grafting is not None and not isinstance(grafting, Grafting):
        raise TypeError(
            f"{request.name}: grafting_config must be None or a wdlab.preconditioners.Grafting, "
            f"got {grafting!r}. Write Grafting('adam', b2=0.999, eps=1e-10)."
        )
    direction = scale_by_shampoo(
        b1,
        b2,
        request["epsilon"],
        b3=None if beta3 == -1.0 else beta3,
        grafting=grafting,
        block_size=request["max_preconditioner_dim"],
        merge_to=request["target_parameter_dimensionality"],
        refresh_every=request["precondition_frequency"],
        start=None if start == -1 else start,
        bias_correction=request["use_bias_correction"],
    )
    if request["iterate_averaging_config"] is None:
        return with_decay(request, direction)
    return _with_momentum(request, direction)


def _with_momentum(
    request: Request, direction: optax.GradientTransformation
) -> optax.GradientTransformation:
    """The decay joins the direction; the momentum is of both."""
    classic = _classic(request.arguments)
    decay = add_l2_gradient(_beside_the_direction(request), rules=request.rules)
    parts = (decay, direction) if request.coupling == "l2" else (direction, decay)
    trace = optax.trace(classic["momentum"], nesterov=classic["use_nesterov"])
    rate = scale_by_learning_rate(rate_of(request))
    tx = optax.chain(*parts, trace, optax.scale(1.0 - classic["dampening"]), rate)
    return complete(request.name, tx, request.rules)


def _beside_the_direction(request: Request) -> ScalarOrSchedule:
    """What multiplies the weights there, with the learning rate still to come."""
    if request.coupling in ("l2", "lr"):
        return request.weight_decay
    rate = rate_of(request)
    peak = peak_of(rate, request.peak_learning_rate)
    if request.coupling == "schedule":
        return product(request.weight_decay, 1.0 / peak)
    return product(request.weight_decay, relative_to(rate, peak))


def _classic(arguments: Mapping[str, Any]) -> dict[str, Any]:
    given = arguments["iterate_averaging_config"]
    if not isinstance(given, Mapping) or set(given) - set(_CLASSIC):
        raise TypeError(f"iterate_averaging_config must be a dict, got {given!r}. {_MOMENTUM_HINT}")
    check_number("momentum", {**_CLASSIC, **given}["momentum"], high=1.0, high_open=True)
    return {**_CLASSIC, **given}


def _amplification(arguments: Mapping[str, Any]) -> float:
    """What momentum makes of a steady decay."""
    if arguments["iterate_averaging_config"] is None:
        return 1.0
    classic = _classic(arguments)
    return (1.0 - classic["dampening"]) / (1.0 - classic["momentum"])


def _coupling(arguments: Mapping[str, Any]) -> str:
    check_choice("weight_decay_type", arguments["weight_decay_type"], _COUPLINGS)
    return _COUPLINGS[arguments["weight_decay_type"]]


CONVENTIONS = (
    Convention(
        name="distributed_shampoo.DistributedShampoo",
        version="facebookresearch/optimizers f606606",
        source=(
            "https://github.com/facebookresearch/optimizers/blob/f606606/distributed_shampoo/"
            "distributed_shampoo.py"
        ),
        equation=(
            "L <- L + g g^T, R <- R + g^T g; P = (L + eps)**-1/4 m (R + eps)**-1/4, by blocks; "
            "P <- P + alpha s theta; M <- mu M + P; theta <- theta - lr_t M; alpha: lambda, "
            "CORRECTED lambda lr_t / peak, INDEPENDENT lambda / peak; L2: g <- g + lambda s theta"
        ),
        coupling="lr",
        order="joint",
        epsilon="added to the factors before the root",
        bias_correction="m by 1 - b1**t; the factors by 1 - b2**t where beta2 is below 1",
        learning_rate=1e-2,
        defaults={
            "betas": (0.9, 1.0),
            "beta3": -1.0,
            "epsilon": 1e-12,
            "weight_decay": 0.0,
            "weight_decay_type": "DECOUPLED",
            "max_preconditioner_dim": 1024,
            "precondition_frequency": 1,
            "start_preconditioning_step": -1,
            "use_bias_correction": True,
            "iterate_averaging_config": None,
            "grafting_config": None,
            "target_parameter_dimensionality": 1,
        },
        refused={
            "preconditioner_config": (
                "Roots are by eigh with 1 / (2 order) as exponent, the default. For the eigenvalue "
                "correction write conventions.build('soap.SOAP', ...)."
            ),
            "distributed_config": (
                "Write target_parameter_dimensionality= itself; sharding is that of the arrays."
            ),
            "use_pin_memory": "It says how the original runs. Leave it out.",
            "shampoo_pt2_compile_config": "It says how the original runs. Leave it out.",
            "shampoo_runtime_config": "It says how the original runs. Leave it out.",
            "concurrency_config": "It says how the original runs. Leave it out.",
        },
        traps=(
            "INDEPENDENT is (lr_t / peak) lambda, Composer's and the AdamW paper's; Emerging "
            "Optimizers' independent is lambda alone, at every step",
            "CORRECTED is lambda lr_t**2 / peak on all leaves, AdamC's on those before a norm",
            "the peak is the learning rate of the constructor, whatever the schedule reaches",
            "the decay joins the direction before ClassicMomentumConfig, which amplifies it by "
            "(1 - dampening) / (1 - momentum)",
            "with an iterate-averaging config, not built here, the decay shrinks Z instead",
            "the original holds the learning rate and 1 - beta2**t in float32 for any weights",
            "without grafting the length of a step is Shampoo's own: another learning rate",
            "axes are merged up to max_preconditioner_dim: a small matrix has one full factor, its "
            "axes none of their own",
        ),
        make=_shampoo,
        coupling_of=_coupling,
        factor_of=_amplification,
    ),
)
