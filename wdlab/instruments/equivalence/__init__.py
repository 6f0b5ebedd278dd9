"""Whether two optimizers are the same: a proof from their programs, or the smallest difference."""

from wdlab.instruments.equivalence.problems import Difference
from wdlab.instruments.equivalence.verdict import Equivalence, equivalent

__all__ = ["Difference", "Equivalence", "equivalent"]
