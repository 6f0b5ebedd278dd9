"""Whose step length Shampoo takes over."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

from wdlab._core.checks import check_choice
from wdlab.preconditioners.adam_formulas import AdamFormulas

GraftingMethod = Literal["sgd", "adagrad", "rmsprop", "adam"]


@dataclass(frozen=True)
class Grafting:
    r"""The optimizer whose step length each block takes over.

    Args:
      method: "sgd": the gradient's own length. "adagrad", "rmsprop", "adam": that of
        :math:`g / (\sqrt v + \epsilon)`, v the sum of squares, their average, or the average
        corrected for its start at zero.
      b2: Decay rate of v, in [0, 1); None: 0.99 for "rmsprop", 0.999 for "adam".
      eps: At least 0, in units of the gradient.

    >>> Grafting("adam").formulas.b2
    0.999
    """

    method: GraftingMethod
    _: KW_ONLY
    b2: float | None = None
    eps: float = 1e-10

    def __post_init__(self):
        check_choice("method", self.method, get_args(GraftingMethod))
        _ = self.formulas

    @property
    def formulas(self) -> AdamFormulas:
        """Its second moment and direction; there is no first moment."""
        default = {"rmsprop": 0.99, "adam": 0.999}.get(self.method, 0.0)
        return AdamFormulas(
            b1=None,
            b2=default if self.b2 is None else self.b2,
            eps=self.eps,
            second_moment="sum" if self.method == "adagrad" else "ema",
            bias_correction=self.method == "adam",
        )
