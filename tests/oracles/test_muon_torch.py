"""torch.optim.Muon, live: its own source with wide products, and with its 16 bits."""

import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.optim import _muon as theirs

from wdlab import optimizers
from wdlab.preconditioners import TORCH_AXES, newton_schulz
from wdlab.rules import ALL

pytestmark = pytest.mark.oracle
SHAPES = [(24, 10), (10, 24), (16, 16)]
STEPS = 200


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # The matrices are small.
    yield
    torch.set_num_threads(before)


def torch_muon(dtype):
    """The module as it is installed, its cast to bfloat16 replaced by one to ``dtype``.

    A copy, as the cast of float32 is: of bfloat16 leaves it is none, and without look-ahead torch
    2.13 then divides the momentum itself by its norm, in place.
    """
    source = inspect.getsource(theirs)
    assert source.count("grad.bfloat16()") == 1
    module = types.ModuleType("torch.optim._muon_wide")
    module.__package__ = "torch.optim"
    exec(source.replace("grad.bfloat16()", f"grad.to(torch.{dtype}, copy=True)"), module.__dict__)
    return module.Muon


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-10), ("float32", 2e-6)])
@pytest.mark.parametrize(
    ("their", "our", "weight_decay"),
    [
        ({}, {"scaling": "original"}, 0.1),
        ({"adjust_lr_fn": "match_rms_adamw", "nesterov": False, "momentum": 0.9},
         {"scaling": "rms", "nesterov": False, "momentum": 0.9}, 0.3),
    ],
)  # fmt: skip
def test_200_steps_with_wide_products(x64, dtype, bound, their, our, weight_decay):
    rng = np.random.default_rng(0)
    start = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
    leaves = [torch.nn.Parameter(torch.from_numpy(x.copy())) for x in start]
    optimizer = torch_muon(dtype)(leaves, lr=0.02, weight_decay=weight_decay, **their)
    ours = optimizers.muon(
        lambda count: 0.02 / (1 + jnp.asarray(count, float) / 50), weight_decay=weight_decay,
        coupling="lr", rules=ALL, axes=TORCH_AXES, hidden=True, dtype=dtype, **our,
    )  # fmt: skip
    params = [jnp.asarray(x) for x in start]
    state, update = ours.init(params), jax.jit(ours.update)
    for t in range(STEPS):
        grads = [rng.normal(size=shape).astype(dtype) for shape in SHAPES]
        for leaf, g in zip(leaves, grads, strict=True):
            leaf.grad = torch.from_numpy(g.copy())
        optimizer.param_groups[0]["lr"] = 0.02 / (1 + t / 50)
        optimizer.step()
        updates, state = update([jnp.asarray(g) for g in grads], state, params)
        params = [p + u for p, u in zip(params, updates, strict=True)]
    for leaf, p in zip(leaves, params, strict=True):
        error = np.abs(leaf.detach().numpy() - np.asarray(p)).max() / np.abs(np.asarray(p)).max()
        assert error <= bound


def test_in_bfloat16_both_are_within_4_percent_of_float64(x64):
    """Their roundings are in other places; on these small matrices 1 to 3 % was seen of either."""
    for shape in SHAPES:
        g = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        torchs = theirs._zeropower_via_newtonschulz(
            torch.from_numpy(g), (3.4445, -4.7750, 2.0315), 5, 1e-7
        )
        exact = np.asarray(newton_schulz(jnp.asarray(g, jnp.float64)))
        ours = np.asarray(newton_schulz(jnp.asarray(g), dtype="bfloat16"))
        distance = lambda x, exact=exact: np.linalg.norm(x - exact) / np.linalg.norm(exact)  # noqa: E731
        assert distance(ours) < 0.04
        assert distance(torchs.float().numpy()) < 0.04
