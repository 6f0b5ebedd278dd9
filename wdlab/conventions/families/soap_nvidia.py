"""The convention of NVIDIA's SOAP: Emerging-Optimizers."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab._core.checks import check_choice
from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.matrices import ALONE, BY_RANK, OF_A_TREE, by_matrices, with_matrix_decay
from wdlab.conventions.parts import pair, rate_of
from wdlab.preconditioners import scale_by_soap_basis_first

_COUPLINGS = {"decoupled": "lr", "independent": "constant", "palm": "lr2"}
_NAME = "emerging_optimizers.SOAP"


def _soap(request: Request) -> optax.GradientTransformation:
    own = request["correct_shampoo_beta_bias"]
    direction = scale_by_soap_basis_first(
        *pair(request),
        request["eps"],
        factor_decay=request["shampoo_beta"],
        nesterov=request["nesterov"],
        bias_correction=request["correct_bias"],
        factor_correction=request["correct_bias"] if own is None else own,
    )
    return by_matrices(request, with_matrix_decay(request, direction, rate_of(request)), None)


def _method(arguments: Mapping[str, Any]) -> str:
    hint = "Of 'l2' the original's factors see no decay and its Adam does, which is not built."
    method = arguments["weight_decay_method"]
    check_choice(f"{_NAME}: weight_decay_method", method, tuple(_COUPLINGS), hint=hint)
    return _COUPLINGS[method]


CONVENTIONS = (
    Convention(
        name=_NAME,
        version="Emerging-Optimizers fd77292",
        source=(
            "https://github.com/NVIDIA-NeMo/Emerging-Optimizers/blob/fd77292/emerging_optimizers/"
            "legacy_soap/soap.py, mixin.py for the decay"
        ),
        equation=(
            "L, R and their bases Q take g in; theta <- (1 - kappa lambda s) theta, kappa = lr_t "
            "for 'decoupled', 1 for 'independent', lr_t**2 for 'palm'; theta <- theta - lr_t Q_L "
            "(m / c1 / (sqrt(v / c2) + eps)) Q_R^T, m and v of Q_L^T g Q_R"
        ),
        coupling="lr",
        order="before",
        epsilon=OUTSIDE,
        bias_correction=f"{CORRECTED}, and the factors by 1 - shampoo_beta**t",
        defaults={
            "betas": (0.9, 0.95),
            "shampoo_beta": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "weight_decay_method": "decoupled",
            "nesterov": False,
            "correct_bias": True,
            "correct_shampoo_beta_bias": None,
            **{name: OF_A_TREE[name] for name in ("muon", "rest")},
        },
        refused={
            "fp32_matmul_prec": "The products are in float32 or wider.",
            "qr_fp32_matmul_prec": "The products are in float32 or wider.",
            "use_eigh": "Later bases are by one power iteration and QR, as by default.",
            "power_iter_steps": "It is 1, as by default.",
            "max_update_rms": "It is 0, no clipping, as by default.",
            "use_kl_shampoo": "KL-Shampoo's factors are another optimizer.",
            "stream_list": "It says how the original runs, not what it computes.",
        },
        traps=(
            "another algorithm than soap.SOAP: the basis is renewed before every step, the first "
            "step moves the weights, epsilon is outside, betas are (0.9, 0.95)",
            "the second moment is not sorted with the basis, whatever the docstring says",
            "the first gradient is diagonal in its own basis: with eps=1e-8 in float32 the other "
            "entries of the first step are rounding errors of full size, other ones on each "
            "machine",
            "'independent' is lambda alone, at every step, whatever the schedule",
            "qr_fp32_matmul_prec='high' runs the first products in TF32 on a GPU",
            ALONE,
            BY_RANK,
        ),
        make=_soap,
        coupling_of=_method,
    ),
)
