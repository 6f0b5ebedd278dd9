r"""Whether ``tx`` is set as the torch run was: measured on parameters of one entry each.

An Optax transformation does not name its hyper-parameters, but its steps show them. From a state
that is chosen for it, one update gives each: with g = 0 and m = v = 1 the new moments are
:math:`\beta_1, \beta_2`; where v is large the step is :math:`-lr\, \hat m / \sqrt{\hat v}`; where
:math:`\sqrt{\hat v}` is near :math:`\epsilon`, it has epsilon; where m = 0, what moves
:math:`\theta = 1` is decay.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from wdlab._core.names import first_few
from wdlab.from_torch.fill import BUFFERS, Filler
from wdlab.from_torch.names import Leaf, Source
from wdlab.from_torch.state import TorchState
from wdlab.rules import leaves_with_paths

PyTree = Any
_MOST_MICRO_STEPS = 256
_SMALL = 1e-6  # A gradient that no clipping reaches.


class SettingsWarning(UserWarning):
    """The optimizer's settings here are not those that torch's had."""


def setting_differences(
    saved: TorchState, sources: dict[str, Source], tx: optax.GradientTransformation, params: PyTree
) -> list[str]:
    """Says in what torch's param_groups and ``tx`` differ; empty where ``tx`` does not show it.

    Args:
      saved: With the settings of each parameter's group.
      sources: Path -> torch parameter.
      tx: The optimizer to go on with: Adam or SGD, in any chain; Muon's settings are not looked at.
      params: Its parameters; only their ranks matter.

    >>> saved = TorchState(["w"], {"w": {"momentum_buffer": 0.0}}, 7, {"w": {"lr": 0.1}})
    >>> sources = {"w": Source("w", Leaf("w"))}
    >>> setting_differences(saved, sources, optax.sgd(0.2, 0.9), {"w": jnp.ones((2, 2))})
    ["lr is 0.1 in torch's optimizer and 0.2 in tx (w)"]
    """
    kinds = {key for buffers in saved.buffers.values() for key in buffers} - {"max_exp_avg_sq"}
    muon = any("ns_steps" in settings for settings in saved.settings.values())
    if muon or kinds not in ({"exp_avg", "exp_avg_sq"}, {"momentum_buffer"}, set()):
        return []
    try:
        probe = _Prober(sources, tx, params)
        settings = [saved.settings[source.name] for source in sources.values()]
        measure = _adam if "exp_avg" in kinds else _sgd
        found = measure(probe, saved.step, settings, *kinds & {"momentum_buffer"})
    except (TypeError, ValueError):  # It cannot be run on entries of one number.
        return []
    lines: dict[tuple[str, str, str], list[str]] = {}
    for i, path in enumerate(sources):
        here = {name: float(values[i]) for name, values in found.items()}
        for difference in _compare(settings[i], here):
            lines.setdefault(difference, []).append(path)
    return [
        f"{name} is {theirs} in torch's optimizer and {ours} in tx ({first_few(paths)})"
        for (name, theirs, ours), paths in lines.items()
    ]


class _Probe(NamedTuple):
    """What one update did, one number per parameter."""

    step: np.ndarray
    buffers: dict[str, np.ndarray]  # By torch's name.


class _Prober:
    """Makes one update of ``tx`` on parameters of one entry, from a state that is chosen."""

    def __init__(
        self, sources: dict[str, Source], tx: optax.GradientTransformation, params: PyTree
    ):
        self.tx, self.params = tx, params
        self.sources = {path: Source(s.name, Leaf(path)) for path, s in sources.items()}

    def __call__(
        self, count: int, *, theta: float = 0.0, gradient: float = 0.0, **buffers: Any
    ) -> _Probe:
        weights, grads = (self._entries(value) for value in (theta, gradient))
        shapes = {path: leaf.shape for path, leaf in leaves_with_paths(weights)}
        held = {
            source.name: {
                key: np.full(shapes[path], np.broadcast_to(value, len(self.sources))[i])
                for key, value in buffers.items()
            }
            for i, (path, source) in enumerate(self.sources.items())
        }
        saved = TorchState(list(held), held, count, {})
        state = Filler(saved, self.sources, shapes).fill(self.tx.init(weights), "")
        for _ in range(_MOST_MICRO_STEPS):
            updates, state = self.tx.update(grads, state, weights)
            if all(np.asarray(node.mini_step) == 0 for node in _accumulations(state)):
                break
        fields = {name: field for field, name in BUFFERS.items()}
        moved = {key: self._numbers(_field(state, fields[key])) for key in buffers}
        return _Probe(self._numbers(dict(leaves_with_paths(updates))), moved)

    def _entries(self, value: float) -> PyTree:
        return jax.tree.map(lambda p: jnp.full((1,) * np.ndim(p), value, jnp.float32), self.params)

    def _numbers(self, leaves: dict[str, Any]) -> np.ndarray:
        missing = np.full(1, np.nan)  # Frozen here.
        return np.array([np.ravel(leaves.get(path, missing))[0] for path in self.sources], float)


def _accumulations(state: PyTree) -> list[optax.MultiStepsState]:
    nodes = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, optax.MultiStepsState))
    return [node for node in nodes if isinstance(node, optax.MultiStepsState)]


def _field(state: PyTree, field: str) -> dict[str, Any]:
    """The leaves of a field by path, of all parts of a state that have it."""
    if field in getattr(state, "_fields", ()):
        return dict(leaves_with_paths(getattr(state, field)))
    parts = state.values() if isinstance(state, dict) else state
    found: dict[str, Any] = {}
    for part in parts if isinstance(state, tuple | list | dict) else ():
        found |= _field(part, field)
    return found


def _adam(probe: _Prober, t: int, settings: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    def moments(m: float, v: Any) -> dict[str, Any]:
        return {"exp_avg": m, "exp_avg_sq": v, "max_exp_avg_sq": v}

    def corrected(decay: np.ndarray, count: int) -> np.ndarray:
        return decay / (1 - decay ** (count + 1))

    def rate(count: int) -> np.ndarray:
        step = probe(count, **moments(1.0, 1e8)).step
        return -step * np.sqrt(1e8 * corrected(b2, count)) / corrected(b1, count)

    start = probe(t, **moments(1.0, 1.0)).buffers
    b1, b2 = start["exp_avg"], start["exp_avg_sq"]
    lr, eps = rate(t), np.array([float(group.get("eps", np.nan)) for group in settings])
    near = probe(t, **moments(1.0, eps**2 / corrected(b2, t))).step
    pull = probe(t, theta=1.0, **moments(0.0, 1.0))
    l2 = pull.buffers["exp_avg"] / (1 - b1)
    return {
        "lr": lr,
        "lr before": rate(max(t - 1, 0)),
        "beta1": b1,
        "beta2": b2,
        "eps": lr * corrected(b1, t) / -near - eps,
        "l2": l2,
        "decoupled": np.where(l2 == 0, -pull.step / lr, 0.0),
    }


def _sgd(
    probe: _Prober, t: int, settings: list[dict[str, Any]], *buffer: str
) -> dict[str, np.ndarray]:
    del settings

    def trace(value: float) -> dict[str, float]:
        return dict.fromkeys(buffer, value)

    def push(count: int) -> np.ndarray:
        return -probe(count, gradient=_SMALL, **trace(0.0)).step / _SMALL

    roll, pull = probe(t, **trace(1.0)), probe(t, theta=1.0, **trace(0.0))
    if not buffer:  # Decoupled decay and an L2 gradient are the same.
        lr, shrink = push(t), -pull.step
        return {"lr": lr, "lr before": push(t - 1), "l2": shrink / lr, "decoupled": shrink / lr}
    momentum, l2 = roll.buffers[buffer[0]], pull.buffers[buffer[0]]
    # A momentum of 1 moves by lr mu, under Nesterov by lr mu^2; a gradient by lr and lr (1 + mu).
    nesterov = np.abs(-roll.step / push(t) - momentum) > 0.1 * momentum
    ahead = np.where(nesterov, 1 + momentum, 1.0)
    lr = push(t) / ahead
    return {
        "lr": lr,
        "lr before": push(t - 1) / ahead,
        "momentum": momentum,
        "nesterov": nesterov.astype(float),
        "l2": l2,
        "decoupled": np.where(l2 == 0, -pull.step / lr, 0.0),
    }


def _compare(there: dict[str, Any], here: dict[str, float]) -> list[tuple[str, str, str]]:
    """Name, torch's value and ours of each setting of one parameter that differs."""
    lines = []
    for name, wanted, found in _pairs(there, here):
        known = [x for x in found if np.isfinite(x)]
        # Of a decay rate near 1, what it lacks to 1 counts.
        scale = 1 - wanted if name.startswith("beta") else wanted
        if known and all(abs(x - wanted) > 1e-2 * abs(scale) + 1e-12 for x in known):
            lines.append((name, f"{wanted:.5g}", f"{known[0]:.5g}"))
    decay, kind = there.get("weight_decay"), there.get("decoupled_weight_decay")
    kind = False if "momentum" in there else kind  # SGD's is a gradient.
    kinds = {True: ["decoupled"], False: ["l2"], None: ["decoupled", "l2"]}[kind]
    found = {name: here[name] for name in ("decoupled", "l2") if np.isfinite(here[name])}
    if decay is None or len(found) < 2:
        return lines
    if not any(abs(found[name] - decay) <= 1e-2 * decay + 1e-9 for name in kinds):
        name = max(found, key=lambda key: found[key])
        theirs = f" ({kinds[0]})" if len(kinds) == 1 else ""
        ours = f"{found[name]:.4g} ({name})" if found[name] > 1e-9 else "0"
        lines.append(("weight_decay", f"{decay:.4g}{theirs}", ours))
    return lines


def _pairs(there: dict[str, Any], here: dict[str, float]) -> list[tuple[str, float, list[float]]]:
    """Name of a setting, torch's value, and the values here that would do."""
    wanted = dict(there)
    if there.get("betas") is not None:
        wanted["beta1"], wanted["beta2"] = there["betas"]
    # Torch's scheduler has stepped when the state is saved, or has not.
    found = {"lr": [here["lr"], here["lr before"]]}
    names = ("beta1", "beta2", "eps", "momentum", "nesterov")
    found |= {name: [here[name]] for name in names if name in here}
    return [(n, float(wanted[n]), x) for n, x in found.items() if wanted.get(n) is not None]
