"""Weight decay for JAX: explicit, composable, checkable. ``help(wdlab.rules)`` shows a room.

rules           which parameters decay, and how much: paths, Rule, presets, roles
schedules       learning rates that know their peak, couplings, strengths by timescale
decay           the decay terms: L2 in the gradient, decoupled, penalties, norm bounds, spheres
preconditioners gradient -> direction, without rate, sign or decay
optimizers      chains short enough to see where the decay sits
groups          parameter groups, LoRA, layer-wise decay, muP
conventions     the optimizers of other systems by name, conversion, published recipes
instruments     tables, forecasts, plans, the doctor; norms, rotation, curvature
training        the update step, 16-bit weights, steps that are not finite, checkpoints
from_torch      weights and optimizer state of a torch run
sweep           grids of trainings in one compiled program

Each room uses only those above it. The names used most stand here as well.
"""

from wdlab import (
    conventions,
    decay,
    from_torch,
    groups,
    instruments,
    optimizers,
    preconditioners,
    rules,
    schedules,
    sweep,
    training,
)
from wdlab.conventions import convert, transfer
from wdlab.decay import add_l2_gradient, decay_weights, freeze
from wdlab.groups import print_groups
from wdlab.instruments import (
    DecayPlan,
    decay_plan,
    decay_profile,
    doctor,
    equivalent,
    inspect_decay,
    print_decay,
)
from wdlab.optimizers import inject_hyperparams
from wdlab.preconditioners import clip_by_block_rms, clip_by_global_norm
from wdlab.rules import Rule, check_rules, decay_scales
from wdlab.schedules import schedule_multiplier
from wdlab.training import init_opt_state, make_train_step, make_update, skip_nonfinite

__all__ = [
    "DecayPlan",
    "Rule",
    "add_l2_gradient",
    "check_rules",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "conventions",
    "convert",
    "decay",
    "decay_plan",
    "decay_profile",
    "decay_scales",
    "decay_weights",
    "doctor",
    "equivalent",
    "freeze",
    "from_torch",
    "groups",
    "init_opt_state",
    "inject_hyperparams",
    "inspect_decay",
    "instruments",
    "make_train_step",
    "make_update",
    "optimizers",
    "preconditioners",
    "print_decay",
    "print_groups",
    "rules",
    "schedule_multiplier",
    "schedules",
    "skip_nonfinite",
    "sweep",
    "training",
    "transfer",
]
