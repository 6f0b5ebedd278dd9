"""The formulas of the Adam family for one leaf, and the check of their combinations."""

import dataclasses
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number, concrete, is_zero
from wdlab._core.dtypes import squares
from wdlab.preconditioners.moments import one_minus_power, rectification

Epsilon = Literal["outside", "hat", "inside"]
FirstMoment = Literal["ema", "nesterov", "nesterov_plain", "nadam"]
SecondMoment = Literal["ema", "sum", "max"]
Amsgrad = Literal["off", "raw", "corrected"]
Weights = tuple[ArrayLike | None, ArrayLike | None]  # On the first moment, on the gradient.


class StepScalars(NamedTuple):
    """What depends on the number of the update alone: computed once, not once for each leaf."""

    weights: Weights
    correction: ArrayLike | None  # Of the second moment; None: not corrected.
    rectification: tuple[jax.Array, jax.Array] | None  # RAdam's; None: not rectified.


_NADAM_BASE = 0.96  # Dozat's constant; torch and Keras fix it too.


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamFormulas:
    """The arguments of :func:`wdlab.preconditioners.scale_by_adam`, checked, and what they mean.

    Arrays are in the dtype of the statistics, t is the number of the update, 1 at the first.
    """

    b1: Any
    b2: Any
    eps: Any
    # What Adam's relatives leave as it is.
    eps_root: Any = 0.0
    epsilon: str = "outside"
    bias_correction: bool = True
    first_moment: str = "ema"
    momentum_decay: Any = 0.0
    second_moment: str = "ema"
    initial_second_moment: Any = 0.0
    amsgrad: str = "off"
    rectification_threshold: Any = None
    mu_dtype: Any = None

    def __post_init__(self) -> None:
        """Checks numbers, names, and that the conventions go together."""
        if self.b1 is not None:
            check_number("b1", self.b1, high=1.0, high_open=True)
        check_number("b2", self.b2, high=1.0, high_open=True)
        for name in ("eps", "eps_root", "momentum_decay", "initial_second_moment"):
            check_number(name, getattr(self, name))
        for name, names in (
            ("epsilon", Epsilon),
            ("first_moment", FirstMoment),
            ("second_moment", SecondMoment),
            ("amsgrad", Amsgrad),
        ):
            check_choice(name, getattr(self, name), get_args(names))
        if not isinstance(self.bias_correction, bool):
            raise TypeError(f"bias_correction must be True or False, got {self.bias_correction!r}.")
        if self.rectification_threshold is not None:
            check_number("rectification_threshold", self.rectification_threshold, low=4.0)
        for impossible, message in self._conflicts():
            if impossible:
                raise ValueError(message)

    def _conflicts(self) -> list[tuple[bool, str]]:
        averaged = self.second_moment == "ema"
        rectified = self.rectification_threshold is not None
        return [
            (
                self.b1 is None and self.first_moment != "ema",
                f"first_moment={self.first_moment!r} needs a first moment; give b1 a number.",
            ),
            (
                self.first_moment == "nadam" and not self.bias_correction,
                "first_moment='nadam' corrects by its own products; leave bias_correction=True.",
            ),
            (
                not averaged and (self.epsilon == "hat" or self.amsgrad != "off" or rectified),
                f"second_moment={self.second_moment!r} has no bias, maximum or variance to "
                "correct; use epsilon='outside' or 'inside', amsgrad='off' and "
                "rectification_threshold=None.",
            ),
            (
                self.amsgrad == "corrected" and self.epsilon == "hat",
                "amsgrad='corrected' with epsilon='hat' would correct twice; use amsgrad='raw'.",
            ),
            (
                rectified and (not self.bias_correction or concrete(self.b2) == 0.0),
                "rectification_threshold needs bias_correction=True and b2 above 0.",
            ),
        ]

    def next_first(self, g: jax.Array, m: jax.Array) -> jax.Array:
        """Returns m_t in the gradient's dtype, whatever dtype keeps m_{t-1}."""
        return like(self.b1, g) * m.astype(g.dtype) + like(1.0 - self.b1, g) * g

    def next_second(self, g: jax.Array, v: jax.Array) -> jax.Array:
        """Returns v_t: an average or a sum of squares, or a decaying maximum."""
        if self.second_moment == "max":
            size = jnp.abs(g)
            eps = like(self.eps, size) if self.epsilon == "inside" else 0.0
            return jnp.maximum(like(self.b2, size) * v, size + eps)
        square = squares(g)
        if self.second_moment == "sum":
            return v + square
        return like(self.b2, square) * v + like(1.0 - self.b2, square) * square

    def next_maximum(
        self, v: jax.Array, largest: jax.Array, correction: ArrayLike | None
    ) -> jax.Array:
        """Returns AMSGrad's running maximum, of v_t or of the corrected v_t."""
        if self.amsgrad == "corrected" and correction is not None:
            v = v / like(correction, v)
        return jnp.maximum(v, largest)

    def scalars(
        self, t: jax.Array, mu_product: jax.Array | None
    ) -> tuple[StepScalars, jax.Array | None]:
        """Returns the numbers of update t, and NAdam's new product."""
        weights, mu_product = self._numerator_weights(t, mu_product)
        corrected = self.second_moment == "ema" and self.bias_correction
        correction = one_minus_power(self.b2, t) if corrected else None
        rectified = self.rectification_threshold
        factor = None if rectified is None else rectification(self.b2, t, rectified)
        return StepScalars(weights, correction, factor), mu_product

    def _numerator_weights(
        self, t: jax.Array, mu_product: jax.Array | None
    ) -> tuple[Weights, jax.Array | None]:
        """Returns the weights of m_t and g_t in the numerator, and NAdam's new product."""
        if self.b1 is None:
            return (None, 1.0), mu_product
        if self.first_moment == "nadam":
            rate, after = (
                self.b1 * (1.0 - 0.5 * jnp.power(_NADAM_BASE, step * self.momentum_decay))
                for step in (t, t + 1.0)
            )
            product = mu_product * rate
            return (after / (1.0 - product * after), (1.0 - rate) / (1.0 - product)), product
        on_mu, on_gradient = (1.0, None) if self.first_moment == "ema" else (self.b1, 1.0 - self.b1)
        if self.bias_correction:
            ahead = t + 1.0 if self.first_moment == "nesterov" else t
            on_mu = on_mu / one_minus_power(self.b1, ahead)
            if on_gradient is not None:
                on_gradient = on_gradient / one_minus_power(self.b1, t)
        return (on_mu, on_gradient), mu_product

    def direction(
        self, g: jax.Array, m: jax.Array, v: jax.Array, scalars: StepScalars
    ) -> jax.Array:
        """Returns the weighted numerator over the root and epsilon, rectified if asked."""
        pairs = zip(scalars.weights, (m, g), strict=True)
        terms = [like(w, x) * x for w, x in pairs if w is not None]
        numerator = sum(terms[1:], terms[0])
        adaptive = numerator / self.denominator(v, scalars.correction)
        if scalars.rectification is None:
            return adaptive
        tractable, factor = scalars.rectification
        return jnp.where(tractable, like(factor, adaptive) * adaptive, numerator)

    def denominator(self, v: jax.Array, correction: ArrayLike | None) -> jax.Array:
        """Returns the root of the corrected second moment with epsilon in its place."""
        eps = like(self.eps, v)
        if self.second_moment == "max":
            return v if self.epsilon == "inside" else v + eps
        if self.epsilon == "hat":
            root = jnp.sqrt(self._rooted(v)) + eps
            return root if correction is None else root / jnp.sqrt(like(correction, v))
        if correction is not None and self.amsgrad != "corrected":
            v = v / like(correction, v)
        if self.epsilon == "inside":
            return jnp.sqrt(self._rooted(v) + eps)
        return jnp.sqrt(self._rooted(v)) + eps

    def _rooted(self, v: jax.Array) -> jax.Array:
        return v if is_zero(self.eps_root) else v + like(self.eps_root, v)


def like(value: ArrayLike, array: jax.Array) -> Any:
    """Returns a scalar in the array's dtype, so that it promotes nothing.

    A number stays one of NumPy's: thousands of leaves times seven arrays take seconds to trace.

    >>> like(0.5, jnp.ones(2, jnp.float16)).dtype
    dtype('float16')
    """
    if isinstance(value, int | float):
        return array.dtype.type(value)
    return value if jnp.result_type(value) == array.dtype else jnp.asarray(value, array.dtype)
