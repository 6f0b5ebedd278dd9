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


def pytest_collection_modifyitems(config, items):
    """Leaves the comparisons out of a plain run: they take minutes, most need other packages."""
    if "oracle" in (config.option.markexpr or ""):
        return
    live = [item for item in items if item.get_closest_marker("oracle")]
    config.hook.pytest_deselected(items=live)
    items[:] = [item for item in items if item not in live]
