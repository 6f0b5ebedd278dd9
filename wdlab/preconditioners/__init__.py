"""Gradient -> direction, without rate, sign or decay: Adam, Lion, Muon, SOAP, ..., clipping."""

from wdlab.preconditioners.adam import ScaleByAdamState, scale_by_adam
from wdlab.preconditioners.adan import ScaleByAdanState, scale_by_adan
from wdlab.preconditioners.ademamix import ScaleByAdemamixState, scale_by_ademamix
from wdlab.preconditioners.adopt import ScaleByAdoptState, scale_by_adopt
from wdlab.preconditioners.apollo import scale_by_apollo
from wdlab.preconditioners.clipping import (
    ClippingDirection,
    clip_by_block_rms,
    clip_by_global_norm,
    clip_by_leaf_norm,
    clipping_divisor,
)
from wdlab.preconditioners.coefficients import COEFFICIENTS, CoefficientSet
from wdlab.preconditioners.factored import FactoredAxes, FactoredEpsilon, scale_by_factored_rms
from wdlab.preconditioners.galore import scale_by_galore
from wdlab.preconditioners.grafting import Grafting
from wdlab.preconditioners.heavy_ball import momentum
from wdlab.preconditioners.kron import ScaleByKronState, kron_update_share, scale_by_kron
from wdlab.preconditioners.leaf_norms import LeafNorm, ScaleByLeafNormsState, scale_by_leaf_norms
from wdlab.preconditioners.lion import scale_by_lion
from wdlab.preconditioners.low_rank import ScaleByLowRankState
from wdlab.preconditioners.mars import FirstGradient, ReduceVarianceState, reduce_variance
from wdlab.preconditioners.matrix_axes import (
    FLAX_ATTENTION,
    TORCH_AXES,
    MatrixAxes,
    MatrixRule,
)
from wdlab.preconditioners.matrix_scaling import (
    FLAX_AXES,
    MatrixScaling,
    ScaleByNeuronRmsState,
    scale_by_matrix_shape,
    scale_by_neuron_rms,
    shape_factor,
)
from wdlab.preconditioners.matrix_view import MatrixView
from wdlab.preconditioners.moments import one_minus_power, rectification
from wdlab.preconditioners.nesterov_adam import NesterovAdamState, scale_by_nesterov_adam
from wdlab.preconditioners.newton_schulz import newton_schulz
from wdlab.preconditioners.orthogonalized import OrthogonalizeState, orthogonalize
from wdlab.preconditioners.parameter_scale import (
    decay_weights_by_parameter_scale,
    scale_by_parameter_scale,
)
from wdlab.preconditioners.shampoo import ScaleByShampooState, scale_by_shampoo
from wdlab.preconditioners.soap import scale_by_soap
from wdlab.preconditioners.soap_basis_first import scale_by_soap_basis_first
from wdlab.preconditioners.soap_state import ScaleBySoapState
from wdlab.preconditioners.sophia import ScaleBySophiaState, scale_by_sophia
from wdlab.preconditioners.stable_adam import RootEpsilon, StableAdamState, scale_by_stable_adam
from wdlab.preconditioners.trust_ratio import (
    LarsState,
    clip_by_weight_norm,
    scale_by_lars,
    scale_by_trust_ratio,
)

__all__ = [
    "COEFFICIENTS",
    "ClippingDirection",
    "CoefficientSet",
    "FLAX_ATTENTION",
    "FLAX_AXES",
    "FactoredAxes",
    "FactoredEpsilon",
    "FirstGradient",
    "LarsState",
    "LeafNorm",
    "MatrixAxes",
    "MatrixRule",
    "MatrixScaling",
    "MatrixView",
    "NesterovAdamState",
    "OrthogonalizeState",
    "ReduceVarianceState",
    "RootEpsilon",
    "ScaleByAdamState",
    "ScaleByAdanState",
    "ScaleByAdemamixState",
    "ScaleByAdoptState",
    "ScaleByKronState",
    "ScaleByLeafNormsState",
    "ScaleByNeuronRmsState",
    "ScaleByLowRankState",
    "Grafting",
    "ScaleByShampooState",
    "ScaleBySoapState",
    "ScaleBySophiaState",
    "StableAdamState",
    "TORCH_AXES",
    "clip_by_block_rms",
    "clip_by_global_norm",
    "clip_by_leaf_norm",
    "clip_by_weight_norm",
    "clipping_divisor",
    "decay_weights_by_parameter_scale",
    "kron_update_share",
    "momentum",
    "newton_schulz",
    "one_minus_power",
    "orthogonalize",
    "reduce_variance",
    "rectification",
    "scale_by_adam",
    "scale_by_adan",
    "scale_by_ademamix",
    "scale_by_adopt",
    "scale_by_apollo",
    "scale_by_factored_rms",
    "scale_by_galore",
    "scale_by_kron",
    "scale_by_lars",
    "scale_by_leaf_norms",
    "scale_by_lion",
    "scale_by_matrix_shape",
    "scale_by_nesterov_adam",
    "scale_by_neuron_rms",
    "scale_by_parameter_scale",
    "scale_by_shampoo",
    "scale_by_soap",
    "scale_by_soap_basis_first",
    "scale_by_sophia",
    "scale_by_stable_adam",
    "scale_by_trust_ratio",
    "shape_factor",
]
