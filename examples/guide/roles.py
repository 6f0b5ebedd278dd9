"""The picture of the page on roles: what the parameters of four models are.

``python -m examples.guide.roles`` draws ``roles.png`` beside this file, from abstract values.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from examples.gpt import model as gpt
from examples.gpt.config import Config as GPTConfig
from examples.gpt.step import losses
from examples.resnet import model as resnet
from examples.resnet.config import Config as ResNetConfig
from examples.runs.pictures import save_small
from wdlab.rules import ROLES, LeafRole, leaf_roles

PICTURE = Path(__file__).with_suffix(".png")


def gpt_roles(**settings) -> tuple[LeafRole, ...]:
    """Of a GPT of the default size, its width and depth those of GPT-2 124M.

    >>> found = gpt_roles(n_layer=2, n_head=2, n_embd=8, block_size=4)
    >>> {leaf.path: str(leaf) for leaf in found}["wte/embedding"]
    'embedding, head'
    """
    config = GPTConfig(**settings)
    graph = gpt.make_graph(config, 50257)
    tokens = jax.ShapeDtypeStruct((2, config.block_size + 1), jnp.int32)
    params = gpt.shapes(config, 50257)
    return leaf_roles(lambda p, t: losses(graph, p, t), params, tokens)


def image_roles(name: str, **settings) -> tuple[LeafRole, ...]:
    """Of an image model in training.

    >>> {leaf.role for leaf in image_roles("linear")}
    {'head'}
    """
    graph, params, stats = resnet.shapes(ResNetConfig(model=name, **settings), 10, 32)

    def loss(params, stats, x, y):
        logits = resnet.apply_train(graph, params, stats, x)[0]
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    x, y = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32), jax.ShapeDtypeStruct((8,), jnp.int32)
    return leaf_roles(loss, params, stats, x, y)


MODELS: dict[str, Callable[[], tuple[LeafRole, ...]]] = {
    "GPT-2 124M, biases": lambda: gpt_roles(bias=True),
    "the same, layers stacked": lambda: gpt_roles(bias=True, scan_layers=True),
    "LLaMA blocks, untied": lambda: gpt_roles(block="llama", weight_tying=False),
    "ResNet-18": lambda: image_roles("resnet18_plain"),
}


def draw() -> Figure:
    """Leaves and parameters of each model by role; hatched: scale-invariant."""
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    seen: set[str] = set()
    for row, make in enumerate(MODELS.values()):
        found = make()
        for axes, weigh in ((left, lambda leaf: 1), (right, lambda leaf: math.prod(leaf.shape))):
            counts: Counter = Counter()
            for leaf in found:
                counts[leaf.role, bool(leaf.scale_invariant)] += weigh(leaf)
            start, total = 0.0, sum(counts.values())
            for (role, invariant), count in sorted(counts.items()):
                axes.barh(
                    row,
                    count / total,
                    left=start,
                    color=f"C{ROLES.index(role)}",
                    edgecolor="white",
                    hatch="//" if invariant else None,
                )
                seen.add(role)
                start += count / total
    left.set(yticks=range(len(MODELS)), yticklabels=MODELS, xlabel="share of the leaves")
    left.invert_yaxis()
    right.set(xlabel="share of the parameters")
    names = [Patch(color=f"C{n}", label=role) for n, role in enumerate(ROLES) if role in seen]
    names += [Patch(facecolor="gray", edgecolor="white", hatch="//", label="scale-invariant")]
    figure.legend(handles=names, loc="outside upper center", ncols=8, fontsize=9)
    return figure


if __name__ == "__main__":
    save_small(draw(), PICTURE, dpi=100)
    print(f"wrote {PICTURE}")
