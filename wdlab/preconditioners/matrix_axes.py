"""Which axes of a leaf are a matrix's rows (fan-out) and columns (fan-in); the others are a batch.

Flax and nnx keep kernels as (in, out), torch and Equinox weights as (out, in); layers under
``nn.scan`` or ``vmap`` have an axis more in front, convolutions have positions beside their
channels, attention has heads. Shape alone tells none of these apart.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from wdlab._core.checks import check_choice
from wdlab.preconditioners.matrix_view import MatrixView
from wdlab.rules import Ndim, Rule, compile_pattern, leaves_with_paths

PyTree = Any
MatrixLayout = Literal["in_out", "out_in"]
Kernels = Literal["flatten", "batch"]


@dataclass(frozen=True)
class MatrixRule:
    """The axes of the leaves whose path matches.

    Args:
      pattern: A regular expression that must match the whole path.
      rows: The axis or axes that are fan-out; count from the end, so that stacked layers fit too.
      columns: The axis or axes that are fan-in. Axes in neither are a batch of matrices.
      split: Sizes of blocks along the rows, each a matrix by itself: query, key and value of a
        fused projection. Their sum is the number of rows, or divides it: then the rows are that
        many groups of one block after the other, as in Megatron.
      ndim: A rank, or a (low, high) pair of ranks, that the leaf must have as well.

    Raises:
      TypeError, ValueError: If an argument is not as above.

    >>> MatrixRule(".*/c_attn/kernel", rows=-1, columns=-2, split=(768, 768, 768)).rows
    (-1,)
    """

    pattern: str
    _: KW_ONLY
    rows: int | tuple[int, ...]
    columns: int | tuple[int, ...]
    split: tuple[int, ...] = ()
    ndim: Ndim = None

    def __post_init__(self):
        try:
            Rule(self.pattern, ndim=self.ndim)
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("Rule:", "MatrixRule:")) from None
        for name in ("rows", "columns", "split"):
            value = getattr(self, name)
            value = (value,) if isinstance(value, int) else tuple(value)
            whole = all(isinstance(n, int) and not isinstance(n, bool) for n in value)
            if not whole or (name != "split" and not value) or (name == "split" and 0 in value):
                raise ValueError(
                    f"MatrixRule({self.pattern!r}): {name} must be whole numbers, got {value!r}."
                )
            object.__setattr__(self, name, value)

    def matches(self, path: str, ndim: int) -> bool:
        """Whether a leaf of that path and rank falls under this rule.

        >>> MatrixRule(".*query/kernel", rows=(-2, -1), columns=-3).matches("query/kernel", 3)
        True
        """
        return Rule(self.pattern, ndim=self.ndim).matches(path, ndim)


# Flax's and nnx's attention: DenseGeneral kernels (in, heads, size) and (heads, size, out), the
# heads' matrices together; under nn.scan of rank 4.
FLAX_ATTENTION = (
    MatrixRule("(.*/)?(query|key|value)/kernel", rows=(-2, -1), columns=-3, ndim=(3, 4)),
    MatrixRule("(.*/)?out/kernel", rows=-1, columns=(-3, -2), ndim=(3, 4)),
)


_OF_HEADS = "(.*/)?(query|key|value|out)/kernel"


@dataclass(frozen=True)
class MatrixAxes:
    """Which axes of every leaf are rows and columns: rules first, then the layout.

    Args:
      layout: "in_out": the last two axes are (columns, rows), as kernels of Flax, nnx, Haiku and
        Keras. "out_in": (rows, columns), as weights of torch and Equinox.
      kernels: What leaves of rank 4 or more are that no rule matches. "flatten": convolutions, one
        matrix each, its columns all positions and channels in (Jordan, Moonlight, Scion): shape
        (..., in, out) for "in_out", (out, in, ...) for "out_in". "batch": stacked matrices, the
        last two axes as of rank 3. None: refused. Leaves of rank 3 are stacked matrices.
      rules: Of :class:`MatrixRule`, the first match wins; ``FLAX_ATTENTION`` has those of Flax's
        attention, whose leaves are refused without.

    Raises:
      TypeError, ValueError: If an argument is not as above.

    >>> axes = MatrixAxes("in_out", kernels="flatten")
    >>> view = axes.view("conv/kernel", (3, 3, 16, 32))
    >>> view.row_count, view.column_count
    (32, 144)
    """

    layout: MatrixLayout = "in_out"
    _: KW_ONLY
    kernels: Kernels | None = None
    rules: tuple[MatrixRule, ...] = ()

    def __post_init__(self):
        hint = (
            "Flax, Haiku: kernels end in (in, out); torch, Equinox: weights start with (out, in)."
        )
        check_choice("layout", self.layout, get_args(MatrixLayout), hint=hint)
        if self.kernels is not None:
            check_choice("kernels", self.kernels, get_args(Kernels))
        object.__setattr__(self, "rules", tuple(self.rules))
        others = [rule for rule in self.rules if not isinstance(rule, MatrixRule)]
        if others:
            raise TypeError(f"rules must hold MatrixRule, got {others[0]!r}.")

    def view(self, path: str, shape: tuple[int, ...]) -> MatrixView:
        """Returns the axes of one leaf.

        Raises:
          ValueError: If it is no matrix, or nothing says which axes are.

        >>> MatrixAxes("out_in").view("linear/weight", (4, 7)).row_count
        4
        """
        rank = len(shape)
        rule = next((rule for rule in self.rules if rule.matches(path, rank)), None)
        if rule is not None:
            return _view_of_rule(rule, path, shape)
        if rank < 2:
            raise ValueError(
                f"parameter {path!r} has shape {shape}, which is no matrix. Train it with another "
                "optimizer: wdlab.optimizers.muon or optax.partition."
            )
        if rank > 2 and compile_pattern(_OF_HEADS).fullmatch(path):
            raise ValueError(
                f"parameter {path!r} of shape {shape} is a stack of matrices, or one with an axis "
                "of heads as in Flax's attention. Write MatrixAxes(rules=FLAX_ATTENTION) for "
                f"heads, rules=(MatrixRule({path!r}, rows=-1, columns=-2),) for a stack."
            )
        if rank > 3 and self.kernels is None:
            raise ValueError(
                f"parameter {path!r} has rank {rank}: nothing says which axes are a matrix. Write "
                "MatrixAxes(..., kernels='flatten') for convolutions, 'batch' for stacked matrices,"
                f" or rules=(MatrixRule({path!r}, rows=-1, columns=-2),)."
            )
        first, second = rank - 2, rank - 1
        if self.layout == "in_out":
            columns = tuple(range(second)) if self._flattens(rank) else (first,)
            return MatrixView(shape, rows=(second,), columns=columns)
        if self._flattens(rank):
            return MatrixView(shape, rows=(0,), columns=tuple(range(1, rank)))
        return MatrixView(shape, rows=(first,), columns=(second,))

    def _flattens(self, rank: int) -> bool:
        return rank > 3 and self.kernels == "flatten"

    def views(self, params: PyTree) -> list[MatrixView]:
        """Returns the axes of every leaf, in the order of ``jax.tree.leaves``.

        >>> import numpy as np
        >>> [view.batch for view in MatrixAxes().views({"stack": np.ones((3, 4, 5))})]
        [(0,)]
        """
        return [self.view(path, tuple(leaf.shape)) for path, leaf in leaves_with_paths(params)]


TORCH_AXES = MatrixAxes("out_in", kernels="flatten")


def _view_of_rule(rule: MatrixRule, path: str, shape: tuple[int, ...]) -> MatrixView:
    rank, sides = len(shape), []
    for axes in (rule.rows, rule.columns):
        axes = (axes,) if isinstance(axes, int) else axes  # For type checkers; they are tuples.
        if any(not -rank <= axis < rank for axis in axes):
            raise ValueError(f"{rule} names an axis that {path!r}, shape {shape}, does not have.")
        sides.append(tuple(axis % rank for axis in axes))
    rows, columns = sides
    if len({*rows, *columns}) < len(rows) + len(columns):
        raise ValueError(f"{rule} names an axis of {path!r}, shape {shape}, twice.")
    view = MatrixView(shape, rows, columns, rule.split)
    if rule.split and view.row_count % sum(rule.split):
        raise ValueError(
            f"{rule}: {path!r} has {view.row_count} rows, which is no multiple of the split's sum "
            f"{sum(rule.split)}."
        )
    return view
