"""A compiled program's text taken apart: its computations and their instructions.

The text is ``compiled.as_text()``, an HLO module as XLA prints it after scheduling: the
instructions of a computation stand in the order in which they run.
"""

import collections
import functools
import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from .errors import UserError

_HEAD = re.compile(r"^(ENTRY )?%([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.-]+) = (.*)", re.DOTALL)
_ARRAY = re.compile(r"\b(pred|token|[a-z]+?(\d+)[a-z0-9]*)\[([\d,]*)\](?:\{([^{}]*)\})?")
_ENTERED = ("while", "conditional", "call", "async-start")
_NAMES = re.compile(r"%([\w.-]+)")
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|branch_computations|called_computations|true_computation"
    r"|false_computation)=\{?((?:%[\w.-]+(?:, )?)+)"
)


class Array(NamedTuple):
    """One array of an instruction's result."""

    shape: tuple[int, ...]
    plain_bytes: float
    bytes: float  # With what fills its tiles up.
    in_hbm: bool  # Not in a memory on the chip, ``S(n)``.


class Instruction(NamedTuple):
    """``%name = kind opcode(operands), rest``."""

    name: str
    kind: str  # The type of the result.
    opcode: str
    operands: tuple[str, ...]  # Names.
    text: str  # Between the operation's brackets.
    rest: str  # Attributes and metadata.

    @property
    def called(self) -> list[str]:
        """The computations that it runs or applies."""
        return [name for found in _CALLED.findall(self.rest) for name in _NAMES.findall(found)]

    @property
    def scope(self) -> str:
        """The names of the JAX program around what it was made from, or nothing."""
        found = re.search(r'op_name="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def target(self) -> str:
        """Which function a custom call calls."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found[1] if found else ""

    @property
    def arrays(self) -> list[Array]:
        """Of the result, those of nested tuples in one row."""
        return arrays(self.kind)


class Computation:
    """Instructions in the order in which they run, and which of them is the result."""

    def __init__(self, lines: list[str]):
        self.instructions = [_instruction(line) for line in lines]
        self.named = {instruction.name: instruction for instruction in self.instructions}
        is_root = [line.lstrip().startswith("ROOT ") for line in lines]
        self.root = self.instructions[is_root.index(True) if any(is_root) else -1]

    @functools.cached_property
    def users(self) -> dict[str, list[Instruction]]:
        """Name -> the instructions that take it."""
        found = collections.defaultdict(list)
        for instruction in self.instructions:
            for name in dict.fromkeys(instruction.operands):
                found[name].append(instruction)
        return found

    @functools.cached_property
    def parameters(self) -> list[Instruction]:
        """In the order of the caller's operands."""
        found = [i for i in self.instructions if i.opcode == "parameter"]
        return sorted(found, key=lambda i: int(i.text))


class Program:
    """The computations of a module.

    Example:
      >>> program = Program('''ENTRY %main (p: f32[4]) -> f32[16] {
      ...   %p = f32[4]{0} parameter(0)
      ...   ROOT %g = f32[16]{0} all-gather(%p), replica_groups={{0,1,2,3}}
      ... }''')
      >>> [(i.name, i.opcode, i.operands) for i in program.entry.instructions]
      [('p', 'parameter', ()), ('g', 'all-gather', ('p',))]
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        for is_entry, name, lines in _blocks(text):
            self.computations[name] = Computation(lines)
            if is_entry:
                self.entry = self.computations[name]

    def running(
        self, computation: Computation | None = None, times: int = 1
    ) -> Iterator[tuple[Instruction, Computation, int]]:
        """What runs one after another, where it stands and how often.

        The instructions of loops are there as often as they run, of a conditional those of the
        longest branch. Fusions are one instruction each.
        """
        computation = self.entry if computation is None else computation
        for instruction in computation.instructions:
            yield instruction, computation, times
            if instruction.opcode in _ENTERED:
                n = self.trips(instruction) if instruction.opcode == "while" else 1
                yield from self.running(self.entered(instruction), times * n)

    def entered(self, instruction: Instruction) -> Computation:
        """The body of a loop, the longest branch of a conditional, what a call calls."""
        inner = [self.computations[name] for name in instruction.called]
        return max(inner, key=lambda computation: len(computation.instructions))

    def fused(self, instruction: Instruction) -> Iterator[tuple[Instruction, Computation]]:
        """The instructions inside of a fusion, and of those in it."""
        for name in instruction.called if instruction.opcode == "fusion" else ():
            for inner in self.computations[name].instructions:
                yield inner, self.computations[name]
                yield from self.fused(inner)

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs: the constant that its counter is compared with, or 1."""
        condition = _NAMES.findall(loop.rest[loop.rest.index("condition=") :])[0]
        found = [i for i in self.computations[condition].instructions if i.opcode == "constant"]
        return max([int(i.text) for i in found if re.fullmatch(r"\d+", i.text)], default=1)


def arrays(kind: str) -> list[Array]:
    """The arrays of a type.

    A layout ``{1,0:T(8,128)}`` names the dimensions from the fastest on; those that the tile has
    are filled up to multiples of its sizes.

    Example:
      >>> kind = "(f32[2,100]{1,0:T(8,128)}, bf16[3]{0:S(1)})"
      >>> [(array.plain_bytes, array.bytes, array.in_hbm) for array in arrays(kind)]
      [(800.0, 4096.0, True), (6.0, 6.0, False)]
    """
    return [_array(*found.groups()) for found in _ARRAY.finditer(kind) if found[1] != "token"]


@functools.cache
def _array(name: str, bits: str | None, dims: str, layout: str | None) -> Array:
    shape = tuple(int(size) for size in dims.split(",") if size)
    width = 1 if name == "pred" else int(bits or 8) / 8
    order, _, rest = (layout or "").partition(":")
    filled = [shape[int(axis)] for axis in order.split(",") if axis] or list(shape)[::-1]
    tile = re.match(r"T\(([\d,]+)\)", rest)
    if tile and shape:
        sizes = [int(size) for size in tile[1].split(",")][::-1]
        for axis, size in enumerate(sizes[: len(filled)]):
            filled[axis] = -(-filled[axis] // size) * size
    return Array(shape, width * math.prod(shape), width * math.prod(filled), "S(" not in rest)


def _blocks(text: str) -> Iterator[tuple[bool, str, list[str]]]:
    """Each computation's name and the texts of its instructions, which may have several lines."""
    head, lines = None, []
    for line in text.splitlines():
        if found := _HEAD.match(line):
            head, lines = found, []
        elif head and line == "}":
            yield bool(head[1]), head[2], lines
            head = None
        elif head and _INSTRUCTION.match(line):
            lines.append(line)
        elif head and lines:
            lines[-1] += "\n" + line


def _instruction(line: str) -> Instruction:
    found = _INSTRUCTION.match(re.sub(r"/\*index=\d+\*/", "", line))
    if found is None:
        raise not_known(line)
    _, name, text = found.groups()
    end = _closing(text, 0) + 1 if text[0] == "(" else text.index(" ")
    opening = text.index("(", end)
    closing = _closing(text, opening)
    inside = text[opening + 1 : closing]
    operands = tuple(_NAMES.findall(inside))
    return Instruction(
        name, text[:end], text[end:opening].strip(), operands, inside, text[closing + 1 :]
    )


def not_known(text: str) -> UserError:
    """The error for a text that these modules cannot read: another XLA may write it otherwise."""
    return UserError(
        f"the compiled program has a text that is not known here, {text.strip()[:80]!r}: install "
        'the libtpu that belongs to this jaxlib: pip install "jax[tpu]"'
    )


def _closing(text: str, opening: int) -> int:
    """Where the bracket that opens there is closed."""
    depth = 0
    for found in re.compile(r"[()]").finditer(text, opening):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.start()
    return len(text) - 1
