"""The decay plan of an optimizer: measured, leaf by leaf, so that two runs can be compared.

A plan is what the optimizer does to each parameter: what it takes from a weight where the gradient
is zero, at the first step and later ones, and how it answers gradients. It is measured on the
traced update with the real shapes, costs no memory and works for every Optax transformation; what
cannot be known is called unknown.
"""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab._core.names import first_few, first_line
from wdlab.instruments.inputs import float32_shapes
from wdlab.instruments.plans.branches import branches_in
from wdlab.instruments.plans.comparison import plan_differences
from wdlab.instruments.plans.measured_decay import Measured, measure, shares
from wdlab.instruments.plans.step_curves import (
    GRID,
    PROBED_STEPS,
    Curve,
    curve,
    find_jumps,
    rounded,
)
from wdlab.instruments.plans.traced_optimizer import TracedOptimizer
from wdlab.rules import decisions, leaves_with_paths, parameters

PyTree = Any


@dataclass(frozen=True)
class LeafPlan:
    """What happens to one parameter."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    # "decoupled" (the share taken is the same for any weight), "gradient" (it depends on the weight
    # or comes back through the optimizer's state), "none" or "unknown".
    coupling: str
    decay: (
        Curve  # Share of the weight that an update with zero gradient takes; of rules, the scale.
    )
    response: Curve | None = None  # What a gradient of 1 adds to the update; None of rules.
    trials: tuple[tuple[float | None, ...], ...] = ()  # Updates for TRIED_GRADIENTS.
    program: str = ""  # A digest of what is computed, where any of the above is unknown.

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The decay at each of ``PROBED_STEPS``, NaN where unknown; of rules, the scale."""
        return tuple(np.nan if value is None else value for value in self.decay.values)

    @property
    def coefficient(self) -> float:
        """The largest of the coefficients in size; NaN if all are unknown."""
        known = [value for value in self.coefficients if not np.isnan(value)]
        return max(known, key=abs, default=np.nan)

    def kind(self) -> dict[str, Any]:
        """What is the same for all leaves of a kind, as JSON values."""
        found: dict[str, Any] = {"coupling": self.coupling, "decay": self.decay.as_json()}
        if self.response is not None:
            found |= {"response": self.response.as_json(), "trials": [list(t) for t in self.trials]}
        return found | ({"program": self.program} if self.program else {})


