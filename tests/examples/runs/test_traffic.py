"""What a compiled program moves, computes and holds: by hand, and as libtpu compiles it."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from examples.runs.errors import UserError
from examples.runs.hlo import collectives
from examples.runs.parts import Parts, costs
from examples.runs.program import Program
from examples.runs.slices import devices_of
from examples.runs.temporaries import largest_temporaries
from examples.runs.traffic import hbm_bytes, hbm_traffic

pytestmark = pytest.mark.usefixtures("tpu_compiler")
ROW, TILE = 128 * 4, 8 * 128 * 4  # Bytes.
# One array of 8 x 128 floats, 4096 bytes, is fetched on chip, used there twice and written once;
# a part of 2 rows, 1024 bytes, is fetched of another, and a third is read where it lies.
FETCHED = """HloModule jit_update, is_scheduled=true

%fused.1 (p: f32[8,128]) -> f32[] {
  %p = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %zero = f32[]{:T(128)} constant(0)
  ROOT %sum = f32[]{:T(128)S(6)} reduce(%p, %zero), dimensions={0,1}, to_apply=%add
}

%fused.2 (p.0: f32[8,128], p.1: f32[2,128], p.2: f32[], p.3: f32[8,128]) -> (f32[8,128], f32[8,128]) {
  %p.0 = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %p.1 = f32[2,128]{1,0:T(2,128)S(1)} parameter(1)
  %p.2 = f32[]{:T(128)S(6)} parameter(2)
  %p.3 = f32[8,128]{1,0:T(8,128)} parameter(3)
  %sum.1 = f32[8,128]{1,0:T(8,128)} add(%p.0, %p.3)
  %sum.2 = f32[8,128]{1,0:T(8,128)S(1)} add(%p.0, %p.0)
  ROOT %both = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}) tuple(%sum.1, %sum.2)
}

ENTRY %main (a.1: f32[8,128], b.1: f32[8,128], c.1: f32[8,128]) -> (f32[8,128], f32[]) {
  %a.1 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b.1 = f32[8,128]{1,0:T(8,128)} parameter(1)
  %c.1 = f32[8,128]{1,0:T(8,128)} parameter(2)
  %copy-start = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a.1)
  %copy-done = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %slice-start = ((f32[8,128]{1,0:T(8,128)}), f32[2,128]{1,0:T(2,128)S(1)}, s32[]{:S(2)}) slice-start(%b.1), slice={[0:2], [0:128]}
  %slice-done = f32[2,128]{1,0:T(2,128)S(1)} slice-done(%slice-start)
  %fusion.1 = f32[]{:T(128)S(6)} fusion(%copy-done), kind=kLoop, calls=%fused.1
  %fusion.2 = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}) fusion(%copy-done, %slice-done, %fusion.1, /*index=3*/%c.1), kind=kLoop, calls=%fused.2
  %get-tuple-element.1 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%fusion.2), index=0
  ROOT %tuple = (f32[8,128]{1,0:T(8,128)}, f32[]{:T(128)S(6)}) tuple(%get-tuple-element.1, %fusion.1)
}
"""  # noqa: E501  As XLA prints it.
# Five times one row of a stack is read and one written in place; then a Pallas kernel, whose
# metadata has a line that begins with brackets, reads and writes the stack.
LOOP = """HloModule jit_loop, is_scheduled=true

%row (stack: f32[5,8,128], i: s32[], from: f32[5,8,128]) -> f32[5,8,128] {
  %stack = f32[5,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)S(6)} parameter(1)
  %from = f32[5,8,128]{2,1,0:T(8,128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  %one = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%from, %i, %zero, %zero), dynamic_slice_sizes={1,8,128}
  %new = f32[1,8,128]{2,1,0:T(8,128)} sine(%one)
  ROOT %put = f32[5,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%stack, %new, %i, %zero, %zero)
}

