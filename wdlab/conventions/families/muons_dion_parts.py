"""The conventions of dion's optimizers that orthogonalize a part of each matrix in a step."""

from typing import Any

import optax

from wdlab._core.checks import check_number, check_whole
from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.families.dion_parts import low_rank_direction, selected_rows_direction
from wdlab.conventions.families.muons_dion import BATCHES, HIGHEST_RANK, SHARED, SIZES
from wdlab.conventions.matrices import BY_RANK, LAYOUT, OF_A_TREE, axes_of, by_matrices
from wdlab.conventions.matrices import with_matrix_decay as decayed
from wdlab.conventions.parts import pair, rate_of
from wdlab.preconditioners import MatrixAxes, scale_by_adam, scale_by_matrix_shape

_MATRICES = MatrixAxes("out_in", rules=())


def _with_adam(
    request: Request, direction: optax.GradientTransformation, most: int
) -> optax.GradientTransformation:
    b1, b2 = pair(request)
    rate = rate_of(request)
    rest = decayed(request, scale_by_adam(b1, b2, request["epsilon"]), rate)
    return by_matrices(request, decayed(request, direction, rate), rest, most=most)


def _dion(request: Request) -> optax.GradientTransformation:
    check_number("rank_fraction", request["rank_fraction"], low_open=True, high=1.0)
    check_whole("rank_multiple_of", request["rank_multiple_of"])
    check_whole("power_iters", request["power_iters"])
    check_number("mu", request["mu"])
    direction = low_rank_direction(
        request["mu"],
        fraction=request["rank_fraction"],
        multiple_of=request["rank_multiple_of"],
        power_iters=request["power_iters"],
        eps=request["epsilon"],
        dtype=request["iteration_dtype"],
    )
    shape = scale_by_matrix_shape("spectral", axes=axes_of(request, _MATRICES))
    return _with_adam(request, optax.chain(direction, shape), 2)


def _of_rows(request: Request, kept: str) -> optax.GradientTransformation:
    check_number("fraction", request["fraction"], low_open=True, high=1.0)
    check_number(kept, request[kept])
    axes = axes_of(request, BATCHES)
    direction = selected_rows_direction(
        request[kept],
        fraction=request["fraction"],
        muon_beta2=request.arguments.get("muon_beta2"),
        iteration={
            "coefficients": "polar_express" if request["use_polar_express"] else "jiacheng",
            "eps": request["epsilon"],
            "epsilon": "added",
            "dtype": request["iteration_dtype"],
        },
        axes=axes,
    )
    shape = scale_by_matrix_shape(SIZES[request["adjust_lr"]], axes=axes)
    return _with_adam(request, optax.chain(direction, shape), HIGHEST_RANK)


def _dion2(request: Request) -> optax.GradientTransformation:
    return _of_rows(request, "ef_decay")


def _nordion2(request: Request) -> optax.GradientTransformation:
    return _of_rows(request, "mu")


_SOURCE = "https://github.com/microsoft/dion/blob/0a059a4/dion/{}.py"
_ROWS: dict[str, Any] = {
    **SHARED,
    "refused": {
        **SHARED["refused"],
        "selection_scope": "Of sharded rows alone; here as 'global', of whole matrices.",
        "flatten": "Selected rows of a kernel flattened are not built.",
        "triton_post_ortho": "It says how the original runs, not what it computes.",
        "verbose": "It prints.",
    },
}
_LOW_RANK: dict[str, Any] = {
    **SHARED,
    "epsilon": "added to the norms: of Q's columns; in AdamW outside",
    "refused": {
        "qr_method": "How it is computed, not what: Householder's here.",
        "cqr_warmup_steps": "How it is computed, not what.",
        "rcqr_oversample": "How it is computed, not what.",
        "mixed_precision_config": "States are in float32 or wider.",
        "replicate_mesh": "Shardings are those of the arrays here.",
        "outer_shard_mesh": "Shardings are those of the arrays here.",
        "inner_shard_mesh": "Shardings are those of the arrays here.",
        "replicate_mesh_grad_sync": "Shardings are those of the arrays here.",
    },
}
_ROW_DEFAULTS = {
    "fraction": 0.25,
    "betas": (0.9, 0.95),
    "weight_decay": 0.01,
    "epsilon": 1e-8,
    "adjust_lr": "spectral_norm",
    "use_polar_express": True,
    **OF_A_TREE,
}
_ROW_TRAPS = (
    "every entry decays in every step, and only a fraction of the rows or columns moves: with the "
    "default 0.25 a weight decays about four times for each step that it takes",
    "no cautious_wd, unlike dion's Muon and NorMuon",
    "with sharded rows each device there selects its own: the result depends on their number",
)

CONVENTIONS = (
    Convention(
        name="dion.Dion",
        source=_SOURCE.format("dion"),
        equation=(
            "m <- m + g; P = orthonormal(m Q), R = m^T P; m <- m - (1 - mu) P R^T; Q = R over its "
            "columns' norms; theta <- (1 - lr_t lambda s) theta; theta <- theta - lr_t "
            "sqrt(rows / columns) P Q^T; the rest: AdamW"
        ),
        defaults={
            "rank_fraction": 1.0,
            "rank_multiple_of": 1,
            "mu": 0.95,
            "betas": (0.9, 0.95),
            "weight_decay": 0.01,
            "epsilon": 1e-8,
            "power_iters": 1,
            **OF_A_TREE,
            "iteration_dtype": "float32",
        },
        traps=(
            "columns of Q have unit norm each and are not orthogonal: the step is no "
            "semi-orthogonal matrix",
            "what a step leaves out stays in the momentum, so that it is no average of gradients",
            "Q starts at random: another seed is another run, and the one here is that of the "
            "leaf's path",
            "of leaves of rank 3 and more it takes none",
            LAYOUT,
            BY_RANK,
        ),
        make=_dion,
        **_LOW_RANK,
    ),
    Convention(
        name="dion.Dion2",
        source=_SOURCE.format("dion2"),
        equation=(
            "m <- m + g; K the ceil(fraction n) rows of m with the largest sum of |m|, columns "
            "where there are fewer; o = PolarExpress(m_K); m_K <- mu m_K; theta <- (1 - lr_t "
            "lambda s) theta; theta_K <- theta_K - lr_t f o, f = sqrt(rows / columns); the rest: "
            "AdamW"
        ),
        defaults={**_ROW_DEFAULTS, "ef_decay": 0.95},
        traps=(*_ROW_TRAPS, LAYOUT, BY_RANK),
        make=_dion2,
        **_ROWS,
    ),
    Convention(
        name="dion.NorDion2",
        source=_SOURCE.format("nordion2"),
        equation=(
            "as dion.Dion2, always of rows, with v_K <- b2 v_K + (1 - b2) mean_j o_ij**2, "
            "w = o / (sqrt(v_K) + 1e-8), and w |o| / |w| in the place of o"
        ),
        defaults={**_ROW_DEFAULTS, "mu": 0.95, "muon_beta2": 0.95},
        traps=("Dion3 is another name for it", *_ROW_TRAPS, LAYOUT, BY_RANK),
        make=_nordion2,
        **_ROWS,
    ),
)
