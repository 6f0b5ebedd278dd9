"""The conventions of Microsoft's dion: Muon and NorMuon in torch."""

from typing import Any

import optax

from wdlab.conventions.convention import CORRECTED, Convention, Request
from wdlab.conventions.matrices import (
    BY_RANK,
    LAYOUT,
    OF_A_TREE,
    axes_of,
    by_matrices,
    flattened,
    with_matrix_decay,
)
from wdlab.conventions.parts import pair, rate_of
from wdlab.preconditioners import (
    MatrixAxes,
    orthogonalize,
    scale_by_adam,
    scale_by_matrix_shape,
    scale_by_neuron_rms,
)

BATCHES = MatrixAxes("out_in", kernels="batch", rules=())
_FLAT = MatrixAxes("out_in", rules=flattened(3, 4, 5, 6))
SIZES: dict[Any, Any] = {"spectral_norm": "spectral", "rms_norm": "rms", None: "none"}
HIGHEST_RANK = 6


def _axes(request: Request) -> MatrixAxes:
    return axes_of(request, _FLAT if request["flatten"] else BATCHES)


def _size(request: Request) -> optax.GradientTransformation:
    if request["adjust_lr"] not in SIZES:
        raise ValueError(
            f"{request.name}: adjust_lr must be 'spectral_norm', 'rms_norm' or None, got "
            f"{request['adjust_lr']!r}."
        )
    return scale_by_matrix_shape(SIZES[request["adjust_lr"]], axes=_axes(request))


def _orthogonal(request: Request) -> optax.GradientTransformation:
    return orthogonalize(
        request["mu"],
        average="sum",
        nesterov=request["nesterov"],
        coefficients="polar_express" if request["use_polar_express"] else "jiacheng",
        eps=request["epsilon"],
        epsilon="added",
        dtype=request["iteration_dtype"],
        scaling="none",
        axes=_axes(request),
    )


def _both(
    request: Request, direction: optax.GradientTransformation
) -> optax.GradientTransformation:
    rate, cautious = rate_of(request), request["cautious_wd"]
    b1, b2 = pair(request)
    adam = scale_by_adam(b1, b2, request["epsilon"])
    rest = with_matrix_decay(request, adam, rate, cautious=cautious)
    matrices = with_matrix_decay(request, direction, rate, cautious=cautious)
    return by_matrices(request, matrices, rest, most=HIGHEST_RANK)


def _muon(request: Request) -> optax.GradientTransformation:
    return _both(request, optax.chain(_orthogonal(request), _size(request)))


def _normuon(request: Request) -> optax.GradientTransformation:
    """The neurons are rows of the leaf's last two axes, flattened or not."""
    neurons = scale_by_neuron_rms(request["muon_beta2"], axes=axes_of(request, BATCHES))
    return _both(request, optax.chain(_orthogonal(request), neurons, _size(request)))


SHARED: dict[str, Any] = {
    "version": "dion 0a059a4",
    "coupling": "lr",
    "order": "before",
    "epsilon": "added to the norm: 1.02 |x| + eps; in AdamW outside",
    "bias_correction": f"{CORRECTED}, in the AdamW part",
    "learning_rate": 0.01,
    "refused": {
        "distributed_mesh": "Shardings are those of the arrays here.",
        "use_gram_newton_schulz": "Another package's iteration: gram-newton-schulz.",
        "newton_schulz_func": "Write orthogonalize(...) and decay_weights(...) in a chain.",
    },
}
_DEFAULTS = {
    "mu": 0.95,
    "betas": (0.9, 0.95),
    "weight_decay": 0.01,
    "cautious_wd": False,
    "epsilon": 1e-8,
    "nesterov": False,
    "adjust_lr": "spectral_norm",
    "flatten": False,
    "use_polar_express": True,
    **OF_A_TREE,
}
_TRAPS = (
    "the decay is lr_t lambda with the base rate; the step has f = sqrt(rows / columns) besides, "
    "below 1 for a wide matrix, where torch.Muon's f is never below 1",
    "'spectral_norm' here is sqrt(rows / columns); 'spectral' in Emerging-Optimizers is "
    "sqrt(max(rows, columns))",
    "a leaf of lower rank needs a group with algorithm='adamw' or 'lion' there and fails "
    "otherwise; here it gets that AdamW, at the same rate, or rest=",
    "flatten=True flattens parameters of one shape together, where one device holds several: they "
    "are orthogonalized as one matrix, those of rank 2 too. Here each by itself",
    "without flatten the last two axes of a kernel, its positions, are the matrix",
    LAYOUT,
    BY_RANK,
)
_SOURCE = "https://github.com/microsoft/dion/blob/0a059a4/dion/{}.py"
_STEP = (
    "theta <- (1 - lr_t lambda s) theta, with cautious_wd only where u theta >= 0; "
    "theta <- theta - lr_t f u, f = sqrt(rows / columns); the rest: AdamW"
)

CONVENTIONS = (
    Convention(
        name="dion.Muon",
        source=_SOURCE.format("muon"),
        equation=f"m <- mu m + g; u = PolarExpress(m); {_STEP}",
        defaults=_DEFAULTS,
        traps=_TRAPS,
        make=_muon,
        **SHARED,
    ),
    Convention(
        name="dion.NorMuon",
        source=_SOURCE.format("normuon"),
        equation=(
            "m <- mu m + g; o = PolarExpress(m); v <- b2 v + (1 - b2) mean_j o_ij**2; "
            f"w = o / (sqrt(v) + 1e-8); u = w |o| / |w|; {_STEP}"
        ),
        defaults={**_DEFAULTS, "muon_beta2": 0.95},
        traps=(
            "neurons are rows whatever the shape; modded-nanogpt and nanochat take the longer side",
            *_TRAPS,
        ),
        make=_normuon,
        **SHARED,
    ),
)
