"""What a matrix's direction is multiplied by: its shape's factor, and its neurons' own."""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import check_real, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.matrix_axes import MatrixAxes
from wdlab.preconditioners.matrix_view import MatrixView

PyTree = Any
MatrixScaling = Literal["original", "rms", "spectral", "none"]
NeuronEpsilon = Literal["added", "clamped"]
Neurons = Literal["row", "longer"]
FLAX_AXES = MatrixAxes()


def check_scaling(scaling: str, rms: float) -> None:
    """Refuses an unknown scaling.

    >>> check_scaling("spectral_norm", 0.2)
    Traceback (most recent call last):
    ValueError: scaling must be 'original', 'rms', 'spectral' or 'none', got 'spectral_norm'.
    """
    check_choice("scaling", scaling, get_args(MatrixScaling))
    check_number("rms", rms, low_open=True)


def shape_factor(scaling: MatrixScaling, rms: float, rows: int, columns: int) -> float:
    """Returns the factor of a matrix with so many rows (fan-out) and columns (fan-in).

    >>> [shape_factor(scaling, 0.2, 400, 100) for scaling in ("original", "rms", "spectral")]
    [2.0, 4.0, 2.0]
    """
    rows, columns = max(rows, 1), max(columns, 1)  # A leaf may be empty.
    if scaling == "original":
        return math.sqrt(max(1.0, rows / columns))
    if scaling == "rms":
        return rms * math.sqrt(max(rows, columns))
    return math.sqrt(rows / columns) if scaling == "spectral" else 1.0


def scale_by_matrix_shape(
    scaling: MatrixScaling = "original", *, rms: float = 0.2, axes: MatrixAxes = FLAX_AXES
) -> optax.GradientTransformation:
    r"""Multiplies each matrix by its shape's factor, :math:`u \leftarrow f(rows, columns)\, u`.

    Args:
      scaling: As in :func:`wdlab.preconditioners.orthogonalize`, which has it inside; by itself it
        comes after a second moment.
      rms: As there.
      axes: As there.

    Raises:
      ValueError: If the name is unknown; from ``init`` if a leaf is no matrix.

    >>> tx = scale_by_matrix_shape("spectral")
    >>> kernel = jnp.ones((1, 4))  # (in, out)
    >>> tx.update(kernel, tx.init(kernel))[0].tolist()
    [[2.0, 2.0, 2.0, 2.0]]

    Source: as :func:`wdlab.preconditioners.orthogonalize`.
    """
    check_scaling(scaling, rms)

    def init_fn(params: PyTree) -> optax.EmptyState:
        axes.views(params)
        return optax.EmptyState()

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        del params

        def scaled(u: jax.Array, view: MatrixView) -> jax.Array:
            if not view.split:
                return shape_factor(scaling, rms, view.row_count, view.column_count) * u
            blocks = view.blocks(u)
            factors = (shape_factor(scaling, rms, *view.sizes_of(block)) for block in blocks)
            return view.join([f * block for f, block in zip(factors, blocks, strict=True)])

        leaves, treedef = jax.tree.flatten(updates)
        pairs = zip(leaves, axes.views(updates), strict=True)
        return treedef.unflatten([scaled(u, view) for u, view in pairs]), state

    return transformation(init_fn, update_fn)


class ScaleByNeuronRmsState(NamedTuple):
    """State of :func:`scale_by_neuron_rms`."""

    count: jax.Array  # int32, shape (): updates made.
    nu: PyTree  # Per leaf float32 or wider: batch axes and one number a neuron; tuples of blocks.


