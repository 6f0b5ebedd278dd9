"""What decays, will decay, did decay: tables, forecasts, plans; norms, rotation, curvature."""

from wdlab._core.dtypes import lost_to_rounding
from wdlab.instruments.curvature import gradient_weight_cosines, rescaling_error
from wdlab.instruments.diagnosis import Finding, Group, Report, add_doctor, doctor
from wdlab.instruments.equivalence import Difference, Equivalence, equivalent
from wdlab.instruments.forecast import DecayProfile, decay_profile
from wdlab.instruments.hessian import (
    Eigenvalues,
    hessian_eigenvalues,
    hessian_trace_exact,
    hessian_vector_product,
)
from wdlab.instruments.hutchinson import hessian_trace
from wdlab.instruments.jacobians import Estimate, jacobian_norm, jacobian_norm_estimate
from wdlab.instruments.metrics import (
    ClipCounts,
    angular_update,
    angular_updates,
    decay_share,
    effective_learning_rate,
)
from wdlab.instruments.monitoring import MonitorState, Reading, monitor, readings
from wdlab.instruments.norms import (
    decayed_norms,
    dot,
    group_norms,
    largest_entry,
    leaf_norms,
    norm,
    rms,
)
from wdlab.instruments.plans import DecayPlan, LeafPlan, decay_plan, plan_differences
from wdlab.instruments.rotation import (
    Equilibrium,
    equilibrium,
    predicted_norm,
    predicted_rotation,
    shrink_per_step,
)
from wdlab.instruments.table import DecayRow, DecayTable, inspect_decay, print_decay

__all__ = [
    "ClipCounts",
    "DecayPlan",
    "DecayProfile",
    "DecayRow",
    "DecayTable",
    "Difference",
    "Eigenvalues",
    "Equilibrium",
    "Equivalence",
    "Estimate",
    "Finding",
    "Group",
    "LeafPlan",
    "MonitorState",
    "Reading",
    "Report",
    "add_doctor",
    "angular_update",
    "angular_updates",
    "decay_plan",
    "decay_profile",
    "decay_share",
    "decayed_norms",
    "doctor",
    "dot",
    "effective_learning_rate",
    "equilibrium",
    "equivalent",
    "gradient_weight_cosines",
    "group_norms",
    "hessian_eigenvalues",
    "hessian_trace",
    "hessian_trace_exact",
    "hessian_vector_product",
    "inspect_decay",
    "jacobian_norm",
    "jacobian_norm_estimate",
    "largest_entry",
    "leaf_norms",
    "lost_to_rounding",
    "monitor",
    "norm",
    "plan_differences",
    "predicted_norm",
    "predicted_rotation",
    "print_decay",
    "readings",
    "rescaling_error",
    "rms",
    "shrink_per_step",
]
