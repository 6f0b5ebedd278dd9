"""Which parameters decay, and how much: paths, rules, presets, and the scale of each leaf.

A rule is data: a regular expression that must match a leaf's whole path, and a scale (0 exempts, 1
decays in full). The first rule that matches decides; a leaf that no rule matches is an error.
"""

from wdlab.rules.paths import leaves_with_paths, masked_paths, nearest_path
from wdlab.rules.presets import (
    ALL,
    BERT,
    BIG_VISION,
    DEEPSPEED_CHAT,
    KERNELS_ONLY,
    MATRICES_ONLY,
    MINGPT,
    NANOGPT,
    NO_BIAS_OR_NORM,
    containing,
    looks_like_matrix,
    looks_like_norm_or_bias,
    short_pattern,
)
from wdlab.rules.rule import Ndim, Rule, scale_value
from wdlab.rules.scales import (
    Decision,
    RuleWarning,
    check_rules,
    decay_scales,
    decisions,
    normalize_rules,
    warn_if_idle,
)

__all__ = [
    "ALL",
    "BERT",
    "BIG_VISION",
    "DEEPSPEED_CHAT",
    "Decision",
    "KERNELS_ONLY",
    "MATRICES_ONLY",
    "MINGPT",
    "NANOGPT",
    "NO_BIAS_OR_NORM",
    "Ndim",
    "Rule",
    "RuleWarning",
    "check_rules",
    "containing",
    "decay_scales",
    "decisions",
    "leaves_with_paths",
    "looks_like_matrix",
    "looks_like_norm_or_bias",
    "masked_paths",
    "nearest_path",
    "normalize_rules",
    "scale_value",
    "short_pattern",
    "warn_if_idle",
]
