"""The marker of the live comparisons, which run only when asked for: ``pytest -m oracle``."""

import importlib.util
import os

# Before anything imports Keras: without it importorskip fails on TensorFlow, and skips in silence.
os.environ.setdefault("KERAS_BACKEND", "jax")

# The runners are no tests, but --doctest-modules imports every file: leave out what cannot be.
collect_ignore = [
    f"run_{package}.py"
    for package in ("torch", "keras")
    if importlib.util.find_spec(package) is None
]
collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["torch_*.py"]


def pytest_configure(config):
    config.addinivalue_line("markers", "oracle: compares with the real package, live")


def pytest_ignore_collect(config):
    """Leaves the comparisons out of a plain run: to import the packages alone takes half a minute.

    Every module here is marked, which ``pytest -m oracle`` sees: it collects them.
    """
    return None if "oracle" in (config.option.markexpr or "") else True
