"""The conventions of torchao's Adam family, with states that are not quantized.

torchao quantizes the states of leaves with 4096 entries or more; what it computes of them, in
float32, is the same for all of its classes.
"""

from typing import Any

from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention
from wdlab.conventions.parts import adam_with_decay

_SOURCE = "https://github.com/pytorch/ao/blob/v0.18.0/torchao/optim/adam.py"
_NUMBERS = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
_REFUSED = {
    "block_size": "Quantized states are not reproduced; here they are float32.",
    "bf16_stochastic_round": "For bfloat16 weights: wdlab.training.stochastic_rounding.",
}
_FLOAT32 = "everything is computed in float32, of float64 weights too"
_TENSOR = (
    "the learning rate is a tensor: a scheduler must fill it, a number in its place is an error"
)


def _torchao(name: str, *, quantized: bool = True, **facts: Any) -> Convention:
    refused = dict(_REFUSED)
    if not quantized:
        del refused["block_size"]
    return Convention(
        name=f"torchao.{name}",
        version="torchao 0.18.0",
        source=_SOURCE,
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        refused=refused,
        make=adam_with_decay,
        **facts,
    )


_STEP = "theta <- theta - lr_t m^ / (sqrt(v^) + eps)"
_DECOUPLED = {
    "equation": f"theta <- (1 - lr_t lambda s) theta; {_STEP}",
    "coupling": "lr",
    "order": "before",
    "defaults": {**_NUMBERS, "weight_decay": 1e-2},
    "traps": (_TENSOR, _FLOAT32),
}
_L2 = {
    "equation": f"g <- g + lambda s theta; {_STEP}",
    "coupling": "l2",
    "order": "in the gradient",
    "defaults": _NUMBERS,
    "traps": ("L2, as torch.Adam; bitsandbytes' Adam8bit is AdamW", _TENSOR, _FLOAT32),
}
CONVENTIONS = (
    _torchao("_AdamW", quantized=False, **_DECOUPLED),
    *(_torchao(f"AdamW{bits}", **_DECOUPLED) for bits in ("8bit", "4bit", "Fp8")),
    *(_torchao(f"Adam{bits}", **_L2) for bits in ("8bit", "4bit", "Fp8")),
)
