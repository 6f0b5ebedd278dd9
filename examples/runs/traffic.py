"""Traffic between a TPU's memory and its cores, read from a compiled program.

``cost_analysis()["bytes accessed"]`` counts what every instruction touches, wherever it lies: an
array that is fetched into on-chip memory ahead of time counts three times, as read from HBM, as
written on chip, and as read there. The scheduled program says where each array lies: layouts with
``S(n)`` are on chip, those without in HBM. Only these are counted here, with the padding of their
tiles, as follows; it is the least that the instructions as they stand can move.

- An instruction reads each operand once and writes its result once; so do Pallas kernels, and
  products too large for the chip, which in truth read blocks of an operand again.
- A slice reads what it takes. An update in place reads and writes the part that it updates, a
  scatter also reads what it adds to. Inside of a fusion the same holds for its parameters.
- A copy whose start and end are two instructions is counted at its start. So is a collective, and
  one that runs beside the steps of several fusions is counted once (:func:`collectives_of`).
- Instructions in a loop count as often as it runs; of a conditional, the longest branch does.
"""

from typing import NamedTuple

from .program import Array, Computation, Instruction, Program

COLLECTIVES = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
    "collective-permute",
)
# These name an array that lies there already, or run what is counted by itself.
_NO_TRAFFIC = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("optimization-barrier", "while", "conditional", "call", "async-start", "async-update"),
    *("partition-id", "replica-id"),
}
_NAMES_ALONE = {"AllocateBuffer", "ConcatBitcast", "AssumeGatherIndicesInBound"}
_VIEWS = ("bitcast", "reshape", "get-tuple-element")


class Moved(NamedTuple):
    """What an instruction moves each time it runs, and how often it does."""

    instruction: Instruction
    computation: Computation  # Where it stands.
    read: float  # Bytes from HBM.
    written: float  # Bytes to HBM.
    times: int

    @property
    def bytes(self) -> float:
        """In all."""
        return (self.read + self.written) * self.times


class Collective(NamedTuple):
    """What sends something to other devices, and how often it runs."""

    instruction: Instruction
    computation: Computation  # Where it stands.
    fused: bool  # Whether that is inside of a fusion.
    times: int

    @property
    def kind(self) -> str:
        """Its operation; a scattered sum also where a TPU's text has a sum and a slice of it.

        XLA makes one operation of the two, by its emitters named AllReduceScatterFusion.
        """
        kind = self.instruction.opcode.removesuffix("-start")
        users = self.computation.users[self.instruction.name] if self.fused else []
        sliced = bool(users) and all(user.opcode == "dynamic-slice" for user in users)
        return "reduce-scatter" if kind == "all-reduce" and sliced else kind


def collectives_of(program: Program) -> list[Collective]:
    """Each collective once: one that overlaps with others stands in several of their fusions."""
    found: dict[str, Collective] = {}
    for instruction, computation, times in program.running():
        for inner, where in [(instruction, computation), *program.fused(instruction)]:
            if is_collective(inner):
                first = Collective(inner, where, where is not computation, times)
                known = found.setdefault(_channel(inner), first)
                found[_channel(inner)] = known._replace(times=max(known.times, times))
    return list(found.values())


def hbm_bytes(text: str) -> float:
    """Bytes read from and written to HBM while a scheduled HLO module runs once."""
    return sum(moved.bytes for moved in hbm_traffic(Program(text)))


def hbm_traffic(program: Program) -> list[Moved]:
    """Every instruction that moves something to or from HBM.

    Example:
      >>> program = Program('''ENTRY %main (p: f32[8,128]) -> f32[8,128] {
      ...   %p = f32[8,128]{1,0:T(8,128)} parameter(0)
      ...   ROOT %n = f32[8,128]{1,0:T(8,128)S(1)} negate(%p)
      ... }''')
      >>> [(m.instruction.name, m.read, m.written, m.times) for m in hbm_traffic(program)]
      [('n', 4096.0, 0, 1)]
    """
    found = [
        Moved(sent.instruction, sent.computation, *_collective(*sent[:3]), sent.times)
        for sent in collectives_of(program)
    ]
    for instruction, computation, times in program.running():
        if is_collective(instruction) or _only_names(instruction):
            continue
        if instruction.opcode in ("copy-start", "slice-start"):
            read, written = _copied(instruction.arrays)
        elif instruction.opcode == "fusion":
            read, written = _fusion(instruction, computation, program)
        else:
            read = sum(
                _taken(instruction, index, computation.named[name])
                for index, name in enumerate(instruction.operands)
                if name in computation.named
            )
            written = _given(instruction, computation, program)
        found.append(Moved(instruction, computation, read, written, times))
    return [moved for moved in found if moved.bytes]


def _only_names(instruction: Instruction) -> bool:
    """Whether it moves nothing, or is the end of what is counted at its start."""
    ends = instruction.opcode.endswith("-done")
    return ends or instruction.opcode in _NO_TRAFFIC or instruction.target in _NAMES_ALONE


