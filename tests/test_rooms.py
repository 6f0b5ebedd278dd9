"""The rooms of wdlab: imports run one way, and through each room's sign."""

import ast
from pathlib import Path

import pytest

import wdlab

PACKAGE = Path(wdlab.__file__).parent
# From the ground up: a room may use those before it.
ROOMS = [
    *("_core", "rules", "schedules", "decay", "preconditioners", "optimizers", "groups"),
    *("conventions", "instruments", "training", "from_torch", "sweep"),
]
MODULES = sorted(PACKAGE.glob("*/**/*.py"))


def room_of(path):
    return path.relative_to(PACKAGE).parts[0]


def test_the_rooms_are_those_of_the_list():
    assert {room_of(path) for path in MODULES} == set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_module_imports_only_from_the_rooms_below_it_and_through_their_sign(path):
    own = ROOMS.index(room_of(path))
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or (node.module or "").split(".")[0] != "wdlab":
            continue
        _, room, *module = node.module.split(".")
        assert ROOMS.index(room) <= own, f"{path}: {node.module} is above {ROOMS[own]}"
        through = room in ("_core", ROOMS[own]) or not module
        assert through, f"{path}: write from wdlab.{room} import ..., not {node.module}"
