"""Adam in PyTorch against TensorFlow: what does the place of epsilon change?

Question: PyTorch divides by sqrt(v / c2) + eps, TensorFlow and Keras by sqrt(v) + eps after moving
the corrections into the learning rate, which acts as an epsilon of eps / sqrt(c2), 31.6 times
larger in the first step at b2 = 0.999. Huang et al. (2023, "The N Implementation Details of RLHF
with PPO") report larger, more aggressive first updates from PyTorch when fine-tuning with
eps = 1e-5. How far do the updates differ, and when does it matter?

Command: ``python -m examples.studies.adam_epsilon``; a minute on two CPU cores.

``updates``: the ratio of TensorFlow's update to PyTorch's for a constant gradient g, over |g| / eps
and the step. ``fine-tuning``: the digits MLP, trained, then fine-tuned on the first 300 images with
a small learning rate, its loss scaled to the gradients' size of ``scale``; the distance between the
two ways' weights over the way that PyTorch's went, after each step.
"""

import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from wdlab.preconditioners import scale_by_adam

from . import digits
from .rows import Point, Row
from .study import Size, Study, Summary, float64, main

RATIOS = [float(r) for r in np.logspace(-3, 5, 9)]  # |g| / eps
AT = (1, 2, 5, 10, 100, 1_000)  # steps
SEEDS = 5
STEPS = {"tiny": (1_000, 200), "paper": (20_000, 2_000)}  # training, fine-tuning


def points(size: Size) -> Sequence[Point]:
    """Updates at two b2; fine-tuning at two epsilons and gradients' sizes."""
    del size
    tuning = [
        {"what": "fine-tuning", "b2": 0.999, "eps": eps, "scale": scale}
        for eps in (1e-8, 1e-5)
        for scale in (1.0, 1e-3)
    ]
    return [*({"what": "updates", "b2": b2} for b2 in (0.999, 0.95)), *tuning]


def measure(point: Point, size: Size) -> list[Row]:
    """Ratios of single updates, or distances in fine-tuning."""
    if point["what"] == "updates":
        return updates(point["b2"])
    distances = fine_tuning(point["b2"], point["eps"], point["scale"], *STEPS[size])
    return [
        {"seed": seed, "step": step, "distance": float(distances[seed, step - 1])}
        for seed in range(SEEDS)
        for step in AT
        if step <= distances.shape[1]
    ]


def updates(b2: float) -> list[Row]:
    """TensorFlow's update over PyTorch's, in float64."""
    with float64():
        g = jnp.array(RATIOS)  # in units of eps = 1
        both = [scale_by_adam(b2=b2, eps=1.0, epsilon=place) for place in ("hat", "outside")]
        states, rows = [tx.init(g) for tx in both], []
        for step in range(1, max(AT) + 1):
            (hat, states[0]), (outside, states[1]) = (
                tx.update(g, state) for tx, state in zip(both, states, strict=True)
            )
            if step in AT:
                ratios = np.asarray(hat) / np.asarray(outside)
                rows += [
                    {"step": step, "g_over_eps": r, "ratio": float(ratios[i])}
                    for i, r in enumerate(RATIOS)
                ]
    return rows


def fine_tuning(b2: float, eps: float, scale: float, steps: int, tuning: int) -> np.ndarray:
    """Relative distance of the two ways after each step, seeds by steps."""

    def run(key):
        keys = jax.random.split(key)
        start, *_ = digits.train(
            wdlab.optimizers.adam(1e-3), digits.init(key), keys[0], steps=steps
        )

        def way(place):
            small = optax.stateless(lambda g, _: jax.tree.map(lambda x: scale * x, g))
            adam = scale_by_adam(b2=b2, eps=eps, epsilon=place)
            tx = optax.chain(small, adam, optax.scale(-1e-5))
            seen = lambda p, u, g, s: optax.tree.sub(optax.apply_updates(p, u), start)  # noqa: E731
            return digits.train(tx, start, keys[1], steps=tuning, examples=300, observe=seen)[2]

        torch, tensorflow = way("outside"), way("hat")
        norm = jax.vmap(optax.tree.norm)
        return norm(optax.tree.sub(tensorflow, torch)) / norm(torch)

    return digits.over_seeds(run, SEEDS)


def distances_at(rows: list[Row], step: int, eps: float, scale: float) -> np.ndarray:
    """Distances of fine-tuning at a step, over the seeds."""
    wanted = {"what": "fine-tuning", "step": step, "eps": eps, "scale": scale}
    return np.array([r["distance"] for r in rows if wanted.items() <= r.items()], float)


def draw(rows: list[Row]) -> Figure:
    """Ratio of the updates over |g| / eps; distance over the steps of fine-tuning."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for step, marker in zip(AT, "os^vDx", strict=True):
        wanted = {"what": "updates", "b2": 0.999, "step": step}
        ratios = [r["ratio"] for r in rows if wanted.items() <= r.items()]
        left.plot(RATIOS, ratios, marker=marker, label=f"step {step}")
    left.set(xscale="log", xlabel="|g| / eps", ylabel="TensorFlow's update / PyTorch's")
    left.legend()
    for eps, style, marker in ((1e-8, "--", "s"), (1e-5, ":", "x")):
        for scale, color in ((1.0, "C0"), (1e-3, "C1")):
            steps = [step for step in AT if distances_at(rows, step, eps, scale).size]
            values = [distances_at(rows, step, eps, scale).mean() for step in steps]
            label = f"eps {eps:g}, gradients x {scale:g}"
            right.plot(steps, values, style, color=color, marker=marker, label=label)
    right.set(xscale="log", yscale="log", xlabel="step of fine-tuning", ylabel="relative distance")
    right.set_ylim(None, 20)  # Room for the legend.
    right.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The extreme ratio, and the distances after 1 and 100 steps."""
    first = [
        r["ratio"] for r in rows if r["what"] == "updates" and r["b2"] == 0.999 and r["step"] == 1
    ]
    close = distances_at(rows, 1, 1e-8, 1.0), distances_at(rows, 100, 1e-8, 1.0)
    far = distances_at(rows, 1, 1e-5, 1e-3), distances_at(rows, 100, 1e-5, 1e-3)
    fine_tuning = "fine-tuning, eps {}, gradients x {:g}, distance after {} step(s)"
    return Summary(
        question="What does the place of Adam's epsilon change?",
        source="PyTorch's first updates are larger, visibly so at eps 1e-5 (Huang et al. 2023)",
        number=f"first update: TensorFlow's is {min(first):.3f} to {max(first):.3f} of PyTorch's",
        agrees="yes" if far[0].mean() > 0.1 and max(first) <= 1 else "in part",
        measured="TensorFlow's update over PyTorch's; distance over the way that PyTorch's went",
        numbers={"first update, |g| far below eps": min(first), "far above": max(first)}
        | {fine_tuning.format("1e-8", 1, s): v for s, v in zip((1, 100), close, strict=True)}
        | {fine_tuning.format("1e-5", 1e-3, s): v for s, v in zip((1, 100), far, strict=True)},
        seeds=SEEDS,
        remark="Small gradients or a large epsilon are what makes it matter.",
    )


STUDY = Study("adam_epsilon", points, measure, draw, summarize, "no decay")

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
