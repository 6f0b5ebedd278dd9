"""The optimizer steps' HBM traffic, by the TPU compiler where there is one."""

import pytest

from examples.benchmarks import tpu_bytes
from examples.benchmarks.rows import ROWS
from examples.runs.errors import UserError
from examples.runs.slices import devices_of

pytestmark = pytest.mark.usefixtures("tpu_compiler")


def test_an_unknown_slice_is_told_in_one_line(capsys):
    assert tpu_bytes.main(["--topology=nowhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_steps_are_at_their_bounds(row):
    pytest.importorskip("libtpu")
    try:
        device = devices_of("v5e:2x2")[0]
    except UserError as error:
        pytest.skip(str(error))  # One process at a time may hold the compiler.
    hbm, _ = tpu_bytes.words(row.ours(), device, leaves=3, size=4096)
    assert hbm <= 1.02 * row.words