@dataclass(frozen=True)
class DecayPlan:
    """The plan of every leaf, and of what it is made; ``str`` is a short table."""

    leaves: tuple[LeafPlan, ...]
    optimizer: tuple[str, ...]  # Names of the parts of the optimizer's state, in order.
    calls_per_update: int  # optax.MultiSteps' k; 1 without it.
    reason: str = ""  # Why all is unknown.
    branches: tuple[str, ...] = ()  # Of each leaf its part of an optax.partition; for people.

    def digest(self) -> str:
        """Sixteen hex digits; equal plans have equal ones.

        >>> a = decay_plan((), {}).digest()
        >>> len(a), a == decay_plan((), {}).digest()
        (16, True)
        """
        return _digest(self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The plan as JSON values, for a checkpoint's record.

        >>> decay_plan((), {}).as_json()
        {'leaves': {}, 'kinds': {}, 'optimizer': [], 'calls_per_update': 1}
        """
        leaves, kinds, names = {}, {}, {}
        for leaf in self.leaves:
            key = (leaf.coupling, leaf.decay, leaf.response, leaf.trials, leaf.program)
            if key not in names:
                names[key] = _digest(leaf.kind())
                kinds[names[key]] = leaf.kind()
            leaves[leaf.path] = [list(leaf.shape), leaf.dtype, names[key]]
        found = {"leaves": leaves, "kinds": kinds, "optimizer": list(self.optimizer)}
        return found | {"calls_per_update": self.calls_per_update}

    def differences(self, other: "DecayPlan") -> list[str]:
        """Says in words where another plan differs; empty if nowhere.

        >>> one = decay_plan(1.0, {"w": jnp.ones(2)})
        >>> one.differences(decay_plan(0.5, {"w": jnp.ones(2)}))
        ['w: decays by 1 in this plan, 0.5 in the other']
        """
        return plan_differences(self.as_json(), other.as_json())

    def __str__(self) -> str:
        """A line for each kind of leaf, the largest first."""
        parts = first_few(self.optimizer) or "rules"
        calls = f"; {self.calls_per_update} calls per update" if self.calls_per_update > 1 else ""
        groups: dict[Any, list[LeafPlan]] = {}
        own = [(name,) for name in self.branches] or [()] * len(self.leaves)
        for leaf, branch in zip(self.leaves, own, strict=True):
            groups.setdefault((*branch, leaf.coupling, leaf.decay.described()), []).append(leaf)
        rows = [("optimizer", "coupling", "decay per update", "leaves")[not self.branches :]]
        for kind, leaves in sorted(groups.items(), key=lambda item: -_size(item[1])):
            named = first_few([leaf.path for leaf in leaves], 3)
            rows.append((*kind, f"{len(leaves)} ({_size(leaves):,} entries): {named}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
        unknown = [f"unknown: {self.reason}"] if self.reason else []
        return "\n".join([f"decay plan: {parts}{calls}", *lines, *unknown])


def decay_plan(tx_or_rules: Any, params: PyTree, *, wrt: Any = None) -> DecayPlan:
    """Measures what decays, how much, when, and in which way.

    A decay is what an update takes from a weight where the gradient is zero and the state is as at
    the start, moved on to the step. The real shapes count, nothing of their size is computed.

    Args:
      tx_or_rules: An Optax transformation, or rules as in :func:`wdlab.decay_scales`.
      params: Pytree of float arrays, or of ``jax.ShapeDtypeStruct``; the values do not matter.
      wrt: What is trained of an nnx model, as in :func:`wdlab.decay_scales`.

    Returns:
      The plan; keep ``plan.as_json()`` or ``plan.digest()`` beside a checkpoint. What cannot be
      known is "unknown", with the ``reason`` where that is all of it.

    Raises:
      ValueError: If a leaf is decided by no rule, or the transformation refuses the parameters.

    >>> tx = optax.adamw(0.5, weight_decay=0.25)
    >>> plan = decay_plan(tx, {"w": jax.ShapeDtypeStruct((64, 64), jnp.float32)})
    >>> plan.leaves[0].coefficient, plan.leaves[0].coupling
    (0.125, 'decoupled')
    >>> print(plan)
    decay plan: ScaleByAdamState, EmptyState, 3 arrays of 8193 entries
    coupling   decay per update  leaves
    decoupled  0.125             1 (4,096 entries): w
    """
    params = parameters(params, wrt)
    pairs = leaves_with_paths(params)
    rows = [(path, np.shape(leaf), str(jnp.result_type(leaf))) for path, leaf in pairs]
    if callable(tx_or_rules):
        raise TypeError(
            "decay_plan: expected an Optax transformation or rules, got a function. Call it: "
            "optax.adamw(1e-3) makes a transformation; rules are data."
        )
    if not hasattr(tx_or_rules, "update"):
        made = decisions(params, tx_or_rules)
        kinds = [
            {"coupling": "decoupled" if d.scale else "none", "decay": Curve((d.scale,))}
            for d in made
        ]
        return _plan(rows, kinds, (), 1)
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for _, shape, dtype in rows]
    tree = jax.tree.unflatten(jax.tree.structure(params), shapes)
    state = jax.eval_shape(tx_or_rules.init, tree)
    parts, branches = _parts(state, tree), branches_in(state, tree)
    try:
        traced = TracedOptimizer(tx_or_rules, float32_shapes(tree))
    except Exception as error:  # noqa: BLE001  Whatever an update raises that is called like this.
        nothing = {"coupling": "unknown", "decay": Curve((None,) * len(PROBED_STEPS))}
        return _plan(rows, [nothing] * len(rows), parts, 1, first_line(error), branches)
    return _plan(rows, _kinds(traced), parts, traced.calls, "", branches)


def _plan(rows: list, kinds: list, *facts: Any) -> DecayPlan:
    leaves = [LeafPlan(*row, **kind) for row, kind in zip(rows, kinds, strict=True)]
    return DecayPlan(tuple(leaves), *facts)


def _kinds(traced: TracedOptimizer) -> list[dict[str, Any]]:
    """Of each leaf what its plan says beside path, shape and dtype."""
    measured = measure(traced, GRID)
    found = {id(leaf): leaf for leaf in measured}
    curves: dict[bytes, Curve] = {}

    def as_curve(leaf: Measured, values: Any, column: int) -> Curve:
        key = values.tobytes()
        if key not in curves:
            jumps = find_jumps(values, lambda n: shares(traced, leaf.kinds[:1], n)[0][column])
            curves[key] = curve(values, jumps)
        return curves[key]

    kinds: dict[int, dict[str, Any]] = {}
    for name, leaf in found.items():
        decay, response = as_curve(leaf, leaf.decay, 0), as_curve(leaf, leaf.response, 2)
        trials = tuple(tuple(map(rounded, row)) for row in leaf.trials)
        numbers = [*decay.values, *response.values, *(x for row in trials for x in row)]
        program = leaf.program if None in numbers else ""
        kinds[name] = dict(
            coupling=leaf.coupling, decay=decay, response=response, trials=trials, program=program
        )
    return [kinds[id(leaf)] for leaf in measured]


def _parts(state: PyTree, params: PyTree) -> tuple[str, ...]:
    """The class names of the named tuples in an optimizer's state, and its size."""
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    like_params = jax.tree.structure(params)

    def names(tree: Any) -> list[str]:
        kind, _ = tree.node_data() or (None, None)
        if kind in (None, optax.MaskedNode) or tree == like_params:
            return []  # What parameters are kept in is not the optimizer's.
        own = [kind.__name__] if hasattr(kind, "_fields") else []
        return own + [name for child in tree.children() for name in names(child)]

    found = [name for name, _ in itertools.groupby(names(jax.tree.structure(state)))]
    return (*found, f"{len(sizes)} arrays of {sum(sizes)} entries")


def _size(leaves: list[LeafPlan]) -> int:
    return sum(math.prod(leaf.shape) for leaf in leaves)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
