"""The convention of optax.contrib.muon."""

from typing import Any

import numpy as np
import optax

from wdlab._core.checks import check_choice
from wdlab.conventions.convention import CORRECTED, Convention, Request
from wdlab.conventions.matrices import OF_A_TREE, axes_of, by_matrices, with_matrix_decay
from wdlab.conventions.parts import rate_of
from wdlab.optimizers import assemble
from wdlab.preconditioners import MatrixAxes, orthogonalize, scale_by_adam

_KERNELS = MatrixAxes("in_out", rules=())
_PRESETS = {"standard": "jordan", "dion": "jiacheng"}
_OWN_EPSILON = ("aol", "schatten")  # Optax hands eps to neither: they keep 1e-8.


def _muon(request: Request) -> optax.GradientTransformation:
    rate, consistent = rate_of(request), request["consistent_rms"]
    kind = request["preconditioning"]
    check_choice("preconditioning", kind, ("frobenius", "spectral", *_OWN_EPSILON))
    direction = orthogonalize(
        request["beta"],
        average="corrected",
        nesterov=request["nesterov"],
        **_iteration(request),
        normalization=kind,
        eps=1e-8 if kind in _OWN_EPSILON else request["eps"],
        epsilon="added",
        dtype=request["iteration_dtype"],
        scaling="original" if consistent is None else "rms",
        rms=0.2 if consistent is None else consistent,
        axes=axes_of(request, _KERNELS),
        adaptive=request["adaptive"],
        mu_dtype=request["mu_dtype"],
    )
    adam = scale_by_adam(
        request["adam_b1"],
        request["adam_b2"],
        request["eps"],
        request["adam_eps_root"],
        first_moment="nesterov" if request["nesterov"] else "ema",
        mu_dtype=request["mu_dtype"],
    )
    adam_rate = request["adam_learning_rate"]
    adam_rate = rate if adam_rate is None else adam_rate
    decay = request["adam_weight_decay"]
    rest = assemble(request.name, adam, adam_rate, decay, "lr", request.rules)
    return by_matrices(request, with_matrix_decay(request, direction, rate), rest)


def _iteration(request: Request) -> dict[str, Any]:
    """Several triples are one a step, and at most ns_steps of them."""
    given, steps = request["ns_coeffs"], request["ns_steps"]
    if isinstance(given, str):
        check_choice("ns_coeffs", given, tuple(_PRESETS))
        return {"coefficients": _PRESETS[given], "steps": 5 if given == "dion" else steps}
    if np.ndim(given) == 1:
        return {"coefficients": (tuple(given),), "steps": steps}
    if len(given) > steps:
        raise ValueError(
            f"{request.name}: {len(given)} triples for ns_steps={steps}; Optax takes at most "
            "ns_steps of them, one a step."
        )
    return {"coefficients": given, "steps": len(given)}


CONVENTIONS = (
    Convention(
        name="optax.contrib.muon",
        version="optax 0.2.8",
        source="https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_muon.py",
        equation=(
            "m <- b m + (1 - b) g; n = b m / (1 - b**(t+1)) + (1 - b) g / (1 - b**t); "
            "theta <- theta - lr_t (f NS(n) + lambda s theta), f = sqrt(max(1, out / in)) or "
            "consistent_rms sqrt(max(in, out)); the rest: NAdamW with adam_weight_decay"
        ),
        coupling="lr",
        order="joint",
        epsilon="added to the norm: |x| + eps; in Adam outside",
        bias_correction=f"{CORRECTED}; the look-ahead's m by 1 - b**(t+1)",
        defaults={
            "ns_coeffs": (3.4445, -4.7750, 2.0315),
            "ns_steps": 5,
            "beta": 0.95,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "mu_dtype": None,
            "nesterov": True,
            "adaptive": False,
            "preconditioning": "frobenius",
            "adam_b1": 0.9,
            "adam_b2": 0.999,
            "adam_eps_root": 0.0,
            "adam_weight_decay": 0.0,
            "adam_learning_rate": None,
            "consistent_rms": None,
            **OF_A_TREE,
            "iteration_dtype": None,
        },
        refused={
            "weight_decay_mask": "Write rules=(Rule('(.*/)?bias', 0.0), Rule('.*')).",
            "muon_weight_dimension_numbers": (
                "Write muon= for the leaves and axes=MatrixAxes(...) for their axes."
            ),
        },
        traps=(
            "weight_decay_mask reaches the matrices alone: with adam_weight_decay the Adam part "
            "decays whatever the mask exempts. rules= here hold for both",
            "nesterov=True is handed to the Adam part too, which is NAdamW then, not AdamW",
            "weight_decay is not the Adam part's: both numbers are 0 by default",
            "eps is one for both parts",
            "every leaf of rank 2 is a matrix, embeddings and heads too; leaves of other ranks are "
            "Adam's, convolutions and layers under scan too",
            "kernels are (in, out), as Flax keeps them: rows last, where torch's originals have "
            "them first",
            "the iteration is in the weights' dtype, the originals' in bfloat16",
            "a list of coefficients longer than ns_steps is refused as 'not enough'; a shorter one "
            "takes fewer steps",
        ),
        make=_muon,
    ),
)
