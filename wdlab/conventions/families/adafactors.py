"""The conventions of the Adafactors of Transformers, fairseq, T5X and PaLM."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab.conventions.convention import ADDED, FACTORED_START, Convention, Request
from wdlab.conventions.parts import pair, product, rate_of, relative_or_given
from wdlab.optimizers import adafactor
from wdlab.schedules import relative_step, squared, value_at

_STEP = "u = clip(g / sqrt(V)); "
_SCALED_TRAPS = (
    "the decay is multiplied by the size of the leaf: with RMS 0.02 and lr 1e-2, 0.1 takes 2e-5 "
    "per step, where T5X and Optax take 1e-1",
    "the original refuses lr together with relative_step=True, its default; here a learning rate "
    "switches the relative step off, and None is the relative step",
)


def _fairseq(request: Request) -> optax.GradientTransformation:
    eps1, eps2 = pair(request, "eps")
    scaled = request["scale_parameter"]
    return adafactor(
        relative_or_given(request),
        weight_decay=request.weight_decay,
        coupling=request.coupling,
        rules=request.rules,
        axes="last",
        min_dim_size_to_factor=1,
        eps1=eps1,
        parameter_scale=eps2 if scaled else None,
        clipping_threshold=request["clip_threshold"],
        beta2_exponent=-request["decay_rate"],
        momentum=request["beta1"],
    )


def _t5x(request: Request) -> optax.GradientTransformation:
    rate, power = rate_of(request), request["weight_decay_rate_lr_exponent"]
    decay = request["weight_decay_rate"]
    if power:  # 0 and None are the same there, and a missing rate is 1 beside an exponent.
        decay = product(decay or 1.0, _power(rate, power))
    tx = adafactor(
        rate,
        weight_decay=0.0 if decay is None else decay,
        coupling="constant",
        rules=request.rules,
        axes="largest" if request["factored"] else "never",
        min_dim_size_to_factor=request["min_dim_size_to_factor"],
        beta2_exponent=request["decay_rate"],
        beta2_offset=request["step_offset"],
        eps1=request["epsilon1"],
        clipping_threshold=request["clipping_threshold"],
        parameter_scale=request["epsilon2"] if request["multiply_by_parameter_scale"] else None,
        max_parameter_scale=request["max_parameter_scale"],
        momentum=request["beta1"],
        momentum_dtype=request["dtype_momentum"],
    )
    norm = request["global_norm_clip_threshold"]
    return optax.chain(optax.clip_by_global_norm(norm), tx) if norm else tx


def _power(rate: Any, power: float) -> Any:
    if power == 1:
        return rate
    if power == 2:
        return squared(rate)
    return (lambda count: value_at(rate, count) ** power) if callable(rate) else rate**power


def _palm(request: Request) -> optax.GradientTransformation:
    """None as the learning rate is the paper's: 1e-2 for 10,000 steps, then 1 / sqrt t."""
    rate = relative_step(1e-2) if request.learning_rate is None else request.learning_rate
    return adafactor(
        rate,
        weight_decay=request.weight_decay,
        coupling="lr2",
        rules=request.rules,
        axes="never",
        momentum=request["beta1"],
        beta2_exponent=request["decay_rate"],
    )


def _scaled(arguments: Mapping[str, Any]) -> str:
    return "parameter_scale" if arguments["scale_parameter"] else "lr"


def _t5x_power(arguments: Mapping[str, Any]) -> float:
    return arguments["weight_decay_rate_lr_exponent"] or 0


def _t5x_coupling(arguments: Mapping[str, Any]) -> str:
    power = _t5x_power(arguments)
    known = {0.0: "constant", 1.0: "lr", 2.0: "lr2"}
    return known.get(float(power), f"lr**{power:g}")


