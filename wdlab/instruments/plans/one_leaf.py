"""The part of an optimizer that updates one leaf, as an optimizer of its own."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.extend import core

from wdlab.instruments.plans.measured_decay import measure
from wdlab.instruments.plans.pruned_programs import needed, pruned
from wdlab.instruments.plans.traced_optimizer import TracedOptimizer
from wdlab.instruments.plans.traced_update import trace_update

PyTree = Any
Array = Any
_ALONE = 8  # Kinds of leaves that are measured by themselves.
_OTHERS = 1  # Most entries of an axis of the other leaves.
Sizing = Callable[[tuple[int, ...]], tuple[int, ...]]


def one_leaf(
    tx: Any, params: PyTree, place: int, sized: Sizing = tuple
) -> optax.GradientTransformation:
    """The update of one leaf: the others have weights and gradients 0 and no state.

    Args:
      tx: An Optax transformation of the whole tree.
      params: Pytree of ``jax.ShapeDtypeStruct``.
      place: Which of the leaves.
      sized: Shape of a leaf -> the one that it is given, of the same rank.

    Raises:
      Exception: What tracing ``tx`` raises.

    >>> shapes = [jax.ShapeDtypeStruct((800, 600), "float32")] * 2
    >>> alone = one_leaf(optax.sgd(0.5, momentum=0.9), shapes, 1, lambda shape: (4, 3))
    >>> [x.shape for x in alone.init(jnp.ones((4, 3)))]
    [(4, 3)]
    """
    leaves, structure = jax.tree.flatten(params)
    own = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves]
    small = [jax.ShapeDtypeStruct([min(n, _OTHERS) for n in x.shape], x.dtype) for x in leaves]
    own[place] = small[place] = jax.ShapeDtypeStruct(sized(own[place].shape), own[place].dtype)
    try:
        return _one_leaf(tx, structure, small, place)
    except Exception:  # noqa: BLE001  Sizes that others must have, perhaps: in their own.
        return _one_leaf(tx, structure, own, place)


def _one_leaf(
    tx: Any, structure: Any, shapes: list[Any], place: int
) -> optax.GradientTransformation:
    tree = jax.tree.unflatten(structure, shapes)
    init, state = jax.make_jaxpr(tx.init, return_shape=True)(tree)
    update = trace_update(tx, tree, state, tree)
    count, arrays = len(shapes), len(jax.tree.leaves(state))
    first = count + arrays  # Of the weights, behind gradients and state.
    others = {n for n in range(count) if n != place}
    update = _without_zeros(update, others | {first + n for n in others})
    own = _own_arrays(update.jaxpr, place, count, arrays)
    start, inputs = pruned(init, own)
    step, asked = pruned(update, [place, *(count + n for n in own)])
    with_loss = len(update.jaxpr.invars) > first + count

    def filled(n: int, leaf: Array) -> Array:
        return leaf if n == place else jnp.zeros(shapes[n].shape, shapes[n].dtype)

    def init_fn(params: Array) -> list[Array]:
        return start([filled(n, params) for n in inputs])

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        value = extra.get("value")
        if with_loss and value is None:
            raise ValueError("the update asks for the loss")
        known = dict(zip((count + n for n in own), state, strict=True)) | {first + count: value}
        given = [
            filled(n, updates)
            if n < count
            else filled(n - first, params)
            if first <= n < first + count
            else known[n]
            for n in asked
        ]
        update, *after = step(given)
        return update, after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _own_arrays(jaxpr: Any, place: int, count: int, arrays: int) -> list[int]:
    """Which arrays of the state one leaf's update needs, now or at later steps."""
    results = jaxpr.outvars
    kept: set[int] = set()
    while True:  # Until what is kept of the state goes on by itself.
        used = needed(jaxpr, [results[place], *(results[count + n] for n in sorted(kept))])
        more = {n for n in range(arrays) if jaxpr.invars[count + n] in used}
        if more <= kept:
            return sorted(kept)
        kept |= more


def measured_alone(tx: Any, params: PyTree, measured: list[Any], grid: Array) -> list[Any]:
    """Measures leaves of unknown coupling again, with the other leaves left out.

    A clip by the norm of all leaves behind the decay of some makes every update depend on weights.

    >>> measured_alone(optax.sgd(0.1), [], [], jnp.arange(3))
    []
    """
    shapes, alone = jax.tree.leaves(params), {}
    for place, found in enumerate(measured):
        if found.coupling != "unknown" or found.kinds in alone or len(alone) >= _ALONE:
            continue
        with contextlib.suppress(Exception):
            only = TracedOptimizer(one_leaf(tx, params, place), shapes[place])
            again = measure(only, grid)[0]
            if again.coupling != "unknown":
                alone[found.kinds] = again.coupling, again.decay
    return [
        dataclasses.replace(found, coupling=alone[found.kinds][0], decay=alone[found.kinds][1])
        if found.kinds in alone
        else found
        for found in measured
    ]


# Zero where their first operand is.
_OF_ZERO = {
    "abs", "broadcast_in_dim", "convert_element_type", "copy", "integer_pow", "neg", "real",
    "reduce_max", "reduce_sum", "reshape", "sign", "sqrt", "square", "squeeze", "transpose",
}  # fmt: skip


def _without_zeros(closed: Any, places: set[int]) -> Any:
    """A jaxpr some of whose arguments are zero: sums do without what is zero for that reason."""
    jaxpr = closed.jaxpr
    zeros = {jaxpr.invars[n] for n in places}
    same: dict[Any, Any] = {}  # A sum of which one term is left -> that term.
    eqns = []
    for eqn in jaxpr.eqns:
        given = [a if isinstance(a, core.Literal) else same.get(a, a) for a in eqn.invars]
        eqns.append(eqn.replace(invars=given))
        zero = [_is_zero(a.val) if isinstance(a, core.Literal) else a in zeros for a in given]
        name, results = eqn.primitive.name, eqn.outvars
        if (name in _OF_ZERO and zero[0]) or (name == "mul" and any(zero)):
            zeros.update(results)
        elif name in ("add", "add_any", "sub") and any(zero):
            left = [a for a, is_zero in zip(given, zero, strict=True) if not is_zero]
            if not left:
                zeros.update(results)
            elif left[0].aval == results[0].aval and (zero[1] or name != "sub"):
                same[results[0]] = left[0]
    outvars = [v if isinstance(v, core.Literal) else same.get(v, v) for v in jaxpr.outvars]
    return core.ClosedJaxpr(jaxpr.replace(eqns=eqns, outvars=outvars), closed.consts)


def _is_zero(value: Any) -> bool:
    return np.ndim(value) == 0 and np.asarray(value).dtype.kind == "f" and float(value) == 0.0
