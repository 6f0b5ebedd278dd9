"""What the walk through the program writes down about each leaf."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from wdlab.rules.traced_roles.values import NONE, Axes


@dataclass(frozen=True)
class Note:
    """One place where a leaf meets an activation."""

    role: str
    evidence: str
    words: tuple[str, ...] = ()
    input: Axes = NONE  # Axes of the leaf that are summed over, or looked up.
    output: Axes = NONE  # Axes that the result has.


class Notes:
    """All notes of one walk.

    >>> notes = Notes()
    >>> notes.add(0, Note("bias", "add"))
    >>> with notes.paused():
    ...     notes.add(0, Note("scale", "mul"))
    >>> [note.role for note in notes.of(0)]
    ['bias']
    """

    def __init__(self) -> None:
        self._found: dict[int, dict[Note, None]] = defaultdict(dict)
        self._recording = True
        self.inner = 0  # Leaves whose products are followed by other products with weights.
        self.before = 0  # Scales that come right before a product with weights.
        self.epsilon = 0.0  # The largest one that a normalization adds.

    def add(self, leaf: int, note: Note) -> None:
        """Writes a note down, once."""
        if self._recording:
            self._found[leaf][note] = None

    def product_after(self, products: int, scaled: int) -> None:
        """Says that a product with weights comes after these."""
        if self._recording:
            self.inner |= products
            self.before |= scaled

    def left_out(self, epsilon: float) -> None:
        """Says that an epsilon was taken for nothing."""
        if self._recording:
            self.epsilon = max(self.epsilon, epsilon)

    def of(self, leaf: int) -> list[Note]:
        """The notes of a leaf, in the order of the program."""
        return list(self._found[leaf])

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Writes nothing down inside: what is known of a loop's values is not final yet."""
        before, self._recording = self._recording, False
        try:
            yield
        finally:
            self._recording = before
