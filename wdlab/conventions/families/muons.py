"""The conventions of Muon in torch: torch.optim, its author's package, Moonlight."""

import math
from typing import Any

import jax
import optax

from wdlab._core.transformation import transformation
from wdlab.conventions.convention import CORRECTED, Convention, Request
from wdlab.conventions.matrices import (
    ALONE,
    BY_RANK,
    LAYOUT,
    OF_A_TREE,
    axes_of,
    by_matrices,
    flattened,
    with_matrix_decay,
)
from wdlab.conventions.parts import pair, rate_of
from wdlab.optimizers import assemble
from wdlab.preconditioners import MatrixAxes, orthogonalize, scale_by_adam

_MATRICES = MatrixAxes("out_in", rules=())
_JORDAN_AXES = MatrixAxes("out_in", kernels="batch", rules=flattened(4))
_SIZES: dict[Any, Any] = {None: "original", "original": "original", "match_rms_adamw": "rms"}


def _torch(request: Request) -> optax.GradientTransformation:
    if request["adjust_lr_fn"] not in _SIZES:
        raise ValueError(
            f"{request.name}: adjust_lr_fn must be None, 'original' or 'match_rms_adamw', got "
            f"{request['adjust_lr_fn']!r}."
        )
    direction = orthogonalize(
        request["momentum"],
        nesterov=request["nesterov"],
        coefficients=(request["ns_coefficients"],),
        steps=request["ns_steps"],
        eps=request["eps"],
        dtype=request["iteration_dtype"],
        scaling=_SIZES[request["adjust_lr_fn"]],
        axes=axes_of(request, _MATRICES),
    )
    return by_matrices(request, with_matrix_decay(request, direction, rate_of(request)), None)


def _moonlight(request: Request) -> optax.GradientTransformation:
    direction = orthogonalize(
        request["momentum"],
        average="sum",
        nesterov=request["nesterov"],
        steps=request["ns_steps"],
        epsilon="added",
        dtype=request["iteration_dtype"],
        scaling="rms",
        axes=axes_of(request, _MATRICES),
    )
    rate = rate_of(request)
    b1, b2 = pair(request, "adamw_betas")
    adam = scale_by_adam(b1, b2, request["adamw_eps"], epsilon="hat")
    rest = assemble(request.name, adam, rate, request.weight_decay, "lr", request.rules)
    return by_matrices(request, with_matrix_decay(request, direction, rate), rest)


def _jordan_matrices(request: Request) -> optax.GradientTransformation:
    axes = axes_of(request, _JORDAN_AXES)
    direction = orthogonalize(
        request["momentum"],
        epsilon="added",
        dtype=request["iteration_dtype"],
        scaling="none",
        axes=axes,
    )
    return optax.chain(direction, _by_last_axes(axes))


def _by_last_axes(axes: MatrixAxes) -> optax.GradientTransformation:
    """sqrt(max(1, rows / columns)) of a matrix; of a flattened kernel by its height and width."""

    def factor(u: jax.Array, view: Any) -> float:
        rows, columns = view.row_count, view.column_count
        if len(view.columns) > 1:
            positions = view.columns[1:] if view.rows[0] < view.columns[0] else view.columns[:-1]
            rows, columns = (u.shape[axis] for axis in positions[-2:])
        return math.sqrt(max(1.0, rows / max(1, columns)))

    def update_fn(updates: Any, state: Any, params: Any = None) -> Any:
        del params
        leaves, treedef = jax.tree.flatten(updates)
        pairs = zip(leaves, axes.views(updates), strict=True)
        return treedef.unflatten([factor(u, view) * u for u, view in pairs]), state

    return transformation(optax.init_empty_state, update_fn)


def _jordan(request: Request) -> optax.GradientTransformation:
    matrices = with_matrix_decay(request, _jordan_matrices(request), rate_of(request))
    return by_matrices(request, matrices, None, most=4)


def _jordan_with_adam(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request, "adam_betas")
    rest = assemble(
        request.name,
        scale_by_adam(b1, b2, request["adam_eps"]),
        request["adam_lr"],
        request["adam_weight_decay"],
        "lr",
        request.rules,
    )
    matrices = with_matrix_decay(request, _jordan_matrices(request), rate_of(request))
    return by_matrices(request, matrices, rest, most=4)


_STEP = "theta <- (1 - lr_t lambda s) theta; theta <- theta - lr_t {} NS({})"
_EMA = "(1 - mu) g + mu m"
_JORDAN = {
    "version": "KellerJordan/Muon 857d1ad",
    "source": "https://github.com/KellerJordan/Muon/blob/857d1ad/muon.py",
    "coupling": "lr",
    "order": "before",
    "learning_rate": 0.02,
}
_JORDAN_TRAPS = (
    "the default decay is 0, torch.Muon's 0.1, and the default rate 0.02, torch.Muon's 1e-3",
    "a kernel of rank 4 is orthogonalized as (out, in x height x width), and its factor is "
    "sqrt(max(1, height / width)): nothing of its channels. The release, muon-optimizer 0.1.0, is "
    "older and fails on one",
    "the gradient in p.grad is overwritten by the look-ahead: norms logged after the step are its",
    LAYOUT,
    BY_RANK,
)

