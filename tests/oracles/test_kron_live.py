"""PSGD Kron, live: the original is given the probes that JAX draws."""

import inspect
import itertools
import math

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
kron = pytest.importorskip("kron_torch.kron")

from tests.oracles import run_torch  # noqa: E402
from tests.oracles.compare import BOUNDS, deviation  # noqa: E402
from tests.oracles.trajectories import SHAPES  # noqa: E402
from wdlab import conventions  # noqa: E402
from wdlab.preconditioners import kron_update_share  # noqa: E402

pytestmark = pytest.mark.oracle
SHARE = "preconditioner_update_probability"
CASES = [
    {},
    {"memory_save_mode": "smart_one_diag", "b1": 0.8, SHARE: 0.3, "precond_lr": 0.3},
    {"memory_save_mode": "one_diag", "momentum_into_precond_update": False},
    {"memory_save_mode": "all_diag", "precond_init_scale": 2.0},
    {"max_size_triangular": 6},
]


def draws(arguments, dtype):
    """Stands for ``torch.randn_like``: JAX's probe of the leaf and the step at which it learns."""
    every = math.ceil(1 / arguments.get(SHARE, 1.0))
    calls = itertools.product(range(every - 1, 10**6, every), sorted(SHAPES))

    def draw(like):
        t, leaf = next(calls)
        with jax.enable_x64(dtype is np.float64):
            key = jax.random.fold_in(jax.random.key(0), sorted(SHAPES).index(leaf))
            probe = jax.random.normal(jax.random.fold_in(key, t), tuple(like.shape), dtype)
        return torch.from_numpy(np.array(probe)).to(like.dtype)

    return draw


def solve_in_its_dtype(x, q):
    """The original solves in float32 whatever the dtype."""
    rows = x.reshape(-1, len(q))
    return torch.linalg.solve_triangular(q, rows, upper=True, left=False).view_as(x)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_equals_the_package_with_the_same_probes(
    dtype, case, weight_decay, monkeypatch, record_property
):
    """In float64 with its solves in float64 as well; in float32 it is run as it is."""
    arguments = CASES[case] | {"weight_decay": weight_decay}
    monkeypatch.setattr(torch, "randn_like", draws(arguments, dtype))
    theirs = dict(arguments)
    if dtype is np.float64:
        monkeypatch.setattr(kron, "_solve_triangular_right", solve_in_its_dtype)
        theirs["precond_dtype"] = torch.float64
    make = lambda rate: conventions.build("kron.Kron", rate, **arguments)  # noqa: E731
    error = deviation(run_torch.run, "kron.Kron", theirs, make, dtype, theirs_in=dtype)
    record_property("error", f"{error:.1e}")
    assert error <= BOUNDS[dtype]


def test_defaults_are_those_of_the_signature():
    convention = conventions.get("kron.Kron")
    theirs = {n: p.default for n, p in inspect.signature(kron.Kron).parameters.items()}
    assert theirs.pop("lr") == convention.learning_rate
    shared = {name: theirs[name] for name in convention.defaults}
    assert shared == dict(convention.defaults)
    assert set(theirs) - {"params", *convention.refused} == set(shared)


def test_the_share_is_the_original_schedule():
    with torch.compiler.set_stance("force_eager"):
        schedule = kron.precond_update_prob_schedule()
        theirs = [float(schedule(torch.tensor(float(t)))) for t in (0, 499, 500, 700, 4006, 4007)]
    ours = kron_update_share(np.array([0, 499, 500, 700, 4006, 4007]))
    np.testing.assert_allclose(ours, theirs, rtol=3e-7)
