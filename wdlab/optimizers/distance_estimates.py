"""What Prodigy and D-Adaptation share: a learning rate times an estimate d of the way to go."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_number, is_zero, require_params
from wdlab._core.dtypes import cast, step_number, working_dtype
from wdlab.decay import check_leaves, map_decayed, next_count
from wdlab.optimizers.assembly import complete
from wdlab.rules import normalize_rules
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class DistanceState(NamedTuple):
    """State of :func:`wdlab.optimizers.prodigy` and of D-Adaptation's optimizers.

    Which numbers and trees there are depends on the optimizer alone.
    """

    count: jax.Array  # int32, shape (): updates made.
    steps: jax.Array  # int32, shape (): of them, those that moved something.
    d: jax.Array  # float, shape (): the estimate.
    numbers: dict[str, jax.Array]  # floats, shape (): running sums of the estimate.
    trees: dict[str, PyTree]  # Each like params, float32 or wider: moments, the starting point.


class Step(NamedTuple):
    """What an optimizer's formula makes of one gradient."""

    updates: PyTree  # Without decay, sign included.
    rate: Any  # d times the learning rate, as the step and the decay see it.
    d: Any  # The next estimate.
    numbers: dict[str, Any]
    trees: dict[str, PyTree]
    idle: Any  # Whether nothing moves and nothing is kept: nothing to estimate from yet.


class Given(NamedTuple):
    """What a formula sees: gradients and weights, the last state, the number of the step."""

    g: PyTree  # With the decay of "l2".
    raw: PyTree  # Without.
    p: PyTree
    lr: jax.Array
    t: jax.Array  # 1 at the first step that moves.
    d: jax.Array
    numbers: dict[str, jax.Array]
    trees: dict[str, PyTree]


def estimating(
    name: str,
    learning_rate: ScalarOrSchedule,
    decay: tuple[ScalarOrSchedule, str | None, PyTree],
    d0: float,
    init: Callable[[PyTree], dict[str, PyTree]],
    numbers: dict[str, float],
    formula: Callable[[Given], Step],
    *,
    couplings: tuple[str, ...] = ("d_lr", "l2"),
) -> optax.GradientTransformation:
    """Makes an optimizer of a formula: the decay in its place, counts, dtypes, idle steps.

    Args:
      name: Of the optimizer, for messages.
      learning_rate: Number >= 0 or schedule.
      decay: ``weight_decay``, coupling and rules.
      d0: The first estimate.
      init: Parameters -> the trees of the state.
      numbers: The state's first numbers.
      formula: One step.
      couplings: Those that it has: "d_lr", "proximal" (divides the stepped weight), "l2".

    >>> sign = lambda s: Step(jax.tree.map(jnp.sign, s.g), s.lr, s.d, {}, {}, False)
    >>> tx = estimating("mine", 0.5, (0.5, "d_lr", 1.0), 1.0, lambda p: {}, {}, sign)
    >>> tx.update(jnp.array(2.0), tx.init(jnp.array(4.0)), jnp.array(4.0))[0].item()  # 1 - 1
    0.0
    """
    weight_decay, coupling, rules = decay[0], decay[1], normalize_rules(decay[2])
    check_number("learning_rate", learning_rate, schedule=True)
    check_number("weight_decay", weight_decay, schedule=True)
    check_number("d0", d0, low_open=True)
    if not (coupling is None and is_zero(weight_decay)):
        check_choice("coupling", coupling, couplings, hint=_HINT)

    def init_fn(params: PyTree) -> DistanceState:
        check_leaves(params, rules)
        number = lambda x: jnp.asarray(x, jnp.result_type(float))  # noqa: E731
        zeros = jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32)
        return DistanceState(*zeros, number(d0), jax.tree.map(number, numbers), init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, DistanceState]:
        require_params(name, params)
        strength, raw = value_at(weight_decay, state.count), updates
        if coupling == "l2":
            updates = map_decayed(name, _add, updates, params, rules, strength)
        rate = jnp.asarray(value_at(learning_rate, state.count), state.d.dtype)
        t = step_number(state.steps)
        step = formula(Given(updates, raw, params, rate, t, state.d, state.numbers, state.trees))
        steps = step.updates
        if coupling != "l2":
            shrink = _divide if coupling == "proximal" else _subtract
            kappa = 0.0 if is_zero(weight_decay) else strength * step.rate
            steps = map_decayed(name, shrink, steps, params, rules, kappa)
        steps = jax.tree.map(lambda u: jnp.where(step.idle, jnp.zeros_like(u), u), steps)
        moved = DistanceState(
            state.count, next_count(state.steps), step.d, step.numbers, step.trees
        )
        kept = jax.tree.map(
            lambda new, old: jnp.where(step.idle, old, jnp.asarray(new, old.dtype)), moved, state
        )
        return steps, kept._replace(count=next_count(state.count))

    return complete(name, optax.GradientTransformation(init_fn, update_fn), rules)


