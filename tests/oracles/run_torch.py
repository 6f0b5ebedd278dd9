"""Runs optimizers of PyTorch's interface: torch, transformers, lion-pytorch, optimi and others."""

import importlib
import importlib.util
import sys
import types
from unittest import mock

import numpy as np
import torch

torch.set_num_threads(1)

MODULES = {
    "torch": "torch.optim",
    "transformers": "transformers.optimization",
    "lion_pytorch": "lion_pytorch",
    "pytorch_optimizer": "pytorch_optimizer",
    "optimi": "optimi",
    "timm": "timm.optim",
}
CLASSES = {"timm.AdamW": "AdamWLegacy"}


def original(name):
    """The real class of a key."""
    system, attribute = name.split(".")
    return getattr(_module(MODULES[system]), CLASSES.get(name, attribute))


def _module(name):
    """A module; timm's optimizers beneath an empty parent, for timm itself asks for torchvision."""
    if name != "timm.optim":
        return importlib.import_module(name)
    parent = types.ModuleType("timm")
    parent.__spec__ = importlib.util.find_spec("timm")
    parent.__path__ = parent.__spec__.submodule_search_locations
    with mock.patch.dict(sys.modules, {"timm": parent}):
        return importlib.import_module(name)


def run(name, hyperparameters, params, grads_per_step, lr_per_step, dtype):
    """Returns the parameters after every step, as float64 arrays.

    Args:
      name: "torch.AdamW", "transformers.Adafactor": system and class.
      hyperparameters: The class's own arguments. ``lr`` here wins over ``lr_per_step``, None
        included (the relative step of Transformers' Adafactor).
      params: dict of arrays, in the order in which the optimizer gets them.
      grads_per_step: List of such dicts.
      lr_per_step: One learning rate per step, set in the parameter group before it.
      dtype: numpy.float32 or numpy.float64.
    """
    optimizer_class = original(name)
    leaves = {
        leaf: torch.nn.Parameter(torch.from_numpy(np.array(value, dtype)))
        for leaf, value in params.items()
    }
    scheduled = "lr" not in hyperparameters
    first = {"lr": float(max(lr_per_step))} if scheduled else {}
    optimizer = optimizer_class(list(leaves.values()), **first, **hyperparameters)
    trajectory = []
    for grads, lr in zip(grads_per_step, lr_per_step, strict=True):
        for leaf, parameter in leaves.items():
            parameter.grad = torch.from_numpy(np.array(grads[leaf], dtype))
        if scheduled:
            for group in optimizer.param_groups:
                group["lr"] = float(lr)
        optimizer.step()
        trajectory.append(
            {leaf: p.detach().numpy().astype(np.float64) for leaf, p in leaves.items()}
        )
    return trajectory
