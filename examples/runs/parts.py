"""Which part of a model each instruction of a compiled program belongs to, and what a part costs.

A part is a ``jax.named_scope`` of the model; its name stands in the metadata of the instructions
that were made from it. XLA makes some of its own, such as the copy that fetches a weight ahead of
time: they belong to the instruction that uses what they make, or else to the one that made it.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping

from .hlo import collectives
from .pallas import kernel_flops
from .program import Computation, Instruction, Program, not_known
from .traffic import hbm_traffic, is_collective

SENT, OTHER = "collectives", "other"


@dataclasses.dataclass
class Cost:
    """Of one chip and one run of the program."""

    flops: float = 0.0  # Of matrix products; of a Pallas kernel, with those that a mask leaves out.
    hbm: float = 0.0  # Bytes to and from its memory.
    links: float = 0.0  # Bytes that it sends.
    temporaries: float = 0.0  # Bytes that it holds when the temporaries are largest.


class Parts:
    """Finds the parts of a program's instructions.

    Args:
      program: After compilation.
      scopes: Name of a scope -> the part that it belongs to. The innermost counts.

    Example:
      >>> program = Program('''ENTRY %main (p: f32[4]) -> f32[4] {
      ...   %p = f32[4]{0} parameter(0)
      ...   %c = f32[4]{0} copy(%p)
      ...   ROOT %n = f32[4]{0} negate(%c), metadata={op_name="jit(f)/jvp(mlp)/neg"}
      ... }''')
      >>> parts = Parts(program, {"mlp": "MLP"})
      >>> [parts.of(instruction, program.entry) for instruction in program.entry.instructions]
      ['MLP', 'MLP', 'MLP']
    """

    def __init__(self, program: Program, scopes: Mapping[str, str]):
        self.program = program
        self.scopes = scopes
        self._pattern = re.compile(rf"(?<![\w'])({'|'.join(scopes)})(?![\w'])")
        self._own = functools.cache(self._own_part)

    def of(self, instruction: Instruction, computation: Computation) -> str:
        """The part of an instruction that stands in this computation."""
        users = lambda i: computation.users[i.name]  # noqa: E731
        makers = lambda i: [computation.named[n] for n in i.operands]  # noqa: E731
        return (
            self._own(instruction)
            or self._nearest(instruction, users)
            or self._nearest(instruction, makers)
            or OTHER
        )

    def _own_part(self, instruction: Instruction) -> str | None:
        if found := self._pattern.findall(instruction.scope):
            return self.scopes[found[-1]]
        inside = [
            self._pattern.findall(inner.scope) for inner, _ in self.program.fused(instruction)
        ]
        counts = collections.Counter(self.scopes[found[-1]] for found in inside if found)
        return counts.most_common(1)[0][0] if counts else None

    def _nearest(
        self, instruction: Instruction, step: Callable[[Instruction], list[Instruction]]
    ) -> str | None:
        seen, frontier = {instruction.name}, [instruction]
        while frontier:
            new = {i.name: i for at in frontier for i in step(at) if i.name not in seen}
            seen |= set(new)
            frontier = list(new.values())
            for neighbour in frontier:
                if neighbour.opcode != "parameter" and (part := self._own(neighbour)):
                    return part
        return None


def costs(program: Program, parts: Parts) -> dict[str, Cost]:
    """What each part computes, moves and sends; what collectives move and send is their own."""
    found: dict[str, Cost] = collections.defaultdict(Cost)
    for moved in hbm_traffic(program):
        sends = is_collective(moved.instruction)
        part = SENT if sends else parts.of(moved.instruction, moved.computation)
        found[part].hbm += moved.bytes
    for _, size in collectives(program).values():
        found[SENT].links += size
    for instruction, computation, times in program.running():
        for inner, where in [(instruction, computation), *program.fused(instruction)]:
            if inner.opcode in ("convolution", "dot"):
                part = parts.of(inner, where)
                part = parts.of(instruction, computation) if part == OTHER else part
                found[part].flops += times * product_flops(inner, where)
            elif inner.target == "tpu_custom_call":
                found[parts.of(inner, where)].flops += times * kernel_flops(inner)
    return dict(found)


def product_flops(instruction: Instruction, computation: Computation) -> float:
    """Floating-point operations of a matrix product, which TPUs' programs call a convolution.

    A batch of products is a convolution whose window is dilated and strided so that each position
    meets one entry; only pairs of positions that meet count.
    """
    left, right = (computation.named[name].arrays[0].shape for name in instruction.operands)
    out = instruction.arrays[0].shape
    if instruction.opcode == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        contracted = [int(axis) for axis in axes[1].split(",") if axis] if axes else []
        return 2.0 * math.prod(out) * math.prod(left[axis] for axis in contracted)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    if labels is None:
        raise not_known(instruction.rest)
    kernel, result = labels[2], labels[3]
    total = 2.0 * right[kernel.index("i")] * out[result.index("b")] * out[result.index("f")]
    for axis in range(len(kernel) - 2):
        place = str(axis)
        sizes = left[labels[1].index(place)], right[kernel.index(place)], out[result.index(place)]
        total *= _meetings(*sizes, instruction.rest, axis)
    return total


def _meetings(size: int, window: int, out: int, rest: str, axis: int) -> int:
    """Pairs of a result's and a window's positions that fall on an entry of the input."""

    def setting(name: str, default: int) -> int:
        found = re.search(rf"window=\{{[^}}]*\b{name}=([-\dx_]+)", rest)
        return int(found[1].split("x")[axis].split("_")[0]) if found else default

    stride, low = setting("stride", 1), setting("pad", 0)
    dilated, spread = setting("lhs_dilate", 1), setting("rhs_dilate", 1)
    last = (size - 1) * dilated
    positions = (o * stride + w * spread - low for o in range(out) for w in range(window))
    return sum(0 <= at <= last and at % dilated == 0 for at in positions)
