"""A proof that two optimizers are one: equal arrays of their states are found, by induction.

Arrays of both states that start equal are put into one class; a class is split where its members
go on to different values, given that the members of each class are equal before. What is left are
classes whose members are equal after any number of updates. If the updates are equal then, the
optimizers are the same for all weights and gradients, as real numbers.
"""

from typing import Any, NamedTuple

import jax

from wdlab.instruments.equivalence.normal_forms import Algebra, Form
from wdlab.instruments.equivalence.symbolic import Symbolic
from wdlab.instruments.plans import trace_update

PyTree = Any
_MOST_ROUNDS = 40


class Traced(NamedTuple):
    """An optimizer as two jaxprs on the leaves of params, gradients and state."""

    init: Any
    update: Any
    state: PyTree  # Of shapes.
    params: PyTree  # Likewise.

    @property
    def wants_loss(self) -> bool:
        """Whether the update takes the loss as its last argument."""
        count = 2 * len(jax.tree.leaves(self.params)) + len(jax.tree.leaves(self.state))
        return len(self.update.jaxpr.invars) > count


def traced(tx: Any, params: PyTree) -> Traced:
    """Traces ``init`` and ``update`` on shapes.

    Raises:
      Exception: What tracing them raises.

    >>> import optax
    >>> traced(optax.sgd(0.5), jax.ShapeDtypeStruct((2,), "float32")).wants_loss
    False
    """
    init, state = jax.make_jaxpr(tx.init, return_shape=True)(params)
    return Traced(init, trace_update(tx, params, state, params), state, params)


def proved_equal(one: Traced, two: Traced) -> bool:
    """Whether the updates have one normal form; False says nothing.

    >>> import optax
    >>> shape = jax.ShapeDtypeStruct((2,), "float32")
    >>> ours = optax.chain(optax.add_decayed_weights(0.5), optax.scale(-0.5))
    >>> theirs = optax.chain(optax.scale(-0.5), optax.add_decayed_weights(-0.25))
    >>> proved_equal(*(traced(tx, shape) for tx in (ours, theirs)))
    True
    """
    if any(
        jax.numpy.issubdtype(x.dtype, jax.numpy.complexfloating)
        for x in jax.tree.leaves(one.params)
    ):
        return False  # The square of a complex number is not at least 0.
    symbolic, programs = Symbolic(Algebra()), (one, two)
    algebra = symbolic.algebra
    weights, gradients = (
        [
            algebra.atom((name, n), scalar=leaf.shape == ())
            for n, leaf in enumerate(jax.tree.leaves(one.params))
        ]
        for name in ("weight", "gradient")
    )
    loss = algebra.atom(("loss",), scalar=True)
    arrays = [leaf for p in programs for leaf in jax.tree.leaves(p.state)]
    starts = [form for p in programs for form in symbolic.run(p.init, weights)]
    classes = _numbered([(x.shape, x.dtype.kind, algebra.key(s)) for x, s in _zip(arrays, starts)])
    # Of each array, until the contrary is seen: whether it is at least 0, the number that it keeps.
    positive = [algebra.nonnegative(form) for form in starts]
    kept = [algebra.value(form) for form in starts]
    for _ in range(_MOST_ROUNDS):
        states = _states(algebra, arrays, classes, positive, kept)
        updates: list[list[Form]] = []
        following: list[Form] = []
        for p in programs:
            own = states[len(following) :][: len(jax.tree.leaves(p.state))]
            results = symbolic.run(p.update, [*gradients, *own, *weights, *[loss] * p.wants_loss])
            split = len(results) - len(own)
            updates.append(results[:split])
            following += results[split:]
        before = max(classes, default=0), positive, kept
        positive = [p and algebra.nonnegative(form) for p, form in _zip(positive, following)]
        kept = [k if k == algebra.value(form) else None for k, form in _zip(kept, following)]
        classes = _numbered([*_zip(classes, map(algebra.key, following))])
        if (max(classes, default=0), positive, kept) == before:
            keys = [[algebra.key(form) for form in forms] for forms in updates]
            return keys[0] == keys[1]
    return False


def _states(
    algebra: Algebra, arrays: list[Any], classes: list[int], positive: list[bool], kept: list[Any]
) -> list[Form]:
    """The arrays before a step as forms: those of one class are the same unknown."""
    known = {c: all(p for p, d in _zip(positive, classes) if d == c) for c in classes}
    return [
        algebra.constant(k)
        if k is not None
        else algebra.atom(("state", c, known[c]), scalar=x.shape == (), nonnegative=known[c])
        for c, x, k in zip(classes, arrays, kept, strict=True)
    ]


def _numbered(labels: list[Any]) -> list[int]:
    order = {label: n for n, label in enumerate(dict.fromkeys(labels))}
    return [order[label] for label in labels]


def _zip(one: Any, two: Any) -> Any:
    return zip(one, two, strict=True)
