"""params -> paths -> rules -> schedules -> transforms -> optimizers -> train step."""

from wdlab import (
    conventions,
    curvature,
    equilibrium,
    groups,
    interop,
    metrics,
    mup,
    nonfinite,
    optimizers,
    precision,
    recipes,
    rules,
    schedules,
    sweep,
    variants,
)
from wdlab.clipping import clip_by_block_rms, clip_by_global_norm
from wdlab.conversion import convert
from wdlab.forecast import decay_profile
from wdlab.injection import inject_hyperparams
from wdlab.nonfinite import skip_nonfinite
from wdlab.plan import DecayPlan, decay_plan
from wdlab.report import inspect_decay, print_decay
from wdlab.rules import Rule, check_rules, decay_scales
from wdlab.schedules import schedule_multiplier
from wdlab.training import init_opt_state, make_train_step, make_update
from wdlab.transforms import add_l2_gradient, decay_weights, freeze

__all__ = [
    "DecayPlan",
    "Rule",
    "add_l2_gradient",
    "check_rules",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "conventions",
    "convert",
    "curvature",
    "decay_plan",
    "decay_profile",
    "decay_scales",
    "decay_weights",
    "equilibrium",
    "freeze",
    "groups",
    "init_opt_state",
    "inject_hyperparams",
    "inspect_decay",
    "interop",
    "make_train_step",
    "make_update",
    "metrics",
    "mup",
    "nonfinite",
    "optimizers",
    "precision",
    "print_decay",
    "recipes",
    "rules",
    "schedule_multiplier",
    "schedules",
    "skip_nonfinite",
    "sweep",
    "variants",
]
