"""An optimizer, traced once on the parameters' real shapes and run on uniform arrays.

Every decision by path, size or shape is the one of the run, and nothing of the parameters' size is
computed. Leaves that do the same are one kind, and so are arrays of the state.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from wdlab.instruments.plans.traced_update import gradients_of, trace_update
from wdlab.instruments.plans.uniform_programs import Program
from wdlab.instruments.plans.uniform_tracing import trace

PyTree = Any
Array = Any
State = list[Any]  # Of each class of entries: its number, and where it is unknown.
_MOST_CALLS = 2048  # Looked at for the period of an accumulation or a count.
_GRADIENT = 0.37  # No sum of its powers is whole, so no sum is taken for a count.
_FAR = np.asarray([10, 10**8, 10**9]).reshape(1, 1, 3)


class TracedOptimizer:
    """The updates of each kind of leaf, for weights and gradients of equal entries.

    Args:
      tx: An Optax transformation.
      params: Pytree of ``jax.ShapeDtypeStruct``.

    Raises:
      Exception: What tracing ``tx.init`` and ``tx.update`` raises.

    >>> import optax
    >>> shapes = [jax.ShapeDtypeStruct((64, 64), "float32")] * 3
    >>> traced = TracedOptimizer(optax.sgd(0.5, momentum=0.9), shapes)
    >>> traced.kinds_of_leaf, traced.calls
    ([(0,), (0,), (0,)], 1)
    >>> updates, state = traced.window(traced.start(1.0), 1.0, 1.0)
    >>> float(updates[0])
    -0.5
    """

    def __init__(self, tx: Any, params: PyTree):
        init, self.state = jax.make_jaxpr(tx.init, return_shape=True)(params)
        gradients = gradients_of(params)
        update = trace_update(tx, gradients, self.state, params)
        self._init = Program()
        weights = [self._init.input("weight")] * len(jax.tree.leaves(params))
        first = trace(self._init, init, weights)
        leaves = self._number(update, first, [len(jax.tree.leaves(gradients)), len(weights)])
        kinds = [tuple(np.unique(number).tolist()) for number in leaves]
        self.updates = sorted({number for leaf in kinds for number in leaf})
        places = {number: kind for kind, number in enumerate(self.updates)}
        # Several of a small leaf whose entries are not treated alike.
        self.kinds_of_leaf = [tuple(places[n] for n in leaf) for leaf in kinds]
        self._counts: dict[int, Callable[[Array], Array]] = {}
        self.calls = self._period()
        self._find_counts()

    def _number(self, update: Any, first: list[Any], sizes: list[int]) -> list[Any]:
        """Numbers the update's program, with arrays of the state in as few classes as can be."""
        arrays = jax.tree.leaves(self.state)
        shapes = [x.shape for x in arrays]
        pairs = [*zip(first, shapes, strict=True)]
        first = [n for number, shape in pairs for n in self._init.entries(number, shape)]
        marks = [(getattr(x.dtype, "kind", ""), x.ndim == 0) for x in arrays]
        kinds = [m for m, s in zip(marks, shapes, strict=True) for _ in self._init.entries(0, s)]
        labels: list[Any] = [*zip(first, kinds, strict=True)]
        while True:  # Until entries of one class go on to entries of one class.
            order = {label: n for n, label in enumerate(dict.fromkeys(labels))}
            classes = [order[label] for label in labels]
            program = self._program = Program()
            self._inputs = [program.input(name) for name in ("weight", "gradient", "loss")]
            weight, gradient, loss = self._inputs
            self._states = [program.input(f"state {n}") for n in range(len(order))]
            left = iter([self._states[c] for c in classes])
            state = [program.joined(left, shape) for shape in shapes]
            operands = [*[gradient] * sizes[0], *state, *[weight] * sizes[1], loss]
            results = trace(program, update, operands[: len(update.jaxpr.invars)])
            leaves, after = results[: -len(shapes) or None], results[len(results) - len(shapes) :]
            pairs = [*zip(after, shapes, strict=True)]
            after = [n for number, shape in pairs for n in program.entries(number, shape)]
            labels = [*zip(labels, after, strict=True)]
            if len(set(labels)) == len(order):
                break
        if len(leaves) != sizes[1]:
            raise ValueError(f"the update has {len(leaves)} arrays for {sizes[1]} parameters")
        places = {c: n for n, c in reversed([*enumerate(classes)])}
        self._first = [first[places[c]] for c in range(len(order))]
        self._next = [after[places[c]] for c in range(len(order))]
        self._scalars = [c for c in range(len(order)) if kinds[places[c]][1]]
        return leaves

    def start(self, weights: Array) -> State:
        """The state that ``init`` gives for weights of these values."""
        weight = self._init.input("weight")
        return self._init.run({weight: np.asarray(weights, float)}, self._first)

    def after(self, state: State, steps: Array) -> State:
        """The state as after so many updates, as far as what counts them can tell."""
        moved = list(state)
        for place, count in self._counts.items():
            moved[place] = count(np.asarray(steps)).astype(state[place][0].dtype), np.False_
        return moved

    def window(
        self, state: State, weights: Array, gradients: Array, kinds: Sequence[int] | None = None
    ) -> tuple[list[Array], State]:
        """One update of the weights, which is several calls where gradients are accumulated.

        Args:
          state: From ``start`` or an earlier window.
          weights: That the calls are given, the same for all leaves.
          gradients: Likewise.
          kinds: Of which kinds of leaves the update is wanted, in order; None: of all.

        Returns:
          The updates, NaN where they are unknown, and the state after them.
        """
        wanted = self.updates if kinds is None else [self.updates[n] for n in kinds]
        total: list[Array] = [0.0] * len(wanted)
        for _ in range(self.calls):
            found, state = self._call(state, weights, gradients, wanted)
            total = [a + b for a, b in zip(total, found, strict=True)]
        return total, state

    def midway(self, before: State, after: State) -> Array:
        """Where a window ended inside an accumulation, whose number of calls is another there."""
        found: Array = np.False_
        for c in self._scalars:
            if c not in self._counts and before[c][0].dtype.kind == "i":
                found = found | (before[c][0] != after[c][0])
        return found

    def depends_on_weights(self, kind: int) -> bool:
        """Whether the update can depend on the weights, other than on whether they are finite."""
        weight = self._init.input("weight")
        starts = enumerate(self._first)
        carry = {c for c, n in starts if weight in self._init.needed([n], finite=True)}
        return self._depends(kind, self._inputs[0], carry)

    def depends_on_gradients(self, kind: int) -> bool:
        """Whether it can depend on the gradients, of this step or of earlier ones."""
        return self._depends(kind, self._inputs[1], set())

    def _depends(self, kind: int, source: int, carry: set[int]) -> bool:
        """Whether the update is computed from an input, or from classes of the state that are."""
        while True:
            inputs = {source, *(self._states[c] for c in carry)}
            following = [self._program.needed([n], finite=True) for n in self._next]
            more = {c for c, needed in enumerate(following) if inputs & {*needed}}
            if more <= carry:
                return bool(inputs & {*self._program.needed([self.updates[kind]], finite=True)})
            carry = carry | more

    def copies(self, kind: int) -> tuple[bool, bool]:
        """Whether the update uses copies of the first weights, and whether these never change."""
        weight, needed = self._init.input("weight"), self._program.needed([self.updates[kind]])
        copies = [c for c, n in enumerate(self._first) if n == weight]
        used = [c for c in copies if self._states[c] in needed]
        return bool(used), all(self._next[c] == self._states[c] for c in used)

    def program(self, kind: int) -> str:
        """A digest of what is computed."""
        return self._program.text(self.updates[kind])

    def _call(
        self, state: State, weights: Array, gradients: Array, wanted: Sequence[int]
    ) -> tuple[list[Array], State]:
        values = [np.asarray(x, float) for x in (weights, gradients, 1.0)]
        given = dict(zip(self._inputs + self._states, values + state, strict=True))
        found = self._program.run(given, [*wanted, *self._next])
        updates = [np.where(unknown, np.nan, u) for u, unknown in found[: len(wanted)]]
        return updates, found[len(wanted) :]

    def _period(self) -> int:
        """Calls from one update of the weights to the next."""
        state, moved = self.start(1.0), []
        history = [self._numbers(state, "i")]
        for call in range(_MOST_CALLS):
            updates, state = self._call(state, 1.0, _GRADIENT, self.updates)
            history.append(self._numbers(state, "i"))
            moved += [call] if any(np.any(u) for u in updates) else []
            if call == 3 and (moved[-3:] == [1, 2, 3] or self._only_counts(history)):
                return 1
            if len(moved) > 2 and call > 3 and np.ptp(np.diff(moved[-3:])) == 0:
                return moved[-1] - moved[-2]
        if moved:
            raise ValueError("gradients are accumulated over a varying number of calls")
        return 1

    def _only_counts(self, history: list[Array]) -> bool:
        """Whether the whole numbers of the state grow evenly and never start again."""
        if np.any(np.diff(history, 2, axis=0)):
            return False
        state = self.start(1.0)
        for _ in range(_MOST_CALLS):
            before, (_, state) = self._numbers(state, "i"), self._call(state, 1.0, _GRADIENT, ())
            if np.any(self._numbers(state, "i") < before):
                return False
        return True

    def _find_counts(self) -> None:
        """Finds the scalars in the state that tell how many updates were made, and their values."""
        state, values = self.start(1.0), []
        first = self._numbers(state, "if")
        for _ in range(3):
            state = self.window(state, 1.0, _GRADIENT, ())[1]
            values.append(self._numbers(state, "if"))
        with np.errstate(invalid="ignore"):
            growth, later = values[1] - values[0], values[2] - values[1]
        regular = (growth == later) & (growth > 0) & (np.nan_to_num(growth) % 1 == 0)
        found = {c: n for n, c in enumerate(self._scalars) if regular[n]}
        for c, n in found.items():
            self._counts[c] = lambda steps, n=n: first[n] + growth[n] * steps
        state = self.after(self.start(1.0), _FAR)
        later = self.window(state, 1.0, _GRADIENT, ())[1]
        for c, n in found.items():
            if np.all(later[c][0] == state[c][0] + growth[n]):
                continue
            depends_on = {*self._inputs, *self._states} & {*self._program.needed([self._next[c]])}
            if self._inputs[2] in depends_on:
                del self._counts[c]  # A patience counts until the loss falls.
            elif depends_on <= {self._states[c]}:
                self._counts[c] = self._sequence(c, first[n], float(np.max(later[c][0])))

    def _sequence(self, place: int, first: float, largest: float) -> Callable[[Array], Array]:
        """What a count goes through that comes round again, or ends."""
        seen = {first: 0}
        value = np.float64(first)
        while len(seen) < _MOST_CALLS:
            for _ in range(self.calls):
                ((value, _),) = self._program.run({self._states[place]: value}, [self._next[place]])
            if float(value) in seen:
                values, again = np.asarray([*seen]), seen[float(value)]
                length = len(values) - again
                return lambda n: values[np.where(n < again, n, again + (n - again) % length)]
            seen[float(value)] = len(seen)
        return lambda n: np.minimum(first + n * self.calls, largest)

    def _numbers(self, state: State, kinds: str) -> Array:
        """The scalars in the state, 0 in place of those that are unknown or of other kinds."""
        values = [state[c] for c in self._scalars]
        known = [x.dtype.kind in kinds and not np.any(unknown) for x, unknown in values]
        pairs = zip(values, known, strict=True)
        return np.asarray([float(np.ravel(x)[0]) if yes else 0.0 for (x, _), yes in pairs])