def scale_by_neuron_rms(
    b2: ArrayLike = 0.95,
    *,
    per: Neurons = "row",
    eps: ArrayLike = 1e-8,
    epsilon: NeuronEpsilon = "added",
    axes: MatrixAxes = FLAX_AXES,
) -> optax.GradientTransformation:
    r"""NorMuon's second moment: every neuron of an orthogonalized matrix over its own size.

    With :math:`v_t = b_2 v_{t-1} + (1-b_2) \operatorname{mean}_j u_{ij}^2`, one step is
    :math:`w = u / (\sqrt{v_t} + \epsilon)`, brought back to the norm of :math:`u`:
    :math:`u \leftarrow w \|u\| / \|w\|`. No correction for the start: a factor common to all
    neurons has no effect.

    Args:
      b2: Rate of the second moment, in [0, 1).
      per: "row": one number for every row, a neuron (dion, the paper). "longer": for every index
        of the longer side, rows if they are as many (modded-nanogpt, nanochat,
        Emerging-Optimizers).
      eps: At least 0, in units of ``u``, for "clamped" of its square.
      epsilon: "added": as above (dion). "clamped": :math:`w = u / \sqrt{\max(v_t, \epsilon)}`.
      axes: Which axes are rows and columns. Blocks of a split leaf are matrices by themselves.

    Raises:
      TypeError, ValueError: If a number is out of range or a name unknown; from ``init`` if a leaf
        is no matrix or complex.

    >>> kernel = jnp.array([[1.0, 4.0], [1.0, 4.0]])  # (in, out): the neurons are columns here.
    >>> tx = scale_by_neuron_rms(0.0)
    >>> jnp.round(tx.update(kernel, tx.init(kernel))[0] / jnp.sqrt(8.5), 5).tolist()
    [[1.0, 1.0], [1.0, 1.0]]

    Source: Li et al., https://arxiv.org/abs/2510.05491, Algorithm 1; dion@0a059a4, normuon.py;
    modded-nanogpt@f411b3d, train_gpt.py.
    """
    check_number("b2", b2, high=1.0, high_open=True)
    check_number("eps", eps)
    check_choice("per", per, get_args(Neurons))
    check_choice("epsilon", epsilon, get_args(NeuronEpsilon))

    def averaged_axis(block: jax.Array, view: MatrixView) -> int:
        rows, columns = view.sizes_of(block)
        keeps_rows = per == "row" or rows >= columns
        return -3 - view.row_axis if keeps_rows else view.row_axis

    def means(x: jax.Array, view: MatrixView) -> tuple[jax.Array, ...]:
        blocks = view.blocks(x.astype(working_dtype(x)))
        sides = [averaged_axis(block, view) for block in blocks]
        pairs = zip(blocks, sides, strict=True)
        return tuple(jnp.sum(b * b, axis=a) / max(b.shape[a], 1) for b, a in pairs)

    def init_fn(params: PyTree) -> ScaleByNeuronRmsState:
        check_real("scale_by_neuron_rms", params)
        leaves, treedef = jax.tree.flatten(params)
        pairs = zip(leaves, axes.views(params), strict=True)
        # Shapes from the means themselves, so that they have their sharding on an explicit mesh.
        shapes = [jax.eval_shape(lambda p, view=view: means(p, view), p) for p, view in pairs]
        nu = [_one_or_more(tuple(map(jnp.zeros_like, parts))) for parts in shapes]
        return ScaleByNeuronRmsState(jnp.zeros([], jnp.int32), treedef.unflatten(nu))

    def update_leaf(u: jax.Array, nu: Any, view: MatrixView) -> tuple[jax.Array, Any]:
        olds = nu if isinstance(nu, tuple) else (nu,)
        rate = jnp.asarray(b2, olds[0].dtype)
        news = [rate * old + (1 - rate) * m for old, m in zip(olds, means(u, view), strict=True)]
        blocks = view.blocks(u.astype(working_dtype(u)))
        parts = []
        for block, new in zip(blocks, news, strict=True):
            small = jnp.asarray(eps, new.dtype)
            clamped = epsilon == "clamped"
            root = jnp.sqrt(jnp.maximum(new, small)) if clamped else jnp.sqrt(new) + small
            divided = block / jnp.expand_dims(root, averaged_axis(block, view))
            parts.append(divided * (_norm(block) / jnp.maximum(_norm(divided), small)))
        return view.join(parts).astype(u.dtype), _one_or_more(tuple(news))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByNeuronRmsState]:
        del params
        leaves, treedef = jax.tree.flatten(updates)
        olds = treedef.flatten_up_to(state.nu)
        done = [update_leaf(*leaf) for leaf in zip(leaves, olds, axes.views(updates), strict=True)]
        directions, nu = (treedef.unflatten([pair[n] for pair in done]) for n in (0, 1))
        return directions, ScaleByNeuronRmsState(next_count(state.count), nu)

    return transformation(init_fn, update_fn)


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x * x, axis=(-2, -1), keepdims=True))


def _one_or_more(parts: tuple[jax.Array, ...]) -> Any:
    return parts if len(parts) > 1 else parts[0]
