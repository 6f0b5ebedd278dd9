"""The part of an optimizer that updates one leaf, as an optimizer of its own."""

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend import core

from wdlab.instruments.plans import TracedOptimizer, measure, trace_update

PyTree = Any
Array = Any
_ALONE = 8  # Kinds of leaves that are measured by themselves.
_OTHERS = 1  # Most entries of an axis of the other leaves.


def one_leaf(
    tx: Any, params: PyTree, place: int, shape: tuple[int, ...]
) -> optax.GradientTransformation:
    """What updates one leaf, the gradients of the others being zero, without what they alone need.

    Args:
      tx: An Optax transformation of the whole tree.
      params: Pytree of ``jax.ShapeDtypeStruct``.
      place: Which of the leaves.
      shape: That it is given; its own, or a smaller one of its rank.

    Raises:
      Exception: What tracing ``tx`` raises.

    >>> shapes = [jax.ShapeDtypeStruct((800, 600), "float32")] * 2
    >>> alone = one_leaf(optax.sgd(0.5, momentum=0.9), shapes, 1, (4, 3))
    >>> [x.shape for x in alone.init(jnp.ones((4, 3)))]
    [(4, 3)]
    """
    try:
        return _one_leaf(tx, params, place, shape, _OTHERS)
    except Exception:  # noqa: BLE001  A rank that others must have, perhaps: in their own sizes.
        return _one_leaf(tx, params, place, shape, None)


def _one_leaf(
    tx: Any, params: PyTree, place: int, shape: tuple[int, ...], most: int | None
) -> optax.GradientTransformation:
    leaves, structure = jax.tree.flatten(params)
    sizes = [[n if most is None else min(n, most) for n in x.shape] for x in leaves]
    others = [jax.ShapeDtypeStruct(size, x.dtype) for size, x in zip(sizes, leaves, strict=True)]
    others[place] = jax.ShapeDtypeStruct(shape, leaves[place].dtype)
    tree = jax.tree.unflatten(structure, others)
    init, state = jax.make_jaxpr(tx.init, return_shape=True)(tree)
    update = trace_update(tx, tree, state, tree)
    count, arrays = len(leaves), len(jax.tree.leaves(state))
    first = count + arrays  # Of the weights, behind gradients and state.
    results = update.jaxpr.outvars
    kept: set[int] = set()
    while True:  # Until what is kept of the state goes on by itself.
        wanted = [results[place], *(results[count + n] for n in sorted(kept))]
        needed = _needed(update.jaxpr, wanted)
        more = {n for n in range(arrays) if update.jaxpr.invars[count + n] in needed}
        if more <= kept:
            break
        kept |= more
    own = sorted(kept)
    start = _pruned(init, own)
    step = _pruned(update, [place, *(count + n for n in own)])
    with_loss = len(update.jaxpr.invars) > first + count

    def filled(leaf: Array) -> list[Array]:
        zeros = [jnp.zeros(x.shape, x.dtype) for x in others]
        return [*zeros[:place], leaf, *zeros[place + 1 :]]

    def init_fn(params: Array) -> list[Array]:
        return start(filled(params))

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
        value = extra.get("value")
        if with_loss and value is None:
            raise ValueError("the update asks for the loss")
        arguments = [*filled(updates), *[jnp.zeros(())] * arrays, *filled(params)]
        for n, x in zip(own, state, strict=True):
            arguments[count + n] = x
        update, *after = step([*arguments, *[value] * with_loss])
        return update, after

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def measured_alone(tx: Any, params: PyTree, measured: list[Any], grid: Array) -> list[Any]:
    """What could not be measured of leaves is measured with the other leaves left out.

    A clip by the norm of all leaves behind the decay of some makes every update depend on weights.

    >>> measured_alone(optax.sgd(0.1), [], [], jnp.arange(3))
    []
    """
    shapes, alone = jax.tree.leaves(params), {}
    for place, found in enumerate(measured):
        if found.coupling != "unknown" or found.kinds in alone or len(alone) >= _ALONE:
            continue
        with contextlib.suppress(Exception):
            only = TracedOptimizer(one_leaf(tx, params, place, shapes[place].shape), shapes[place])
            again = measure(only, grid)[0]
            if again.coupling != "unknown":
                alone[found.kinds] = again.coupling, again.decay
    return [
        dataclasses.replace(found, coupling=alone[found.kinds][0], decay=alone[found.kinds][1])
        if found.kinds in alone
        else found
        for found in measured
    ]


def _needed(jaxpr: Any, wanted: list[Any]) -> set[Any]:
    """The variables from which those are computed."""
    needed = {v for v in wanted if not isinstance(v, core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if needed.intersection(eqn.outvars):
            needed.update(a for a in eqn.invars if not isinstance(a, core.Literal))
    return needed


def _pruned(closed: Any, places: list[int]) -> Callable[[list[Array]], list[Array]]:
    """A function of a jaxpr's arguments: some of its results, by what these need alone."""
    jaxpr = closed.jaxpr
    outvars = [jaxpr.outvars[n] for n in places]
    needed = _needed(jaxpr, outvars)
    eqns = [eqn for eqn in jaxpr.eqns if needed.intersection(eqn.outvars)]
    program = jaxpr.replace(
        eqns=eqns, outvars=outvars, debug_info=jaxpr.debug_info.with_unknown_names()
    )
    return lambda arguments: jax.core.eval_jaxpr(program, closed.consts, *arguments)
