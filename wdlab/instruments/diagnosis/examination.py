"""What is measured of a run before it is judged: each leaf's decay and response, step by step."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from wdlab._core.dtypes import is_16_bit
from wdlab._core.names import first_line
from wdlab.instruments.diagnosis.program_facts import decay_terms, injected, state_changes
from wdlab.instruments.inputs import float32_shapes
from wdlab.instruments.plans import (
    GRID,
    TracedOptimizer,
    gradients_of,
    measure,
    measured_alone,
    trace_update,
)
from wdlab.rules import leaves_with_paths, looks_like_matrix, looks_like_norm_or_bias

Array = Any
PyTree = Any
# Roles whose leaves most recipes decay, and those that they exempt.
DECAYED_ROLES = ("matrix", "kernel", "head")
EXEMPT_ROLES = ("bias", "scale")
_TINY = 1e-6  # Gradients that no usual clipping by a norm reaches.


@dataclass(frozen=True)
class LeafFacts:
    """What happens to one leaf over the run."""

    path: str
    shape: tuple[int, ...]
    dtype: Any
    role: str  # "matrix", "bias", ...; "unknown" where nothing tells.
    coupling: str  # As in a decay plan.
    steps: Array  # At which the next two are known.
    shrink: Array  # Share of the weight that a step takes without a gradient; NaN where unknown.
    response: Array  # What a gradient of 1 adds.
    kinds: tuple[int, ...]
    terms: int  # Places in the program where the weight is multiplied by a number.
    follows_copy: bool  # Whether the update uses a copy of the first weights.
    moves: bool  # Whether the update is computed from gradients at all.

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def decays(self) -> bool:
        """Whether anything is taken of the weight in the run."""
        return self.coupling == "gradient" or self.peak > 0

    @property
    def peak(self) -> float:
        """The largest share that a step takes; 0 where all is unknown."""
        return float(np.max(np.nan_to_num(np.abs(self.shrink)), initial=0.0))

    @property
    def timescale(self) -> float:
        """Steps that the weight looks back, 1 / peak."""
        return 1 / self.peak if self.peak else math.inf

    @property
    def total_shrink(self) -> float:
        """The share of an undriven weight that the run takes, in [0, 1]."""
        shares = np.clip(np.nan_to_num(self.shrink), 0.0, 1 - 1e-12)
        lengths = np.diff(self.steps, append=self.steps[-1] + 1)
        return float(-np.expm1(np.sum(np.log1p(-shares) * lengths)))

    def shrink_at(self, step: int) -> float:
        """The share that this step takes, or else the last known step before it."""
        return float(self.shrink[np.searchsorted(self.steps, step, side="right") - 1])

    @property
    def exempt_role(self) -> bool:
        """Whether it is a bias or the scale of a norm."""
        return self.role.split(",")[0].split(" ")[0] in EXEMPT_ROLES

    @property
    def decayed_role(self) -> bool:
        """Whether it is a weight of a product."""
        return self.role.split(",")[0].split(" ")[0] in DECAYED_ROLES

    @property
    def in_16_bits(self) -> bool:
        """Whether the weight is float16 or bfloat16."""
        return is_16_bit(jax.ShapeDtypeStruct((), self.dtype))


@dataclass(frozen=True)
class Examination:
    """A run as far as its optimizer and its parameters tell."""

    tx: Any
    params: PyTree  # Shapes, floats in 32 bits.
    leaves: tuple[LeafFacts, ...]
    steps: int
    tokens_per_step: int | None
    learning_rate: Any
    intended: dict[str, float] | None  # Path -> scale, where the user says what should decay.
    roles_known: bool  # Whether roles come from the loss or the user, not from names.
    traced: TracedOptimizer | None  # None where the update cannot be traced.
    reason: str  # Why not.
    parts: tuple[str, ...]  # Class names in the optimizer's state.
    injected: dict[str, Any]  # Shapes of inject_hyperparams' numbers, by name.
    state_changes: tuple[str, ...] = ()
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)  # Of what is asked often.

    def update(self, leaf: LeafFacts, weight: float, gradient: float, step: int) -> float:
        """One update of a leaf, all weights and gradients being these; NaN where unknown."""
        if self.traced is None:
            return math.nan
        key = (leaf.kinds, weight, gradient, step)
        if key not in self.cache:
            state = self.traced.after(self.traced.start(weight), np.asarray([step]))
            found, _ = self.traced.window(state, weight, gradient, leaf.kinds[:1])
            self.cache[key] = float(np.ravel(found[0])[0])
        return self.cache[key]

    def busiest_step(self, leaf: LeafFacts) -> int:
        """The step of the run at which the leaf responds most, or else decays most."""
        for values in (leaf.response, leaf.shrink):
            known = np.nan_to_num(np.abs(values))
            if known.any():
                return int(leaf.steps[int(np.argmax(known))])
        return 0

    def is_normalized(self, leaf: LeafFacts) -> bool:
        """Whether the step has one size whatever the gradient's: Adam, Lion, Adafactor."""
        step = self.busiest_step(leaf)
        still = self.update(leaf, 1.0, 0.0, step)
        small, large = (self.update(leaf, 1.0, g, step) - still for g in (_TINY, 10 * _TINY))
        return bool(small) and abs(large / small) < 2

    def step_size(self, leaf: LeafFacts) -> float:
        """The size of a normalized step at the busiest step, decay left out."""
        step = self.busiest_step(leaf)
        return abs(self.update(leaf, 1.0, 1.0, step) - self.update(leaf, 1.0, 0.0, step))


