"""Settings of a program as fields of a frozen dataclass, which say what they accept and decide.

The comment beside a field is its text in ``--help``.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from .errors import UserError

LARGEST = 2**31 - 1  # JAX counts steps, tokens and sizes in 32 bits.


class Range(NamedTuple):
    """Which values a setting accepts, and how to say it."""

    accepts: Callable[[Any], bool]
    wanted: str


POSITIVE = Range(lambda value: 0 < value < math.inf, "positive and finite")
NOT_NEGATIVE = Range(lambda value: 0 <= value < math.inf, "at least 0 and finite")
BELOW_ONE = Range(lambda value: 0 <= value < 1, "in [0, 1)")
FRACTION = Range(lambda value: 0 <= value <= 1, "in [0, 1]")
_WHOLE = Range(lambda value: abs(value) <= LARGEST, f"at most {LARGEST}")


def setting(default: Any, values: Range | None = None, *, decides: str = "numbers") -> Any:
    """A field that decides the numbers of a run: equal ones continue it bit for bit.

    Args:
      default: Its default; None, where it is allowed, is in every range.
      values: Which other values it accepts.
      decides: "numbers", "weights" or "nothing", see below.
    """
    return dataclasses.field(default=default, metadata={"values": values, "decides": decides})


def shape(default: Any, values: Range | None = None) -> Any:
    """A field that must be the same for weights to fit and to mean the same."""
    return setting(default, values, decides="weights")


def free(default: Any, values: Range | None = None) -> Any:
    """A field that changes no number of a run: where things lie, how often they are looked at."""
    return setting(default, values, decides="nothing")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What every program that trains asks for."""

    OPTIMIZER: ClassVar[tuple[str, ...]] = ()  # Fields that decide the optimizer and nothing else.

    out_dir: str = free("")  # results; empty: out/PROGRAM/NAME, or the next free NAME-2, ...
    resume: bool = free(False)  # continue the run in out_dir exactly where its last checkpoint is
    data_dir: str = free("data")  # where the data sets are, or are downloaded to
    random_seed: int = setting(0, NOT_NEGATIVE)  # of initial weights, order of the data, all draws
    keep_checkpoints: int = free(2, POSITIVE)  # newest ones to keep, beside the best

    # Any number of devices and of processes gives the same run, up to rounding.
    mesh_data: int = free(0, NOT_NEGATIVE)  # devices that share a batch; 0: all the others
    mesh_fsdp: int = free(1, POSITIVE)  # devices that share weights and optimizer state as well
    distributed: bool = free(False)  # one of several processes, which JAX finds (a TPU slice)

    def check(self) -> None:
        """Refuses values out of range.

        Raises:
          UserError: With the flag, what it must be, and what it is.

        >>> dataclasses.replace(Settings(), mesh_fsdp=0).check()
        Traceback (most recent call last):
        UserError: --mesh_fsdp must be positive and finite, got 0
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            ranges = [_WHOLE] if isinstance(value, int) else []
            for values in [*ranges, field.metadata.get("values")]:
                if value is not None and values is not None and not values.accepts(value):
                    got = str(value) if len(str(value)) < 30 else f"{str(value)[:20]}..."
                    raise UserError(f"--{field.name} must be {values.wanted}, got {got}")

    def trajectory(self) -> dict[str, Any]:
        """The settings that decide the numbers of a run: equal ones continue it bit for bit."""
        return {name: getattr(self, name) for name in self.that_decide("numbers", "weights")}

    @classmethod
    def that_decide(cls, *what: str) -> list[str]:
        """The names of the fields that decide one of these things.

        >>> Settings.that_decide("numbers")
        ['random_seed']
        """
        fields = dataclasses.fields(cls)
        return [f.name for f in fields if f.metadata.get("decides", "numbers") in what]
