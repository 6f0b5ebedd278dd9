"""Every framework's meaning of an optimizer and its weight decay, by name; moving numbers between.

``transfer`` carries a run's numbers to another run, under every published scaling rule.
Each family of systems has a module of its own; a convention is data and equals its original step
by step.
"""

from wdlab.conventions import recipes
from wdlab.conventions.comparison import Comparison, compare
from wdlab.conventions.convention import REQUIRED, Convention
from wdlab.conventions.conversion import convert, shrink_at_peak
from wdlab.conventions.recipes import Recipe
from wdlab.conventions.registry import build, get, names
from wdlab.conventions.run_transfer import Transfer, transfer
from wdlab.conventions.training_run import TrainingRun
from wdlab.conventions.transfer_command import add_transfer

__all__ = [
    "Comparison",
    "Convention",
    "REQUIRED",
    "Recipe",
    "TrainingRun",
    "Transfer",
    "add_transfer",
    "build",
    "compare",
    "convert",
    "get",
    "names",
    "recipes",
    "shrink_at_peak",
    "transfer",
]
