"""conventions."""

from wdlab.conventions.comparison import Comparison, compare
from wdlab.conventions.convention import REQUIRED, Convention
from wdlab.conventions.conversion import convert, shrink_at_peak
from wdlab.conventions.recipes import Recipe
from wdlab.conventions.registry import build, get, names

__all__ = [
    "Comparison",
    "Convention",
    "REQUIRED",
    "Recipe",
    "build",
    "compare",
    "convert",
    "get",
    "names",
    "shrink_at_peak",
]
