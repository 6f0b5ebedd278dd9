"""The conventions of steps of one norm: Scion, and a Signum with weight decay."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab._core.checks import check_choice, check_number, require_params
from wdlab._core.transformation import transformation
from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.matrices import LAYOUT, OF_A_TREE, axes_of, flattened
from wdlab.conventions.parts import product, rate_of
from wdlab.decay import decay_weights, next_count
from wdlab.optimizers import assemble, complete, scale_by_learning_rate
from wdlab.preconditioners import MatrixAxes, newton_schulz
from wdlab.rules import decisions
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any
_AXES = MatrixAxes("out_in", rules=flattened(3, 4))
_RANKS = {
    "Auto": (0, 4),
    "SpectralConv": (3, 4),
    "BiasRMS": (0, 1),
    **{name: (2, 2) for name in ("Spectral", "ColNorm", "RowNorm", "Sign")},
}
_KEYWORDS = ("normalized", "transpose", "max", "steps")


def _scion(request: Request) -> optax.GradientTransformation:
    rate, kept = rate_of(request), request["momentum"]
    check_number("momentum", kept, high=1.0, low_open=True)
    check_number("scale", request["scale"])
    average = [] if kept == 1 else [optax.ema(1 - kept, debias=False)]
    parts = [*average, _lmo(request), optax.scale(request["scale"]), scale_by_learning_rate(rate)]
    if not request["unconstrained"]:
        parts.append(decay_weights(1.0, multiplier=rate, rules=request.rules))
    return complete(request.name, optax.chain(*parts), request.rules)


def _lmo(request: Request) -> optax.GradientTransformation:
    """The direction of the largest decrease in the ball of a norm."""
    norm, more = request["norm"], dict(request["norm_kwargs"] or {})
    check_choice(f"{request.name}: norm", norm, tuple(_RANKS))
    for name in more:
        check_choice(f"{request.name}: a name in norm_kwargs", name, _KEYWORDS)
    axes, dtype = axes_of(request, _AXES), request["iteration_dtype"]
    lowest, highest = _RANKS[norm]

    def init_fn(params: PyTree) -> optax.EmptyState:
        wrong = [d for d in decisions(params, 1.0) if not lowest <= np.ndim(d.leaf) <= highest]
        if wrong:
            raise ValueError(
                f"{request.name}: norm={norm!r} is for ranks {lowest} to {highest}; parameter "
                f"{wrong[0].path!r} has rank {np.ndim(wrong[0].leaf)}. Give it another optimizer "
                "by optax.partition."
            )
        return optax.EmptyState()

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, optax.EmptyState]:
        del params

        def leaf(path: str, g: jax.Array) -> jax.Array:
            if g.ndim < 2:
                return g / (jnp.sqrt(jnp.mean(g**2)) + 1e-8)
            view = axes.view(path, g.shape)
            kind = "Spectral" if norm in ("Auto", "SpectralConv") else norm
            (block,) = view.blocks(g)
            turned = view.row_axis == -1
            block = jnp.swapaxes(block, -1, -2) if turned else block
            u = _NORMS[kind](block, more, dtype, _positions(view, g))
            return view.join([jnp.swapaxes(u, -1, -2) if turned else u])

        leaves, treedef = jax.tree.flatten(updates)
        paths = [d.path for d in decisions(updates, 1.0)]
        return treedef.unflatten(list(map(leaf, paths, leaves))), state

    return transformation(init_fn, update_fn)


def _positions(view: Any, g: jax.Array) -> tuple[int, ...]:
    """The sides of a convolution's kernel, in front of the channels or behind them."""
    side = view.columns[1:] if view.rows[0] < view.columns[0] else view.columns[:-1]
    return tuple(g.shape[axis] for axis in side)


def _spectral(
    g: jax.Array, more: dict[str, Any], dtype: Any, positions: tuple[int, ...]
) -> jax.Array:
    rows, columns = g.shape[-2:]
    u = newton_schulz(g, steps=more.get("steps", 5), epsilon="added", dtype=dtype)
    if positions:  # The first side of the kernel stands for all of them.
        channels = columns // math.prod(positions)
        return u * (math.sqrt(rows / channels) / positions[0] ** len(positions))
    scale = math.sqrt(rows / columns if more.get("normalized", True) else rows)
    return u * (max(1.0, scale) if more.get("max", False) else scale)


def _columns(g: jax.Array, more: dict[str, Any], *_: Any) -> jax.Array:
    axis = -1 if more.get("transpose", False) else -2
    size = jnp.sqrt(jnp.mean(g**2, axis=axis, keepdims=True))
    return g / (size * (g.shape[-3 - axis] if more.get("normalized", False) else 1) + 1e-8)


def _rows(g: jax.Array, more: dict[str, Any], *_: Any) -> jax.Array:
    axis = -2 if more.get("transpose", False) else -1
    size = jnp.sqrt(jnp.sum(g**2, axis=axis, keepdims=True))
    return g / (size * (math.sqrt(g.shape[axis]) if more.get("normalized", True) else 1) + 1e-8)