def examine(
    tx: Any,
    params: PyTree,
    *,
    steps: int,
    roles: dict[str, str] | None = None,
    intended: dict[str, float] | None = None,
    tokens_per_step: int | None = None,
    learning_rate: Any = None,
) -> Examination:
    """Traces the optimizer on the parameters' shapes and measures every leaf over the run.

    >>> import optax
    >>> tx = optax.sgd(0.5)
    >>> found = examine(tx, {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}, steps=10)
    >>> found.leaves[0].role, found.leaves[0].response.tolist()[:2], found.leaves[0].decays
    ('matrix', [-0.5, -0.5], False)
    """
    pairs = leaves_with_paths(params)
    kept = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)
    wide = float32_shapes(kept)
    state = jax.eval_shape(tx.init, kept)
    grid = np.unique([*GRID[steps > GRID], steps - 1])
    known = {
        "tx": tx,
        "params": wide,
        "steps": steps,
        "tokens_per_step": tokens_per_step,
        "learning_rate": learning_rate,
        "intended": intended,
        "roles_known": roles is not None,
        "parts": tuple(_names(jax.tree.structure(state))),
        "injected": injected(state),
    }
    try:
        traced = TracedOptimizer(tx, wide)
    except Exception as error:  # noqa: BLE001  Whatever an update raises that is called like this.
        return Examination(leaves=(), traced=None, reason=first_line(error), **known)
    update = trace_update(tx, gradients_of(wide), jax.eval_shape(tx.init, wide), wide)
    terms = decay_terms(update, len(pairs))
    measured = measured_alone(tx, wide, measure(traced, grid), grid)
    leaves = tuple(
        _facts(traced, grid, path, leaf, _role(path, leaf, roles), found, count)
        for (path, leaf), found, count in zip(pairs, measured, terms, strict=True)
        if np.size(leaf)
    )
    changes = state_changes(tx, kept)
    return Examination(leaves=leaves, traced=traced, reason="", state_changes=changes, **known)


def _facts(
    traced: TracedOptimizer, grid: Array, path: str, leaf: Any, role: str, found: Any, terms: int
) -> LeafFacts:
    return LeafFacts(
        path=path,
        shape=tuple(np.shape(leaf)),
        dtype=jnp.result_type(leaf),
        role=role,
        coupling=found.coupling,
        steps=grid,
        shrink=found.decay,
        response=found.response,
        kinds=found.kinds,
        terms=terms,
        follows_copy=traced.copies(found.kinds[0])[0],
        moves=any(map(traced.depends_on_gradients, found.kinds)),
    )


def by_size(leaves: Sequence[LeafFacts]) -> list[LeafFacts]:
    """The leaves, the largest first.

    >>> by_size([])
    []
    """
    return sorted(leaves, key=lambda leaf: -leaf.size)


def _role(path: str, leaf: Any, roles: dict[str, str] | None) -> str:
    if roles is not None:
        return roles.get(path, "unknown")
    return _role_by_name(path, np.ndim(leaf))


@functools.cache
def _role_by_name(path: str, ndim: int) -> str:
    last = path.lower().rsplit("/", 1)[-1]
    if "embed" in path.lower() or "wte" in path.lower():
        return "embedding"
    if looks_like_norm_or_bias(path, ndim):
        return "scale" if last in ("scale", "gamma", "weight", "g") else "bias"
    return "matrix" if looks_like_matrix(path, ndim) else "unknown"


def _names(structure: Any) -> list[str]:
    kind, _ = structure.node_data() or (None, None)
    ours = getattr(kind, "__module__", "").startswith("wdlab.")
    own = [f"wdlab.{kind.__name__}" if ours else kind.__name__] if kind is not None else []
    return own + [name for child in structure.children() for name in _names(child)]
