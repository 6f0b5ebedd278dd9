"""How long a compiled program takes on a TPU at least, by the parts of the model it was made from.

Two bounds: if products, memory and links never wait for one another, the largest of their times;
if nothing overlaps, their sum. Real steps lie between the two where the program keeps the chip's
peak rates, and above the sum where it does not.
"""

import collections
import dataclasses
from collections.abc import Mapping

from rich.table import Table

from .parts import Cost, Parts, costs
from .program import Program
from .temporaries import largest_temporaries

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip, as docs.cloud.google.com/tpu/docs has it."""

    hbm: int  # GiB
    flops: float  # bfloat16, a second
    hbm_bytes: float  # a second
    link_bytes: float  # a second to other chips, all links in one direction


CHIPS = {
    "v4": Chip(32, 275e12, 1.2e12, 3e11),
    "v5e": Chip(16, 197e12, 8.19e11, 2e11),
    "v5p": Chip(95, 459e12, 2.765e12, 6e11),
    "v6e": Chip(32, 918e12, 1.64e12, 4e11),
}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """What each part of a program costs a chip, and how long the whole takes at least.

    Args:
      chip: Its rates.
      parts: Part -> its cost.

    Example:
      >>> roofline = Roofline(Chip(16, 200e12, 8e11, 2e11), {"MLP": Cost(2e11, 1.6e9, 1e7)})
      >>> {name: round(1e3 * seconds, 2) for name, seconds in roofline.seconds().items()}
      {'products': 1.0, 'memory': 2.0, 'links': 0.05}
      >>> round(1e3 * roofline.overlapped, 2), round(1e3 * roofline.one_by_one, 2), roofline.limit
      (2.0, 3.05, 'memory')
    """

    chip: Chip
    parts: dict[str, Cost]

    def seconds(self, part: str | None = None) -> dict[str, float]:
        """Of the products, the memory and the links, of one part or of all."""
        found = list(self.parts.values()) if part is None else [self.parts[part]]
        return {
            "products": sum(cost.flops for cost in found) / self.chip.flops,
            "memory": sum(cost.hbm for cost in found) / self.chip.hbm_bytes,
            "links": sum(cost.links for cost in found) / self.chip.link_bytes,
        }

    @property
    def limit(self) -> str:
        """Which of the three takes longest."""
        seconds = self.seconds()
        return max(seconds, key=seconds.__getitem__)

    @property
    def overlapped(self) -> float:
        """Seconds if all three overlap."""
        return max(self.seconds().values())

    @property
    def one_by_one(self) -> float:
        """Seconds if nothing does."""
        return sum(self.seconds().values())

    def table(self) -> Table:
        """A row for each part, the one that takes longest first."""
        table = Table(title="A chip's step by the model's parts")
        table.add_column("part")
        for column in ("GFLOP", "ms", "HBM, GiB", "ms", "links, GiB", "ms", "temporaries, GiB"):
            table.add_column(column, justify="right")
        order = sorted(self.parts, key=lambda part: -sum(self.seconds(part).values()))
        for part in order:
            table.add_row(part, *self._cells([self.parts[part]], self.seconds(part)))
        table.add_section()
        table.add_row("all", *self._cells(list(self.parts.values()), self.seconds()))
        return table

    def _cells(self, found: list[Cost], seconds: dict[str, float]) -> list[str]:
        products, memory, links = (f"{1e3 * value:.1f}" for value in seconds.values())
        return [
            f"{sum(cost.flops for cost in found) / 1e9:,.0f}", products,
            f"{sum(cost.hbm for cost in found) / GIB:.2f}", memory,
            f"{sum(cost.links for cost in found) / GIB:.3f}", links,
            f"{sum(cost.temporaries for cost in found) / GIB:.2f}",
        ]  # fmt: skip


def roofline(program: Program, chip: Chip, scopes: Mapping[str, str]) -> Roofline:
    """Of a compiled program; ``scopes`` as in :class:`Parts`."""
    parts = Parts(program, scopes)
    found = collections.defaultdict(Cost, costs(program, parts))
    for instruction, computation, size in largest_temporaries(program):
        found[parts.of(instruction, computation)].temporaries += size
    return Roofline(chip, dict(found))