def _signs(g: jax.Array, more: dict[str, Any], *_: Any) -> jax.Array:
    return jnp.sign(g) / (g.shape[-1] if more.get("normalized", True) else 1)


_NORMS: dict[str, Callable[..., jax.Array]] = {
    "Spectral": _spectral,
    "ColNorm": _columns,
    "RowNorm": _rows,
    "Sign": _signs,
}


class WeightsMomentumState(NamedTuple):
    """State of the momentum that starts as a copy of the weights."""

    count: jax.Array  # int32, shape (): updates made.
    trace: PyTree  # Like params; zeros before the first update.


def _signum(request: Request) -> optax.GradientTransformation:
    rate, mu = rate_of(request), request["momentum"]
    check_number("momentum", mu)
    if request["nesterov"] and (mu == 0 or request["dampening"] != 0):
        raise ValueError(f"{request.name}: nesterov=True needs a momentum and dampening=0.")
    parts = []
    if mu != 0:
        parts.append(_momentum_of_weights(request, product(rate, request.weight_decay)))
    if request["sign_update"]:
        parts.append(optax.scale_by_sign())
    direction = optax.chain(*parts) if parts else None
    return assemble(request.name, direction, rate, request.weight_decay, "lr", request.rules)


def _momentum_of_weights(
    request: Request, shrink: ScalarOrSchedule
) -> optax.GradientTransformation:
    mu, fresh = request["momentum"], 1 - request["dampening"]

    def init_fn(params: PyTree) -> WeightsMomentumState:
        return WeightsMomentumState(jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, WeightsMomentumState]:
        require_params(request.name, params)
        leaves, treedef = jax.tree.flatten(updates)
        first = value_at(shrink, state.count)

        def next_trace(g: jax.Array, b: jax.Array, decision: Any) -> jax.Array:
            weights = (1 - first * decision.scale) * decision.leaf
            return mu * jnp.where(state.count == 0, weights, b).astype(g.dtype) + fresh * g

        made = decisions(params, request.rules)
        traces = list(map(next_trace, leaves, treedef.flatten_up_to(state.trace), made))
        steps = traces
        if request["nesterov"]:
            steps = [g + mu * b for g, b in zip(leaves, traces, strict=True)]
        after = WeightsMomentumState(next_count(state.count), treedef.unflatten(traces))
        return treedef.unflatten(steps), after

    return transformation(init_fn, update_fn)


CONVENTIONS = (
    Convention(
        name="scion.Scion",
        version="scion f58a393",
        source="https://github.com/LIONS-EPFL/scion/blob/f58a393/scion.py",
        equation=(
            "m <- (1 - a) m + a g, a the momentum; theta <- (1 - lr_t s) theta - lr_t scale "
            "lmo(m); lmo = sqrt(rows / columns) NS(m) of a matrix, m / RMS(m) of a vector"
        ),
        coupling="fixed",
        order="before",
        epsilon="added to the norm: |x| + 1e-7 of a matrix, 1e-8 of others",
        learning_rate=1e-3,
        defaults={
            "momentum": 1.0,
            "norm": "Auto",
            "norm_kwargs": None,
            "scale": 1.0,
            "unconstrained": False,
            **{name: OF_A_TREE[name] for name in ("axes", "iteration_dtype")},
        },
        decay_argument=None,
        traps=(
            "Weights stay in a ball of radius scale; a lambda below 1 with another system is this "
            "one with lr lambda as the rate and scale / lambda as the radius",
            "unconstrained=True decays nothing",
            "every leaf decays, biases too, at the whole learning rate",
            "momentum is one minus the usual: 0.1 for 0.9, and 1.0, the default, is none",
            "norm is one for all leaves of a build; groups with norms of their own, Sign for the "
            "head, are several builds under optax.partition",
            "a convolution's factor is divided by the square of its first side, whatever the other",
            LAYOUT,
        ),
        make=_scion,
    ),
    Convention(
        name="llm_optimizer_benchmark.Signum",
        version="llm-optimizer-benchmark fdecd5d",
        source="https://github.com/epfml/llm-optimizer-benchmark/blob/fdecd5d/src/optim/sign.py",
        equation=(
            "theta <- (1 - lr_t lambda s) theta; b <- mu b + (1 - tau) g; "
            "theta <- theta - lr_t sign(b), nesterov: sign(g + mu b)"
        ),
        coupling="lr",
        order="before",
        learning_rate=1e-3,
        defaults={
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            "sign_update": True,
        },
        traps=(
            "the momentum starts as a copy of the decayed weights, not at zero: the first steps "
            "shrink every weight toward zero by the learning rate; built so",
            "the default momentum is 0: signs of the gradient alone",
            "optax.signum and optax.sign_sgd have no weight decay",
        ),
        make=_signum,
    ),
)
