"""Muon's direction: momentum, orthogonalized; and NorMuon's second moment of its neurons.

======================================  ==========================================================
system                                  arguments of :func:`orthogonalize` (rates apart)
======================================  ==========================================================
torch.optim.Muon; KellerJordan/Muon     the defaults; ``epsilon="added"``
its ``adjust_lr_fn="match_rms_adamw"``  ``scaling="rms"``
Moonlight                               ``average="sum", epsilon="added", scaling="rms"``
optax.contrib.muon                      ``average="corrected", epsilon="added", eps=1e-8,
                                        dtype=None``; ``coefficients="jiacheng"`` is its "dion"
dion Muon                               ``average="sum", nesterov=False, epsilon="added", eps=1e-8,
                                        coefficients="polar_express", scaling="spectral"``
modded-nanogpt NorMuon                  ``epsilon="added", eps=1e-6, coefficients="polar_express",
                                        scaling="none"``, then ``scale_by_neuron_rms(0.9,
                                        per="longer", epsilon="clamped", eps=1e-10)``,
                                        ``scale_by_matrix_shape("original")``
nanochat                                as it, with ``safety=1.01, equilibrate=True,
                                        renormalize=True``
Emerging-Optimizers Muon, Megatron      ``nesterov=False, eps=1e-15, coefficients="jiacheng",
                                        scaling="rms", rms=1.0`` (Megatron: nesterov)
Scion                                   ``nesterov=False, epsilon="added", scaling="spectral"``,
                                        ``momentum`` 1 minus theirs
======================================  ==========================================================

with ``axes=TORCH_AXES`` where the leaves are torch's.
"""

import math
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from wdlab._core.checks import check_choice, check_number
from wdlab._core.dtypes import check_real, step_number, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.coefficients import Coefficients
from wdlab.preconditioners.matrix_axes import MatrixAxes
from wdlab.preconditioners.matrix_scaling import (
    FLAX_AXES,
    MatrixScaling,
    check_scaling,
    shape_factor,
)
from wdlab.preconditioners.matrix_sharding import MeshAxes
from wdlab.preconditioners.matrix_view import MatrixView
from wdlab.preconditioners.moments import one_minus_power
from wdlab.preconditioners.newton_schulz import (
    Normalization,
    NormEpsilon,
    check_iteration,
    newton_schulz,
)
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any
MomentumAverage = Literal["ema", "sum", "corrected"]


class OrthogonalizeState(NamedTuple):
    """State of :func:`orthogonalize`."""

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params, float32 or wider: momentum; None without.


