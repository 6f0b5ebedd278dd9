"""A short run that many tests look at."""

import pytest

from examples.gpt.train import main
from tests.examples.gpt.small_runs import SHORT


@pytest.fixture(scope="session")
def short_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short")
    assert main([*SHORT, f"--out_dir={folder}"]) == 0
    return folder
