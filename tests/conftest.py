"""Eight CPU devices, one compilation cache for all test processes; float64 where a test asks."""

import gc
import os

import jaxlib

# The older way to write fusions compiles in half the time; later versions have the newer one only.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_force_host_platform_device_count=8"
    + " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    * (int(jaxlib.__version__.split(".")[1]) < 11),
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# LLVM's optimizations off, in processes started from here too; XLA's own passes are as ever.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Which line an operation came from: an eighth of the time goes into writing it down.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax
import numpy as np
import pytest
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

from tests.examples.resnet import small_images

if not hasattr(jax, "enable_x64"):  # jax 0.7 has it elsewhere.
    jax.enable_x64 = jax.experimental.enable_x64  # pyrefly: ignore

gc.set_threshold(50_000)  # By default an eighth of the time goes into looking for garbage.
settings.register_profile("ci", max_examples=200, deadline=None, derandomize=True)
settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def _shared_programs(tmp_path_factory):
    """What one test compiled, the others read: those of other processes too, started here or not.

    A program is found by its text and the compiler's settings; what is measured of it is the same.
    ``JAX_COMPILATION_CACHE_DIR=folder pytest`` keeps them for the next run.
    """
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # One for all of pytest's own processes.
    values = {
        "jax_compilation_cache_dir": os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or str(folder / "programs"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        yield


@pytest.fixture(scope="module")
def fully_optimized():
    """Programs as users compile them, for modules whose claim is rounding."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", before)
    jax.clear_caches()


@pytest.fixture
def tpu_compiler(monkeypatch):
    """Libtpu ends the process where it reads a flag of CPUs that it does not know."""
    jax.devices()  # Reads them before.
    monkeypatch.setenv("XLA_FLAGS", "")


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