def is_collective(instruction: Instruction) -> bool:
    """Whether it sends something to other devices; its end is another instruction."""
    return instruction.opcode.removesuffix("-start") in COLLECTIVES


def _channel(instruction: Instruction) -> str:
    """What the parts of one collective in several computations have in common."""
    number = instruction.rest.partition("channel_id=")[2].partition(",")[0].split(" ")[0]
    return f"{instruction.opcode.removesuffix('-start')} {number or instruction.name}"


def _in_hbm(arrays: list[Array]) -> float:
    return sum(array.bytes for array in arrays if array.in_hbm)


def _copied(arrays: list[Array]) -> tuple[float, float]:
    """A copy of all or of a part: ``(to, from, ...)`` or ``((from), to, ...)``, the part's size."""
    size = min(array.bytes for array in arrays[:2])
    return sum(size for array in arrays[:2] if array.in_hbm), 0


def _collective(
    instruction: Instruction, computation: Computation, fused: bool
) -> tuple[float, float]:
    """The operand once and the result once; inside a fusion only what enters and leaves it."""
    operands = [computation.named[n] for n in instruction.operands if n in computation.named]
    if fused:
        operands = [operand for operand in operands if operand.opcode == "parameter"]
        users = computation.users[instruction.name]
        leaves = all(user.opcode == "tuple" or user.target for user in users)
    else:
        leaves = True
    arrays = instruction.arrays
    if instruction.opcode in ("all-gather-start", "collective-permute-start"):
        arrays = arrays[len(operands) :]  # The operands are part of the result.
    read = sum(_in_hbm(operand.arrays) for operand in operands)
    return read, _in_hbm(arrays) if leaves else 0


def _fusion(
    instruction: Instruction, computation: Computation, program: Program
) -> tuple[float, float]:
    body = program.computations[instruction.called[0]]
    read = sum(
        _read(body, parameter, program)
        for name, parameter in zip(instruction.operands, body.parameters, strict=True)
        if name not in computation.named or _in_hbm(computation.named[name].arrays)
    )
    return read, _written(body, body.root, program, instruction.arrays)


def _read(body: Computation, source: Instruction, program: Program) -> float:
    """Bytes of an array in HBM that a fused computation reads: all, or the slices it takes."""
    total = 0.0
    for user in body.users[source.name]:
        for index, name in enumerate(user.operands):
            if name != source.name or user.opcode == "tuple" or is_collective(user) or user.target:
                continue
            if user.opcode in _VIEWS:
                total += _read(body, user, program)
            elif user.opcode == "fusion":
                inner = program.computations[user.called[0]]
                total += _read(inner, inner.parameters[index], program)
                if _viewed(inner) is inner.parameters[index]:
                    total += _read(body, user, program)
            else:
                total += _taken(user, index, source, everywhere=True)
    return min(total, sum(array.bytes for array in source.arrays))


def _viewed(body: Computation) -> Instruction:
    """What the result is, perhaps in another shape."""
    source = body.root
    while source.opcode in _VIEWS:
        source = body.named[source.operands[0]]
    return source


def _taken(user: Instruction, index: int, operand: Instruction, everywhere: bool = False) -> float:
    """Bytes that an instruction reads of its operand number ``index``."""
    if not everywhere and not any(array.in_hbm for array in operand.arrays):
        return 0
    if index == 0 and user.opcode == "dynamic-update-slice":
        return 0
    size = sum(array.bytes for array in operand.arrays if everywhere or array.in_hbm)
    if index == 0 and user.opcode in ("slice", "dynamic-slice", "gather"):
        return min(size, sum(array.bytes for array in user.arrays))
    if index == 0 and user.opcode == "scatter":
        return 0  # Counted with what it writes.
    return size


def _given(instruction: Instruction, computation: Computation, program: Program) -> float:
    if instruction.opcode == "reshape":  # Alone it copies; inside of a fusion it is a view.
        return _in_hbm(instruction.arrays)
    return _written(computation, instruction, program, instruction.arrays)


def _written(
    body: Computation, source: Instruction, program: Program, results: list[Array]
) -> float:
    """Bytes that a computation writes where its result ``source`` has the arrays ``results``."""
    size = _in_hbm(results)
    if source.opcode == "tuple":
        parts = [body.named[name] for name in source.operands]
        return sum(
            _written(body, part, program, [result])
            for part, result in zip(parts, results, strict=True)
        )
    if not size or source.opcode == "parameter" or is_collective(source) or source.target:
        return size if source.target == "tpu_custom_call" else 0
    if source.opcode in _VIEWS:
        return _written(body, body.named[source.operands[0]], program, results)
    if source.opcode == "fusion":
        inner = program.computations[source.called[0]]
        return _written(inner, inner.root, program, results)
    if source.opcode == "dynamic-update-slice":
        return min(size, sum(a.bytes for a in body.named[source.operands[1]].arrays))
    if source.opcode == "scatter":  # Reads what it adds to.
        return 2 * min(size, sum(a.bytes for a in body.named[source.operands[2]].arrays))
    return size