%body (t: (s32[], f32[5,8,128], f32[5,8,128])) -> (s32[], f32[5,8,128], f32[5,8,128]) {
  %t = (s32[]{:T(128)S(6)}, f32[5,8,128]{2,1,0:T(8,128)}, f32[5,8,128]{2,1,0:T(8,128)}) parameter(0)
  %at = s32[]{:T(128)S(6)} get-tuple-element(%t), index=0
  %to = f32[5,8,128]{2,1,0:T(8,128)} get-tuple-element(%t), index=1
  %of = f32[5,8,128]{2,1,0:T(8,128)} get-tuple-element(%t), index=2
  %next = s32[]{:T(128)S(6)} add(%at, %at)
  %step = f32[5,8,128]{2,1,0:T(8,128)} fusion(%to, %at, %of), kind=kLoop, calls=%row, metadata={op_name="jit(f)/while/body/mlp/sin"}
  ROOT %out = (s32[]{:T(128)S(6)}, f32[5,8,128]{2,1,0:T(8,128)}, f32[5,8,128]{2,1,0:T(8,128)}) tuple(%next, %step, %of)
}

%condition (c: (s32[], f32[5,8,128], f32[5,8,128])) -> pred[] {
  %c = (s32[]{:T(128)S(6)}, f32[5,8,128]{2,1,0:T(8,128)}, f32[5,8,128]{2,1,0:T(8,128)}) parameter(0)
  %n = s32[]{:T(128)} constant(5)
  %k = s32[]{:T(128)S(6)} get-tuple-element(%c), index=0
  ROOT %less = pred[]{:T(512)S(6)} compare(%k, %n), direction=LT
}

ENTRY %main (x: f32[5,8,128]) -> f32[5,8,128] {
  %x = f32[5,8,128]{2,1,0:T(8,128)} parameter(0)
  %first = s32[]{:T(128)S(6)} iota(), iota_dimension=0
  %space = f32[5,8,128]{2,1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %all = (s32[]{:T(128)S(6)}, f32[5,8,128]{2,1,0:T(8,128)}, f32[5,8,128]{2,1,0:T(8,128)}) tuple(%first, %space, %x)
  %while = (s32[]{:T(128)S(6)}, f32[5,8,128]{2,1,0:T(8,128)}, f32[5,8,128]{2,1,0:T(8,128)}) while(%all), condition=%condition, body=%body
  %result = f32[5,8,128]{2,1,0:T(8,128)} get-tuple-element(%while), index=1
  ROOT %kernel = f32[5,8,128]{2,1,0:T(8,128)} custom-call(%result), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="jit(f)/attention/kernel"}
}
"""  # noqa: E501
# A gather that runs beside two products: its parts stand in three fusions, that pass its arrays on.
BESIDE = """HloModule jit_beside, is_scheduled=true

%start (p: f32[8,128]) -> (f32[8,128], f32[32,128], u32[]) {
  %p = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %gather = f32[32,128]{1,0:T(8,128)} all-gather(%p), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %started = (f32[8,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0:T(8,128)}, u32[]{:S(2)}) custom-call(%gather), custom_call_target="AsyncCollectiveStart"
}

%beside (q: f32[8,128], r: f32[32,128], s: f32[8,128], u: f32[128,128]) -> (f32[8,128], f32[8,128], f32[32,128]) {
  %q = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %r = f32[32,128]{1,0:T(8,128)} parameter(1)
  %gather.1 = f32[32,128]{1,0:T(8,128)} all-gather(%q), channel_id=7, replica_groups={{0,1,2,3}}, dimensions={0}
  %s = f32[8,128]{1,0:T(8,128)} parameter(2)
  %u = f32[128,128]{1,0:T(8,128)S(1)} parameter(3)
  %product = f32[8,128]{1,0:T(8,128)} convolution(%s, %u), dim_labels=bf_io->bf, metadata={op_name="jit(f)/transpose(jvp(mlp))/dot_general"}
  ROOT %results = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0:T(8,128)}) tuple(%product, %q, %gather.1)
}

