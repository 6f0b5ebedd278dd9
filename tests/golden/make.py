"""Writes ``conventions.npz``: what the real packages do to the shared trajectory, in float64.

    python -m tests.golden.make        # with the extra 'oracle' installed

The file holds the parameters after a few steps for every case, the cases' arguments, the versions
of the packages, and a checksum of the trajectory's inputs.
"""

import hashlib
import importlib.metadata
import json
import os
import pathlib

import numpy as np

from tests.oracles.trajectories import (
    PEAK_LEARNING_RATE,
    gradients,
    initial_params,
    learning_rates,
)

PATH = pathlib.Path(__file__).parent / "conventions.npz"
SNAPSHOTS = (1, 97, 98, 200)  # The first step, around the spike, the last.
PACKAGES = ("torch", "keras", "transformers", "lion-pytorch", "optax", "jax", "numpy")
CASES = {
    "torch.SGD": {"momentum": 0.9, "weight_decay": 0.01},
    "torch.Adam": {"weight_decay": 0.01},
    "torch.AdamW": {"weight_decay": 0.3},
    "torch.NAdam": {"weight_decay": 0.3, "decoupled_weight_decay": True},
    "torch.RAdam": {"weight_decay": 0.3, "decoupled_weight_decay": True},
    "torch.Adafactor": {"weight_decay": 0.3},
    "torch.Adamax": {"weight_decay": 0.01},
    "torch.Adagrad": {"weight_decay": 0.01},
    "torch.RMSprop": {"weight_decay": 0.01, "momentum": 0.9},
    "keras.AdamW": {"weight_decay": 0.3},
    "keras.SGD": {"weight_decay": 0.3, "momentum": 0.9, "nesterov": True},
    "transformers.Adafactor": {"weight_decay": 0.3, "relative_step": False},
    "lion_pytorch.Lion": {"weight_decay": 0.01, "decoupled_weight_decay": True},
    "optax.lamb": {"weight_decay": 0.3},
}


def inputs_checksum():
    """Of parameters, gradients and rates, so that a change of them says so itself.

    In float32: NumPy's cosines and powers differ between processors in the last bit of float64.
    """
    digest = hashlib.sha256()
    for tree in ({"rates": learning_rates()}, initial_params(), *gradients()):
        for name in sorted(tree):
            digest.update(np.float32(tree[name]).tobytes())
    return digest.hexdigest()


def main():
    os.environ["KERAS_BACKEND"] = "jax"
    from tests.oracles import run_keras, run_optax, run_torch

    runners = {"keras": run_keras.run, "optax": run_optax.run}
    arrays = {}
    for name, arguments in CASES.items():
        run = runners.get(name.split(".")[0], run_torch.run)
        after = run(name, arguments, initial_params(), gradients(), learning_rates(), np.float64)
        for step in SNAPSHOTS:
            for leaf, value in after[step - 1].items():
                arrays[f"{name}/{step}/{leaf}"] = np.asarray(value, np.float64)
    notes = {
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "cases": CASES,
        "peak_learning_rate": PEAK_LEARNING_RATE,
        "inputs": inputs_checksum(),
    }
    np.savez_compressed(PATH, notes=np.array(json.dumps(notes)), **arrays)


if __name__ == "__main__":
    main()
