"""Weights and optimizer state of a torch run, carried over to JAX. torch itself is not imported."""

from wdlab.from_torch.carry_over import opt_state_from_torch, params_from_torch
from wdlab.from_torch.compare import SettingsWarning
from wdlab.from_torch.files import load_state_dict, load_tensors, save_state_dict
from wdlab.from_torch.names import CONV1D, CONV2D, CONV3D, LINEAR, Leaf

__all__ = [
    "CONV1D",
    "CONV2D",
    "CONV3D",
    "LINEAR",
    "Leaf",
    "SettingsWarning",
    "load_state_dict",
    "load_tensors",
    "opt_state_from_torch",
    "params_from_torch",
    "save_state_dict",
]
