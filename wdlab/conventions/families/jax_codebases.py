"""The conventions of those who chain Optax: nanodo, AxLearn, big_vision."""

from collections.abc import Mapping
from typing import Any

import optax

from wdlab.conventions.convention import (
    ADDED,
    CORRECTED,
    OUTSIDE,
    OUTSIDE_ROOT,
    REQUIRED,
    Convention,
    Request,
)
from wdlab.conventions.parts import optax_adam, rate_of, with_decay
from wdlab.optimizers import adafactor
from wdlab.rules import BIG_VISION

_ADAM = "m^ / (sqrt(v^) + eps)"


def _adamw(request: Request) -> optax.GradientTransformation:
    return with_decay(request, optax_adam(request), complex_ok=True)


def _big_vision_adafactor(request: Request) -> optax.GradientTransformation:
    return adafactor(
        rate_of(request),
        weight_decay=request.weight_decay,
        coupling="schedule",
        rules=request.rules,
        peak_learning_rate=request.peak_learning_rate,
        min_dim_size_to_factor=request["min_dim_size_to_factor"],
        beta2_exponent=request["decay_rate"],
        beta2_offset=request["decay_offset"],
        beta2_cap=request["beta2_cap"],
        clipping_threshold=request["clipping_threshold"] or None,
        parameter_scale=None,
        momentum=request["momentum"] or None,
        momentum_of="direction",
        momentum_dtype=request["dtype_momentum"],
        eps1=request["eps"],
    )


def _nanodo_coupling(arguments: Mapping[str, Any]) -> str:
    return "schedule" if arguments["independent_weight_decay"] else "lr"


_BIG_VISION = {
    "version": "big_vision 0127fb6",
    "source": "https://github.com/google-research/big_vision/blob/main/big_vision/optax.py",
    "coupling": "schedule",
    "order": "joint",
    "decay_argument": "wd",
    "rules": BIG_VISION,
    "refused": {"wd_mults": "Write rules=(Rule(pattern, mult), ...), first full match wins."},
}
_BIG_VISION_TRAPS = (
    "only leaves named kernel decay unless wd_mults says otherwise: no embeddings, no norms",
    "wd is not multiplied by lr: 1e-4 here is 0.1 of torch.AdamW at lr 1e-3",
    "lr_mults leave the decay alone",
)
_AXLEARN = {
    "version": "axlearn 34aed43c",
    "source": "https://github.com/apple/axlearn/blob/main/axlearn/common/optimizers.py",
    "order": "joint",
    "epsilon": OUTSIDE,
    "bias_correction": CORRECTED,
    "defaults": {
        "b1": REQUIRED,
        "b2": REQUIRED,
        "eps": REQUIRED,
        "weight_decay": 0.0,
        "mu_dtype": None,
    },
    "refused": {"weight_decay_per_param_scale": "Write rules=(Rule(pattern, scale), ...)."},
    "make": _adamw,
}
_AXLEARN_TRAPS = (
    "b1, b2 and eps have no defaults",
    "schedules there count from 1: schedule(1) is the first step; here the first is schedule(0)",
    "norm scales and biases decay unless weight_decay_per_param_scale says otherwise",
)

CONVENTIONS = (
    Convention(
        name="nanodo.adamw",
        version="nanodo 10aefde",
        source="https://github.com/google-deepmind/nanodo/blob/main/nanodo/optimizer.py",
        equation=(
            f"theta <- theta - lr_t ({_ADAM} + lambda s theta); with independent_weight_decay "
            "lambda / peak in place of lambda"
        ),
        coupling="lr",
        order="joint",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1.6e-3,
        defaults={
            "b1": 0.9,
            "b2": 0.98,
            "eps": 1e-9,
            "weight_decay": 0.1,
            "independent_weight_decay": False,
        },
        refused={"weight_decay_exclusion_names": "Write rules=(Rule('.*name.*', 0.0), ...)."},
        traps=(
            "independent_weight_decay divides the number by the peak learning rate: eta_t lambda",
            "everything decays: weight_decay_exclusion_names is empty by default",
            "b2 is 0.98 and eps 1e-9 unless the config says otherwise",
        ),
        make=_adamw,
        coupling_of=_nanodo_coupling,
    ),
    Convention(
        name="axlearn.adamw",
        equation=f"theta <- theta - lr_t ({_ADAM} + lambda s theta)",
        coupling="lr",
        traps=_AXLEARN_TRAPS,
        **_AXLEARN,
    ),
    Convention(
        name="axlearn.adamw_decoupled",
        equation=f"theta <- theta - eta_t (peak {_ADAM} + lambda s theta)",
        coupling="schedule",
        traps=(
            *_AXLEARN_TRAPS,
            "learning_rate there is the peak and update_schedule eta_t; here learning_rate is "
            "their product, with the peak beside it",
        ),
        **_AXLEARN,
    ),
    Convention(
        name="big_vision.adam",
        equation=f"theta <- theta - eta_t (lr {_ADAM} + lambda s theta)",
        epsilon=OUTSIDE_ROOT,
        bias_correction=CORRECTED,
        defaults={
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "eps_root": 0.0,
            "mu_dtype": None,
            "wd": None,
        },
        traps=_BIG_VISION_TRAPS,
        make=_adamw,
        **_BIG_VISION,
    ),
    Convention(
        name="big_vision.adafactor",
        equation="theta <- theta - eta_t (lr ema(g / sqrt(V)) + lambda s theta)",
        epsilon=ADDED,
        bias_correction="none: b2_t = min(0.999, 1 - t**-0.8) starts at 0",
        defaults={
            "min_dim_size_to_factor": 32,
            "decay_rate": 0.8,
            "decay_offset": 0,
            "beta2_cap": 0.999,
            "clipping_threshold": None,
            "momentum": 0.9,
            "dtype_momentum": "bfloat16",
            "eps": 1e-30,
            "wd": None,
        },
        traps=(
            *_BIG_VISION_TRAPS,
            "no clipping, no parameter scale, momentum in bfloat16: another Adafactor than Optax'",
        ),
        make=_big_vision_adafactor,
        **_BIG_VISION,
    ),
)
