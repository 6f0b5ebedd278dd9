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
    check_transformation(tx)
    taken = inspect.signature(tx.update).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in taken.values())

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        given = {n: v for n, v in extra_args.items() if takes_all or n in taken}
        return tx.update(updates, state, params, **given)

    return optax.GradientTransformationExtraArgs(tx.init, update_fn)


def check_transformation(tx: Any, name: str = "") -> None:
    """Refuses what is no Optax transformation, with what to write.

    >>> check_transformation(optax.adamw, "doctor")
    Traceback (most recent call last):
    TypeError: doctor: expected an Optax transformation, got a function. Call it: ...
    """
    if all(callable(getattr(tx, part, None)) for part in ("init", "update")):
        return
    kind, hint = type(tx).__name__, "Give the chain that trains, such as optax.adamw(1e-3)."
    if hasattr(tx, "tx"):
        hint = f"Give its .tx, which {kind} holds."
    elif callable(tx):
        kind, hint = "function", "Call it: optax.adamw(1e-3) makes one."
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    prefix = f"{name}: " if name else ""
    raise TypeError(f"{prefix}expected an Optax transformation, got {article} {kind}. {hint}")
