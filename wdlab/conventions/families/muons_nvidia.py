"""The conventions of NVIDIA's Muon: Emerging-Optimizers, and Megatron, which is built on it."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab._core.checks import check_choice
from wdlab.conventions.convention import CORRECTED, Convention, Request
from wdlab.conventions.matrices import (
    ALONE,
    BY_RANK,
    LAYOUT,
    OF_A_TREE,
    axes_of,
    by_matrices,
    with_matrix_decay,
)
from wdlab.conventions.parts import rate_of
from wdlab.optimizers import assemble
from wdlab.preconditioners import MatrixAxes, orthogonalize, scale_by_adam
from wdlab.rules import Rule

_MATRICES = MatrixAxes("out_in", rules=())
_COEFFICIENTS = {
    "simple": "jordan",
    "quintic": "jiacheng",
    "polar_express": "polar_express_8",
    "deepseekv4": "deepseek_v4",
    **{name: name for name in ("cans", "aol", "cubic5")},
}
_SCALES: dict[str, Any] = {
    "shape_scaling": "original",
    "spectral": "rms",
    "unit_rms_norm": "spectral",
}
_DTYPES = {"medium": "bfloat16", "highest": None}
_COUPLINGS = {"decoupled": "lr", "independent": "constant", "l2": "l2", "palm": "lr2"}
_TREE = {name: value for name, value in OF_A_TREE.items() if name != "iteration_dtype"}


def _direction(request: Request, prefix: str = "") -> optax.GradientTransformation:
    kind, steps = request[f"{prefix}coefficient_type"], request[f"{prefix}num_ns_steps"]
    if kind == "cubic5" and steps != 5:
        raise ValueError(f"{request.name}: cubic5 is made for num_ns_steps=5 and no other.")
    direction = orthogonalize(
        request[f"{prefix}momentum"],
        nesterov=request[f"{prefix}nesterov"],
        coefficients=_chosen(request, f"{prefix}coefficient_type", _COEFFICIENTS),
        steps=steps,
        eps=1e-15,
        dtype=_chosen(request, f"{prefix}fp32_matmul_prec", _DTYPES),
        scaling=_chosen(request, f"{prefix}scale_mode", _SCALES),
        rms=1.0,
        axes=axes_of(request, _MATRICES),
    )
    return optax.chain(direction, optax.scale(request[f"{prefix}extra_scale_factor"]))


def _emerging(request: Request) -> optax.GradientTransformation:
    matrices = with_matrix_decay(request, _direction(request), rate_of(request))
    return by_matrices(request, matrices, None)


def _scion(request: Request) -> optax.GradientTransformation:
    direction = orthogonalize(
        request["momentum"],
        nesterov=False,
        coefficients=_chosen(request, "coefficient_type", _COEFFICIENTS),
        steps=request["num_ns_steps"],
        eps=1e-15,
        dtype=_chosen(request, "fp32_matmul_prec", _DTYPES),
        scaling="spectral",
        axes=axes_of(request, _MATRICES),
    )
    direction = optax.chain(direction, optax.scale(request["spectral_radius"]))
    rate = rate_of(request)
    matrices = with_matrix_decay(request, direction, rate, multiplier=rate, weight_decay=1.0)
    return by_matrices(request, matrices, None)


def _chosen(request: Request, argument: str, choices: Mapping[str, Any]) -> Any:
    check_choice(f"{request.name}: {argument}", request[argument], tuple(choices))
    return choices[request[argument]]


def _megatron(request: Request) -> optax.GradientTransformation:
    rate = rate_of(request)
    adam = scale_by_adam(request["adam_beta1"], request["adam_beta2"], request["adam_eps"])
    coupling = "lr" if request["decoupled_weight_decay"] else "l2"
    rest = assemble(request.name, adam, rate, request.weight_decay, coupling, request.rules)
    matrices = with_matrix_decay(request, _direction(request, "muon_"), rate)
    return by_matrices(request, matrices, rest)


def _method(arguments: Mapping[str, Any]) -> str:
    method = arguments["weight_decay_method"]
    check_choice("emerging_optimizers.Muon: weight_decay_method", method, tuple(_COUPLINGS))
    return _COUPLINGS[method]


_STEP = "theta <- theta - lr_t e f NS(m), f = sqrt(max(rows, columns)), e the extra_scale_factor"
_WORDS = (
    "scale_mode='spectral' is f = sqrt(max(rows, columns)): with the default extra_scale_factor "
    "five times Moonlight's; dion's 'spectral_norm' is 'unit_rms_norm' here",
    "coefficient_type 'quintic' is the list by step that Optax calls 'dion', 'simple' Jordan's; "
    "'aol' are coefficients without the row scaling that they were made for",
    "without nesterov by default, torch.Muon with",
)

CONVENTIONS = (
    Convention(
        name="emerging_optimizers.Muon",
        version="Emerging-Optimizers fd77292",
        source=(
            "https://github.com/NVIDIA-NeMo/Emerging-Optimizers/blob/fd77292/emerging_optimizers/"
            "orthogonalized_optimizers/muon.py, mixin.py for the decay"
        ),
        equation=(
            "theta <- (1 - kappa lambda s) theta, kappa = lr_t for 'decoupled', 1 for "
            "'independent', lr_t**2 for 'palm', or g <- g + lambda s theta for 'l2'; "
            f"m <- mu m + (1 - mu) g; {_STEP}"
        ),
        coupling="lr",
        order="before",
        epsilon="at least the norm: max(|x|, 1e-15)",
        learning_rate=3e-4,
        defaults={
            "momentum": 0.95,
            "weight_decay": 0.01,
            "nesterov": False,
            "weight_decay_method": "decoupled",
            "fp32_matmul_prec": "medium",
            "coefficient_type": "quintic",
            "num_ns_steps": 5,
            "scale_mode": "spectral",
            "extra_scale_factor": 1.0,
            **_TREE,
        },
        refused={
            "use_syrk": "It says how the original runs, not what it computes.",
            "weight_update_hook": "Chain a transformation behind this one.",
        },
        traps=(
            "'independent' is lambda alone, at every step, whatever the schedule: big_vision and "
            "Composer's independent decay follows the schedule, and ends with it",
            "a class that forgets to set weight_decay_method has 'l2': the mixin's default",
            *_WORDS,
            "fp32_matmul_prec='medium' iterates in bfloat16, 'highest' in float32; 'high', "
            "TF32, is not built",
            ALONE,
            LAYOUT,
            BY_RANK,
        ),
        make=_emerging,
        coupling_of=_method,
    ),
    Convention(
        name="emerging_optimizers.Scion",
        version="Emerging-Optimizers fd77292",
        source=(
            "https://github.com/NVIDIA-NeMo/Emerging-Optimizers/blob/fd77292/emerging_optimizers/"
            "orthogonalized_optimizers/scion.py"
        ),
        equation=(
            "theta <- (1 - lr_t s) theta; m <- mu m + (1 - mu) g; theta <- theta - lr_t "
            "spectral_radius sqrt(rows / columns) NS(m)"
        ),
        coupling="fixed",
        order="before",
        epsilon="at least the norm: max(|x|, 1e-15)",
        learning_rate=3e-4,
        defaults={
            "momentum": 0.95,
            "fp32_matmul_prec": "medium",
            "coefficient_type": "quintic",
            "num_ns_steps": 5,
            "spectral_radius": 1.0,
            **_TREE,
        },
        decay_argument=None,
        traps=(
            "Its weight decay is set to 1 and only the log says so: weights stay in a ball of "
            "radius spectral_radius sqrt(rows / columns)",
            "momentum is the usual one, 0.95; scion.Scion's is one minus it",
            "matrices alone, where scion.Scion has norms for other leaves",
            ALONE,
            LAYOUT,
            BY_RANK,
        ),
        make=_scion,
    ),
    Convention(
        name="megatron.Muon",
        version="Megatron-LM d98e8a64",
        source=(
            "https://github.com/NVIDIA/Megatron-LM/blob/d98e8a64/megatron/core/optimizer/"
            "emerging_optimizers.py, optimizer_config.py"
        ),
        equation=(
            "theta <- (1 - lr_t lambda s) theta; m <- mu m + (1 - mu) g; "
            f"{_STEP}; the rest: Adam(W)"
        ),
        coupling="lr",
        order="before",
        epsilon="at least the norm: max(|x|, 1e-15); in Adam outside",
        bias_correction=f"{CORRECTED}, in the Adam part",
        defaults={
            "weight_decay": 0.01,
            "decoupled_weight_decay": True,
            "muon_momentum": 0.95,
            "muon_nesterov": False,
            "muon_scale_mode": "spectral",
            "muon_fp32_matmul_prec": "medium",
            "muon_coefficient_type": "quintic",
            "muon_num_ns_steps": 5,
            "muon_extra_scale_factor": 1.0,
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "adam_eps": 1e-8,
            **_TREE,
        },
        rules=(
            Rule("(.*[/.])?bias", 0.0, optional=True),
            Rule(".*", 0.0, ndim=1, optional=True),
            Rule(".*"),
        ),
        refused={
            "muon_split_qkv": (
                "Nothing marks a leaf as a fused projection here: axes=MatrixAxes('out_in', rules="
                "(MatrixRule('.*qkv.*', rows=0, columns=1, split=(q, k, v)),)) splits it."
            ),
            "muon_tp_mode": "Shardings are those of the arrays here: as 'duplicated'.",
            "muon_scalar_optimizer": "Write rest='lion_pytorch.Lion' for 'lion'.",
        },
        traps=(
            "decoupled_weight_decay=False reaches the Adam part alone: Muon's argument has another "
            "name, use_decoupled_weight_decay, which nothing sets, and it stays decoupled",
            "of the four ways of Emerging-Optimizers only 'decoupled' and 'l2' exist here",
            "--muon-momentum is 0.9 on the command line, 0.95 in OptimizerConfig",
            "fused query, key and value are split by default there, and by axes= here",
            *_WORDS,
            LAYOUT,
            BY_RANK,
        ),
        make=_megatron,
    ),
)
