"""What each system means by Adafactor, as arguments of :func:`wdlab.optimizers.adafactor`.

    tx = adafactor(**PRESETS["transformers.Adafactor"].arguments)
    tx = adafactor(**{**PRESETS["t5x.Adafactor"].arguments, "learning_rate": 1e-3})

Systems without a default learning rate have none here; ``weight_decay`` is 0 in all but PaLM, and
``coupling`` says what it would be multiplied by; the paper has none, because it does not decay.
"""

from typing import Any, NamedTuple

from wdlab.rules import ALL, BIG_VISION
from wdlab.schedules import relative_step


class Preset(NamedTuple):
    """One system's Adafactor."""

    arguments: dict[str, Any]  # Of wdlab.optimizers.adafactor.
    source: str  # Where it was read, with the version.


_LAST_TWO = {"axes": "last", "min_dim_size_to_factor": 1, "rules": ALL}
_FAIRSEQ = {"learning_rate": relative_step(1e-2), "coupling": "parameter_scale", **_LAST_TWO}

# Not reproduced: torch takes eps1 from the first parameter's dtype for the whole group, and
# computes in bfloat16 for bfloat16 parameters; T5X averages by logical axes where it is given any.
PRESETS: dict[str, Preset] = {
    "paper.Adafactor": Preset(
        {"learning_rate": relative_step(1e-2), **_LAST_TWO},
        "Shazeer & Stern 2018, https://arxiv.org/abs/1804.04235, Algorithms 4, 5 and 6",
    ),
    "t5x.Adafactor": Preset(
        {"coupling": "constant", "axes": "largest", "min_dim_size_to_factor": 128, "rules": ALL},
        "https://github.com/google-research/t5x at cc342d4, t5x/adafactor.py",
    ),
    "optax.adafactor": Preset(
        {"coupling": "constant", "axes": "largest", "min_dim_size_to_factor": 128, "rules": ALL},
        "optax 0.2.8, optax/_src/alias.py and optax/_src/factorized.py",
    ),
    "fairseq.Adafactor": Preset(
        dict(_FAIRSEQ),
        "https://github.com/facebookresearch/fairseq at 3d262bb2, fairseq/optim/adafactor.py",
    ),
    "transformers.Adafactor": Preset(
        dict(_FAIRSEQ), "transformers 5.23.0, transformers/optimization.py"
    ),
    "torch.Adafactor": Preset(
        {
            "learning_rate": 1e-2,
            "coupling": "lr",
            "inverse_sqrt_cap": True,
            "eps1": None,
            "epsilon": "clamped",
            **_LAST_TWO,
        },
        "torch 2.13.0, torch/optim/_adafactor.py",
    ),
    "keras.Adafactor": Preset(
        {
            "learning_rate": 1e-3,
            "coupling": "lr",
            "inverse_sqrt_cap": True,  # Whatever its relative_step says: rho_t is capped always.
            "decay_first": True,
            **_LAST_TWO,
        },
        "Keras 3.15.1, keras/src/optimizers/adafactor.py and base_optimizer.py",
    ),
    "big_vision.adafactor": Preset(
        {
            "coupling": "schedule",
            "rules": BIG_VISION,
            "min_dim_size_to_factor": 32,
            "beta2_cap": 0.999,
            "clipping_threshold": None,
            "parameter_scale": None,
            "momentum": 0.9,
            "momentum_of": "direction",
            "momentum_dtype": "bfloat16",
        },
        "https://github.com/google-research/big_vision at 0127fb6, big_vision/optax.py",
    ),
    "palm.Adafactor": Preset(
        {
            "learning_rate": relative_step(1e-2),  # 1e-2 for 10,000 steps, then 1/sqrt(k).
            "weight_decay": 1.0,  # The decay is lr**2 itself.
            "coupling": "lr2",
            "axes": "never",
            "momentum": 0.9,
            "rules": ALL,
        },
        "Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 5; gradients are clipped "
        "to a global norm of 1.0 before it, which is the user's chain",
    ),
}
