"""The picture of the page on watching a run: scale-invariant weights on their way to equilibrium.

``python -m examples.guide.monitor`` draws ``monitor.png`` beside this file.
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from examples.runs.pictures import save_small
from wdlab.instruments import monitor, readings

PICTURE = Path(__file__).with_suffix(".png")
STEPS = 2000
SHRINKS = (1e-2, 3e-3, 3e-4)


def watched(shrink: float) -> dict[str, np.ndarray]:
    """The readings of each step of SGD on random gradients of a scale-invariant loss."""
    tx = optax.chain(
        optax.sgd(0.3),
        wdlab.decay_weights(shrink, rules=wdlab.rules.ALL),
        monitor(shrink, every=1, rules=wdlab.rules.ALL),
    )

    def step(carry, key):
        weights, state = carry
        noise = jax.random.normal(key, weights.shape)
        across = noise - weights * (noise @ weights) / (weights @ weights)
        updates, state = tx.update(across / jnp.linalg.norm(weights), state, weights)
        return (weights + updates, state), readings(state)

    weights = jnp.ones(256)
    keys = jax.random.split(jax.random.key(0), STEPS)
    found = jax.jit(lambda c: jax.lax.scan(step, c, keys)[1])((weights, tx.init(weights)))
    return jax.tree.map(np.asarray, found)


def draw() -> Figure:
    """Balance and rotation over the steps, for each strength."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for shrink, style in zip(SHRINKS, ("-", "--", "-."), strict=True):
        found, label = watched(shrink), f"shrink {shrink:g}"
        (line,) = left.plot(found["decayed/balance"], style, linewidth=1, label=label)
        right.plot(found["decayed/rotation"], style, linewidth=1, color=line.get_color())
        right.axhline((2 * shrink) ** 0.5, color=line.get_color(), linewidth=0.7)
    left.axhline(1, color="gray", linewidth=0.7)
    left.set(yscale="log", xlabel="step", ylabel="balance, at equilibrium 1")
    left.legend(fontsize=9)
    right.set(yscale="log", xlabel="step", ylabel="rotation in a step (radians)")
    right.axhline(math.nan, color="gray", linewidth=0.7, label="predicted, sqrt(2 shrink)")
    right.legend(fontsize=9)
    for axes, ticks in ((left, (0.2, 0.5, 1)), (right, (0.02, 0.05, 0.1))):
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
    return figure


if __name__ == "__main__":
    save_small(draw(), PICTURE, dpi=90)
    print(f"wrote {PICTURE}")