ENTRY %main (a: f32[8,128], b: f32[8,128], c: f32[128,128]) -> f32[8,128] {
  %b = f32[8,128]{1,0:T(8,128)} parameter(1)
  %a = f32[8,128]{1,0:T(8,128)S(1)} parameter(0)
  %c = f32[128,128]{1,0:T(8,128)S(1)} parameter(2)
  %fusion.1 = (f32[8,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0:T(8,128)}, u32[]{:S(2)}) fusion(%a), kind=kCustom, calls=%start
  %part.0 = f32[8,128]{1,0:T(8,128)S(1)} get-tuple-element(%fusion.1), index=0
  %part.1 = f32[32,128]{1,0:T(8,128)} get-tuple-element(%fusion.1), index=1
  %fusion.2 = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, f32[32,128]{1,0:T(8,128)}) fusion(%part.0, %part.1, %b, %c), kind=kOutput, output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {})}, calls=%beside
  ROOT %out = f32[8,128]{1,0:T(8,128)} get-tuple-element(%fusion.2), index=0
}
"""  # noqa: E501
SCOPES = {"mlp": "MLP", "attention": "attention"}


def test_only_what_lies_in_hbm_counts():
    fetched, part, written, read = TILE, 2 * ROW, TILE, TILE
    assert hbm_bytes(FETCHED) == fetched + part + written + read


def test_slices_and_updates_in_a_loop_count_their_own_size_as_often_as_it_runs():
    in_loop, kernel = 5 * (TILE + TILE), 2 * 5 * TILE
    assert hbm_bytes(LOOP) == in_loop + kernel
    program = Program(LOOP)
    found = costs(program, Parts(program, SCOPES))
    assert (found["MLP"].hbm, found["attention"].hbm) == (in_loop, kernel)
    made = {i.name: size for i, _, size in largest_temporaries(program)}
    assert made == {"space": 5 * TILE}


def test_a_collective_beside_other_work_counts_once():
    program = Program(BESIDE)
    found = costs(program, Parts(program, SCOPES))
    assert found["collectives"].hbm == 4 * TILE  # From on chip, into HBM.
    assert found["collectives"].links == 3 / 4 * 4 * TILE
    assert found["MLP"].hbm == 2 * TILE
    assert found["MLP"].flops == 2 * 8 * 128 * 128


def test_a_sum_that_is_cut_in_its_fusion_is_a_scattered_one():
    text = """%all-reduce-scatter (p: f32[8,128]) -> f32[2,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%p), channel_id=3, replica_groups={{0,1,2,3}}, to_apply=%add
  %id = u32[] partition-id()
  %zero = u32[] constant(0)
  ROOT %part = f32[2,128]{1,0:T(2,128)} dynamic-slice(%sum, %id, %zero), dynamic_slice_sizes={2,128}
}

ENTRY %main (a: f32[8,128]) -> f32[2,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %fusion = f32[2,128]{1,0:T(2,128)} fusion(%a), kind=kCustom, calls=%all-reduce-scatter
}"""  # noqa: E501
    assert collectives(Program(text)) == {"reduce-scatter": (1, 3 / 4 * TILE)}
    assert hbm_bytes(text) == TILE + 2 * ROW


def test_a_batch_of_products_is_counted_without_the_positions_that_do_not_meet():
    text = """ENTRY %main (a: f32[12,4,8], b: f32[12,8,16]) -> f32[12,4,16] {
  %a = f32[12,4,8]{2,1,0} parameter(0)
  %b = f32[12,8,16]{2,1,0} parameter(1)
  ROOT %c = f32[12,4,16]{2,1,0} convolution(%a, %b), window={size=12 stride=11 lhs_dilate=12}, dim_labels=0bf_0io->0bf
}"""  # noqa: E501
    program = Program(text)
    assert costs(program, Parts(program, SCOPES))["other"].flops == 12 * 2 * 4 * 8 * 16


def test_a_reshape_of_one_of_a_fusions_results_writes_what_it_makes():
    text = """%two (p: f32[512]) -> (f32[512], f32[4,512]) {
  %p = f32[512]{0:T(512)} parameter(0)
  %all = f32[4,512]{1,0:T(4,128)} broadcast(%p), dimensions={1}
  ROOT %both = (f32[512]{0:T(512)}, f32[4,512]{1,0:T(4,128)}) tuple(%p, %all)
}