_HINT = (
    "'d_lr' multiplies weight_decay by d times the learning rate, as the step; 'l2' adds it to the "
    "gradient, from which d is estimated too."
)


def _add(g: jax.Array, k: jax.Array, p: jax.Array, _: Any) -> jax.Array:
    return g + k * p


def _subtract(u: jax.Array, k: jax.Array, p: jax.Array, _: Any) -> jax.Array:
    return u - k * p


def _divide(u: jax.Array, k: jax.Array, p: jax.Array, _: Any) -> jax.Array:
    return u - k / (1.0 + k) * (p + u)


def zeros(params: PyTree) -> PyTree:
    """Returns zeros like the parameters, float32 or wider.

    >>> zeros(jnp.ones(1, jnp.bfloat16)).dtype
    dtype('float32')
    """
    return jax.tree.map(lambda p: jnp.zeros_like(p, dtype=working_dtype(p)), params)


def copies(params: PyTree) -> PyTree:
    """Returns copies of the parameters, float32 or wider; of shapes, shapes.

    >>> copies(jnp.ones(1)).tolist()
    [1.0]
    """
    return jax.tree.map(lambda p: cast(p, working_dtype(p), copy=True), params)


def total(function: Callable[..., jax.Array], *trees: PyTree) -> jax.Array:
    """Returns the sum of a function of the leaves over all entries of all leaves.

    >>> total(jnp.multiply, {"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}).item()
    11.0
    """
    sums = [jnp.sum(function(*leaves)) for leaves in zip(*map(jax.tree.leaves, trees), strict=True)]
    return sum(sums, start=jnp.zeros([]))


def grown(d: jax.Array, estimate: jax.Array, growth_rate: float | None) -> jax.Array:
    """Returns ``max(d, min(estimate, d growth_rate))``; None: no limit.

    >>> grown(jnp.array(1.0), jnp.array(5.0), 2.0).item()
    2.0
    """
    limited = estimate if growth_rate is None else jnp.minimum(estimate, d * growth_rate)
    return jnp.maximum(d, limited)


def quotient(a: Any, b: Any) -> Any:
    """Returns a / b, and 0 where b is 0: nothing is known yet.

    >>> quotient(jnp.ones(2), jnp.array([2.0, 0.0])).tolist()
    [0.5, 0.0]
    """
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


def check_settings(growth_rate: Any, eps: Any, **rates: Any) -> None:
    """Refuses a growth rate below 1 (None is no limit), an eps below 0, rates outside [0, 1).

    >>> check_settings(0.5, 1e-8, b1=0.9)
    Traceback (most recent call last):
    ValueError: growth_rate must be a number in [1, inf), got 0.5. None: no limit.
    """
    for name, value in rates.items():
        check_number(name, value, high=1.0, high_open=True)
    check_number("eps", eps)
    if growth_rate is not None:
        check_number("growth_rate", growth_rate, low=1.0, hint="None: no limit.")
