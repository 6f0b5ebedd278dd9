"""Patterns of paths: compiled once, and refused where a match could take exponential time."""

import functools
import importlib
import itertools
import re
from collections import Counter
from typing import Any

# The two halves of re.compile; their public names, sre_parse and sre_compile, are deprecated.
parser, compiler = (importlib.import_module(f"re.{name}") for name in ("_parser", "_compiler"))
_REPEATS = ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT")
_ZERO_WIDTH = ("AT", "ASSERT", "ASSERT_NOT")
_LATIN = frozenset(map(chr, range(256)))
_FEW = 4  # So many copies take polynomial time at most.
_MOST_OPEN = 16


@functools.cache
def compile_pattern(pattern: str) -> re.Pattern[str]:
    """Compiles a pattern; a dot matches every character, line breaks included.

    Raises:
      ValueError: If it is not a regular expression, or one that could take exponential time.

    >>> compile_pattern("(.*/)?bias").fullmatch("dense/bias") is not None
    True
    >>> compile_pattern("(a+)+b")
    Traceback (most recent call last):
    ValueError: pattern '(a+)+b' could take exponential time: ...
    """
    try:
        compiled, tree = re.compile(pattern, re.DOTALL), parser.parse(pattern, re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"pattern {pattern!r} is not a regular expression: {error}.") from None
    if _openness(tree) > _MOST_OPEN or any(map(_Automaton.is_ambiguous, _loops(tree))):
        raise ValueError(
            f"pattern {pattern!r} could take exponential time: it can match one text in many ways. "
            "Repeat one thing at a time: '(.*/)?' stands for any depth, '[^/]*' for the rest of a "
            "name; several rules may say what one cannot."
        )
    return compiled


def _inside(op: str, argument: Any) -> list[Any]:
    """The sequences inside one node of the parse tree."""
    if op == "BRANCH":
        return argument[1]
    if op == "GROUPREF_EXISTS":
        return [part or [] for part in argument[1:]]
    if op in ("SUBPATTERN", "ASSERT", "ASSERT_NOT", *_REPEATS):
        return [argument[-1]]
    return [argument] if op == "ATOMIC_GROUP" else []


def _loops(tree: Any, copies: int = 1) -> list[Any]:
    """The bodies of the outermost repeats of more than a few copies."""
    loops = []
    for op, argument in tree:
        most = copies * argument[1] if str(op) in _REPEATS else copies
        for part in _inside(str(op), argument):
            loops += [part] if most > _FEW else _loops(part, most)
    return loops


def _openness(tree: Any) -> int:
    """How many repeats of open length are in a row, unbounded ones counted twice."""
    count, beside = 0, 0
    for op, argument in tree:
        inner = max(map(_openness, _inside(str(op), argument)), default=0)
        if str(op) in _ZERO_WIDTH:  # Looked at once and for all.
            beside = max(beside, inner)
            continue
        low, high, *_ = argument if str(op) in _REPEATS else (1, 1)
        count += inner * high if high <= _FEW else 0  # A loop is unambiguous inside.
        count += 0 if low == high else 2 if high == parser.MAXREPEAT else 1
    return max(count, beside)


def _is_open(op: str, argument: Any) -> bool:
    """Whether a node repeats what is in it, to no fixed length."""
    if op not in _REPEATS:
        return False
    low, high, body = argument
    return high > 1 and (low != high or len(set(body.getwidth())) > 1)


class _Automaton:
    """The characters of a repeated body, and which may follow which."""

    def __init__(self, body: Any) -> None:
        self.state = body.state
        self.sample = _LATIN | set(body.state.str)  # Characters that stand for all.
        self.characters: list[frozenset[str]] = []
        self.edges: Counter[tuple[int, int]] = Counter()
        self.empty_twice = False  # Whether a part matches nothing in two ways.

    @classmethod
    def is_ambiguous(cls, body: Any) -> bool:
        """Whether repetitions of a body can match one text in two ways.

        So it is where an edge is there twice, or two walks over one text part and meet again.
        """
        self = cls(body)
        empty, first, last = self.add(body)
        self.edges.update(itertools.product(last, first))
        if empty or self.empty_twice or max(self.edges.values(), default=0) > 1:
            return True
        parted = {pair for i, _ in enumerate(self.characters) for pair in self.steps(i, i)}
        parted = {(a, b) for a, b in parted if a != b}
        seen = set(parted)
        while parted:
            parted = {pair for both in parted for pair in self.steps(*both)} - seen
            if any(a == b for a, b in parted):
                return True
            seen |= parted
        return False

    def steps(self, one: int, two: int) -> list[tuple[int, int]]:
        """Where two walks can go by one more character that is the same for both."""
        after = [[b for a, b in self.edges if a == start] for start in (one, two)]
        return [
            (a, b) for a, b in itertools.product(*after) if self.characters[a] & self.characters[b]
        ]

    def add(self, sequence: Any) -> tuple[bool, list[int], list[int]]:
        """Adds a sequence; returns whether it may be empty, its first and its last characters."""
        empty, first, last = True, [], []
        for op, argument in sequence:
            skipped, begin, end = self.add_node(op, argument)
            self.edges.update(itertools.product(last, begin))
            first = first + begin if empty else first
            last = last + end if skipped else end
            empty = empty and skipped
        return empty, first, last

    def add_node(self, code: Any, argument: Any) -> tuple[bool, list[int], list[int]]:
        """As :meth:`add`, for one node of the parse tree."""
        op = str(code)
        if op in _ZERO_WIDTH:
            return True, [], []
        parts = [self.add(part) for part in _inside(op, argument)]
        if not parts:
            self.characters.append(self.matched(code, argument))
            only = [len(self.characters) - 1]
            return op == "GROUPREF", only, only
        loop = _is_open(op, argument)
        ways = sum(part[0] for part in parts) + (op in _REPEATS and argument[0] == 0)
        self.empty_twice |= ways > 1 or (loop and parts[0][0])
        first = [i for _, begin, _ in parts for i in begin]
        last = [i for _, _, end in parts for i in end]
        if loop:
            self.edges.update(itertools.product(last, first))
        return ways > 0, first, last

    def matched(self, code: Any, argument: Any) -> frozenset[str]:
        """The characters that a node of one character matches."""
        if str(code) == "GROUPREF":
            return self.sample
        one = compiler.compile(parser.SubPattern(self.state, [(code, argument)]))
        return frozenset(filter(one.match, self.sample))
