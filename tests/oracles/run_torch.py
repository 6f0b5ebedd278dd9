"""Runs optimizers of PyTorch's interface: torch, transformers, lion-pytorch, optimi and others."""

import contextlib
import importlib
import importlib.util
import sys
import types

import numpy as np
import torch

torch.set_num_threads(1)

MODULES = {
    "torch": "torch.optim",
    "transformers": "transformers.optimization",
    "lion_pytorch": "lion_pytorch",
    "pytorch_optimizer": "pytorch_optimizer",
    "optimi": "optimi",
    "schedulefree": "schedulefree",
    "prodigyopt": "prodigyopt",
    "dadaptation": "dadaptation",
    "bitsandbytes": "bitsandbytes.optim",
    "torchao": "torchao.optim.adam",
    "kron": "kron_torch.kron",
}
CLASSES = {"timm.AdamW": "AdamWLegacy"}


def original(name):
    """The real class of a key."""
    system, attribute = name.split(".")
    module = _of_timm(attribute.lower()) if system == "timm" else MODULES[system]
    return getattr(importlib.import_module(module), CLASSES.get(name, attribute))


def _of_timm(file):
    """The module of one of timm's optimizers, beneath empty parents: timm asks for torchvision."""
    if "timm" not in sys.modules:
        place = importlib.util.find_spec("timm").submodule_search_locations[0]
        for package, folder in (("timm", place), ("timm.optim", f"{place}/optim")):
            parent = sys.modules[package] = types.ModuleType(package)
            parent.__path__ = [folder]
    return f"timm.optim.{file}"


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
    if name.startswith("schedulefree."):
        optimizer.train()
    # These compile their steps, which takes a C++ compiler and minutes.
    compiles = name.startswith(("torchao", "kron"))
    eager = torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()
    trajectory = []
    for grads, lr in zip(grads_per_step, lr_per_step, strict=True):
        for leaf, parameter in leaves.items():
            parameter.grad = torch.from_numpy(np.array(grads[leaf], dtype))
        if scheduled:
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):  # torchao keeps it as one.
                    group["lr"].fill_(float(lr))
                else:
                    group["lr"] = float(lr)
        with eager:
            optimizer.step()
        trajectory.append(
            {leaf: p.detach().numpy().astype(np.float64) for leaf, p in leaves.items()}
        )
    return trajectory
