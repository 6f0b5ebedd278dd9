"""Trajectories of the real packages, stored: plain ``pytest`` checks against them without torch."""

import json

import numpy as np
import pytest

from tests.golden.make import CASES, PATH, SNAPSHOTS, inputs_checksum
from tests.oracles import run_wdlab
from tests.oracles.trajectories import SHAPES, gradients, initial_params, learning_rates
from wdlab import conventions


@pytest.fixture(scope="module")
def golden():
    with np.load(PATH) as stored:
        return dict(stored)


def notes_of(golden):
    return json.loads(str(golden["notes"]))


def test_the_file_is_that_of_the_script(golden):
    notes = notes_of(golden)
    assert notes["cases"] == CASES
    assert set(notes["versions"]) >= {"torch", "keras", "transformers", "lion-pytorch", "optax"}
    assert notes["inputs"] == inputs_checksum(), "the trajectory changed: run tests.golden.make"
    expected = {f"{name}/{step}/{leaf}" for name in CASES for step in SNAPSHOTS for leaf in SHAPES}
    assert set(golden) == expected | {"notes"}
    assert PATH.stat().st_size < 200_000


@pytest.mark.parametrize("name", CASES)
def test_equals_the_stored_trajectory(name, golden):
    peak = notes_of(golden)["peak_learning_rate"]

    def make(rate):
        return conventions.build(name, rate, peak_learning_rate=peak, **CASES[name])

    ours = run_wdlab.run(make, initial_params(), gradients(), learning_rates(), np.float64)
    for step in SNAPSHOTS:
        for leaf in SHAPES:
            reference = golden[f"{name}/{step}/{leaf}"]
            error = np.abs(ours[step - 1][leaf] - reference).max() / np.abs(reference).max()
            assert error <= 1e-10, (step, leaf)
