"""Traffic between a TPU's memory and its cores, read from a compiled program.

``cost_analysis()["bytes accessed"]`` counts what every instruction touches, wherever it lies: an
array that is fetched into on-chip memory ahead of time counts three times, as read from HBM, as
written on chip, and as read there. The scheduled program says where each array lies: layouts with
``S(n)`` are on chip, those without in HBM. Only these are counted here. For arrays that do not
fit on chip both counts agree.
"""

import math
import re
from collections.abc import Iterator

SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
# These name an array that lies there already, or the end of a copy whose start is counted.
_NO_TRAFFIC = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "copy-done",
    "slice-done",
    "async-done",
}


def hbm_bytes(program: str) -> int:
    """Bytes read from and written to HBM by the entry computation of a scheduled HLO module."""
    types: dict[str, str] = {}
    total = 0
    for name, kind, opcode, operands in _instructions(program):
        types[name] = kind
        if opcode in _NO_TRAFFIC or "ConcatBitcast" in operands:
            continue
        if opcode in ("copy-start", "slice-start"):
            total += _copied(kind)
            continue
        names = re.findall(r"%([\w.-]+)", operands.split(")")[0])
        total += _in_hbm(kind) + sum(_in_hbm(types[name]) for name in names if name in types)
    return total


def _instructions(program: str) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, opcode and operands of each instruction of the entry computation."""
    body = program[program.index("\nENTRY") :].split("\n}")[0]
    for line in body.splitlines():
        line = re.sub(r"/\*index=\d+\*/", "", line)
        balanced = _split_type(line)
        if balanced is not None:
            yield balanced


def _split_type(line: str) -> tuple[str, str, str, str] | None:
    """Takes ``%name = type opcode(operands...)`` apart; tuples of tuples have nested brackets."""
    found = re.match(r"\s*(?:ROOT )?%([\w.-]+) = (.*)", line)
    if found is None:
        return None
    name, rest = found.groups()
    end = _end_of_type(rest)
    opcode, _, operands = rest[end:].strip().partition("(")
    return name, rest[:end], opcode, operands


def _end_of_type(text: str) -> int:
    """Where the type ends: at the first space outside of brackets."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == " " and depth == 0:
            return position
    return len(text)


def _copied(kind: str) -> int:
    """Bytes of HBM that a copy of a part or of all touches: the part's, once for each end there."""
    arrays = [match for match in _ARRAY.finditer(kind) if match[0].split("[")[0] in SIZES]
    ends = [arrays[0], arrays[1]]
    moved = min(_bytes(end) for end in ends)
    return moved * sum("S(" not in (end[3] or "") for end in ends)


def _in_hbm(kind: str) -> int:
    return sum(
        _bytes(match)
        for match in _ARRAY.finditer(kind)
        if match[1] in SIZES and "S(" not in (match[3] or "")
    )


def _bytes(match: re.Match[str]) -> int:
    return SIZES[match[1]] * math.prod(int(size) for size in match[2].split(",") if size)
