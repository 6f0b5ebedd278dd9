"""A damaged file never gives wrong values; the newest whole step is found and named."""

import pytest

from examples.benchmarks.damage import DAMAGES, trial_outcomes

# What a failed read leaves behind would be reported where it is collected.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.parametrize("kind", DAMAGES)
def test_nothing_wrong_is_restored(kind, tmp_path):
    """``python -m examples.benchmarks.reliability damage`` does 200 of each."""
    outcomes = trial_outcomes(kind, 12, tmp_path)
    assert set(outcomes) <= {"newest, right", "older, right"}
    assert outcomes["older, right"] >= 3
