"""Which parameters decay, and how much: paths, rules, presets, and the scale of each leaf.

A rule is data: a regular expression that must match a leaf's whole path, and a scale (0 exempts, 1
decays in full). The first rule that matches decides; a leaf that no rule matches is an error.
"""

from wdlab.rules.coverage import RuleWarning, check_rules, doubts, warn_if_idle
from wdlab.rules.decisions import Decision, decay_scales, decisions, normalize_rules
from wdlab.rules.paths import leaves_with_paths, masked_paths, nearest_path, parameters
from wdlab.rules.patterns import compile_pattern
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
    STATE_SPACE,
    containing,
    looks_like_matrix,
    looks_like_norm_or_bias,
    short_rule,
)
from wdlab.rules.rule import Ndim, Rule, scale_value

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
    "STATE_SPACE",
    "check_rules",
    "compile_pattern",
    "containing",
    "decay_scales",
    "decisions",
    "doubts",
    "leaves_with_paths",
    "looks_like_matrix",
    "looks_like_norm_or_bias",
    "masked_paths",
    "nearest_path",
    "normalize_rules",
    "parameters",
    "scale_value",
    "short_rule",
    "warn_if_idle",
]