CONVENTIONS = (
    Convention(
        name="torch.Muon",
        version="torch 2.13.0",
        source="https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/_muon.py",
        equation=(
            "m <- mu m + (1 - mu) g; "
            + _STEP.format("f", _EMA)
            + ", f = sqrt(max(1, rows / columns)), or 0.2 sqrt(max(rows, columns))"
        ),
        coupling="lr",
        order="before",
        epsilon="at least the norm: max(|x|, 1e-7)",
        learning_rate=1e-3,
        defaults={
            "weight_decay": 0.1,
            "momentum": 0.95,
            "nesterov": True,
            "ns_coefficients": (3.4445, -4.7750, 2.0315),
            "eps": 1e-7,
            "ns_steps": 5,
            "adjust_lr_fn": None,
            **OF_A_TREE,
        },
        traps=(
            "the decay is lr_t lambda without f, so that adjust_lr_fn changes the ratio of step to "
            "decay: by 0.2 sqrt(max(rows, columns)), 6.4 for a side of 1024",
            "the default decay is 0.1, ten times torch.AdamW's",
            "the documentation writes m <- mu m + g, the code averages: the same direction",
            "with bfloat16 gradients and nesterov=False the iteration divides the momentum itself "
            "by its norm, in place; not built",
            ALONE,
            LAYOUT,
            BY_RANK,
        ),
        make=_torch,
    ),
    Convention(
        name="moonlight.Muon",
        version="Moonlight c2ad5b2",
        source="https://github.com/MoonshotAI/Moonlight/blob/c2ad5b2/examples/toy_train.py",
        equation=(
            "m <- mu m + g; "
            + _STEP.format("0.2 sqrt(max(rows, columns))", "g + mu m")
            + "; the rest: theta <- theta - lr_t sqrt(c2) / c1 m / (sqrt(v) + eps)"
        ),
        coupling="lr",
        order="before",
        epsilon="added to the norm: |x| + 1e-7; in AdamW hat: sqrt(v) + eps",
        bias_correction=f"{CORRECTED}, in the AdamW part",
        learning_rate=1e-3,
        defaults={
            "wd": 0.1,
            "momentum": 0.95,
            "nesterov": True,
            "ns_steps": 5,
            "adamw_betas": (0.9, 0.95),
            "adamw_eps": 1e-8,
            **OF_A_TREE,
        },
        decay_argument="wd",
        traps=(
            "one number and one learning rate for both parts: embeddings, norms and biases decay "
            "by 0.1 as matrices do, unless the user makes groups",
            "the decay is lr_t lambda, the matrices' step larger by 0.2 sqrt(max(rows, columns))",
            "its AdamW has epsilon before the correction: 1e-8 acts as 4.5e-8 in the first step",
            LAYOUT,
            BY_RANK,
        ),
        make=_moonlight,
    ),
    Convention(
        name="keller_jordan.Muon",
        equation="m <- mu m + (1 - mu) g; " + _STEP.format("sqrt(max(1, rows / columns))", _EMA),
        epsilon="added to the norm: |x| + 1e-7",
        defaults={"weight_decay": 0.0, "momentum": 0.95, **OF_A_TREE},
        traps=(*_JORDAN_TRAPS, ALONE),
        make=_jordan,
        **_JORDAN,
    ),
    Convention(
        name="keller_jordan.MuonWithAuxAdam",
        equation=(
            "m <- mu m + (1 - mu) g; "
            + _STEP.format("sqrt(max(1, rows / columns))", _EMA)
            + "; the rest: (1 - lr' lambda' s) theta - lr' (m / c1) / (sqrt(v / c2) + eps)"
        ),
        epsilon="added to the norm: |x| + 1e-7; in Adam outside",
        bias_correction=f"{CORRECTED}, in the Adam part",
        defaults={
            "weight_decay": 0.0,
            "momentum": 0.95,
            "adam_lr": 3e-4,
            "adam_betas": (0.9, 0.95),
            "adam_eps": 1e-10,
            "adam_weight_decay": 0.0,
            **OF_A_TREE,
        },
        traps=(
            "two groups with keys of one name: those of use_muon=False are adam_lr, adam_betas, "
            "adam_eps, adam_weight_decay here. adam_lr is a schedule of its own",
            *_JORDAN_TRAPS,
        ),
        make=_jordan_with_adam,
        **_JORDAN,
    ),
)
