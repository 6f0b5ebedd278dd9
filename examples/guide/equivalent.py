"""The picture of the page on equal optimizers: how far two of them are apart, step by step.

``python -m examples.guide.equivalent`` draws ``equivalent.png`` beside this file.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from examples.runs.pictures import save_small

PICTURE = Path(__file__).with_suffix(".png")
STEPS = 60
OTHERS = {
    "decay 1 % larger": optax.adamw(1e-2, weight_decay=0.101),
    "b2 0.998": optax.adamw(1e-2, b2=0.998, weight_decay=0.1),
    "eps 1e-7": optax.adamw(1e-2, eps=1e-7, weight_decay=0.1),
    "wdlab's": wdlab.optimizers.adamw(1e-2, weight_decay=0.1, coupling="lr", rules=wdlab.rules.ALL),
}


def gaps(tx: optax.GradientTransformation) -> np.ndarray:
    """The relative difference of its updates from ``optax.adamw``'s, shape (STEPS,)."""
    base = optax.adamw(1e-2, weight_decay=0.1)

    def step(carry, key):
        weights, states = carry
        gradient = 1e-2 * jax.random.normal(key, weights.shape)
        pairs = [t.update(gradient, s, weights) for t, s in zip((base, tx), states, strict=True)]
        (a, _), (b, _) = pairs
        gap = optax.tree.norm(optax.tree.sub(a, b)) / optax.tree.norm(a)
        return (optax.apply_updates(weights, a), tuple(state for _, state in pairs)), gap

    weights = jax.random.normal(jax.random.key(1), (64,))
    keys = jax.random.split(jax.random.key(0), STEPS)
    begun = weights, (base.init(weights), tx.init(weights))
    return np.asarray(jax.jit(lambda c: jax.lax.scan(step, c, keys)[1])(begun))


def draw() -> Figure:
    """The differences over the steps, with the answers of ``wdlab.equivalent``."""
    figure = Figure(figsize=(8, 4.0), layout="constrained")
    axes = figure.subplots()
    shape = {"w": jax.ShapeDtypeStruct((64,), "float32")}
    base = optax.adamw(1e-2, weight_decay=0.1)
    for (name, tx), style in zip(OTHERS.items(), ("-", "--", "-.", ":"), strict=True):
        answer = wdlab.equivalent(base, tx, shape)
        first = answer.difference
        told = answer.how if first is None else f"step {first.step}, {first.term}"
        axes.plot(np.maximum(gaps(tx), 1e-9), style, linewidth=2, label=f"{name}: {told}")
    axes.set(yscale="log", ylim=(1e-9, 1), xlabel="step", ylabel="relative difference, float32")
    figure.legend(fontsize=8, loc="outside lower center")  # Beside the curves, not on them.
    return figure


if __name__ == "__main__":
    save_small(draw(), PICTURE, dpi=100)
    print(f"wrote {PICTURE}")
