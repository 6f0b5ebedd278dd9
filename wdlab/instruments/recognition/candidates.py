"""Each convention of the registry as a program whose settings are inputs, for one leaf.

A convention is traced once for a shape; with other numbers it is then evaluated alone.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab._core.probing import trusted
from wdlab.conventions import REQUIRED, build, get, names
from wdlab.instruments.equivalence.evaluation import evaluate

Array = Any
Fixed = tuple[tuple[str, Any], ...]  # Arguments with their values.
NO_CLIP = 1e30
CLIP = "clip"  # Of the gradient by its norm, before all else: no argument of the originals.
# Numbers where the original has none, for the trace.
_STARTS: dict[str, Any] = {
    "b1": 0.9, "b2": 0.999, "eps": 1e-8, "momentum": 0.9, "weight_decay": 0.0,
    "decay_method": "adam", "decay_adam": 0.99,
}  # fmt: skip
# Not in question: how numbers are kept, or lists of numbers that are not read off.
_LEFT = {"muon", "rest", "axes", "iteration_dtype", "ns_coefficients", "ns_coeffs", "widths",
         "clipnorm", "clipvalue", "global_clipnorm", "gradient_accumulation_steps"}  # fmt: skip


class Slot(NamedTuple):
    """A number among a convention's arguments."""

    argument: str
    index: int | None  # In a tuple.


class Program(NamedTuple):
    """A convention, traced with its numbers as inputs."""

    name: str
    fixed: Fixed  # Arguments that are part of the program.
    slots: tuple[Slot, ...]  # The others, in the order of ``defaults``.
    defaults: tuple[float, ...]
    init: Any
    update: Any
    arrays: tuple[tuple[int, ...], ...]  # Shapes in its state, those of few entries left out.
    keeps_weights: bool  # Whether the state begins with a copy of the weights.
    text: int  # Programs of one text compute the same of the same numbers.

    def answers(self, values: Sequence[float], rates: Array, problem: Any) -> Array:
        """The updates for the problem's weights and gradients, at these learning rates.

        Args:
          values: Of the slots.
          rates: One for each update.
          problem: With ``weights`` and ``gradients``, each of shape (updates, ...).
        """
        numbers = [np.float64(v) for v in values]
        state = evaluate(self.init, [*numbers, np.float64(rates[0]), problem.weights[0]])
        found = []
        for rate, w, g, loss in zip(
            rates, problem.weights, problem.gradients, problem.losses, strict=True
        ):
            given = [*numbers, np.float64(rate), g, *state, w]
            more = [np.float64(loss)] * (len(self.update.jaxpr.invars) - len(given))
            update, *state = evaluate(self.update, [*given, *more])
            found.append(update)
        return np.asarray(found)

    def arguments(self, values: Sequence[float]) -> dict[str, Any]:
        """The original's arguments that are not its defaults, and its decay, without the clip."""
        known, numbers = get(self.name), [slot for slot in self.slots if slot.argument != CLIP]
        filled = _filled({slot.argument: None for slot in numbers}, self.slots, values)
        settings, decay = {**dict(self.fixed), **filled}, str(known.decay_argument)
        others = {a: v for a, v in settings.items() if v != known.defaults[a] and (v or a != decay)}
        if settings.get(decay) or known.defaults.get(decay):
            others[decay] = settings.get(decay)
        return others


def unbuilt() -> tuple[str, ...]:
    """The conventions that need what no program tells: widths, ranks, the length of a restart.

    >>> "mup.MuAdam" in unbuilt()
    True
    """
    return tuple(n for n in names() if _missing(n))


def _missing(name: str) -> list[str]:
    defaults = get(name).defaults
    return [a for a, value in defaults.items() if value is REQUIRED and a not in _STARTS]


def _takes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether the convention can be built, and the leaf is one of those that it is named for."""
    return not _missing(name) and ("muon" not in get(name).defaults or len(shape) == 2)


@functools.cache
def program(
    name: str, shape: tuple[int, ...], fixed: tuple[tuple[str, Any], ...]
) -> Program | None:
    """The convention on a leaf of this shape; None where it does not take such a leaf.

    >>> found = program("torch.AdamW", (2, 3), ())
    >>> found.slots[1], found.defaults[:2], found.arrays
    (Slot(argument='betas', index=0), (1e+30, 0.9), ((2, 3), (2, 3)))
    >>> found.arguments((NO_CLIP, 0.9, 0.95, 1e-8, 0.0))
    {'betas': (0.9, 0.95), 'weight_decay': 0.0}
    """
    if not _takes(name, shape):
        return None
    numbers = _numbers(name, dict(fixed))
    try:
        return _traced(name, shape, fixed, numbers)
    except Exception:  # noqa: BLE001  Some number that Python asks about: it is no input then.
        pass
    try:
        for argument in list(numbers):
            if not _traces(name, shape, fixed, {argument: numbers[argument]}):
                del numbers[argument]
        return _traced(name, shape, fixed, numbers)
    except Exception:  # noqa: BLE001
        return None


def _numbers(name: str, fixed: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that are numbers, or tuples of some, with their values."""
    known = get(name)
    found: dict[str, Any] = {}
    for argument, value in known.defaults.items():
        value = fixed.get(argument, _STARTS.get(argument) if value is REQUIRED else value)
        if argument == known.decay_argument and not isinstance(value, float):
            value = 0.0
        several = value if isinstance(value, tuple) else (value,)
        real = all(isinstance(x, float) and np.isfinite(x) for x in several)
        if argument not in _LEFT and real and several:
            found[argument] = value
    if known.decay_argument:
        found[known.decay_argument] = fixed.get(known.decay_argument, 0.0)
    return found


