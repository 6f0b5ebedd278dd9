"""The conventions of SOAP, Kron and Sophia: preconditioners by matrices or by curvature."""

from typing import Any

import jax
import optax

from wdlab._core.checks import check_choice, require_params
from wdlab.conventions.convention import CORRECTED, HAT, Convention, Request
from wdlab.conventions.decay_places import with_decay_after
from wdlab.conventions.parts import pair, with_decay
from wdlab.preconditioners import (
    kron_update_share,
    scale_by_kron,
    scale_by_soap,
    scale_by_sophia,
)
from wdlab.rules import MATRICES_ONLY

_DIAGONALS: dict[Any, Any] = {
    None: "vectors",
    "smart_one_diag": "longer",
    "one_diag": "longest",
    "all_diag": "all",
}


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


def _kron(request: Request) -> optax.GradientTransformation:
    share, mode = request["preconditioner_update_probability"], request["memory_save_mode"]
    if mode is not None:
        check_choice("memory_save_mode", mode, [name for name in _DIAGONALS if name])
    from_momentum = request["momentum_into_precond_update"]
    direction = scale_by_kron(
        request["b1"],
        step_size=request["precond_lr"],
        update_share=kron_update_share if share is None else share,
        learns_from="momentum" if from_momentum else "gradient",
        damp_direction=True,  # The original adds the probe to the average in place.
        max_dim=request["max_size_triangular"],
        diagonals=_DIAGONALS[mode],
        initial_scale=request["precond_init_scale"],
    )
    return with_decay(request, direction)


def _sophia_g(request: Request) -> optax.GradientTransformation:
    curved = request["rho"] * request["bs"]
    return with_decay(request, scale_by_sophia(*pair(request), curved))


def _optax_sophia(request: Request) -> optax.GradientTransformation:
    names = ("b1", "b2", "eps", "gamma", "clip_threshold", "update_interval", "mu_dtype")
    arguments = {name: request[name] for name in names}
    estimator = request["hessian_diagonal_fn"]
    if estimator is not None:
        arguments["hessian_diagonal_fn"] = estimator
    whole = optax.contrib.sophia(1.0, weight_decay=0.0, **arguments)
    inner = optax.chain(whole, optax.scale(-1.0))  # Optax exports no scale_by_sophia.

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra_args: Any
    ) -> tuple[Any, Any]:
        require_params(request.name, params)
        if not jax.tree.leaves(updates):  # Optax counts the clipped entries of at least one leaf.
            return updates, state
        return inner.update(updates, state, params, **extra_args)

    direction = optax.GradientTransformationExtraArgs(inner.init, update_fn)
    return with_decay(request, direction)


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
    Convention(
        name="kron.Kron",
        version="kron_torch 0.3.3",
        source="https://github.com/evanatyourservice/kron_torch",
        equation=(
            "theta <- theta - lr_t (min(1, 1.1 / rms(u)) u + lambda s theta), u = Q_L^T Q_L "
            "m / c1 Q_R^T Q_R; the triangular Q learn before it, from m / c1 and a normal probe"
        ),
        coupling="lr",
        order="joint",
        bias_correction="m alone, 1 - b1**t",
        learning_rate=3e-4,
        defaults={
            "b1": 0.9,
            "weight_decay": 0.0,
            "preconditioner_update_probability": None,
            "max_size_triangular": 8192,
            "memory_save_mode": None,
            "momentum_into_precond_update": True,
            "precond_lr": 0.1,
            "precond_init_scale": 1.0,
        },
        refused={
            "min_ndim_triangular": "Write scale_by_kron(diagonals=) of wdlab.preconditioners.",
            "merge_dims": "Leaves of rank 3 or more are always seen as matrices.",
            "mu_dtype": "The average is float32 or wider.",
            "precond_dtype": "The factors are float32 or wider.",
        },
        rules=MATRICES_ONLY,
        traps=(
            "the decay is added after the clipping of the step: it is not clipped",
            "leaves of rank 0 and 1 never decay, whatever the parameter groups say",
            "the probe is added to the average in place: the step has it, 3e-4 of the mean; "
            "psgd_jax's step has not, and it decays by mask",
            "merged are all axes but the last, as Flax's kernels want it; of torch's (O, I, H, W) "
            "the columns are W",
            "the original fails on scalars; here they are vectors of one entry",
            "preconditioner_update_probability is no probability: it learns at every 1/p-th step",
            "probes are JAX's, not torch's: equal to the original with the same probes alone",
            "the original's triangular solves are in float32 even for float64 factors",
        ),
        make=_kron,
    ),
    Convention(
        name="sophia.SophiaG",
        version="Liuhong99/Sophia a7e1572",
        source="https://github.com/Liuhong99/Sophia/blob/a7e1572/sophia.py",
        equation=(
            "theta <- (1 - lr_t lambda s) theta; theta <- theta - lr_t sign(m) "
            "min(|m| / (rho bs h + 1e-15), 1); h <- b2 h + (1 - b2) g^**2 of a sampled gradient g^"
        ),
        coupling="lr",
        order="before",
        epsilon="1e-15 added to rho bs h",
        learning_rate=1e-4,
        defaults={
            "betas": (0.965, 0.99),
            "rho": 0.04,
            "weight_decay": 0.1,
            "maximize": False,
            "bs": 5120,
        },
        traps=(
            "update_hessian() is a call of its own: here update(..., sampled_gradient=tree), at "
            "the steps at which the original's loop calls it; without it every step is a sign",
            "bs is an argument of step(): the terms in the mean loss, tokens and not sequences",
            "the default decay is 0.1, optax.contrib.sophia's 1e-4, both times the learning rate",
            "the first moment is not corrected for its start at zero; optax.contrib.sophia's is",
        ),
        make=_sophia_g,
    ),
    Convention(
        name="optax.contrib.sophia",
        version="optax 0.2.8",
        source="https://github.com/google-deepmind/optax/blob/v0.2.8/optax/contrib/_sophia.py",
        equation=(
            "theta <- theta - lr_t (clip(m / c1 / max(gamma h, eps), 1) + lambda s theta); every "
            "update_interval steps h <- b2 h + (1 - b2) v H v, v random signs"
        ),
        coupling="lr",
        order="joint",
        epsilon="floor: max(gamma h, eps)",
        bias_correction="m alone, 1 - b1**t",
        defaults={
            "b1": 0.965,
            "b2": 0.99,
            "eps": 1e-8,
            "weight_decay": 1e-4,
            "gamma": 0.01,
            "clip_threshold": 1.0,
            "update_interval": 10,
            "hessian_diagonal_fn": None,
            "mu_dtype": None,
        },
        refused={
            "weight_decay_mask": "Write rules=.",
            "verbose": "It prints. Measure with wdlab.instruments.",
            "print_win_rate_every_n_steps": "It prints. Measure with wdlab.instruments.",
        },
        traps=(
            "the default estimator needs the loss of the batch, update(..., obj_fn=loss); "
            "hessian_diagonal_fn=None means it",
            "h comes in after the step and starts at 0: the first step is lr_t sign(g)",
            "the default decay is 1e-4, SophiaG's 0.1",
            "Optax alone fails on a tree without leaves; here it is let pass",
        ),
        make=_optax_sophia,
    ),
)
