"""muP's three optimizers by name, live, on the shared trajectory."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
mup = pytest.importorskip("mup")

from tests.oracles import run_wdlab  # noqa: E402
from tests.oracles.trajectories import (  # noqa: E402
    DECAYS,
    SHAPES,
    gradients,
    initial_params,
    learning_rates,
    relative_error,
)
from wdlab import conventions  # noqa: E402
from wdlab.groups import widths  # noqa: E402

pytestmark = pytest.mark.oracle

BASES = {"matrix": (4, 2), "vector": (2,), "kernel": (1, 2, 4, 6)}  # out, in, ...: torch's layout.
CASES = {
    "MuSGD": [{}, {"momentum": 0.9, "nesterov": True}],
    "MuAdam": [{}, {"betas": (0.5, 0.95), "eps": 1e-3}],
    "MuAdamW": [{}, {"amsgrad": True}],
}


class Leaves(torch.nn.Module):
    def __init__(self, arrays):
        super().__init__()
        for name, value in arrays.items():
            tensor = torch.from_numpy(np.array(value, np.float64))
            self.register_parameter(name, torch.nn.Parameter(tensor))


def run_mup(name, arguments, params, grads, rates):
    model = Leaves(params)
    base = Leaves({leaf: np.zeros(shape) for leaf, shape in BASES.items()})
    mup.set_base_shapes(model, base, do_assert=False)
    optimizer = getattr(mup, name)(list(model.parameters()), lr=1.0, **arguments)
    factors = [group["lr"] for group in optimizer.param_groups]
    after = []
    for tree, rate in zip(grads, rates, strict=True):
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = factor * float(rate)
        for leaf, parameter in model.named_parameters():
            parameter.grad = torch.from_numpy(tree[leaf].copy())
        optimizer.step()
        after.append({leaf: p.detach().numpy().copy() for leaf, p in model.named_parameters()})
    return after


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize(
    ("name", "case"), [(n, i) for n, c in CASES.items() for i in range(len(c))]
)
def test_equals_mup_in_float64(name, case, weight_decay, record_property):
    params, grads, rates = initial_params(), gradients(), learning_rates()
    arguments = {**CASES[name][case], "weight_decay": weight_decay}
    theirs = run_mup(name, arguments, params, grads, rates)

    def make(rate):
        sizes = widths({n: np.zeros(s) for n, s in BASES.items()}, params, layout="out_in")
        return conventions.build(f"mup.{name}", rate, widths=sizes, **arguments)

    error = relative_error(run_wdlab.run(make, params, grads, rates, np.float64), theirs)
    record_property("error", f"{error:.1e}")
    assert error <= 1e-10
    assert set(SHAPES) == set(BASES)
