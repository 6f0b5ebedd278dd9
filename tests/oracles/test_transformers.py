"""transformers.Adafactor, live: every combination of its two switches, decays of three sizes."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.oracles.compare import BOUNDS, DTYPES, deviation
from tests.oracles.run_torch import run
from tests.oracles.trajectories import DECAYS
from wdlab.conventions.adafactor_presets import PRESETS  # noqa: E402
from wdlab.optimizers import adafactor  # noqa: E402
from wdlab.schedules import relative_step  # noqa: E402

pytestmark = pytest.mark.oracle

MANUAL = {"relative_step": False}
# Their arguments, ours; without a learning rate of ours the schedule's is taken.
CASES = {
    "defaults": ({"lr": None}, {"learning_rate": relative_step(1e-2)}),
    "warm-up": (
        {"lr": None, "warmup_init": True},
        {"learning_rate": relative_step(warmup_slope=1e-6)},
    ),
    "relative, not scaled": (
        {"lr": None, "scale_parameter": False},
        {"learning_rate": relative_step(1e-2), "parameter_scale": None, "coupling": "lr"},
    ),
    "learning rate": (MANUAL, {}),
    "learning rate, not scaled": (
        {**MANUAL, "scale_parameter": False},
        {"parameter_scale": None, "coupling": "lr"},
    ),
    "momentum": ({**MANUAL, "beta1": 0.9}, {"momentum": 0.9}),
    "threshold, eps, exponent": (
        {**MANUAL, "clip_threshold": 0.3, "eps": (1e-6, 0.5), "decay_rate": -0.5},
        {
            "clipping_threshold": 0.3,
            "eps1": 1e-6,
            "parameter_scale": 0.5,
            "beta2_exponent": 0.5,
        },
    ),
}


@pytest.mark.parametrize("weight_decay", DECAYS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_adafactor_equals_transformers(case, dtype, weight_decay):
    theirs, ours = CASES[case]

    def make(rate):
        preset = PRESETS["transformers.Adafactor"].arguments
        return adafactor(**{**preset, "learning_rate": rate, **ours, "weight_decay": weight_decay})

    theirs = {"weight_decay": weight_decay, **theirs}
    assert deviation(run, "transformers.Adafactor", theirs, make, dtype) <= BOUNDS[dtype]
