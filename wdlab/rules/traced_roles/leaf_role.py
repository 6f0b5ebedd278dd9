"""The record of one leaf, summed up from its notes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wdlab.rules.rule import ROLES
from wdlab.rules.traced_roles.notes import Note, Notes
from wdlab.rules.traced_roles.values import Value

SCALE_INVARIANT, NO_GRADIENT = "scale-invariant", "no gradient"


class Axes(NamedTuple):
    """The axes of a leaf, as whole numbers."""

    input: tuple[int, ...]  # Summed over with the data, or looked up.
    output: tuple[int, ...]  # Kept in the result.
    stack: tuple[int, ...]  # Layers of a scan, members of an ensemble, experts.


class Cosine(NamedTuple):
    """Gradient times weight over their norms, measured at a multiple of the weights."""

    value: float
    error: float  # Three standard deviations of it under rounding of the weights.


@dataclass(frozen=True)
class LeafRole:
    """What one leaf is, and why.

    ``str()`` is the role with its further words: ``"matrix, scale-invariant"``.
    """

    path: str
    shape: tuple[int, ...]
    role: str  # One of ROLES.
    words: tuple[str, ...]  # Some of rules.WORDS, or another of its roles: "head" where tied.
    axes: Axes
    scale_invariant: bool | None  # None: the trace cannot tell.
    evidence: tuple[str, ...]
    cosine: Cosine | None = None  # Measured where the trace says scale-invariant.

    def __str__(self) -> str:
        return ", ".join((self.role, *self.words))


def summed_up(leaf: int, path: str, shape: Sequence[int], notes: Notes, loss: Value) -> LeafRole:
    """The record of a leaf.

    Args:
      leaf: Its number in the walk.
      path: Its path.
      shape: Its shape.
      notes: Of the walk.
      loss: The walk's result.

    >>> from wdlab.rules.traced_roles.values import constant
    >>> str(summed_up(0, "w", (2,), Notes(), constant(0)))
    'unused'
    """
    found = notes.of(leaf)
    bit = 1 << leaf
    used, trained = loss.degrees.leaves & bit, loss.live & bit
    is_head = bool(loss.products & ~notes.inner & bit)
    roles = {note.role for note in found} - {"penalty"}
    if is_head and roles & {"matrix", "kernel"}:
        roles = roles - {"matrix"} | {"head"}
    if not used:
        role = "unused"
    else:
        # A kernel may be the head; a matrix that is one has only that role.
        ranked = [r for r in ROLES if r in roles and not (r == "kernel" and "head" in roles)]
        role = (ranked or ["unknown"])[0]
    words = _words(found, role, roles)
    if role == "scale" and notes.before & bit:
        words.append("before a matrix")
    invariant = _invariance(loss, leaf) if used and trained else None
    if invariant:
        words.append(SCALE_INVARIANT)
    if used and not trained:
        words.append(NO_GRADIENT)
    evidence = [note.evidence for note in found if note.role in (role, *words, "matrix", "kernel")]
    if not evidence:
        evidence = _nothing_found(bool(used))
    if invariant:
        up_to = f", up to an epsilon of {notes.epsilon:g}" if notes.epsilon else ""
        evidence.append(f"the loss is of degree 0 in it{up_to}")
    ways = {role, *(("matrix", "kernel") if role == "head" else ())}
    axes = _axes([note for note in found if note.role in ways], len(shape))
    kept = tuple(dict.fromkeys(words))
    return LeafRole(path, tuple(shape), role, kept, axes, invariant, tuple(dict.fromkeys(evidence)))


def _words(found: Sequence[Note], role: str, roles: set[str]) -> list[str]:
    if role == "unused":
        return []
    words = [word for note in found if note.role in (role, "kernel") for word in note.words]
    if role in ("embedding", "head", "kernel", "matrix"):
        both = ("kernel", "matrix", "head") if role != "kernel" else ("matrix",)
        words += [other for other in both if other in roles and other != role]
    if any(note.role == "penalty" for note in found):
        words.append("penalty")
    return words


def _nothing_found(used: bool) -> list[str]:
    if used:
        return ["reaches the loss, and meets the data in no way that is known"]
    return ["does not reach the loss"]


def _invariance(loss: Value, leaf: int) -> bool | None:
    if loss.degrees.zero >> leaf & 1:
        return True
    return False if leaf in loss.degrees.powers else None


def _axes(found: Sequence[Note], ndim: int) -> Axes:
    ins = frozenset[int]().union(*(note.input for note in found))
    outs = frozenset[int]().union(*(note.output for note in found))
    rest = set(range(ndim)) - ins - outs if ins or outs else set()
    return Axes(tuple(sorted(ins)), tuple(sorted(outs)), tuple(sorted(rest)))
