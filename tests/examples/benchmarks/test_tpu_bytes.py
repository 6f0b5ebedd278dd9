"""The count of HBM traffic: by hand on a small program, and by the TPU compiler where there is."""

import pytest

from examples.benchmarks import tpu_bytes
from examples.benchmarks.hbm import hbm_bytes
from examples.benchmarks.rows import ROWS
from examples.runs.errors import UserError

pytestmark = pytest.mark.usefixtures("tpu_compiler")
# One array of 8 x 128 floats, 4096 bytes, is fetched on chip, used there twice and written once;
# a part of 2 rows, 1024 bytes, is fetched of another, and a third is read where it lies.
PROGRAM = """HloModule jit_update, is_scheduled=true

%fused (p: f32[8,128]) -> f32[8,128] {
  ROOT %nothing.of.this = f32[8,128]{1,0:T(8,128)} negate(%p)
}

ENTRY %main (a.1: f32[8,128], b.1: f32[8,128], c.1: f32[8,128]) -> (f32[8,128], f32[]) {
  %a.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b.1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %c.1 = f32[8,128]{1,0:T(8,128)} parameter(2)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a.1)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, s32[]{:S(2)}) slice-start(%b.1), slice={[0:2], [0:128]}
  %slice-done = f32[2,128]{1,0:T(2,128)S(1)} slice-done(%slice-start)
  %fusion.1 = f32[]{:T(128)S(6)} fusion(%copy-done), kind=kLoop, calls=%fused
  %fusion.2 = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}) fusion(%copy-done, %slice-done, %fusion.1, /*index=3*/%c.1), kind=kLoop, calls=%fused
  %get-tuple-element.1 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%fusion.2), index=0
  ROOT %tuple = (f32[8,128]{1,0:T(8,128)}, f32[]{:T(128)S(6)}) tuple(%get-tuple-element.1, %fusion.1)
}
"""  # noqa: E501  As XLA prints it.


def test_only_what_lies_in_hbm_counts():
    fetched, part, written, read = 4096, 1024, 4096, 4096
    assert hbm_bytes(PROGRAM) == fetched + part + written + read


def test_an_unknown_slice_is_told_in_one_line(capsys):
    assert tpu_bytes.main(["--topology=nowhere"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_steps_are_at_their_bounds(row):
    pytest.importorskip("libtpu")
    try:
        device = tpu_bytes.chip("v5e:2x2")
    except UserError as error:
        pytest.skip(str(error))  # One process at a time may hold the compiler.
    hbm, _ = tpu_bytes.words(row.ours(), device, leaves=3, size=4096)
    assert hbm <= 1.02 * row.words
