"""The conventions of two code bases that train GPT-2 fast: modded-nanogpt and nanochat."""

import optax

from wdlab._core.checks import check_number, check_whole
from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.matrices import (
    ALONE,
    BY_RANK,
    LAYOUT,
    OF_A_TREE,
    axes_of,
    by_matrices,
    with_matrix_decay,
)
from wdlab.conventions.parts import product, rate_of
from wdlab.preconditioners import (
    MatrixAxes,
    orthogonalize,
    scale_by_matrix_shape,
    scale_by_neuron_rms,
)
from wdlab.schedules import cosine, squared

_BATCHES = MatrixAxes("out_in", kernels="batch", rules=())
_HIGHEST_RANK = 6


def _neurons(request: Request) -> optax.GradientTransformation:
    axes = axes_of(request, _BATCHES)
    return scale_by_neuron_rms(
        request["beta2"], per="longer", eps=1e-10, epsilon="clamped", axes=axes
    )


def _modded(request: Request) -> optax.GradientTransformation:
    """The shape's factor comes last: it is in the learning rate, of the step and of the decay."""
    check_number("lr_mul", request["lr_mul"])
    check_number("wd_mul", request["wd_mul"])
    axes, base = axes_of(request, _BATCHES), rate_of(request)
    direction = orthogonalize(
        request["momentum"],
        coefficients="polar_express",
        eps=1e-6,
        epsilon="added",
        dtype=request["iteration_dtype"],
        scaling="none",
        axes=axes,
    )
    matrices = with_matrix_decay(
        request,
        optax.chain(direction, _neurons(request)),
        product(base, request["lr_mul"]),
        scale_by_matrix_shape("original", axes=axes),
        multiplier=product(squared(base), request["lr_mul"]),
        weight_decay=product(request.weight_decay, request["wd_mul"]),
        cautious=True,
    )
    return by_matrices(request, matrices, None, most=_HIGHEST_RANK)


def _nanochat(request: Request) -> optax.GradientTransformation:
    axes, rate, decay = axes_of(request, _BATCHES), rate_of(request), request.weight_decay
    if request["num_iterations"] is not None:
        check_whole("num_iterations", request["num_iterations"])
        decay = product(decay, cosine(1.0, decay_steps=request["num_iterations"]))
    check_whole("ns_steps", request["ns_steps"])
    direction = orthogonalize(
        request["momentum"],
        coefficients="polar_express",
        steps=min(request["ns_steps"], 5),
        eps=1e-6,
        epsilon="added",
        safety=1.01,
        dtype=request["iteration_dtype"],
        scaling="none",
        axes=axes,
        equilibrate=True,
        renormalize=True,
    )
    matrices = with_matrix_decay(
        request,
        optax.chain(direction, _neurons(request)),
        rate,
        scale_by_matrix_shape("original", axes=axes),
        multiplier=rate,
        weight_decay=decay,
        cautious=True,
    )
    return by_matrices(request, matrices, None, most=_HIGHEST_RANK)


_NEURONS = (
    "v <- b2 v + (1 - b2) mean o**2 over the shorter side; w = o / sqrt(max(v, 1e-10)); "
    "u = w |o| / |w|"
)

CONVENTIONS = (
    Convention(
        name="modded_nanogpt.NorMuon",
        version="modded-nanogpt f411b3d3",
        source="https://github.com/KellerJordan/modded-nanogpt/blob/f411b3d3/train_gpt.py",
        equation=(
            f"m <- mu m + (1 - mu) g; o = PolarExpress((1 - mu) g + mu m); {_NEURONS}; "
            "theta <- theta - f lr_t u - f lr_t**2 lambda s [u theta >= 0] theta, "
            "f = sqrt(max(1, rows / columns))"
        ),
        coupling="lr2_by_shape",
        order="joint",
        epsilon="added to the norm: 1.02 |x| + 1e-6",
        learning_rate=0.023,
        defaults={
            "weight_decay": 1.2,
            "momentum": 0.95,
            "beta2": 0.9,
            "lr_mul": 1.0,
            "wd_mul": 1.0,
            **OF_A_TREE,
        },
        traps=(
            "the decay is lr_t**2, not divided by the peak, and the shape's factor is in it: 1.2 "
            "means nothing elsewhere",
            "cautious: where the step is zero the weight decays, unlike in modded_nanogpt.Adam",
            "the factor of the shape is in the learning rate and so in the decay: tall matrices "
            "decay more",
            "its trainer gives the second MLP matrix lr_mul=2, warms the momentum up from 0.85 "
            "over 300 steps and cools it down over the last 50, and steps Adam every second step",
            "weights are bfloat16 with 16 more bits of mantissa kept beside: float32 here",
            ALONE + "; the original's is 'modded_nanogpt.Adam'",
            LAYOUT,
            BY_RANK,
        ),
        make=_modded,
    ),
    Convention(
        name="nanochat.Muon",
        version="nanochat 92d63d4",
        source=(
            "https://github.com/karpathy/nanochat/blob/92d63d4/nanochat/optim.py (MuonAdamW), "
            "scripts/base_train.py for the falling lambda"
        ),
        equation=(
            "m <- mu m + (1 - mu) g; n = (1 - mu) g + mu m, its rows brought to one norm; "
            f"o = PolarExpress(n), |o| set to sqrt(min(rows, columns)); {_NEURONS}; theta <- theta "
            "- f lr_t (u + lambda_t s [u theta >= 0] theta), f = sqrt(max(1, rows / columns)), "
            "lambda_t = lambda (1 + cos(pi t / num_iterations)) / 2"
        ),
        coupling="lr_by_shape",
        order="joint",
        epsilon="added to the norm: 1.01 |x| + 1e-6",
        learning_rate=0.02,
        defaults={
            "weight_decay": 0.0,
            "momentum": 0.95,
            "beta2": 0.9,
            "ns_steps": 5,
            "num_iterations": None,
            **OF_A_TREE,
        },
        traps=(
            "lambda falls to zero by a cosine over the run, on top of the learning rate's own "
            "schedule: num_iterations= gives its length, None leaves lambda as it is",
            "base_train.py's 0.28 is multiplied by sqrt(B / B_ref) D_ref / D first, which keeps "
            "the timescale over batch size and tokens; setup_optimizer's default is 0",
            "the factor of the shape is in the learning rate and so in the decay: tall matrices "
            "decay more",
            "cautious, ties decay; each AdamW group has its own number: head .01, embeddings .001, "
            "value embeddings .01, residual scalars .05, the others 0",
            "momentum warms up from .85 to .97 over 400 steps and falls to .90 with the rate",
            ALONE + "; the original's is torch.AdamW with betas (0.8, 0.96) and eps 1e-10",
            LAYOUT,
            BY_RANK,
        ),
        make=_nanochat,
    ),
)
