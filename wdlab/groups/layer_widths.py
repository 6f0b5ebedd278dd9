"""Which axes of a model's leaves grow with its width, and by how much (:mod:`wdlab.groups.mup`)."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from wdlab._core.checks import check_choice
from wdlab.rules import leaves_with_paths, nearest_path

PyTree = Any
Layout = Literal["in_out", "out_in"]


@dataclass(frozen=True)
class Width:
    """How one leaf grows with the model's width.

    Args:
      path: Of the leaf.
      multipliers: Per axis: its size over the base model's, None where it does not grow.
      layout: Where fan-in and fan-out are, as in :func:`widths`.

    >>> Width("dense/kernel", (4.0, 2.0), "in_out").kind
    'matrix'
    """

    path: str
    multipliers: tuple[float | None, ...]
    layout: Layout

    @property
    def kind(self) -> Literal["matrix", "vector", "scalar"]:
        """Matrix-like, vector-like or scalar-like, by the number of axes that grow."""
        return ("scalar", "vector", "matrix")[len(self._growing)]

    @property
    def width_multiplier(self) -> float:
        """The multiplier m: of a matrix its fan-in's, of a vector its growing axis', else 1.

        >>> Width("linear/weight", (2.0, 4.0), "out_in").width_multiplier
        4.0
        """
        growing = self._growing
        if not growing:
            return 1.0
        return growing[0] if self.layout == "in_out" else growing[-1]

    @property
    def fan_ratio(self) -> float:
        """Multiplier of the fan-in over that of the fan-out, of a matrix-like leaf.

        >>> Width("dense/kernel", (4.0, 2.0), "in_out").fan_ratio
        2.0
        """
        if self.layout == "in_out":
            fan_in, fan_out = self._growing
        else:  # By position, as mup: axis 0 out, axis 1 in, whichever axes grow.
            fan_out, fan_in = (1.0 if m is None else m for m in self.multipliers[:2])
        return fan_in / fan_out

    @property
    def _growing(self) -> list[float]:
        return [m for m in self.multipliers if m is not None]


def widths(
    base: PyTree, target: PyTree, *, layout: Layout, delta: PyTree | None = None
) -> tuple[Width, ...]:
    r"""Finds which axes of every leaf grow with width, and their multipliers :math:`n / n_{base}`.

    An axis grows if base and delta differ in it; without ``delta``, if base and target do, which
    takes a changed vocabulary or depth for width, and a target as wide as the base for scalar-like.

    Args:
      base: The base model's parameters, arrays or ``jax.ShapeDtypeStruct``
        (``jax.eval_shape(model.init, ...)``).
      target: The parameters to train, with the same paths.
      layout: "in_out": kernels (..., in, out), as Flax, Haiku and Keras have; of two axes that grow
        the first is fan-in. "out_in": weights (out, in, ...), as torch and Equinox have. No
        default: the wrong one trains with the multiplier of the other fan.
      delta: A model that differs from ``base`` in width alone, in every width.

    Raises:
      ValueError: If the trees have different paths or ranks, or a leaf has over two growing axes.

    >>> import jax.numpy as jnp
    >>> base = {"in": jnp.ones((3, 8)), "hidden": jnp.ones((8, 8)), "bias": jnp.ones(8)}
    >>> target = {"in": jnp.ones((3, 32)), "hidden": jnp.ones((32, 32)), "bias": jnp.ones(32)}
    >>> [(w.path, w.kind, w.width_multiplier) for w in widths(base, target, layout="in_out")]
    [('bias', 'vector', 4.0), ('hidden', 'matrix', 4.0), ('in', 'vector', 4.0)]

    Source: Yang et al., https://arxiv.org/abs/2203.03466, Tables 3 and 8; mup 1.0.0, infshape.py.
    """
    hint = "Flax, Haiku: kernels end in (in, out); torch, Equinox: weights start with (out, in)."
    check_choice("layout", layout, get_args(Layout), hint=hint)
    wanted = _shapes(target)
    bases, deltas = _shapes(base), _shapes(target if delta is None else delta)
    _check_same("base", bases, wanted)
    _check_same("delta", deltas, wanted)
    found = []
    for path, shape in wanted.items():
        sizes = zip(shape, bases[path], deltas[path], strict=True)
        multipliers = tuple(n / small if small != other else None for n, small, other in sizes)
        if sum(m is not None for m in multipliers) > 2:
            raise ValueError(
                f"{path!r} grows in more than two axes, {bases[path]} to {deltas[path]}; muP knows "
                "fan-in and fan-out. Vary one width in a delta model: heads, not their size."
            )
        found.append(Width(path, multipliers, layout))
    return tuple(found)


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    return {path: tuple(np.shape(leaf)) for path, leaf in leaves_with_paths(tree)}


def _check_same(
    name: str, shapes: dict[str, tuple[int, ...]], wanted: dict[str, tuple[int, ...]]
) -> None:
    """Refuses two models whose leaves do not correspond."""
    unmatched = sorted(set(wanted) ^ set(shapes))
    if unmatched:
        path = unmatched[0]
        owner, other = ("target", shapes) if path in wanted else (name, wanted)
        raise ValueError(
            f"widths: {path!r} is in {owner} alone; the nearest path of the other is "
            f"{nearest_path(path, list(other))!r}. {name} must be the same model at another width."
        )
    for path, shape in shapes.items():
        if len(shape) != len(wanted[path]):
            raise ValueError(
                f"widths: {path!r} has shape {shape} in {name} and {wanted[path]} in target; the "
                "ranks must agree."
            )
