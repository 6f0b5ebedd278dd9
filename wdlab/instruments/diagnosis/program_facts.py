"""What the optimizer's program and its state tell, beside what is measured."""

from typing import Any

import jax
from jax.extend import core

from wdlab._core.equations import called_programs

PyTree = Any
_SAME = {"convert_element_type", "copy", "copy_p", "stop_gradient", "optimization_barrier"}


def decay_terms(update: Any, count: int) -> list[int]:
    """Of each leaf, in how many places its weight is multiplied by a number.

    Args:
      update: The traced update, a jaxpr of gradients, state, weights, and perhaps the loss.
      count: Number of leaves.

    >>> import jax.numpy as jnp, optax
    >>> tx = optax.chain(optax.add_decayed_weights(0.1), optax.add_decayed_weights(0.1))
    >>> x = jnp.ones(3)
    >>> decay_terms(jax.make_jaxpr(tx.update)(x, tx.init(x), x), 1)
    [2]
    """
    inputs = update.jaxpr.invars
    # A loss would be the last: it has no shape, and is not the weight's neighbour in the state.
    last = len(inputs) - (len(inputs) > 2 * count and _has_loss(update, count))
    weights = {variable: n for n, variable in enumerate(inputs[last - count : last])}
    found = [0] * count
    _count(update.jaxpr, weights, set(), found)
    return found


def _has_loss(update: Any, count: int) -> bool:
    """Whether one more argument than gradients, state and weights is there."""
    states = len(update.jaxpr.outvars) - count
    return len(update.jaxpr.invars) == 2 * count + states + 1


def _count(jaxpr: Any, weights: dict[Any, int], numbers: set[Any], found: list[int]) -> None:
    """Adds the products in a jaxpr; ``numbers`` are arrays with one number everywhere."""
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        inner = called_programs(eqn.params)
        counts = []
        for body in [*inner, *eqn.params.get("branches", ())]:
            own = getattr(body, "jaxpr", body)
            operands = eqn.invars[len(eqn.invars) - len(own.invars) :]
            pairs = [*zip(own.invars, operands, strict=True)]
            counts.append([0] * len(found))
            _count(
                own,
                {v: weights[a] for v, a in pairs if not _literal(a) and a in weights},
                {v for v, a in pairs if _literal(a) or a in numbers},
                counts[-1],
            )
        for leaf in range(len(found)):  # Of several branches one is taken.
            found[leaf] += max((count[leaf] for count in counts), default=0)
        if name == "broadcast_in_dim" and eqn.invars[0].aval.shape == ():
            numbers.add(eqn.outvars[0])
        operands = [a for a in eqn.invars if not _literal(a)]
        if name in _SAME and operands and operands[0] in weights:
            weights[eqn.outvars[0]] = weights[operands[0]]
        if name == "mul":
            of = [weights[a] for a in operands if a in weights]
            if len(of) == 1 and any(_is_number(a, numbers) for a in eqn.invars):
                found[of[0]] += 1


def _literal(atom: Any) -> bool:
    return isinstance(atom, core.Literal)


def _is_number(atom: Any, numbers: set[Any]) -> bool:
    return _literal(atom) or atom.aval.shape == () or atom in numbers


def injected(state: PyTree) -> dict[str, Any]:
    """The numbers that ``inject_hyperparams`` keeps in the state: name -> array or shape.

    >>> import jax.numpy as jnp, optax
    >>> list(injected(optax.inject_hyperparams(optax.sgd)(0.1).init({"w": jnp.ones(2)})))
    ['learning_rate']
    """
    found: dict[str, Any] = {}

    def visit(node: Any) -> bool:
        numbers = getattr(node, "hyperparams", None)
        if isinstance(numbers, dict):
            found.update(numbers)
        return False

    jax.tree.leaves(state, is_leaf=visit)
    return found


def state_changes(tx: Any, params: PyTree) -> tuple[str, ...]:
    """Where the state after an update has another structure, shape or dtype than before.

    >>> import jax.numpy as jnp, optax
    >>> state_changes(optax.adam(0.1), {"w": jax.ShapeDtypeStruct((2,), jnp.float32)})
    ()
    """
    try:
        before = jax.eval_shape(tx.init, params)
        _, after = jax.eval_shape(tx.update, params, before, params)
    except Exception:  # noqa: BLE001  Such as a loss that is asked for: not looked at.
        return ()
    if jax.tree.structure(before) != jax.tree.structure(after):
        return ("its structure",)
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return tuple(
        f"{jax.tree_util.keystr(keys)}: {x.dtype}{list(x.shape)} -> {y.dtype}{list(y.shape)}"
        for (keys, x), y in pairs
        if (x.dtype, x.shape) != (y.dtype, y.shape)
    )
