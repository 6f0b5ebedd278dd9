"""The decay terms: L2 in the gradient, decoupled, penalties, norm bounds, spheres, variants.

``add_l2_gradient`` goes first in a chain, ``decay_weights`` last; the others say where they go.
"""

from wdlab.decay.leafwise import (
    check_leaves,
    check_shrink,
    map_decayed,
    next_count,
    warn_if_rounded_away,
)
from wdlab.decay.norm_bounds import constrain_norms
from wdlab.decay.penalties import decay_huber, decay_l1, decay_proximal
from wdlab.decay.qk_clip import QKPair, clip_qk
from wdlab.decay.sequential import decay_then_step, step_then_decay
from wdlab.decay.spheres import hyperball, keep_initial_norm
from wdlab.decay.transforms import (
    AddL2GradientState,
    DecayWeightsState,
    add_l2_gradient,
    decay_weights,
    freeze,
)
from wdlab.decay.variants import decay_corrected, decay_toward_ema

__all__ = [
    "AddL2GradientState",
    "DecayWeightsState",
    "QKPair",
    "add_l2_gradient",
    "check_leaves",
    "check_shrink",
    "clip_qk",
    "constrain_norms",
    "decay_corrected",
    "decay_huber",
    "decay_l1",
    "decay_proximal",
    "decay_then_step",
    "decay_toward_ema",
    "decay_weights",
    "freeze",
    "hyperball",
    "keep_initial_norm",
    "map_decayed",
    "next_count",
    "step_then_decay",
    "warn_if_rounded_away",
]
