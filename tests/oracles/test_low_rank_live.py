"""GaLore and APOLLO, live: the matrices in a parameter group with a rank, the rest in another."""

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")
galore_torch = pytest.importorskip("galore_torch")
apollo_torch = pytest.importorskip("apollo_torch")

from tests.oracles.compare import BOUNDS, deviation  # noqa: E402
from tests.oracles.trajectories import SHAPES  # noqa: E402
from wdlab import conventions  # noqa: E402

pytestmark = pytest.mark.oracle
OF_GROUP = ("rank", "update_proj_gap", "scale", "proj_type", "proj", "scale_type")
GAP = 60
CASES = {
    "galore": ("galore.GaLoreAdamW", {"rank": 2, "scale": 0.25}),
    "galore reverse": ("galore.GaLoreAdamW", {"rank": 3, "proj_type": "reverse_std"}),
    "apollo": ("apollo.APOLLOAdamW", {"rank": 2, "proj": "svd", "scale": 4.0}),
    "apollo random": ("apollo.APOLLOAdamW", {"rank": 2, "update_proj_gap": GAP}),
    "apollo mini": (
        "apollo.APOLLOAdamW",
        {
            "rank": 1,
            "update_proj_gap": GAP,
            "scale_type": "tensor",
            "scale": 128.0,
            "scale_front": True,
        },
    ),
}
CLASSES = {
    "galore.GaLoreAdamW": galore_torch.GaLoreAdamW,
    "apollo.APOLLOAdamW": apollo_torch.APOLLOAdamW,
}


def run(name, arguments, params, grads_per_step, lr_per_step, dtype):
    """As ``run_torch.run``, in two groups."""
    tensor = lambda x: torch.from_numpy(np.array(x, dtype))  # noqa: E731
    leaves = {leaf: torch.nn.Parameter(tensor(value)) for leaf, value in params.items()}
    projected = {key: value for key, value in arguments.items() if key in OF_GROUP}
    groups = [
        {"params": [p for p in leaves.values() if p.ndim == 2], **projected},
        {"params": [p for p in leaves.values() if p.ndim != 2]},
    ]
    others = {key: value for key, value in arguments.items() if key not in OF_GROUP}
    optimizer, trajectory = CLASSES[name](groups, **others), []
    for grads, lr in zip(grads_per_step, lr_per_step, strict=True):
        for leaf, parameter in leaves.items():
            parameter.grad = tensor(grads[leaf])
        for group in optimizer.param_groups:
            group["lr"] = float(lr)
        optimizer.step()
        trajectory.append(
            {leaf: p.detach().numpy().astype(np.float64) for leaf, p in leaves.items()}
        )
    return trajectory


def ours_for_theirs(dtype):
    """Stands for their random matrices: JAX's, of the leaf and of the number of the refresh."""
    leaf, calls = sorted(SHAPES).index("matrix"), iter(range(100))

    def draw(shape, **_):
        with jax.enable_x64(dtype is np.float64):
            key = jax.random.fold_in(jax.random.key(0), leaf)
            key = jax.random.fold_in(key, next(calls))
            return torch.tensor(np.array(jax.random.normal(key, shape[::-1], dtype)).T)

    return draw


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_package(case, dtype, monkeypatch, record_property):
    """Their SVD is float32 whatever the weights are."""
    name, given = CASES[case]
    random = name.startswith("apollo") and given.get("proj") != "svd"
    arguments = {**conventions.get(name).defaults, **given, "weight_decay": 0.3}
    make = lambda rate: conventions.build(name, rate, **given, weight_decay=0.3)  # noqa: E731
    monkeypatch.setattr("apollo_torch.random_projector.stable_randn", ours_for_theirs(dtype))
    theirs_in = np.float64 if random and dtype is np.float64 else dtype
    error = deviation(run, name, arguments, make, dtype, theirs_in=theirs_in)
    record_property("error", f"{error:.1e}")
    assert error <= BOUNDS[dtype if random else np.float32]
