"""Muon's step on chips that share its matrices, by the TPU compiler where there is one."""

import pytest

from examples.benchmarks import tpu_muon

pytestmark = pytest.mark.usefixtures("tpu_compiler")


def test_chips_that_share_a_matrix_send_sums_and_never_gather_it(capsys):
    pytest.importorskip("libtpu")
    assert tpu_muon.main(["--mesh_fsdp=4", "--width=128"]) == 0
    shown = capsys.readouterr().out
    assert "x all-reduce" in shown
    assert "all-gather" not in shown


def test_more_chips_than_there_are_is_told_in_one_line(capsys):
    pytest.importorskip("libtpu")
    assert tpu_muon.main(["--mesh_fsdp=8"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
