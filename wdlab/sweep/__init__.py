"""Grids of trainings in one compiled program: results, pictures, how separable two axes are."""

from wdlab.sweep.command import add_sweep
from wdlab.sweep.grid import Grid, make_grid, parse_values
from wdlab.sweep.heat_map import heat_maps, save_heat_maps
from wdlab.sweep.marginal import marginals, save_marginals
from wdlab.sweep.program import Train
from wdlab.sweep.runner import sweep
from wdlab.sweep.surface import Separability, loss_surface, separability
from wdlab.sweep.table import Table, read_csv
from wdlab.sweep.task import Optimizer, adam_of, train_function

__all__ = [
    "Grid",
    "Optimizer",
    "Separability",
    "Table",
    "Train",
    "adam_of",
    "add_sweep",
    "heat_maps",
    "loss_surface",
    "make_grid",
    "marginals",
    "parse_values",
    "read_csv",
    "save_heat_maps",
    "save_marginals",
    "separability",
    "sweep",
    "train_function",
]
