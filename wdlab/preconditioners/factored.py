"""Second moments kept as the averages over rows and columns, Adafactor's idea."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import check_real, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.schedules import beta2_power, value_at

PyTree = Any
FactoredAxes = Literal["largest", "last", "never"]
FactoredEpsilon = Literal["added", "clamped"]
Divisor = Callable[[jax.Array], jax.Array]  # Of a direction's root mean square.


class ScaleByFactoredRmsState(NamedTuple):
    """State of :func:`scale_by_factored_rms`; what a leaf does not use has shape (1,).

    The fields are Optax's ``FactoredState``'s, but float32 or wider whatever the parameters'
    dtype; a leaf's statistics have not its rank, so a parameter's sharding does not fit them.
    """

    count: jax.Array  # int32, shape (): updates made.
    v_row: PyTree  # The leaf's shape without the axis that rows average over.
    v_col: PyTree  # The leaf's shape without the axis that columns average over.
    v: PyTree  # The leaf's shape, where it is not factored.


class _Leaf(NamedTuple):
    """One leaf's direction and new statistics."""

    direction: jax.Array
    v_row: jax.Array
    v_col: jax.Array
    v: jax.Array


def scale_by_factored_rms(
    beta2: ArrayLike | Callable[[ArrayLike], ArrayLike] | None = None,
    *,
    axes: FactoredAxes = "largest",
    min_dim_size_to_factor: int | None = None,
    eps: ArrayLike | None = 1e-30,
    epsilon: FactoredEpsilon = "added",
    clipping: Divisor | None = None,
) -> optax.GradientTransformation:
    r"""Divides gradients by the root of a second moment of rank one: no learning rate, no sign.

    With :math:`s_t = g_t^2 + \epsilon_1`, R and C its averages over two axes, each an exponential
    average with rate :math:`\beta_{2,t}`, one step is
    :math:`u_t = g_t \big/ \sqrt{R_t C_t / \operatorname{mean} R_t}`; a leaf that is not factored
    keeps all of :math:`V_t` and has :math:`u_t = g_t / \sqrt{V_t}`. Statistics are float32 for
    bfloat16 and float16 leaves, the direction has the gradient's dtype.

    Args:
      beta2: A number in [0, 1), or a schedule of the step count; None is ``beta2_power(0.8)``.
      axes: Which two axes of a leaf of rank 2 or more are averaged over. "largest": the two
        largest (T5X, Optax, big_vision); of equal ones the later. "last": the last two (PyTorch,
        Transformers, fairseq, Keras), which for PyTorch's convolutions are the 3x3 of the
        kernel, for Flax's the channels. "never": keep all of it (PaLM).
      min_dim_size_to_factor: Both axes must have this size, at least 1, else the leaf is not
        factored. None: 128 for "largest" (T5X, Optax; big_vision has 32), 1 for "last". It decides
        shapes, so it cannot be traced.
      eps: :math:`\epsilon_1`, at least 0. None: the machine epsilon of the leaf's statistics, as
        in torch (which takes that of the group's first parameter for all).
      epsilon: "added": to the squared gradient, in units of the gradient squared (the paper).
        "clamped" (torch): :math:`g_t^2` without it, :math:`\operatorname{mean} R_t` at least
        :math:`\epsilon_1`, and V at least :math:`\epsilon_1^2`.
      clipping: What each direction is divided by, a function of its root mean square, such as
        :func:`wdlab.preconditioners.clipping_divisor`; None: nothing.

    Raises:
      TypeError: If an argument is not a number, or ``beta2`` is not a schedule.
      ValueError: If a number is out of range or a name unknown.

    Example:
      >>> gradient = jnp.array([[1.0, -2.0], [2.0, 4.0]])  # Its square has rank one.
      >>> tx = scale_by_factored_rms(min_dim_size_to_factor=2)
      >>> direction, _ = tx.update(gradient, tx.init(gradient))
      >>> jnp.round(direction, 5).tolist()
      [[1.0, -1.0], [1.0, 1.0]]

    Source: Shazeer & Stern, https://arxiv.org/abs/1804.04235, Algorithms 4 and 5.
    """
    _check(beta2, axes, min_dim_size_to_factor, eps, epsilon)
    rate = beta2_power() if beta2 is None else beta2

    default = 128 if axes == "largest" else 1
    min_size = default if min_dim_size_to_factor is None else min_dim_size_to_factor

    def dims_of(leaf: jax.Array) -> tuple[int, int] | None:
        return factored_dims(leaf.shape, axes, min_size)

    def init_fn(params: PyTree) -> PyTree:
        check_real("scale_by_factored_rms", params)
        leaves = jax.tree.map(lambda p: _init_leaf(p, dims_of(p)), params)
        return _state(jnp.zeros([], jnp.int32), leaves)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        del params
        b2 = value_at(rate, state.count)

        def update_leaf(g: jax.Array, *moments: jax.Array) -> _Leaf:
            wide = g.astype(working_dtype(g))
            small = jnp.finfo(wide.dtype).eps if eps is None else eps
            numbers = jnp.asarray(b2, wide.dtype), jnp.asarray(small, wide.dtype)
            step = _Step(*numbers, epsilon == "clamped", clipping)
            leaf = (
                step.full(wide, moments)
                if (d := dims_of(g)) is None
                else step.factored(wide, moments, d)
            )
            return leaf._replace(direction=leaf.direction.astype(g.dtype))

        leaves = jax.tree.map(update_leaf, updates, state.v_row, state.v_col, state.v)
        direction = _field(leaves, "direction")
        return direction, _state(next_count(state.count), leaves)

    return transformation(init_fn, update_fn)


