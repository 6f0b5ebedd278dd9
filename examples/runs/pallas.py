"""What a Pallas kernel multiplies on a TPU, read from the program that its call carries."""

import base64
import math
import re
from typing import Any

from jaxlib.mlir import ir
from jaxlib.mosaic.python import tpu

from .program import Instruction, not_known


def kernel_flops(call: Instruction) -> float:
    """Floating-point operations of a kernel's matrix products.

    Those of all blocks of its grid: also of blocks that the kernel leaves out where a mask says so,
    which it decides while it runs.
    """
    body = re.search(r'"body":\s*"([^"]*)"', call.rest)
    if call.target != "tpu_custom_call" or body is None:
        return 0.0
    context = ir.Context()
    tpu.register_dialect(context)
    context.allow_unregistered_dialects = True
    with context, ir.Location.unknown():
        functions = ir.Module.parse(base64.b64decode(body[1])).body.operations
        kernel = next(f for f in functions if "iteration_bounds" in f.attributes)
        grid = _integers(kernel.attributes["iteration_bounds"])
        return math.prod(grid) * _flops(kernel.operation)


def _flops(operation: Any) -> float:
    """Of what stands in an operation, loops included."""
    total = 0.0
    for region in operation.regions:
        for block in region.blocks:
            total += sum(_flops(inner.operation) for inner in block.operations)
    if operation.name.endswith("scf.for"):
        start, stop, step = (_constant(operand) for operand in operation.operands[:3])
        return total * max(0, -(-(stop - start) // step))
    if operation.name.endswith("tpu.matmul"):
        contracted = re.match(r".*?<\[([\d, ]*)\]", str(operation.attributes["dimension_numbers"]))
        if contracted is None:  # The left side's come first.
            raise not_known(str(operation.attributes["dimension_numbers"]))
        left, result = _shape(operation.operands[0]), _shape(operation.results[0])
        axes = [int(axis) for axis in contracted[1].split(",")]
        return 2.0 * math.prod(result) * math.prod(left[axis] for axis in axes)
    return total


def _shape(value: Any) -> list[int]:
    return [int(size) for size in re.findall(r"(\d+)x", str(value.type))]


def _integers(attribute: Any) -> list[int]:
    return [int(n) for n in re.findall(r"-?\d+", str(attribute).partition(":")[2])]


def _constant(value: Any) -> int:
    return int(re.findall(r"-?\d+", str(value.owner.attributes["value"]))[0])
