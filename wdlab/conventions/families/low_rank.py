"""The conventions of GaLore and APOLLO, whose Adam sees a projection of the gradient."""

from typing import Any

import optax

from wdlab.conventions.convention import CORRECTED, HAT, REQUIRED, Convention, Request
from wdlab.conventions.decay_places import with_decay_after
from wdlab.conventions.parts import adam_direction, pair
from wdlab.preconditioners import scale_by_apollo, scale_by_galore

_GROUPS = (
    "the original projects the matrices of the groups that have a rank; here all matrices are, if "
    "rank is given: others go to another build(...) in optax.partition"
)
_AFTER = "the decay acts on the updated weights, the fresh step included"
_EPSILON = "eps is 1e-6 and before the correction: as 3e-5 of torch's in the first step"
_RANK = (
    "It is that of the user's parameter group, 128 in the README. rank=None is a group without "
    "one: AdamW."
)
_ADAMW = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "correct_bias": True}
_PROJECTED = {"rank": REQUIRED, "update_proj_gap": 200, "scale": 1.0, "proj_type": "std"}


def _galore(request: Request) -> optax.GradientTransformation:
    if request["rank"] is None:
        return with_decay_after(request, _adam(request))
    return with_decay_after(request, scale_by_galore(**_shared(request)))


def _apollo(request: Request) -> optax.GradientTransformation:
    if request["rank"] is None:
        return with_decay_after(request, _adam(request))
    direction = scale_by_apollo(
        **_shared(request),
        scale_by=request["scale_type"],
        scale_first=request["scale_front"],
        growth_limit=None if request["disable_nl"] else 1.01,
        projection=request["proj"],
    )
    return with_decay_after(request, direction)


def _adam(request: Request) -> optax.GradientTransformation:
    return adam_direction(request, epsilon="hat", bias_correction=request["correct_bias"])


def _shared(request: Request) -> dict[str, Any]:
    b1, b2 = pair(request)
    return {
        "rank": request["rank"],
        "b1": b1,
        "b2": b2,
        "eps": request["eps"],
        "refresh_every": request["update_proj_gap"],
        "scale": request["scale"],
        "side": request["proj_type"],
        "bias_correction": request["correct_bias"],
    }


CONVENTIONS = (
    Convention(
        name="galore.GaLoreAdamW",
        version="galore-torch 1.0; GaLore 2cc66f8 has the same file",
        source="https://github.com/jiaweizzhao/GaLore/blob/2cc66f8/galore_torch/adamw.py",
        equation=(
            "R = g P, P the first singular vectors of g every update_proj_gap steps; "
            "theta <- theta - lr_t sqrt(c2) / c1 scale (m / (sqrt(v) + eps)) P^T, m and v of R; "
            "theta <- (1 - lr_t lambda s) theta"
        ),
        coupling="lr",
        order="after",
        epsilon=HAT,
        bias_correction=f"{CORRECTED}, unless correct_bias=False",
        learning_rate=1e-3,
        defaults=_ADAMW | _PROJECTED,
        required={"rank": _RANK},
        traps=(
            _AFTER,
            _GROUPS,
            _EPSILON,
            "scale multiplies the step and not the decay: 0.25 in the README makes the decay four "
            "times as strong beside it",
            "the moments are not turned when P changes: they go on in coordinates of the old P, "
            "and the signs of its columns are the SVD's",
            "the 8-bit class decays in the same way, with the kernel's own decay set to 0",
        ),
        make=_galore,
    ),
    Convention(
        name="apollo.APOLLOAdamW",
        version="apollo-torch 1.0.3; APOLLO 76b3472",
        source="https://github.com/zhuhanqing/APOLLO/blob/76b3472/apollo_torch/apollo.py",
        equation=(
            "R = g P, P normal / sqrt(rank); S = m / (sqrt(v) + eps) of R; u = g |S_j| / |R_j| for "
            "each channel, cut to 1.01 times the last norm; theta <- theta - lr_t sqrt(c2) / c1 "
            "sqrt(scale) u; theta <- (1 - lr_t lambda s) theta"
        ),
        coupling="lr",
        order="after",
        epsilon=HAT,
        bias_correction=f"{CORRECTED}, of the whole step, unless correct_bias=False",
        learning_rate=1e-3,
        defaults={
            **_ADAMW,
            "scale_front": False,
            "disable_nl": False,
            **_PROJECTED,
            "proj": "random",
            "scale_type": "channel",
        },
        required={"rank": _RANK},
        traps=(
            _AFTER,
            _GROUPS,
            _EPSILON,
            "sqrt(scale) multiplies the step, where GaLore's scale does: 128 for APOLLO-Mini",
            "after a step without any gradient the norm limit restarts from 1e-8 and lets the step "
            "grow by 1% a step: thousands of steps of next to none, while the decay goes on",
            "with scale_type='channel' and a proj_type that is not 'std' the original fails; here "
            "the norms are over the axis that was reduced",
            "the random projections are JAX's, not torch's: other numbers of the same distribution",
        ),
        make=_apollo,
    ),
)