def factored_dims(
    shape: tuple[int, ...], axes: FactoredAxes, min_dim_size_to_factor: int
) -> tuple[int, int] | None:
    """Returns the axes that columns and rows average over, or None where a leaf is not factored.

    >>> factored_dims((3, 512, 3, 256), "largest", 128), factored_dims((3, 512), "largest", 128)
    ((3, 1), None)
    """
    if axes == "never" or len(shape) < 2:
        return None
    by_size = [int(axis) for axis in np.argsort(shape, kind="stable")]
    columns, rows = by_size[-2:] if axes == "largest" else (len(shape) - 2, len(shape) - 1)
    if min(shape[columns], shape[rows]) < min_dim_size_to_factor:
        return None
    return columns, rows


class _Step(NamedTuple):
    """One step's numbers, in the dtype of a leaf's statistics."""

    b2: jax.Array
    eps: jax.Array
    clamps: bool
    clipping: Divisor | None

    def full(self, g: jax.Array, moments: tuple[jax.Array, ...]) -> _Leaf:
        v_row, v_col, v = moments
        v = self._average(v, self._with_eps(g * g))

        def direction(x: jax.Array, v: jax.Array, eps: jax.Array) -> jax.Array:
            return x * jax.lax.rsqrt(jnp.maximum(v, eps * eps) if self.clamps else v)

        return _Leaf(self._clipped(direction, g, v), v_row, v_col, v)

    def factored(
        self, g: jax.Array, moments: tuple[jax.Array, ...], dims: tuple[int, int]
    ) -> _Leaf:
        v_row, v_col, v = moments
        columns, rows = dims
        (again,) = _read_again(g)
        v_row = self._average(v_row, self._with_eps(jnp.mean(g * g, axis=rows)))
        v_col = self._average(v_col, self._with_eps(jnp.mean(again * again, axis=columns)))
        mean = jnp.mean(v_row, axis=columns - (columns > rows), keepdims=True)
        mean = jnp.maximum(mean, self.eps) if self.clamps else mean
        # Two roots, because the product of two averages of 1e-30 underflows in float32.
        factors = jax.lax.rsqrt(v_row / mean), jax.lax.rsqrt(v_col)

        def direction(x: jax.Array, row: jax.Array, col: jax.Array, eps: jax.Array) -> jax.Array:
            row, col = jnp.expand_dims(row, rows), jnp.expand_dims(col, columns)
            return x * jnp.minimum(row * col, 1.0 / eps) if self.clamps else x * row * col

        return _Leaf(self._clipped(direction, g, *factors), v_row, v_col, v)

    def _clipped(self, direction: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
        """The direction over its clipping's divisor; an eps that both read becomes an array."""
        if self.clipping is None:
            return direction(*arrays, self.eps)
        rms = jnp.sqrt(jnp.mean(jnp.square(direction(*_read_again(*arrays, self.eps)))))
        return direction(*arrays, self.eps) / self.clipping(rms)

    def _average(self, old: jax.Array, new: jax.Array) -> jax.Array:
        return self.b2 * old + (1.0 - self.b2) * new

    def _with_eps(self, square: jax.Array) -> jax.Array:
        return square if self.clamps else square + self.eps


def _read_again(*arrays: jax.Array) -> tuple[jax.Array, ...]:
    """The same arrays; on CPUs, what follows is not merged with equal expressions.

    XLA:CPU would keep the square that two means read, and the direction that its norm and the step
    read: 1.0 copy of the parameters and 9 words for either, in place of 0 and 7 (GPT-2).
    """
    return jax.lax.platform_dependent(
        *arrays, cpu=lambda *x: jax.lax.optimization_barrier(x), default=lambda *x: x
    )


def _init_leaf(p: jax.Array, dims: tuple[int, int] | None) -> _Leaf:
    dtype = working_dtype(p)
    # Own buffers: one twice cannot be donated.
    unused, other, third = (jnp.zeros((1,), dtype) for _ in range(3))
    if dims is None:
        return _Leaf(unused, other, third, jnp.zeros_like(p, dtype=dtype))
    columns, rows = dims
    # Shapes from the averages themselves, so that they have their sharding on an explicit mesh.
    row, col = (jax.eval_shape(lambda x, a=a: jnp.mean(x, axis=a), p) for a in (rows, columns))
    return _Leaf(unused, jnp.zeros_like(row, dtype=dtype), jnp.zeros_like(col, dtype=dtype), other)


def _field(leaves: PyTree, name: str) -> PyTree:
    is_leaf = lambda x: isinstance(x, _Leaf)  # noqa: E731
    return jax.tree.map(lambda leaf: getattr(leaf, name), leaves, is_leaf=is_leaf)


def _state(count: jax.Array, leaves: PyTree) -> ScaleByFactoredRmsState:
    moments = (_field(leaves, name) for name in ("v_row", "v_col", "v"))
    return ScaleByFactoredRmsState(count, *moments)


def _check(beta2: Any, axes: str, min_size: int | None, eps: Any, epsilon: str) -> None:
    if beta2 is not None:
        check_number("beta2", beta2, high=1.0, high_open=True, schedule=True)
    if isinstance(min_size, jax.core.Tracer):
        raise TypeError(
            "min_dim_size_to_factor decides shapes and cannot be traced. Under inject_hyperparams "
            "write static_args=('min_dim_size_to_factor',)."
        )
    if min_size is not None:
        check_number("min_dim_size_to_factor", min_size, low=1)
    if eps is not None:
        check_number("eps", eps)
    check_choice("axes", axes, get_args(FactoredAxes))
    check_choice("epsilon", epsilon, get_args(FactoredEpsilon))
