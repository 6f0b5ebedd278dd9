"""lion-pytorch, live: Optax's Lion serves, with either meaning of the decay."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lion_pytorch")

from tests.oracles.compare import BOUNDS, deviation
from tests.oracles.run_torch import run
from tests.oracles.trajectories import DECAYS, PEAK_LEARNING_RATE
from wdlab.optimizers import lionw  # noqa: E402
from wdlab.rules import ALL  # noqa: E402

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize(("decoupled", "coupling"), [(False, "lr"), (True, "schedule")])
def test_lion_of_optax_serves_lion_pytorch(decoupled, coupling, weight_decay):
    """``decoupled_weight_decay`` divides by the rate at construction, here the peak."""

    def make(rate):
        return lionw(
            rate,
            weight_decay=weight_decay,
            coupling=coupling,
            rules=ALL,
            peak_learning_rate=PEAK_LEARNING_RATE,
        )

    theirs = {"weight_decay": weight_decay, "decoupled_weight_decay": decoupled}
    error = deviation(run, "lion_pytorch.Lion", theirs, make, np.float64)
    assert error <= BOUNDS[np.float64]
