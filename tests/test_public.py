"""The promise is wdlab.__all__: listed, documented, with an example."""

import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import wdlab

ROOT = Path(__file__).parents[1]
MODULES = sorted(m.name for m in pkgutil.walk_packages(wdlab.__path__, "wdlab."))


def test_every_public_name_is_listed_and_documented():
    names = {n for n, v in vars(wdlab).items() if n[0] != "_" and not inspect.ismodule(v)}
    modules = {n for n in wdlab.__all__ if inspect.ismodule(getattr(wdlab, n))}
    assert names | modules == set(wdlab.__all__)
    assert list(wdlab.__all__) == sorted(wdlab.__all__)
    assert [n for n in wdlab.__all__ if not getattr(wdlab, n).__doc__] == []


@pytest.mark.parametrize("name", MODULES)
def test_public_functions_have_a_docstring_with_an_example(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for attribute, value in vars(module).items():
        if attribute.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            assert ">>>" in (value.__doc__ or ""), f"{name}.{attribute} has no example"


def test_no_module_hides_one_of_the_standard_library():
    assert {name.rpartition(".")[2] for name in MODULES}.isdisjoint(sys.stdlib_module_names)


def test_import_wdlab_brings_no_package_that_most_runs_do_not_need():
    heavy = ("orbax", "tensorstore", "flax", "matplotlib", "torch", "grain", "sklearn", "tyro")
    code = f"import sys, wdlab; print([name for name in {heavy} if name in sys.modules])"
    run = [sys.executable, "-c", code]
    found = subprocess.run(run, capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
