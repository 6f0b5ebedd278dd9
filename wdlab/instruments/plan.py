"""The decay plan of an optimizer: measured, leaf by leaf, so that two runs can be compared.

A plan is what the optimizer does to each parameter when the gradient is zero, at the first step
and later ones. It is measured on parameters of one entry each, so it costs nothing, works for every
Optax transformation and cannot say anything else than the code does.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab.rules import decisions, leaves_with_paths, parameters

PyTree = Any
# Step counts at which the decay is measured: a schedule that differs, differs at one of these.
PROBED_STEPS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000)
_MOST_MICRO_STEPS = 256


@dataclass(frozen=True)
class LeafPlan:
    """What happens to one parameter."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    # Share of the weight that one update with zero gradient takes, at each of PROBED_STEPS; of
    # a plan made from rules alone, the scale.
    coefficients: tuple[float, ...]
    coupling: str  # "decoupled", "gradient" (the share depends on the weight) or "none"

    @property
    def coefficient(self) -> float:
        """The largest of the coefficients in size."""
        return max(self.coefficients, key=abs)


@dataclass(frozen=True)
class DecayPlan:
    """The plan of every leaf, and of what it is made."""

    leaves: tuple[LeafPlan, ...]
    optimizer: tuple[str, ...]  # Names of the parts of the optimizer's state, in order.
    calls_per_update: int  # optax.MultiSteps' k; 1 without it.

    def digest(self) -> str:
        """Sixteen hex digits; equal plans have equal ones.

        >>> a = decay_plan((), {}).digest()
        >>> len(a), a == decay_plan((), {}).digest()
        (16, True)
        """
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()[:16]

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values, for a checkpoint's record.

        >>> decay_plan((), {}).as_json()
        {'leaves': {}, 'optimizer': [], 'calls_per_update': 1}
        """
        leaves = {
            leaf.path: [
                list(leaf.shape),
                leaf.dtype,
                leaf.coupling,
                [float(f"{value:.4g}") for value in leaf.coefficients],
            ]
            for leaf in self.leaves
        }
        return {
            "leaves": leaves,
            "optimizer": list(self.optimizer),
            "calls_per_update": self.calls_per_update,
        }

    def differences(self, other: "DecayPlan") -> list[str]:
        """Says in words where another plan differs; empty if nowhere.

        >>> one = decay_plan(1.0, {"w": jnp.ones(2)})
        >>> one.differences(decay_plan(0.5, {"w": jnp.ones(2)}))
        ['w: decays by 1 here, by 0.5 there']
        """
        return plan_differences(self.as_json(), other.as_json())


def decay_plan(tx_or_rules: Any, params: PyTree, *, wrt: Any = None) -> DecayPlan:
    """Measures what decays, how much, when, and in which way.

    Args:
      tx_or_rules: An Optax transformation, or rules as in :func:`wdlab.decay_scales`.
      params: Pytree of float arrays, or of ``jax.ShapeDtypeStruct``; the values do not matter. Or
        a Flax nnx model.
      wrt: What is trained of an nnx model, as in :func:`wdlab.decay_scales`.

    Returns:
      The plan; keep ``plan.as_json()`` or ``plan.digest()`` beside a checkpoint.

    Raises:
      ValueError: If a leaf is decided by no rule, or the transformation refuses the parameters.

    >>> tx = optax.adamw(0.5, weight_decay=0.25)
    >>> plan = decay_plan(tx, {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)})
    >>> plan.leaves[0].coefficient, plan.leaves[0].coupling
    (0.125, 'decoupled')
    """
    params = parameters(params, wrt)
    rows = [(p, tuple(np.shape(leaf)), str(leaf.dtype)) for p, leaf in leaves_with_paths(params)]
    if not isinstance(tx_or_rules, optax.GradientTransformation):
        made = decisions(params, tx_or_rules)
        kinds = ["decoupled" if decision.scale else "none" for decision in made]
        coefficients = [(decision.scale,) for decision in made]
        return _plan(rows, coefficients, kinds, (), 1)
    return _measure(tx_or_rules, params, rows)


def _plan(rows: list, coefficients: list, kinds: list, optimizer: tuple, calls: int) -> DecayPlan:
    leaves = [
        LeafPlan(path, shape, dtype, tuple(values), kind)
        for (path, shape, dtype), values, kind in zip(rows, coefficients, kinds, strict=True)
    ]
    return DecayPlan(tuple(leaves), optimizer, calls)


def _measure(tx: optax.GradientTransformation, params: PyTree, rows: list) -> DecayPlan:
    def entries(value: float) -> PyTree:
        # float32: what is decided does not depend on the dtype, and is seen exactly.
        return jax.tree.map(lambda p: jnp.full((1,) * len(p.shape), value, jnp.float32), params)

    ones, twos, zeros = entries(1.0), entries(2.0), entries(0.0)
    update = jax.jit(tx.update)

    def shares(weights: PyTree, value: float, state: PyTree, count: int) -> np.ndarray:
        updates, _ = update(zeros, _with_count(state, count), weights)
        return np.array([-float(np.sum(u)) / value for u in jax.tree.leaves(updates)])

    def moves(state: PyTree) -> bool:
        # By gradients of 1, not 0: an accumulation that has nothing to decay is seen as well.
        steps = (update(ones, _with_count(state, n), ones)[0] for n in PROBED_STEPS)
        return any(np.any(u) for step in steps for u in jax.tree.leaves(step))

    # From zeros: a decay toward the initial weights is seen as a decay.
    start = state = tx.init(zeros)
    calls = 1
    while _accumulates(start) and calls < _MOST_MICRO_STEPS and not moves(state):
        _, state = update(zeros, state, ones)
        calls += 1
    if calls == _MOST_MICRO_STEPS:  # Nothing moves: the accumulation cannot be seen, or matter.
        calls, state = 1, start
    table = np.stack([shares(ones, 1.0, state, n) for n in PROBED_STEPS])
    doubled = np.stack([shares(twos, 2.0, state, n) for n in PROBED_STEPS])
    kinds = [_kind(table[:, i], doubled[:, i]) for i in range(len(rows))]
    coefficients = [tuple(map(float, column)) for column in table.T]
    sizes = [leaf.size for leaf in jax.tree.leaves(jax.eval_shape(tx.init, params))]
    parts = (*_parts(start), f"{len(sizes)} arrays of {sum(sizes)} entries")
    return _plan(rows, coefficients, kinds, parts, calls)


def _kind(shares: np.ndarray, doubled: np.ndarray) -> str:
    """Decay takes the same share of any weight; a preconditioned L2 gradient does not."""
    if not shares.any():
        return "none"
    return "decoupled" if np.allclose(shares, doubled, rtol=1e-3, atol=1e-12) else "gradient"


def _accumulates(state: PyTree) -> bool:
    """Whether optax.MultiSteps is in it."""
    return any(path.endswith("mini_step") for path, _ in leaves_with_paths(state))


def _with_count(state: PyTree, count: int) -> PyTree:
    """The state as after ``count`` updates, as far as schedules and bias corrections can tell."""
    counted = [
        jnp.full_like(leaf, count) if path.rsplit("/", 1)[-1] == "count" else leaf
        for path, leaf in leaves_with_paths(state)
    ]
    return jax.tree.unflatten(jax.tree.structure(state), counted)


def _parts(state: PyTree) -> tuple[str, ...]:
    """The class names of the named tuples in an optimizer state, outermost first."""
    if isinstance(state, tuple):
        own = (type(state).__name__,) if hasattr(state, "_fields") else ()
        return own + tuple(name for part in state for name in _parts(part))
    if isinstance(state, dict):
        return tuple(name for key in sorted(state, key=str) for name in _parts(state[key]))
    return ()


def plan_differences(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    """Compares two plans as JSON, as a checkpoint keeps them.

    Args:
      here: ``as_json()`` of the plan in hand.
      there: The other's.

    Returns:
      One line for each leaf or part that differs.

    >>> plan_differences({"leaves": {}, "optimizer": [], "calls_per_update": 1},
    ...                  {"leaves": {}, "optimizer": [], "calls_per_update": 4})
    ['calls per update: 1 here, 4 there']
    """
    lines = []
    for path in sorted({*here["leaves"], *there["leaves"]}):
        mine, other = here["leaves"].get(path), there["leaves"].get(path)
        if mine is None or other is None:
            lines.append(f"{path}: only {'there' if mine is None else 'here'}")
        elif mine != other:
            lines.append(f"{path}: {_difference(mine, other)}")
    for key in ("optimizer", "calls_per_update"):
        if here[key] != there[key]:
            lines.append(f"{key.replace('_', ' ')}: {here[key]} here, {there[key]} there")
    return lines


def _difference(mine: list, other: list) -> str:
    for name, one, two in zip(("shape", "dtype", "coupling"), mine, other, strict=False):
        if one != two:
            return f"{name} {one} here, {two} there"
    differing = [n for n, (a, b) in enumerate(zip(mine[3], other[3], strict=False)) if a != b]
    n = differing[0] if differing else 0
    when = f" at step {PROBED_STEPS[n]}" if len(mine[3]) > 1 else ""
    return f"decays by {mine[3][n]:g} here, by {other[3][n]:g} there{when}"
