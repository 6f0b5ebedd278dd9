"""The image models by name, as pure functions of plain dicts of arrays.

Parameters' paths read ``conv_in/kernel``, ``stages/0/1/norm2/scale``, ``head/bias``: the names that
decay rules speak about. BatchNorm's statistics are a second dict; they are not trained.
"""

from collections.abc import Callable

import jax
from flax import nnx

from examples.runs.errors import UserError
from examples.runs.flags import nearest
from examples.runs.layout import Layout
from examples.runs.mesh import gathered

from .config import Config
from .layers import linear
from .resnets import PlainResNet, PreActResNet, WideResNet
from .vgg import VGG16

Params = dict  # nested: module name -> ... -> array
Stats = dict  # likewise: the means and variances of the BatchNorms

DEPTHS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "tiny": (1, 1, 1, 1)}


class Linear(nnx.Module):
    """Logits linear in the pixels."""

    def __init__(self, image_size: int, n_classes: int, rngs: nnx.Rngs):
        self.head = linear(3 * image_size**2, n_classes, rngs, bias=False)

    def __call__(self, x_BxHxWx3: jax.Array, train: bool) -> jax.Array:
        """Logits (B, K)."""
        del train
        return self.head(x_BxHxWx3.reshape(len(x_BxHxWx3), -1))


def _preact(depths: tuple[int, ...], group_norm: bool = False) -> Callable[..., nnx.Module]:
    def build(c: Config, image_size: int, n_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        del image_size
        batch_norm = c.batch_norm and not group_norm
        return PreActResNet(depths, c.width, n_classes, batch_norm, not c.scale_inv, rngs)

    return build


def _plain(depths: tuple[int, ...]) -> Callable[..., nnx.Module]:
    def build(c: Config, image_size: int, n_classes: int, rngs: nnx.Rngs) -> nnx.Module:
        del image_size
        return PlainResNet(depths, c.width, n_classes, not c.scale_inv, rngs)

    return build


MODELS: dict[str, Callable[..., nnx.Module]] = {
    "resnet18": _preact(DEPTHS["18"]),
    "resnet34preact": _preact(DEPTHS["34"]),
    "resnet_tiny": _preact(DEPTHS["tiny"]),
    "resnet18_gn": _preact(DEPTHS["18"], group_norm=True),
    "resnet34_gn": _preact(DEPTHS["34"], group_norm=True),
    "resnet_tiny_gn": _preact(DEPTHS["tiny"], group_norm=True),
    "resnet18_plain": _plain(DEPTHS["18"]),
    "resnet34_plain": _plain(DEPTHS["34"]),
    "wrn28": lambda c, size, n, rngs: WideResNet(c.width, n, not c.scale_inv, rngs),
    "vgg16": lambda c, size, n, rngs: VGG16(c.width, size, n, c.batch_norm, not c.scale_inv, rngs),
    "linear": lambda c, size, n, rngs: Linear(size, n, rngs),
}


def builder(config: Config, n_classes: int, image_size: int, seed: int) -> Callable[[], nnx.Module]:
    """How to make the model.

    Raises:
      UserError: If there is no such model, or it does not fit images of this size.
    """
    if config.model not in MODELS:
        hint = nearest(config.model, MODELS)
        raise UserError(f"unknown --model {config.model!r}{hint}; there are {', '.join(MODELS)}")
    multiple = {"vgg16": 32, "linear": 1}.get(config.model, 8)
    if image_size % multiple:
        raise UserError(
            f"--model {config.model} needs images whose sides are a multiple of {multiple} pixels; "
            f"{config.dataset} has {image_size}"
        )

    def build() -> nnx.Module:
        # "rbg": a hundred small draws with the default generator take 16 s to compile on a CPU.
        rngs = nnx.Rngs(jax.random.key(seed, impl="rbg"))
        return MODELS[config.model](config, image_size, n_classes, rngs)

    return build


def create(
    config: Config, n_classes: int, image_size: int, seed: int, layout: Layout | None = None
) -> tuple[nnx.GraphDef, Params, Stats]:
    """A freshly initialized model: how to compute (static), parameters, BatchNorm statistics.

    With a layout the arrays are born where it says, the statistics as copies.
    """
    build = builder(config, n_classes, image_size, seed)

    def arrays() -> tuple[Params, Stats]:
        _, params, stats = nnx.split(build(), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    graph, params, stats = shapes(config, n_classes, image_size)
    where = None
    if layout is not None:
        where = layout.parameters(params), jax.tree.map(lambda _: layout.copies, stats)
    params, stats = jax.jit(arrays, out_shardings=where)()  # One program.
    return graph, params, stats


def shapes(config: Config, n_classes: int, image_size: int) -> tuple[nnx.GraphDef, Params, Stats]:
    """The same with shapes and dtypes in place of arrays, nothing computed."""
    abstract = nnx.eval_shape(builder(config, n_classes, image_size, 0))
    graph, params, stats = nnx.split(abstract, nnx.Param, nnx.BatchStat)
    return graph, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def apply(graph: nnx.GraphDef, params: Params, stats: Stats, x_BxHxWx3: jax.Array) -> jax.Array:
    """Logits in evaluation: the BatchNorms use ``stats``."""
    return nnx.merge(graph, gathered(params), stats)(x_BxHxWx3, False)


def apply_train(
    graph: nnx.GraphDef, params: Params, stats: Stats, x_BxHxWx3: jax.Array
) -> tuple[jax.Array, Stats]:
    """Logits in training, and the batch's own means and unbiased variances."""
    model = nnx.merge(graph, gathered(params), stats)
    logits_BxK = model(x_BxHxWx3, True)
    return logits_BxK, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
