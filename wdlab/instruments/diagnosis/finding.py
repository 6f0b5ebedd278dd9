"""One thing that was found, and what to write."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from wdlab._core.names import first_few
from wdlab.instruments.diagnosis.examination import by_size

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Finding:
    """What was found of some leaves, and what to do about it; ``str`` is two lines."""

    fault: str  # The name of the check.
    severity: Literal["error", "warning", "note"]
    leaf: str  # The largest leaf that it is about; empty if it is about the whole chain.
    text: str
    advice: str  # The line to write.

    def __str__(self) -> str:
        """The text and the advice."""
        return f"{self.severity}: {self.text}" + (f"\n  {self.advice}" if self.advice else "")


def of_leaves(
    fault: str, severity: Any, leaves: Sequence[Any], text: str, advice: str = ""
) -> list[Finding]:
    """One finding on several leaves, named in its text; none if there are no leaves.

    >>> of_leaves("sign", "error", [], "{} grow")
    []
    """
    if not leaves:
        return []
    paths = [leaf.path for leaf in by_size(leaves)]
    return [Finding(fault, severity, paths[0], text.format(first_few(paths, 3)), advice)]
