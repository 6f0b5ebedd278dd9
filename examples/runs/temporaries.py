"""Which arrays of a compiled program lie in HBM when its temporaries are largest, by its schedule.

An estimate: XLA may give a result the place of an operand that is not needed any more, and leaves
gaps between arrays. ``compiled.memory_analysis()`` has the true sum.
"""

import collections
import re
from collections.abc import Iterator

from .program import Array, Computation, Instruction, Program, arrays
from .traffic import is_collective

_VIEWS = ("bitcast", "while", "optimization-barrier", "dynamic-update-slice", "scatter")
_ALIAS = re.compile(r"\{(\d*)\}: \((\d+), \{(\d*)\}")

# An array that an instruction made, by their name and its number among the results.
Held = tuple[str, int]
Places = list[Held | None]  # For each array of a result; None: no temporary of this computation.


def largest_temporaries(
    program: Program, computation: Computation | None = None
) -> list[tuple[Instruction, Computation, float]]:
    """The temporaries when they are largest: what made each, where it stands, its bytes.

    Example:
      >>> program = Program('''ENTRY %main (p: f32[256]) -> f32[4] {
      ...   %p = f32[256]{0} parameter(0)
      ...   %n = f32[256]{0} negate(%p)
      ...   ROOT %s = f32[4]{0} slice(%n), slice={[0:4]}
      ... }''')
      >>> [(i.name, size) for i, _, size in largest_temporaries(program)]
      [('n', 1024.0)]
    """
    computation = program.entry if computation is None else computation
    places, sizes = _places(computation, program)
    last = {
        held: position
        for position, instruction in enumerate(computation.instructions)
        for name in (instruction.name, *instruction.operands)
        for held in places.get(name, ())
        if held
    }
    for held in places[computation.root.name]:
        if held:
            sizes.pop(held, None)  # A result of the whole is no temporary.
    alive: dict[Held, float] = {}
    ends = collections.defaultdict(list)
    for held, position in last.items():
        ends[position].append(held)
    most, found = 0.0, []
    for position, instruction in enumerate(computation.instructions):
        for held in places[instruction.name]:
            if held in sizes and held[0] == instruction.name:
                alive[held] = sizes[held]
        inside = []
        if instruction.opcode in ("while", "conditional", "call"):
            inside = largest_temporaries(program, program.entered(instruction))
        total = sum(alive.values()) + sum(size for *_, size in inside)
        if total > most:
            most = total
            own = [(computation.named[name], computation, alive[name, i]) for name, i in alive]
            found = own + inside
        for held in ends[position]:
            alive.pop(held, None)
    return found


def _places(
    computation: Computation, program: Program
) -> tuple[dict[str, Places], dict[Held, float]]:
    """Where the arrays of each instruction lie, and how large the new ones in HBM are."""
    places: dict[str, Places] = {}
    sizes: dict[Held, float] = {}
    for instruction in computation.instructions:
        own = instruction.arrays
        before = [places[name] for name in instruction.operands if name in places]
        lying = list(_lying(instruction, own, before, computation, program))
        places[instruction.name] = lying
        for held, array in zip(lying, own, strict=True):
            if held and held[0] == instruction.name and array.in_hbm:
                sizes[held] = array.bytes
    return places, sizes


def _lying(
    instruction: Instruction,
    own: list[Array],
    before: list[Places],
    computation: Computation,
    program: Program,
) -> Iterator[Held | None]:
    opcode, new = instruction.opcode, [(instruction.name, i) for i in range(len(own))]
    started = computation.named[instruction.operands[0]].arrays if before else []
    if opcode in ("parameter", "constant"):
        return iter([None] * len(own))
    if opcode == "tuple":
        return (held for operand in before for held in operand)
    if opcode == "get-tuple-element":
        return iter(before[0][_offset(instruction, computation) :][: len(own)])
    if opcode in _VIEWS:
        return iter((before[0] + new)[: len(own)])
    if opcode.endswith("-done"):  # A copy's result is the first array of its start, others' later.
        skip = 0 if opcode == "copy-done" or len(started) == len(own) else 1
        return iter(before[0][skip : skip + len(own)])
    if opcode == "copy-start":
        return iter([new[0], before[0][0], None][: len(own)])
    if opcode.endswith("-start") and not (is_collective(instruction) and len(own) == 1):
        taken = [held for operand in before for held in operand]
        return iter([*taken, *new[len(taken) :]][: len(own)])
    if instruction.target == "ConcatBitcast":
        return iter([before[0][0]] * len(own))
    aliases = {
        int(result or 0): before[int(operand)][int(index or 0)]
        for result, operand, index in _ALIAS.findall(
            instruction.rest.partition("output_to_operand_aliasing=")[2].partition("}}")[0] + "}}"
        )
    }
    if opcode == "fusion" and len(own) == 1:
        root = program.computations[instruction.called[0]].root
        parameters = program.computations[instruction.called[0]].parameters
        for index, parameter in enumerate(parameters):
            if root.opcode in _VIEWS and root.operands and root.operands[0] == parameter.name:
                aliases[0] = before[index][0]
    return iter([aliases.get(i, held) for i, held in enumerate(new)])


def _offset(element: Instruction, computation: Computation) -> int:
    """How many arrays come before an element of a tuple, whose elements may be tuples."""
    wanted = int(element.rest.partition("index=")[2].split(",")[0])
    kind = computation.named[element.operands[0]].kind
    depth = commas = 0
    for position, character in enumerate(kind):
        if commas == wanted:
            return len(arrays(kind[:position]))
        depth += (character in "([{") - (character in ")]}")
        commas += character == "," and depth == 1
    raise ValueError(f"{element.name} takes element {wanted} of {kind}")
