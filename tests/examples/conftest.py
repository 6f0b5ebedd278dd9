"""A run whose picture is not looked at leaves an empty file: to draw takes a quarter of it."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure


class Undrawn(Figure):
    """Takes everything that is to be in the picture."""

    def savefig(self, path, **_):
        Path(path).touch()


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch):
    """Fixtures of a module are made before, with their picture."""
    monkeypatch.setattr("examples.runs.pictures.Figure", Undrawn)
