"""A jitted step that writes its results over its first two arguments, if it can have them."""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax

from wdlab.rules import leaves_with_paths

PyTree = Any
_GONE = (
    "an earlier step wrote its results over it. Go on with what that step returned: "
    "params, opt_state, ... = step(params, opt_state, ...)."
)


class DonatingStep:
    """``step(params, opt_state, *others, **extra_args)``, jitted, the first two donated.

    It has the attributes of a jitted function: ``lower``, ``trace``, ``eval_shape``.

    Raises:
      ValueError: From a call in which two arrays have one buffer, where JAX has a message that
        names neither, and with several devices ends the process; or with an array that an earlier
        call wrote over.
    """

    def __init__(self, step: Callable[..., Any], others: str, functions: tuple[str, ...] = ()):
        """``others`` names the arguments behind the first two; ``functions`` are not arrays."""
        functools.update_wrapper(self, step)
        self._others = others
        self._jitted = jax.jit(step, donate_argnums=(0, 1), static_argnames=functions)
        self._called = False

    def __call__(self, params: PyTree, opt_state: PyTree, *others: Any, **extra_args: Any) -> Any:
        """The step's results."""
        donated = [id(leaf) for leaf in jax.tree.leaves((params, opt_state))]
        own, kept = set(donated), map(id, jax.tree.leaves((others, extra_args)))
        # Asking 600 arrays for their buffers takes as long as the call: later, for the objects.
        if not self._called or len(own) < len(donated) or not own.isdisjoint(kept):
            rest = {self._others: others[0] if len(others) == 1 else others}
            given = {"params": params, "opt_state": opt_state}
            if message := shared_buffer(given, rest | {"extra_args": extra_args}):
                raise ValueError(message)
        self._called = True
        try:
            return self._jitted(params, opt_state, *others, **extra_args)
        except (RuntimeError, ValueError) as error:
            given = {"params": params, "opt_state": opt_state, self._others: others}
            gone = [path for path, leaf in leaves_with_paths(given) if _is_deleted(leaf)]
            if gone and "deleted" in str(error):
                raise ValueError(f"{gone[0]} is no more: {_GONE}") from error
            raise

    def __getattr__(self, name: str) -> Any:
        if name == "_jitted":  # Of an instance that a copy has not filled yet.
            raise AttributeError(name)
        return getattr(self._jitted, name)


def shared_buffer(donated: dict[str, PyTree], kept: dict[str, PyTree]) -> str:
    """What to do about the first donated array that is given twice; empty if there is none.

    >>> w = jax.numpy.ones(2)
    >>> shared_buffer({"params": {"a": w, "b": w}}, {})
    'params/a and params/b are one array. A step writes ... Tied weights are one leaf that ...'
    >>> shared_buffer({"params": {"a": w, "b": w + 0}}, {"grads": {"a": w + 0}})
    ''
    """
    owners: dict[Any, str] = {}
    for path, buffer in _buffers(donated):
        if owners.setdefault(buffer, path) != path:
            return _advice(owners[buffer], path)
    return next((_advice(owners[b], path) for path, b in _buffers(kept) if b in owners), "")


def _buffers(arguments: dict[str, PyTree]) -> Iterator[tuple[str, Any]]:
    """Each array's path, with every buffer that it has here, argument by argument."""
    pairs = [leaves_with_paths({name: argument}) for name, argument in arguments.items()]
    for path, leaf in itertools.chain(*pairs):
        if not isinstance(leaf, jax.Array) or isinstance(leaf, jax.core.Tracer) or not leaf.size:
            continue
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended) and not leaf.is_deleted():
            for shard in leaf.addressable_shards:
                yield path, (shard.device, shard.data.unsafe_buffer_pointer())


def _is_deleted(leaf: Any) -> bool:
    is_array = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    return is_array and leaf.is_deleted()


def _advice(first: str, second: str) -> str:
    name = second.split("/")[0]
    if name == "params":
        advice = (
            "Tied weights are one leaf that the model uses twice. If they only begin as equals, "
            "write params = jax.tree.map(jnp.copy, params)."
        )
    elif name == "opt_state":
        advice = "Write opt_state = wdlab.init_opt_state(tx, params): its arrays are its own."
    else:
        advice = f"Write {name} = jax.tree.map(jnp.copy, {name})."
    return (
        f"{first} and {second} are one array. A step writes its results over params and "
        f"opt_state, so each of their arrays must be there once. {advice}"
    )