_FAIRSEQ = {
    "equation": (
        _STEP + "alpha_t = max(eps2, RMS theta) rho_t, rho_t = min(1e-2, 1 / sqrt t) or lr_t; "
        "theta <- theta - alpha_t u - alpha_t lambda s theta"
    ),
    "coupling": "parameter_scale",
    "order": "joint",
    "epsilon": ADDED,
    "bias_correction": FACTORED_START,
    "defaults": {
        "eps": (1e-30, 1e-3),
        "clip_threshold": 1.0,
        "decay_rate": -0.8,
        "beta1": None,
        "weight_decay": 0.0,
        "scale_parameter": True,
        "relative_step": True,
        "warmup_init": False,
    },
    "make": _fairseq,
    "coupling_of": _scaled,
}

CONVENTIONS = (
    Convention(
        name="transformers.Adafactor",
        version="transformers 5.23.0",
        source=(
            "https://github.com/huggingface/transformers/blob/main/src/transformers/optimization.py"
        ),
        traps=_SCALED_TRAPS,
        **_FAIRSEQ,
    ),
    Convention(
        name="fairseq.Adafactor",
        version="fairseq 3d262bb2",
        source="https://github.com/facebookresearch/fairseq/blob/main/fairseq/optim/adafactor.py",
        traps=(
            *_SCALED_TRAPS,
            "with scale_parameter=True and relative_step=False the original writes each leaf's "
            "scaled rate back into its group, so that the scales of all earlier leaves multiply "
            "the next one's: not reproduced, equal for a single leaf",
        ),
        **_FAIRSEQ,
    ),
    Convention(
        name="t5x.Adafactor",
        version="t5x cc342d4",
        source="https://github.com/google-research/t5x/blob/main/t5x/adafactor.py",
        equation=(
            _STEP + "theta <- (1 - w) theta - lr_t max(eps2, RMS theta) u, with w = lambda s, or "
            "lambda s lr_t**p where weight_decay_rate_lr_exponent is p"
        ),
        coupling="constant",
        order="joint",
        epsilon=ADDED,
        bias_correction=FACTORED_START,
        decay_argument="weight_decay_rate",
        defaults={
            "factored": True,
            "multiply_by_parameter_scale": True,
            "beta1": None,
            "decay_rate": 0.8,
            "step_offset": 0,
            "clipping_threshold": 1.0,
            "weight_decay_rate": None,
            "min_dim_size_to_factor": 128,
            "epsilon1": 1e-30,
            "epsilon2": 1e-3,
            "dtype_momentum": "float32",
            "weight_decay_rate_lr_exponent": None,
            "global_norm_clip_threshold": None,
            "max_parameter_scale": None,
        },
        refused={
            "factor_map": "Leaves are factored over their two largest axes.",
            "logical_factor_rules": "Leaves are factored over their two largest axes.",
            "skip_nan_updates": "Write optax.apply_if_finite around it.",
        },
        traps=(
            "weight_decay_rate alone is multiplied by nothing: 0.1 takes a tenth of every weight "
            "in every step",
            "an exponent without a rate means a rate of 1; an exponent of 0 is ignored",
            "leaves of rank above 2 need explicit factor rules there; here the two largest axes",
        ),
        make=_t5x,
        coupling_of=_t5x_coupling,
        power_of=_t5x_power,
    ),
    Convention(
        name="palm.Adafactor",
        version="arXiv 2204.02311",
        source="Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 5",
        equation=(
            "u = clip(g / sqrt(V)), V not factored; m <- b1 m + (1 - b1) lr_t max(1e-3, RMS theta) "
            "u; theta <- theta - m - lr_t**2 lambda s theta"
        ),
        coupling="lr2",
        order="joint",
        epsilon=ADDED,
        bias_correction=FACTORED_START,
        learning_rate=1e-2,
        defaults={"weight_decay": 1.0, "beta1": 0.9, "decay_rate": 0.8},
        traps=(
            "the decay is lr_t**2 itself, 1e-4 at first, and falls as 1 / t after 10,000 steps",
            "None as the learning rate is the paper's: 1e-2, from step 10,000 on 1 / sqrt t",
            "gradients are clipped to a global norm of 1 before it, which is the user's chain",
        ),
        make=_palm,
    ),
)
