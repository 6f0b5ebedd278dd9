"""Variants of four more packages for PyTorch, live: restarts, CPR, MoMo, cautious, regenerative."""

import math

import numpy as np
import optax
import pytest

pytest.importorskip("torch")

import torch

import wdlab  # noqa: E402
from tests.oracles import run_wdlab
from tests.oracles.trajectories import (
    DECAYS,
    gradients,
    initial_params,
    learning_rates,
    relative_error,
)
from wdlab.decay import constrain_norms, decay_proximal  # noqa: E402
from wdlab.preconditioners import scale_by_adam  # noqa: E402
from wdlab.schedules import strengths  # noqa: E402

pytestmark = pytest.mark.oracle


def run(make, grads, rates, dtype=np.float64, **arguments):
    leaves = {
        name: torch.nn.Parameter(torch.from_numpy(value.astype(dtype)))
        for name, value in initial_params().items()
    }
    optimizer, out = make(list(leaves.values())), []
    for tree, rate in zip(grads, rates, strict=True):
        for name, leaf in leaves.items():
            leaf.grad = torch.from_numpy(tree[name].astype(dtype))
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        optimizer.step(**arguments)
        out.append({name: leaf.detach().numpy().copy() for name, leaf in leaves.items()})
    return out, optimizer


@pytest.mark.parametrize(("first", "factor"), [(10, 1), (5, 2), (3, 3)])
def test_torchs_warm_restarts(first, factor):
    leaf = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([leaf], lr=0.5)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
        optimizer, T_0=first, T_mult=factor, eta_min=0.1
    )
    ours = strengths.cosine_restarts(0.5, first_steps=first, factor=factor, end=0.1)
    for t in range(100):
        assert float(ours(t)) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6), t
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("weight_decay", DECAYS)
def test_momo_divides_the_stepped_weight(weight_decay):
    """A loss so large that MoMo's step is the learning rate's, no momentum: SGD remains."""
    package = pytest.importorskip("momo")
    rates = learning_rates() + 1e-4  # Its step size divides by the rate nowhere, by 0 at no step.
    grads = [{name: g + 1e-3 for name, g in tree.items()} for tree in gradients()]
    theirs, _ = run(
        lambda leaves: package.Momo(leaves, lr=1.0, weight_decay=weight_decay, beta=0.0),
        grads,
        rates,
        loss=torch.tensor(1e30, dtype=torch.float64),
    )

    def make(rate):
        return optax.chain(optax.sgd(rate), decay_proximal(weight_decay, multiplier=rate))

    ours = run_wdlab.run(make, initial_params(), grads, rates, np.float64)
    assert relative_error(ours, theirs) <= 1e-10


@pytest.mark.parametrize("kind", ["cautious", "regenerative"])
@pytest.mark.parametrize("weight_decay", DECAYS)
def test_adam_atan2(kind, weight_decay):
    """Without moments its step is a constant times the sign of the gradient."""
    package = pytest.importorskip("adam_atan2_pytorch")
    cautious = kind == "cautious"
    theirs, _ = run(
        lambda leaves: package.AdamAtan2(
            leaves,
            betas=(0.0, 0.0),
            weight_decay=weight_decay if cautious else 0.0,
            regen_reg_rate=0.0 if cautious else weight_decay,
            cautious_wd=cautious,
        ),
        gradients(),
        learning_rates(),
    )
    chosen = {"cautious": True, "ties": "keep"} if cautious else {"toward": "init"}

    def make(rate):
        return optax.chain(
            optax.scale_by_sign(),
            optax.scale(1.27 * math.pi / 4),
            optax.scale_by_learning_rate(rate),
            wdlab.decay_weights(weight_decay, multiplier=rate, **chosen),
        )

    ours = run_wdlab.run(make, initial_params(), gradients(), learning_rates(), np.float64)
    # Its cautious mask is in float32, whatever the weights' dtype.
    assert relative_error(ours, theirs) <= (2e-6 if cautious else 1e-10)


CPR = {
    "uniform": ("uniform", 9.0, {"kappa_init_param": 9.0}),
    "dependent": ("dependent", 0.8, {"kappa_init_param": 0.8}),
    "warm_start": ("warm_start", 30, {"kappa_init_param": 30}),
    "inflection_point": ("inflection", None, {}),
}


@pytest.mark.parametrize("case", CPR)
def test_cpr(case):
    """Float32, as its state is; foreach, since its other path never finds an inflection point.

    The update rate is low: at 1 the multiplier overshoots, and rounding grows from step to step.
    """
    package = pytest.importorskip("pytorch_cpr")
    method, value, theirs_arguments = CPR[case]
    rng = np.random.default_rng(3)
    grads = [
        {name: -p + 0.1 * rng.normal(size=p.shape) for name, p in initial_params().items()}
        for _ in range(120)
    ]  # Outward, so that the norms grow, by less and less of themselves.
    rates = np.full(120, 0.02)
    theirs, optimizer = run(
        lambda leaves: package.AdamCPR(
            [{"params": leaves, "regularize": True}],
            kappa_init_method=case,
            kappa_update=0.01,
            reg_step_size=10,
            reg_ema_decay=0.9,
            foreach=True,
            **theirs_arguments,
        ),
        grads,
        rates,
        np.float32,
    )
    assert all(float(s["kappa"]) < 1e5 for s in optimizer.state.values())  # Every bound was set.

    def make(rate):
        return optax.chain(
            scale_by_adam(),
            optax.scale_by_learning_rate(rate),
            constrain_norms(method, value, update_rate=0.01, sample_steps=10, ema_rate=0.9),
        )

    ours = run_wdlab.run(make, initial_params(), grads, rates, np.float32)
    free = run_wdlab.run(optax.adam, initial_params(), grads, rates, np.float32)
    for name, leaf in free[-1].items():
        assert np.linalg.norm(ours[-1][name]) < 0.97 * np.linalg.norm(leaf), name
    assert relative_error(ours, theirs) <= 2e-6