def _traces(name: str, shape: Any, fixed: Any, numbers: dict[str, Any]) -> bool:
    try:
        _traced(name, shape, fixed, numbers)
    except Exception:  # noqa: BLE001
        return False
    return True


def _traced(name: str, shape: Any, fixed: Any, numbers: dict[str, Any]) -> Program:
    slots, defaults = [Slot(CLIP, None)], [NO_CLIP]
    for argument, value in numbers.items():
        for n, x in enumerate(value) if isinstance(value, tuple) else [(None, value)]:
            slots.append(Slot(argument, n))
            defaults.append(x)
    leaf, number = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)

    def made(values: Sequence[Any], rate: Any) -> Any:
        settings = dict(fixed) | _filled(numbers, slots, values)
        return build_convention(name, trusted(lambda count: rate), settings, values[0], peak=1.0)

    values = [number] * len(slots)
    init, state = jax.make_jaxpr(lambda v, r, w: made(v, r).init(w), return_shape=True)(
        values, number, leaf
    )
    try:
        update = jax.make_jaxpr(lambda v, r, g, s, w: made(v, r).update(g, s, w))(
            values, number, leaf, state, leaf
        )
    except TypeError:
        update = jax.make_jaxpr(lambda v, r, g, s, w, loss: made(v, r).update(g, s, w, value=loss))(
            values, number, leaf, state, leaf, number
        )
    weights = np.arange(1.0, 1.0 + math.prod(shape)).reshape(shape)
    start = evaluate(init, [*map(np.float64, defaults), np.float64(1.0), weights])
    copies = any(np.shape(x) == shape and np.array_equal(x, weights) for x in start)
    facts = arrays_of(state), copies, hash((str(init), str(update)))
    return Program(name, fixed, tuple(slots), tuple(defaults), init, update, *facts)


def arrays_of(state: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of a state's arrays in order, those of up to three entries left out.

    >>> arrays_of([np.ones((2, 3)), np.ones(()), np.ones(4)])
    ((2, 3), (4,))
    """
    return tuple(sorted(x.shape for x in jax.tree.leaves(state) if x.size > 3))


@functools.cache
def signature(name: str, shape: tuple[int, ...], fixed: Fixed) -> Any:
    """The shapes of the arrays in the convention's state; None where it is not built.

    >>> signature("torch.AdamW", (2, 3), ())
    ((2, 3), (2, 3))
    """
    if not _takes(name, shape):
        return None
    try:
        tx = build_convention(name, trusted(lambda count: 1.0), dict(fixed), NO_CLIP, 1.0)
        return arrays_of(jax.eval_shape(tx.init, jax.ShapeDtypeStruct(shape, jnp.float32)))
    except Exception:  # noqa: BLE001  A leaf, or arguments, that the original does not take.
        return None


def _filled(numbers: Mapping[str, Any], slots: Sequence[Slot], values: Sequence[Any]) -> dict:
    """The arguments with these numbers in their slots."""
    filled: dict[str, Any] = {}
    for (argument, index), value in zip(slots, values, strict=True):
        if index is None:
            filled[argument] = value
        else:
            filled[argument] = (*filled.get(argument, ()), value)
    return {argument: filled[argument] for argument in numbers}


def build_convention(
    name: str,
    rate: Callable[[Any], Any] | float,
    arguments: Mapping[str, Any],
    clip: Any,
    peak: float,
) -> optax.GradientTransformation:
    """The convention as a transformation of one leaf, all of which decays, behind a clip.

    >>> tx = build_convention("torch.SGD", 0.5, {}, NO_CLIP, 0.5)
    >>> float(tx.update(jnp.ones(()), tx.init(jnp.ones(())), jnp.ones(()))[0])
    -0.5
    """
    required = {a: _STARTS[a] for a, v in get(name).defaults.items() if v is REQUIRED}
    settings = required | dict(arguments)
    tx = build(name, rate, rules=1.0, peak_learning_rate=peak, **settings)
    if isinstance(clip, float) and clip >= NO_CLIP:
        return tx
    return optax.chain(optax.clip_by_global_norm(clip), tx)
