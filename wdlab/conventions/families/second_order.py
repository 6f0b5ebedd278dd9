"""The conventions of SOAP, Shampoo and Sophia: preconditioners by matrices or by curvature."""

import optax

from wdlab.conventions.convention import CORRECTED, HAT, Convention, Request
from wdlab.conventions.decay_places import with_decay_after
from wdlab.conventions.parts import pair
from wdlab.preconditioners import scale_by_soap


def _soap(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request)
    own = request["shampoo_beta"]
    direction = scale_by_soap(
        b1,
        b2,
        request["eps"],
        factor_decay=None if own < 0 else own,
        refresh_every=request["precondition_frequency"],
        max_dim=request["max_precond_dim"],
        vectors=request["precondition_1d"],
        bias_correction=request["correct_bias"],
        normalize=request["normalize_grads"],
    )
    return with_decay_after(request, direction, late=True)  # The first step makes the bases alone.


CONVENTIONS = (
    Convention(
        name="soap.SOAP",
        version="nikhilvyas/SOAP a1e5535",
        source="https://github.com/nikhilvyas/SOAP/blob/a1e5535/soap.py",
        equation=(
            "theta <- theta - lr_t sqrt(c2) / c1 Q_L (m / (sqrt(v) + eps)) Q_R^T, m and v of "
            "Q_L^T g Q_R; theta <- (1 - lr_t lambda s) theta; then L, R and their bases Q"
        ),
        coupling="lr",
        order="after",
        epsilon=HAT,
        bias_correction=f"{CORRECTED} of the steps after the first, unless correct_bias=False",
        learning_rate=3e-3,
        defaults={
            "betas": (0.95, 0.95),
            "shampoo_beta": -1,
            "eps": 1e-8,
            "weight_decay": 0.01,
            "precondition_frequency": 10,
            "max_precond_dim": 10000,
            "precondition_1d": False,
            "normalize_grads": False,
            "correct_bias": True,
        },
        refused={
            "merge_dims": "Reshape the kernels of convolutions yourself: the axes count.",
            "data_format": "It is for merge_dims, which is not built.",
        },
        traps=(
            "the first step makes the bases alone: no step, no decay",
            "the decay acts on the updated weights, the fresh step included",
            "the original computes the bases in float32 even for float64 weights",
            "everything decays: biases and norms are exempt only in the user's parameter groups",
        ),
        make=_soap,
    ),
)