def orthogonalize(
    momentum: ScalarOrSchedule | None = 0.95,
    *,
    average: MomentumAverage = "ema",
    nesterov: bool = True,
    coefficients: Coefficients = "jordan",
    steps: int | None = None,
    normalization: Normalization = "frobenius",
    eps: ArrayLike = 1e-7,
    epsilon: NormEpsilon = "clamped",
    safety: float | None = None,
    dtype: DTypeLike | None = "bfloat16",
    scaling: MatrixScaling = "original",
    rms: float = 0.2,
    axes: MatrixAxes = FLAX_AXES,
    equilibrate: bool = False,
    renormalize: bool = False,
    adaptive: bool = False,
    mu_dtype: DTypeLike | None = None,
    sharded_over: MeshAxes = None,
) -> optax.GradientTransformation:
    r"""Turns gradients of matrices into Muon's direction: no learning rate, no sign, no decay.

    With :math:`m_t = \mu m_{t-1} + (1-\mu) g_t` and :math:`n_t = \mu m_t + (1-\mu) g_t`, one step
    is :math:`u_t = f(rows, columns)\, NS(n_t)`, the semi-orthogonal matrix nearest to
    :math:`n_t`, up to the iteration's error (:func:`wdlab.preconditioners.newton_schulz`). Its
    spectral norm is about f, whatever the gradient's size: a step is as long as the learning rate
    says, and the decay alone bounds the weights.

    Args:
      momentum: :math:`\mu` in [0, 1), number or schedule. None: the gradient itself, no buffer.
      average: "ema" as above (Jordan, torch). "sum": :math:`m_t = \mu m_{t-1} + g_t`,
        :math:`n_t = g_t + \mu m_t` (Moonlight, dion): the same direction as long as the rate is
        constant, and ``eps`` small beside another norm. "corrected": "ema" with both terms
        corrected for their start, :math:`n_t = \mu m_t/(1-\mu^{t+1}) + (1-\mu) g_t/(1-\mu^t)`
        (Optax): another mixture in the first steps.
      nesterov: Whether :math:`n_t` looks ahead by the gradient, as above; else it is :math:`m_t`.
      coefficients: Of the iteration, as in :func:`wdlab.preconditioners.newton_schulz`.
      steps: As there.
      normalization: As there.
      eps: As there.
      epsilon: As there.
      safety: As there.
      dtype: As there; None: the leaf's own, at least float32. bfloat16 differs from exact
        arithmetic by 1 to 2 % of the direction's norm.
      scaling: f. "original": :math:`\sqrt{\max(1, rows/columns)}` (Jordan); "rms":
        ``rms`` :math:`\sqrt{\max(rows, columns)}`, the direction's root mean square is ``rms``
        (Moonlight); "spectral": :math:`\sqrt{rows/columns}`, from one root mean square of
        activations to another (Scion, dion); "none": 1.
      rms: For "rms", > 0: 0.2 is about that of AdamW's direction.
      axes: Which axes are rows and columns, and which leaves are split into blocks.
      equilibrate: Whether rows of :math:`n_t` are brought to their mean norm first (nanochat).
      renormalize: Whether NS's Frobenius norm is set to :math:`\sqrt{\min(rows, columns)}`, that
        of a semi-orthogonal matrix (nanochat's Muon+).
      adaptive: Whether the direction is multiplied by its product with :math:`n_t`, about the
        nuclear norm: steps follow the gradient's size (Optax).
      mu_dtype: dtype that keeps the momentum; None: float32, or float64 for float64 leaves.
      sharded_over: As in :func:`wdlab.preconditioners.newton_schulz`.

    Raises:
      TypeError: If a number is none, or from ``init`` if a leaf is complex.
      ValueError: If a number is out of range or a name unknown; from ``init`` if a leaf is no
        matrix, or nothing says which of its axes are.

    >>> gradient = {"kernel": jnp.array([[3.0, 0.0], [0.0, -0.1]])}
    >>> tx = orthogonalize(coefficients="quintic", dtype="float32")
    >>> direction, _ = tx.update(gradient, tx.init(gradient))
    >>> jnp.round(direction["kernel"], 4).tolist()
    [[1.0, 0.0], [0.0, -1.0]]

    Source: Jordan et al., https://kellerjordan.github.io/posts/muon/, KellerJordan/Muon@857d1ad;
    torch 2.13.0, optim/_muon.py; Liu et al., https://arxiv.org/abs/2502.16982 ("rms"); optax 0.2.8,
    contrib/_muon.py.
    """
    if momentum is not None:
        check_number("momentum", momentum, high=1.0, high_open=True, schedule=True)
    check_choice("average", average, get_args(MomentumAverage))
    check_scaling(scaling, rms)
    iteration = {
        "coefficients": coefficients, "steps": steps, "normalization": normalization,
        "eps": eps, "epsilon": epsilon, "safety": safety, "dtype": dtype,
    }  # fmt: skip
    check_iteration(**iteration)

    def direction(n: jax.Array, view: MatrixView) -> jax.Array:
        blocks = []
        for block in view.blocks(n):
            rows, columns = view.sizes_of(block)
            ready = _equilibrated(block, view.row_axis) if equilibrate else block
            u = newton_schulz(ready, sharded_over=sharded_over, **iteration)
            u = _renormalized(u) if renormalize else u
            if adaptive:
                u = jnp.sum(block * u, axis=(-2, -1), keepdims=True) * u
            blocks.append(shape_factor(scaling, rms, rows, columns) * u)
        return view.join(blocks)

    def init_fn(params: PyTree) -> OrthogonalizeState:
        check_real("orthogonalize", params)
        axes.views(params)
        zeros = lambda p: jnp.zeros_like(p, dtype=mu_dtype or working_dtype(p))  # noqa: E731
        mu = None if momentum is None else jax.tree.map(zeros, params)
        return OrthogonalizeState(jnp.zeros([], jnp.int32), mu)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, OrthogonalizeState]:
        del params
        wide = jax.tree.map(lambda g: g.astype(working_dtype(g)), updates)
        ahead, mu = wide, state.mu
        if momentum is not None:
            rate = value_at(momentum, state.count)
            average_of = _Average(average, nesterov, rate, step_number(state.count))
            mu = jax.tree.map(average_of.next, wide, state.mu)
            ahead = jax.tree.map(average_of.ahead, wide, mu)
            mu = jax.tree.map(lambda new, old: new.astype(old.dtype), mu, state.mu)
        leaves, treedef = jax.tree.flatten(ahead)
        pairs = zip(leaves, axes.views(updates), strict=True)
        directions = treedef.unflatten([direction(n, view) for n, view in pairs])
        directions = jax.tree.map(lambda u, g: u.astype(g.dtype), directions, updates)
        return directions, OrthogonalizeState(next_count(state.count), mu)

    return transformation(init_fn, update_fn)


class _Average(NamedTuple):
    """One step's momentum."""

    kind: MomentumAverage
    nesterov: bool
    rate: Any
    t: jax.Array

    def next(self, g: jax.Array, m: jax.Array) -> jax.Array:
        rate = jnp.asarray(self.rate, g.dtype)
        new = g if self.kind == "sum" else jnp.asarray(1 - self.rate, g.dtype) * g
        return rate * m.astype(g.dtype) + new

    def ahead(self, g: jax.Array, m: jax.Array) -> jax.Array:
        rate, rest = self.rate, 1.0 if self.kind == "sum" else 1 - self.rate
        if not self.nesterov:
            rate, rest = 1.0, None
        if self.kind == "corrected":
            rate = rate / one_minus_power(self.rate, self.t + (1 if self.nesterov else 0))
            rest = None if rest is None else rest / one_minus_power(self.rate, self.t)
        old = jnp.asarray(rate, g.dtype) * m
        return old if rest is None else old + jnp.asarray(rest, g.dtype) * g


def _equilibrated(block: jax.Array, row_axis: int) -> jax.Array:
    """Every row with the rows' mean norm (of their squares)."""
    rows = block.shape[row_axis]
    norms = jnp.sqrt(jnp.sum(block * block, axis=-3 - row_axis, keepdims=True))
    target = jnp.sqrt(jnp.sum(norms * norms, axis=(-2, -1), keepdims=True) / rows)
    return block * (target / jnp.maximum(norms, 1e-6))


def _renormalized(u: jax.Array) -> jax.Array:
    norm = jnp.sqrt(jnp.sum(u * u, axis=(-2, -1), keepdims=True))
    return u * (math.sqrt(min(u.shape[-2:])) / jnp.maximum(norm, 1e-6))
