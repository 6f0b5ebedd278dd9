"""AdamC and AdamS of pytorch-optimizer, live, in float64."""

import numpy as np
import optax
import pytest

pytest.importorskip("torch")
pytest.importorskip("pytorch_optimizer")

import pytorch_optimizer
import torch

from tests.oracles import run_wdlab
from tests.oracles.trajectories import (
    DECAYS,
    PEAK_LEARNING_RATE,
    gradients,
    initial_params,
    learning_rates,
    relative_error,
)
from wdlab.decay import decay_corrected  # noqa: E402
from wdlab.optimizers import adams  # noqa: E402
from wdlab.preconditioners import scale_by_adam  # noqa: E402
from wdlab.rules import Rule  # noqa: E402

pytestmark = pytest.mark.oracle

NORMALIZED = ("matrix", "kernel")


def run(make, groups):
    """The weights after every step, of groups that share the learning rate."""
    leaves = {
        name: torch.nn.Parameter(torch.from_numpy(value.copy()))
        for name, value in initial_params().items()
    }
    optimizer = make(
        [{**group, "params": [leaves[n] for n in group["params"]]} for group in groups]
    )
    out = []
    for tree, rate in zip(gradients(), learning_rates(), strict=True):
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(tree[name].copy())
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.step()
        out.append({name: leaf.detach().numpy().copy() for name, leaf in leaves.items()})
    return out


@pytest.mark.parametrize("weight_decay", DECAYS)
def test_adamc(weight_decay):
    """Its epsilon is "hat", with 1e-15 more inside the root; its peak is the rate it began with."""
    theirs = run(
        lambda groups: pytorch_optimizer.AdamC(
            groups, lr=PEAK_LEARNING_RATE, weight_decay=weight_decay
        ),
        [{"params": NORMALIZED, "normalized": True}, {"params": ("vector",)}],
    )
    rules = (*(Rule(name) for name in NORMALIZED), Rule(".*", 0.0))

    def make(rate):
        return optax.chain(
            scale_by_adam(epsilon="hat", eps_root=1e-15),
            optax.scale_by_learning_rate(rate),
            decay_corrected(
                weight_decay, learning_rate=rate, normalized=rules, peak=PEAK_LEARNING_RATE
            ),
        )

    ours = run_wdlab.run(make, initial_params(), gradients(), learning_rates(), np.float64)
    assert relative_error(ours, theirs) <= 1e-10


@pytest.mark.parametrize("weight_decay", DECAYS)
def test_adams(weight_decay):
    """Its decay has the constructor's epsilon beside the root of the mean, the paper's has none."""
    theirs = run(
        lambda groups: pytorch_optimizer.AdamS(
            groups,
            lr=PEAK_LEARNING_RATE,
            weight_decay=weight_decay,
            weight_decouple=True,
            eps=0.0,
        ),
        [{"params": ("matrix", "vector", "kernel"), "eps": 1e-8}],
    )

    def make(rate):
        return adams(rate, weight_decay=weight_decay, rules=1.0)

    ours = run_wdlab.run(make, initial_params(), gradients(), learning_rates(), np.float64)
    assert relative_error(ours, theirs) <= 1e-10
