"""Muon's family where its packages install: torch.optim, Optax, and its author's release."""

import inspect

import jax
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from tests.conventions.lists import LIVE  # noqa: E402
from tests.oracles.compare import BOUNDS  # noqa: E402
from tests.oracles.run_wdlab import run_each  # noqa: E402
from tests.oracles.trajectories import (  # noqa: E402
    DECAYS,
    MATRIX_SHAPES,
    gradients,
    initial_params,
    learning_rates,
    relative_error,
)
from wdlab import conventions  # noqa: E402
from wdlab.conventions.matrices import OF_A_TREE  # noqa: E402

pytestmark = pytest.mark.oracle

MATRICES = ("matrix", "wide", "square")
JIACHENG = optax.contrib._muon._DION_NS_COEFFS
VARIANTS = {
    "torch.Muon": [
        {},
        {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.8},
        {"ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 1e-3},
    ],
    "keller_jordan.Muon": [{}, {"momentum": 0.8}],
    "keller_jordan.MuonWithAuxAdam": [{"adam_weight_decay": 0.5, "adam_betas": (0.8, 0.99)}],
    "optax.contrib.muon": [
        {},
        {"adam_weight_decay": 0.1, "consistent_rms": 0.2, "nesterov": False, "beta": 0.8},
        {"ns_coeffs": "dion", "adaptive": True, "preconditioning": "spectral", "eps": 1e-6},
        {"ns_coeffs": JIACHENG[1:4], "preconditioning": "schatten", "adam_learning_rate": 0.02},
        {"preconditioning": "aol", "ns_steps": 4, "adam_eps_root": 1e-6, "adam_b1": 0.8},
    ],
}
CASES = {
    f"{name} {i} {decay}": (name, {**variant, "weight_decay": decay})
    for name, variants in VARIANTS.items()
    for i, variant in enumerate(variants)
    for decay in DECAYS
}
TORCH = {key: case for key, case in CASES.items() if not case[0].startswith("optax")}
OPTAX = {key: case for key, case in CASES.items() if case[0].startswith("optax")}


def trajectory(leaves=tuple(MATRIX_SHAPES)):
    of = lambda tree: {leaf: tree[leaf] for leaf in leaves}  # noqa: E731
    grads = [of(tree) for tree in gradients(shapes=MATRIX_SHAPES)]
    return of(initial_params(shapes=MATRIX_SHAPES)), grads, learning_rates()


def optimizers(name, arguments, matrices, rest):
    """The real optimizers of one model, as their users make them, and the groups that follow."""
    if name == "keller_jordan.MuonWithAuxAdam":
        import muon

        adam = {k[5:]: v for k, v in arguments.items() if k.startswith("adam_")}
        own = {k: v for k, v in arguments.items() if not k.startswith("adam_")}
        groups = [
            {"params": matrices, "use_muon": True, **own},
            {"params": rest, "use_muon": False, **adam},
        ]
        one = muon.SingleDeviceMuonWithAuxAdam(groups)
        return [one], one.param_groups[:1]
    if name == "torch.Muon":
        one = torch.optim.Muon(matrices, **arguments)
    else:
        import muon

        one = muon.SingleDeviceMuon(matrices, **arguments)
    both = [one, torch.optim.AdamW(rest)]
    return both, [group for each in both for group in each.param_groups]


def run_torch(name, arguments, params, grads, rates):
    """The parameters after every step."""
    leaves = {leaf: torch.nn.Parameter(torch.tensor(value)) for leaf, value in params.items()}
    matrices = [p for leaf, p in leaves.items() if leaf in MATRICES]
    rest = [p for leaf, p in leaves.items() if leaf not in MATRICES]
    made, groups = optimizers(name, arguments, matrices, rest)
    after = []
    for given, rate in zip(grads, rates, strict=True):
        for leaf, p in leaves.items():
            p.grad = torch.tensor(given[leaf])
        for group in groups:
            group["lr"] = float(rate)
        for each in made:
            each.step()
        after.append({leaf: p.detach().numpy().copy() for leaf, p in leaves.items()})
    return after


def build(name, rate, arguments, **more):
    if name in ("torch.Muon", "keller_jordan.Muon"):
        more["rest"] = "torch.AdamW"
    return conventions.build(name, rate, **arguments, **more)


@pytest.fixture(scope="module")
def ours():
    """Of torch's: the iteration is in float64 as well, and leaves of rank 4 are the rest's."""

    def make(rate):
        more = {"iteration_dtype": None}
        return {key: build(name, rate, given, **more) for key, (name, given) in TORCH.items()}

    return run_each(make, TORCH, *trajectory((*MATRICES, "vector")), np.float64)


@pytest.mark.parametrize("case", TORCH)
def test_equals_the_package_in_float64(case, ours, monkeypatch, record_property):
    """Their own code, with the one cast to bfloat16 left out."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    if not case.startswith("torch"):
        pytest.importorskip("muon")
    theirs = run_torch(*TORCH[case], *trajectory((*MATRICES, "vector")))
    error = relative_error(ours[case], theirs)
    record_property("error", f"{error:.1e}")
    assert error <= BOUNDS[np.float64]


def test_optax_in_float64(record_property):
    """Both in one program; leaves of rank 4 and 1 are Adam's."""

    def make(rate):
        mine = {f"our {key}": build(name, rate, given) for key, (name, given) in OPTAX.items()}
        return mine | {key: optax.contrib.muon(rate, **given) for key, (_, given) in OPTAX.items()}

    keys = [*OPTAX, *(f"our {key}" for key in OPTAX)]
    after = run_each(make, keys, *trajectory(), np.float64)
    for key in OPTAX:
        error = relative_error(after[f"our {key}"], after[key])
        record_property(key, f"{error:.1e}")
        assert error <= BOUNDS[np.float64], key


def test_bfloat16_is_as_far_from_torch_as_both_are_from_exact(record_property):
    """One step of momentum and a rate of 1 without decay: the directions themselves.

    torch rounds after every operation, ours after every product: each is 0.3 to 1.5 % of the
    direction's norm away from float64, and about as far from the other.
    """
    params, grads, _ = trajectory((*MATRICES, "vector"))
    params, grads = jax.tree.map(np.float32, (params, grads[:1]))
    given, rates = {"weight_decay": 0.0}, np.ones(1)
    theirs = run_torch("torch.Muon", given, params, grads, rates)[0]

    def make(rate):
        kinds = {"bfloat16": "bfloat16", "exact": None}
        return {k: build("torch.Muon", rate, given, iteration_dtype=d) for k, d in kinds.items()}

    after = run_each(make, ("bfloat16", "exact"), params, grads, rates, np.float32)
    directions = {k: {n: params[n] - tree[0][n] for n in MATRICES} for k, tree in after.items()}
    directions["torch"] = {n: params[n] - theirs[n] for n in MATRICES}
    for one, other in (("bfloat16", "exact"), ("torch", "exact"), ("bfloat16", "torch")):
        for leaf in MATRICES:
            a, b = directions[one][leaf], directions[other][leaf]
            distance = np.linalg.norm(a - b) / np.linalg.norm(b)
            record_property(f"{one} to {other}, {leaf}", f"{distance:.4f}")
            assert 1e-4 < distance < 0.03, (one, other, leaf, distance)


def test_torch_divides_its_momentum_where_gradients_are_bfloat16():
    """The trap, and what it is without."""
    buffers = []
    for nesterov in (False, True):
        p = torch.nn.Parameter(torch.zeros(4, 6, dtype=torch.bfloat16))
        optimizer = torch.optim.Muon([p], momentum=0.5, nesterov=nesterov)
        p.grad = torch.full((4, 6), 3.0, dtype=torch.bfloat16)
        optimizer.step()
        buffers.append(float(optimizer.state[p]["momentum_buffer"][0, 0]))
    assert buffers == [pytest.approx(24**-0.5, rel=1e-2), 1.5]


def test_the_mask_of_optax_does_not_reach_its_adam():
    params = {"kernel": np.ones((2, 3)), "bias": np.ones(3)}
    tx = optax.contrib.muon(
        0.5,
        weight_decay=0.5,
        adam_weight_decay=0.5,
        weight_decay_mask={"kernel": False, "bias": False},
    )
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = tx.update(zeros, tx.init(params), params)
    assert float(updates["kernel"][0, 0]) == 0.0
    assert float(updates["bias"][0]) == -0.25


@pytest.mark.parametrize(
    ("name", "original"),
    [("torch.Muon", torch.optim.Muon), ("optax.contrib.muon", optax.contrib.muon)],
)
def test_defaults_are_those_of_the_signature(name, original):
    convention = conventions.get(name)
    parameters = dict(inspect.signature(original).parameters)
    rate = parameters.pop("lr", None) or parameters.pop("learning_rate")
    assert (None if rate.default is inspect.Parameter.empty else rate.default) == (
        convention.learning_rate
    )
    own = {k: v for k, v in convention.defaults.items() if k not in OF_A_TREE}
    theirs = {k: p.default for k, p in parameters.items() if k != "params"}
    assert own == {k: v for k, v in theirs.items() if k not in convention.refused}


def test_defaults_of_the_authors_release():
    muon = pytest.importorskip("muon")
    parameters = inspect.signature(muon.SingleDeviceMuon).parameters
    known = conventions.get("keller_jordan.Muon")
    assert parameters["lr"].default == known.learning_rate
    for argument in ("weight_decay", "momentum"):
        assert parameters[argument].default == known.defaults[argument]
    p = torch.nn.Parameter(torch.ones(2))
    one = muon.SingleDeviceMuonWithAuxAdam([{"params": [p], "use_muon": False}]).param_groups[0]
    known = conventions.get("keller_jordan.MuonWithAuxAdam").defaults
    for argument in ("lr", "betas", "eps", "weight_decay"):
        assert one[argument] == known[f"adam_{argument}"]


def test_every_live_key_is_compared():
    assert {key for key in LIVE if "muon" in key.lower()} == set(VARIANTS)
