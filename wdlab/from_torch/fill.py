"""Puts torch's buffers into a state of Optax, field by field, and leaves nothing over.

Arrays are copied, whatever ``jnp.asarray`` would do: torch steps in place.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab._core.names import first_few
from wdlab.from_torch.names import Source, as_numpy, laid_out
from wdlab.from_torch.state import TorchState
from wdlab.preconditioners import OrthogonalizeState
from wdlab.rules import leaves_with_paths
from wdlab.training import RoundingState

PyTree = Any
# Field of a state here -> buffer of a parameter there.
BUFFERS = {
    "mu": "exp_avg",
    "nu": "exp_avg_sq",
    "nu_max": "max_exp_avg_sq",
    "trace": "momentum_buffer",
}
_FACTORED = {"v_row", "v_col", "v"}
# Fields that torch has no part in: hyper-parameters, and gradients of an unfinished accumulation.
_KEPT = {"hyperparams", "acc_grads"}


class Filler:
    """Walks a state of Optax and puts torch's buffers into the fields it knows.

    Args:
      saved: Torch's buffers.
      sources: Path -> torch parameter.
      shapes: Path -> shape.
      weights: Path -> torch's weight in this layout, for what 16-bit weights have beside them.
    """

    def __init__(
        self,
        saved: TorchState,
        sources: dict[str, Source],
        shapes: dict[str, tuple[int, ...]],
        weights: Mapping[str, np.ndarray] = MappingProxyType({}),
    ):
        self.saved, self.sources, self.shapes, self.weights = saved, sources, shapes, weights
        self.used: set[tuple[str, str]] = set()

    def fill(self, node: PyTree, where: str) -> PyTree:
        """Returns a state with its known fields filled, and the others as ``init`` made them."""
        fields = getattr(node, "_fields", None)
        if fields is None:
            if isinstance(node, tuple | list):
                return type(node)(self.fill(x, f"{where}[{i}]") for i, x in enumerate(node))
            if isinstance(node, dict):
                return {key: self.fill(x, f"{where}[{key!r}]") for key, x in node.items()}
            return self._kept(node, where)
        if isinstance(node, optax.ScaleByAmsgradState):
            raise ValueError(
                "optax.amsgrad keeps the maximum of the corrected moment, torch that of the raw "
                "one. Write wdlab.preconditioners.scale_by_adam(amsgrad='raw')."
            )
        if isinstance(node, RoundingState):
            inner = self.fill(node.inner, f"{where}.inner")
            return node._replace(memory=self._memory(node.memory), inner=inner)
        new = {field: getattr(node, field) for field in fields}
        if set(fields) >= _FACTORED:
            new |= self._factored(node)
        for field in fields:
            if field == "count":
                new[field] = jnp.asarray(self.saved.step, jnp.result_type(new[field]))
            elif field in BUFFERS:
                is_muon = isinstance(node, OrthogonalizeState)
                key = BUFFERS["trace"] if is_muon else BUFFERS[field]
                new[field] = self._moments(new[field], key)
            elif field not in _KEPT and not (set(fields) >= _FACTORED and field in _FACTORED):
                new[field] = self.fill(new[field], f"{where}.{field}")
        return type(node)(**new)

    def _memory(self, memory: PyTree) -> PyTree:
        """Float32 masters, or what Kahan's sum has kept: where torch's weights are given."""

        def exact(path: str, kept: Any) -> Any:
            if path not in self.weights:
                return kept
            weight = self.weights[path].astype(np.float32)
            rest = weight - weight.astype(kept.dtype).astype(np.float32)
            return jnp.array(weight if kept.dtype == np.float32 else rest, kept.dtype)

        filled = [exact(path, kept) for path, kept in leaves_with_paths(memory)]
        return jax.tree.unflatten(jax.tree.structure(memory), filled)

    def _kept(self, node: PyTree, where: str) -> PyTree:
        """Leaves scalars and what has no arrays as ``init`` made it."""
        for path, leaf in leaves_with_paths(node):
            if np.ndim(leaf) > 0:
                raise ValueError(
                    f"the state{where} holds an array for {path or 'a parameter'!r} that torch's "
                    f"state has no counterpart of. Torch keeps {self._kinds()}; give tx without "
                    "that part, or fill it yourself."
                )
        return node

    def _moments(self, tree: PyTree, key: str) -> PyTree:
        filled = [
            jnp.array(self._take(path, key, leaf.shape), leaf.dtype)
            for path, leaf in leaves_with_paths(tree)
        ]
        return jax.tree.unflatten(jax.tree.structure(tree), filled)

    def _take(self, path: str, key: str, shape: tuple[int, ...] | None = None) -> Any:
        """The buffer of one parameter, noted as used; laid out where its shape is given."""
        if path not in self.sources:
            raise ValueError(
                f"tx needs {key!r} of {path!r}, and no parameter of torch's optimizer goes there. "
                f"It had {first_few(self.saved.names)}: correct names, or freeze "
                f"{path!r} here too, Group({path!r}, frozen=True)."
            )
        name = self.sources[path].name
        buffers = self.saved.buffers.get(name, {})
        if key not in buffers:
            found = f"only {', '.join(sorted(buffers))}" if buffers else "no state at all"
            raise ValueError(
                f"tx needs {key!r} of {name!r} ({path!r}), and torch has {found} for it. Is tx "
                "the optimizer that torch ran? A parameter that never had a gradient has no state: "
                f"freeze it here, Group({path!r}, frozen=True)."
            )
        self.used.add((name, key))
        if shape is None:
            return buffers[key]
        return laid_out(self.sources[path], buffers[key], shape)

    def _factored(self, node: PyTree) -> dict[str, PyTree]:
        rows, cols, full = (leaves_with_paths(getattr(node, f)) for f in ("v_row", "v_col", "v"))
        new: dict[str, list[Any]] = {"v_row": [], "v_col": [], "v": []}
        for (path, v_row), (_, v_col), (_, v) in zip(rows, cols, full, strict=True):
            if v.shape == self.shapes[path]:
                v = self._take(path, "variance", v.shape)
            else:
                v_row, v_col = self._row_and_column(path, v_row, v_col)
            for field, value in (("v_row", v_row), ("v_col", v_col), ("v", v)):
                new[field].append(jnp.array(value, rows[0][1].dtype))
        return {
            field: jax.tree.unflatten(jax.tree.structure(getattr(node, field)), leaves)
            for field, leaves in new.items()
        }

    def _row_and_column(self, path: str, v_row: Any, v_col: Any) -> tuple[Any, Any]:
        """Finds which of torch's two averages is which, after the axes have moved."""
        self._take(path, "row_var")  # Says what is missing before the axes are looked at.
        leaf, shape = self.sources[path].leaf, self.shapes[path]
        ndim = len(shape)
        axes = leaf.axes or tuple(range(ndim))
        buffer_of = {ndim - 1: "row_var", ndim - 2: "col_var"}  # By the axis averaged over.

        def without(axis: int) -> tuple[int, ...]:
            return shape[:axis] + shape[axis + 1 :]

        for col, row in [(c, r) for c in range(ndim) for r in range(ndim) if c != r]:
            fits = without(row) == v_row.shape and without(col) == v_col.shape
            if fits and {axes[row], axes[col]} == set(buffer_of) and not leaf.reshape:
                means = [as_numpy(self._take(path, buffer_of[axes[a]])) for a in (row, col)]
                return means[0].transpose(axes).squeeze(row), means[1].transpose(axes).squeeze(col)
        raise ValueError(
            f"{path!r}, shape {shape}: tx averages its squares to {v_row.shape} and {v_col.shape}, "
            "and torch's Adafactor over the last two axes of torch's layout. Write axes='last', "
            f"min_dim_size_to_factor=1, and keep {path!r} in torch's layout, Leaf({path!r})."
        )

    def _kinds(self) -> str:
        kinds = {key for buffers in self.saved.buffers.values() for key in buffers}
        return ", ".join(sorted(kinds)) or "no buffers"

    def check_nothing_left(self) -> None:
        """Raises if a buffer of a named parameter was not used."""
        for path, source in self.sources.items():
            for key in sorted(self.saved.buffers.get(source.name, {})):
                if (source.name, key) not in self.used:
                    raise ValueError(
                        f"torch keeps {key!r} of {source.name!r} ({path!r}), and no part of tx "
                        "takes it. Give the optimizer that torch ran (AMSGrad: wdlab."
                        "preconditioners.scale_by_adam(amsgrad='raw')), or leave a parameter that "
                        f"is frozen here out, names[{source.name!r}] = None."
                    )
