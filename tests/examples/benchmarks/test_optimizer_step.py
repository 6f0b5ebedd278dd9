"""The benchmark of optimizer steps: its figures that hold without a clock, and its one line."""

import jax
import optax
import pytest

from examples.benchmarks import contenders, optimizer_step
from examples.benchmarks.rows import MATRIX_ROWS, ROWS


def test_the_tree_is_gpt2():
    assert sum(leaf.size for leaf in jax.tree.leaves(optimizer_step.gpt2())) == 124_439_808


def test_figures_of_a_compiled_step():
    shapes = optimizer_step.small_leaves(4)
    contender = contenders.compiled_step(contenders.plain_update, optax.sgd(0.1), shapes)
    step = contender.start()
    step()
    step()  # The buffers given back are those of the next step.
    assert contender.words == pytest.approx(3.0, rel=0.05)  # The learning rate is read too.
    assert contender.state == 0.0


def test_a_row_is_measured_as_wide_as_the_table():
    row = next(row for row in ROWS if row.name == "sgd")
    cells = optimizer_step.measure(row, optimizer_step.small_leaves(2), repeats=1)
    assert len(cells) == len(optimizer_step.COLUMNS)


def test_a_process_of_its_own_compiles_and_steps():
    row = next(row for row in ROWS if row.name == "adamw")
    shapes = optimizer_step.small_leaves(2)
    here = contenders.compiled(row, "wdlab", shapes)
    there = contenders.compiled_elsewhere(row, "wdlab", shapes)
    assert (there.words, there.state) == (here.words, here.state)
    assert there.compile_s > 0.0
    assert min(contenders.times_in_turn([there], repeats=1)) > 0.0


def test_an_unknown_optimizer_is_told_in_one_line(capsys):
    assert optimizer_step.main(["--only=nothing"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_muon_moves_less_and_keeps_less_at_a_time_than_optax():
    tree = optimizer_step.gpt2(blocks=1, width=64, vocabulary=128)
    ours, theirs = (contenders.compiled(MATRIX_ROWS[1], side, tree) for side in ("wdlab", "Optax"))
    assert ours.words < theirs.words
    assert ours.temporaries < theirs.temporaries
    assert ours.state == pytest.approx(theirs.state, rel=1e-3)
