"""Compiled programs shared by the runs of a test module, and by all test processes.

A module that imports the fixture has it around all of its tests and fixtures.
"""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="module", autouse=True)
def shared_programs(tmp_path_factory):
    """JAX's compilation cache, on for the module, in processes started there too."""
    folder = tmp_path_factory.getbasetemp().parent / "programs"  # One for all test processes.
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()