ENTRY %main (a: f32[512]) -> f32[4,128] {
  %a = f32[512]{0:T(512)} parameter(0)
  %fusion = (f32[512]{0:T(512)}, f32[4,512]{1,0:T(4,128)}) fusion(%a), kind=kLoop, calls=%two
  %first = f32[512]{0:T(512)} get-tuple-element(%fusion), index=0
  ROOT %r = f32[4,128]{1,0:T(4,128)} reshape(%first)
}"""
    (alone,) = [m for m in hbm_traffic(Program(text)) if m.instruction.opcode == "reshape"]
    assert (alone.read, alone.written) == (4 * ROW, 4 * ROW)


@pytest.fixture
def devices():
    """Four described chips."""
    pytest.importorskip("libtpu")
    try:
        return devices_of("v5e:2x2")
    except UserError as error:
        pytest.skip(str(error))  # One process at a time may hold the compiler.


def _compiled(function, *shapes, placed, result=None, dtype=jnp.float32):
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for shape in shapes]
    return jax.jit(function, out_shardings=result).lower(*arguments).compile().as_text()


SQUARE = 10240**2 * 4  # Bytes; too large for a chip's own memory.


@pytest.mark.parametrize(
    ("function", "count", "expected"),
    [
        (lambda a, b: a * 2 + b, 2, 3 * SQUARE),
        (lambda a, b: a @ b, 2, 3 * SQUARE),
        # The first sum is a copy of its start; each step reads two and writes one.
        (lambda a: jax.lax.scan(lambda c, i: (c * 1.5 + i, None), a, jnp.arange(7.0))[0], 1,
         (2 + 7 * 2) * SQUARE),
        (lambda a: jax.lax.dynamic_slice(a, (5, 0), (1024, 10240)) * 2, 1, 2 * SQUARE / 10),
    ],
    ids=["elementwise", "product", "loop", "slice"],
)  # fmt: skip
def test_programs_of_one_chip_move_what_they_must(devices, function, count, expected):
    text = _compiled(function, *[(10240, 10240)] * count, placed=SingleDeviceSharding(devices[0]))
    assert hbm_bytes(text) == pytest.approx(expected, rel=1e-3)


def test_collectives_read_their_operand_and_write_their_result(devices):
    mesh = jax.make_mesh((4,), ("x",), (AxisType.Auto,), devices=devices)
    split, copies = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (["x"], []))
    size = 4096**2 * 4
    text = _compiled(lambda a: a.sum(0), (4, 4096, 4096), placed=split, result=copies)
    assert hbm_bytes(text) == pytest.approx(2 * size, rel=1e-3)
    text = _compiled(lambda a: a.sum(0), (4, 4096, 4096), placed=split, result=split)
    assert hbm_bytes(text) == pytest.approx(size + size / 4, rel=1e-3)
    sent = collectives(Program(text))
    assert sent["reduce-scatter"] == (1, pytest.approx(3 / 4 * size, rel=0.02))  # Filled up.
    text = _compiled(lambda a: a, (16384, 4096), placed=split, result=copies)
    gather = [m for m in hbm_traffic(Program(text)) if m.instruction.opcode == "all-gather"]
    assert [(m.read, m.written) for m in gather] == [(size, 4 * size)]


def test_a_pallas_kernel_moves_its_operands_and_results_and_multiplies(devices):
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length, width = 4, 8192, 128
    mask = masks.MultiHeadMask([masks.CausalMask((length, length))] * heads)
    attend = jax.vmap(kernel.make_splash_mha(mask, head_shards=1, q_seq_shards=1))
    shape = (8, heads, length, width)
    text = _compiled(
        attend, shape, shape, shape, placed=SingleDeviceSharding(devices[0]), dtype=jnp.bfloat16
    )
    array = 2 * 8 * heads * length * width  # Queries, keys, values and the result; then sums.
    assert hbm_bytes(text) == pytest.approx(4 * array, rel=0.05)
    program = Program(text)
    found = costs(program, Parts(program, SCOPES))
    two_products = 2 * 8 * heads * 2 * length**2 * width
    assert sum(cost.flops for cost in found.values()) == two_products
