"""The convention of GPA-AdamW: AdamW whose weights are between its iterate and an average of it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_number, require_params
from wdlab._core.dtypes import cast, step_number, working_dtype
from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.parts import rate_of
from wdlab.decay import map_decayed, next_count
from wdlab.optimizers import ScheduleFreeState, averaged, complete
from wdlab.preconditioners import scale_by_adam
from wdlab.schedules import value_at

PyTree = Any
_TYPES = ("GPA", "SCHEDULE_FREE")


def _gpa(request: Request) -> optax.GradientTransformation:
    rate = rate_of(request)
    check_choice("iterate_averaging_type", request["iterate_averaging_type"], _TYPES)
    for name in ("train_interp_coeff", "eval_interp_coeff"):
        check_number(name, request[name], high=1.0, low_open=name == "train_interp_coeff")
    for name in ("weight_pow_coeff", "weight_lr_power"):
        check_number(name, request[name])
    direction = scale_by_adam(request["beta1"], request["beta2"], request["eps"])

    def init_fn(params: PyTree) -> ScheduleFreeState:
        zero = lambda: jnp.zeros([], jnp.result_type(float))  # noqa: E731
        z = jax.tree.map(lambda p: cast(p, working_dtype(p), copy=True), params)
        mu_y = zero() + request["train_interp_coeff"]
        count = jnp.zeros([], jnp.int32)
        return ScheduleFreeState(count, mu_y, zero(), zero(), z, direction.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScheduleFreeState]:
        require_params(request.name, params)
        steps, adam = direction.update(updates, state.base)
        lr = jnp.asarray(value_at(rate, state.count), state.weight_sum.dtype)
        largest = jnp.maximum(lr, state.largest_rate)
        share, weight_sum = _share(request, state, largest)
        shrink = lr * value_at(request.weight_decay, state.count)
        y, z = params, state.z
        if request["use_wd_on_y"]:
            y = _shrunk(request, y, shrink, params)
        else:
            z = _shrunk(request, z, shrink, params)
        steps = jax.tree.map(lambda u: -lr.astype(u.dtype) * u, steps)
        mu_y = jnp.asarray(request["train_interp_coeff"], lr.dtype)
        moves, z = averaged(y, z, steps, share, mu_y)
        moves = jax.tree.map(lambda u, y, p: u + (y - p), moves, y, params)
        new = ScheduleFreeState(next_count(state.count), mu_y, largest, weight_sum, z, adam)
        return moves, jax.tree.map(lambda n, old: jnp.asarray(n, old.dtype), new, state)

    tx = optax.GradientTransformation(init_fn, update_fn)
    return complete(request.name, tx, request.rules)


def _share(request: Request, state: Any, largest: jax.Array) -> tuple[Any, Any]:
    """What z's share of the average is: constant, or as schedule-free's."""
    if request["iterate_averaging_type"] == "GPA":
        return 1.0 - request["eval_interp_coeff"], state.weight_sum
    power = step_number(state.count) ** request["weight_pow_coeff"]
    weight = power * largest ** request["weight_lr_power"]
    total = state.weight_sum + weight
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1.0), 0.0), total


def _shrunk(request: Request, tree: PyTree, shrink: jax.Array, params: PyTree) -> PyTree:
    """``(1 - shrink s) x``, the leaves' scales by the parameters' paths."""
    zeros = jax.tree.map(jnp.zeros_like, tree)
    by = map_decayed(request.name, lambda u, k, p, _: u + k, zeros, params, request.rules, shrink)
    return jax.tree.map(lambda x, k: x * (1.0 - k), tree, by)


CONVENTIONS = (
    Convention(
        name="gpa.GPAAdamW",
        version="facebookresearch/optimizers f6066066",
        source="https://github.com/facebookresearch/optimizers/blob/main/gpa/gpa_adamw.py",
        equation=(
            "z <- (1 - lr_t lambda s) z, or y with use_wd_on_y; y <- y + c (z - y) - lr_t "
            "(1 - mu_y (1 - c)) (m / c1) / (sqrt(v / c2) + eps); z <- z - lr_t (m / c1) / "
            "(sqrt(v / c2) + eps); c = 1 - mu_x"
        ),
        coupling="averaged",
        order="before",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        learning_rate=1.0,
        defaults={
            "eps": 1e-8,
            "beta1": 0.9,
            "beta2": 0.999,
            "weight_decay": 0,
            "use_wd_on_y": False,
            "iterate_averaging_type": "GPA",
            "train_interp_coeff": 0.7,
            "eval_interp_coeff": 0.9967,
            "weight_pow_coeff": 0.0,
            "weight_lr_power": 2,
        },
        traps=(
            "z is decayed in place and y is not told: the average, which is never stored, grows by "
            "(1 - mu_y) / mu_y of what z lost; schedule-free lets the decay move both",
            "iterate_averaging_type is an enum there, its name here",
            "everything decays, biases and norms too",
        ),
        make=_gpa,
    ),
)
