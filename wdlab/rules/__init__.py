"""Which parameters decay, and how much: paths, rules, presets, and the scale of each leaf.

A rule is data: a regular expression that must match a leaf's whole path, and a scale (0 exempts, 1
decays in full). The first rule that matches decides; a leaf that no rule matches is an error.
``roles`` reads off the traced loss what each leaf is, and ``by_role`` applies rules that go by it.
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
    HIDDEN_MATRICES,
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
from wdlab.rules.rule import ROLES, Ndim, Rule, scale_value
from wdlab.rules.stacks import (
    HF_TRAINER,
    KAULDRON,
    MAXTEXT,
    MEGATRON,
    MEGATRON_QK_LAYERNORM,
    NANOCHAT_ADAMW,
    NANOCHAT_MUON,
    OLMO_CORE,
    TORCHTITAN,
)
from wdlab.rules.traced_roles.by_role import ROLE_MATRICES, ROLE_MATRICES_AND_EMBEDDINGS, by_role
from wdlab.rules.traced_roles.leaf_role import LeafRole
from wdlab.rules.traced_roles.table import name_disagrees, print_roles
from wdlab.rules.traced_roles.tracing import leaf_roles, roles

__all__ = [
    "ALL",
    "BERT",
    "BIG_VISION",
    "DEEPSPEED_CHAT",
    "Decision",
    "HF_TRAINER",
    "HIDDEN_MATRICES",
    "KAULDRON",
    "KERNELS_ONLY",
    "LeafRole",
    "MATRICES_ONLY",
    "MAXTEXT",
    "MEGATRON",
    "MEGATRON_QK_LAYERNORM",
    "MINGPT",
    "NANOCHAT_ADAMW",
    "NANOCHAT_MUON",
    "NANOGPT",
    "NO_BIAS_OR_NORM",
    "Ndim",
    "OLMO_CORE",
    "ROLES",
    "ROLE_MATRICES",
    "ROLE_MATRICES_AND_EMBEDDINGS",
    "Rule",
    "RuleWarning",
    "STATE_SPACE",
    "TORCHTITAN",
    "by_role",
    "check_rules",
    "compile_pattern",
    "containing",
    "decay_scales",
    "decisions",
    "doubts",
    "leaf_roles",
    "leaves_with_paths",
    "looks_like_matrix",
    "looks_like_norm_or_bias",
    "masked_paths",
    "name_disagrees",
    "nearest_path",
    "normalize_rules",
    "parameters",
    "print_roles",
    "roles",
    "scale_value",
    "short_rule",
    "warn_if_idle",
]
