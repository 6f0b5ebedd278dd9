"""Transformations whose ``update`` takes keyword arguments, such as the loss."""

import inspect
from collections.abc import Callable
from typing import Any

import optax

PyTree = Any


def transformation(
    init: Callable[..., PyTree], update: Callable[..., tuple[PyTree, PyTree]]
) -> optax.GradientTransformationExtraArgs:
    """Returns the pair; keyword arguments that ``update`` does not take are let pass.

    >>> tx = transformation(lambda params: (), lambda updates, state, params=None: (updates, state))
    >>> tx.update(1.0, (), value=3.0)
    (1.0, ())
    """
    return with_extra_args(optax.GradientTransformation(init, update))


def with_extra_args(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A transformation to which any keyword argument can be given; it gets those it takes.

    ``optax.with_extra_args_support`` goes by the type. ``optax.MultiSteps`` hands all of them on,
    which its type does not say; ``optax.contrib.sam`` has the type and takes one alone.

    >>> tx = with_extra_args(optax.MultiSteps(optax.contrib.reduce_on_plateau(), 1))
    >>> _, state = tx.update({"w": 1.0}, tx.init({"w": 1.0}), value=3.0)
    >>> float(state.inner_opt_state.best_value)
    3.0
    """
    taken = inspect.signature(tx.update).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in taken.values())

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        given = {n: v for n, v in extra_args.items() if takes_all or n in taken}
        return tx.update(updates, state, params, **given)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)
