"""Eight CPU devices for the sharding tests; float64 where a test asks for it."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import pytest
from hypothesis import settings

from tests import small_images

settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.load_profile("ci")


@pytest.fixture
def x64():
    """Double precision inside the test only."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A file of small images; 66 are for training."""
    return small_images.save(tmp_path_factory.mktemp("images"))


@pytest.fixture
def params():
    """A small model's parameters: a matrix, a bias, a norm's scale, an embedding, a 4-D kernel."""
    rng = np.random.default_rng(0)
    return {
        "wte": {"embedding": rng.normal(size=(5, 4))},
        "block": {
            "dense": {"kernel": rng.normal(size=(4, 3)), "bias": rng.normal(size=3)},
            "conv": {"kernel": rng.normal(size=(2, 2, 3, 2))},
            "ln_1": {"scale": rng.normal(size=4)},
        },
    }
