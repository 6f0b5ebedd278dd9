"""Residual networks for small images: pre-activation, plain, and wide.

Letters in names are shapes: B images, H height, W width, C channels, K classes.
"""

from collections.abc import Callable, Sequence

import jax
from flax import nnx

from .layers import BatchNorm, GroupNorm, conv, he_fan_out, linear

Norm = Callable[[int], nnx.Module]  # channels -> layer


def make_norm(batch_norm: bool, affine: bool, width: int, rngs: nnx.Rngs) -> Norm:
    """BatchNorm, or GroupNorm in ``width // 2`` groups (one group where that does not divide)."""

    def norm(channels: int) -> nnx.Module:
        if batch_norm:
            return BatchNorm(channels, affine)
        groups = max(width // 2, 1)
        return GroupNorm(channels, groups if channels % groups == 0 else 1, rngs)

    return norm


class PreActBlock(nnx.Module):
    """Norm, ReLU, conv, norm, ReLU, conv; the shortcut starts after the first ReLU.

    Where the norms are not affine (the convs have biases then) it begins with one more.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, norm: Norm, bias: bool, rngs: nnx.Rngs):
        self.norm1 = norm(n_in)
        self.conv1 = conv(n_in, n_out, rngs, stride=stride, bias=bias)
        self.norm2 = norm(n_out)
        self.conv2 = conv(n_out, n_out, rngs, bias=bias)
        changes = stride != 1 or n_in != n_out
        self.shortcut = (
            conv(n_in, n_out, rngs, size=1, stride=stride, bias=bias) if changes else None
        )
        self.shortcut_norm = norm(n_in) if changes and bias else None

    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        """Adds the two convolutions to the input, or to its 1x1 convolution."""
        y_BxHxWxC = jax.nn.relu(self.norm1(x_BxHxWxC, train))
        if self.shortcut is not None:
            normed = self.shortcut_norm
            x_BxHxWxC = self.shortcut(y_BxHxWxC if normed is None else normed(y_BxHxWxC, train))
        y_BxHxWxC = self.conv1(y_BxHxWxC)
        y_BxHxWxC = self.conv2(jax.nn.relu(self.norm2(y_BxHxWxC, train)))
        return x_BxHxWxC + y_BxHxWxC


class PlainBlock(nnx.Module):
    """Conv, norm, ReLU, conv, norm, and a ReLU after the sum."""

    def __init__(self, n_in: int, n_out: int, stride: int, norm: Norm, bias: bool, rngs: nnx.Rngs):
        self.conv1 = conv(n_in, n_out, rngs, stride=stride, bias=bias)
        self.norm1 = norm(n_out)
        self.conv2 = conv(n_out, n_out, rngs, bias=bias)
        self.norm2 = norm(n_out)
        changes = stride != 1 or n_in != n_out
        self.shortcut = (
            conv(n_in, n_out, rngs, size=1, stride=stride, bias=bias) if changes else None
        )
        self.shortcut_norm = norm(n_out) if changes else None

    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        """Adds the two convolutions to the input, or to its normalized 1x1 convolution."""
        y_BxHxWxC = jax.nn.relu(self.norm1(self.conv1(x_BxHxWxC), train))
        y_BxHxWxC = self.norm2(self.conv2(y_BxHxWxC), train)
        if self.shortcut is not None and self.shortcut_norm is not None:
            x_BxHxWxC = self.shortcut_norm(self.shortcut(x_BxHxWxC), train)
        return jax.nn.relu(x_BxHxWxC + y_BxHxWxC)


def _stages(block, n_in: int, widths: Sequence[int], depths: Sequence[int], *args) -> nnx.List:
    """The blocks of every stage; each stage but the first halves height and width."""
    stages = []
    for i, (n_out, depth) in enumerate(zip(widths, depths, strict=True)):
        blocks = []
        for j in range(depth):
            blocks.append(block(n_in, n_out, 2 if i and not j else 1, *args))
            n_in = n_out
        stages.append(nnx.List(blocks))
    return nnx.List(stages)


class PreActResNet(nnx.Module):
    """Pre-activation ResNet (He et al. 2016): widths w, 2w, 4w, 8w, the input normalized too.

    Args:
      depths: Blocks of each stage.
      width: Channels of the first stage.
      n_classes: Logits.
      batch_norm: BatchNorm; otherwise GroupNorm.
      affine: Whether the norms learn scale and bias; where they do not, the convs have biases and
        the head stays as it is.
      rngs: Source of the initial weights.
    """

    def __init__(
        self, depths, width: int, n_classes: int, batch_norm: bool, affine: bool, rngs: nnx.Rngs
    ):
        norm = make_norm(batch_norm, affine, width, rngs)
        widths = [width * 2**i for i in range(len(depths))]
        self.norm_in = norm(3)
        self.conv_in = conv(3, width, rngs, bias=not affine)
        self.stages = _stages(PreActBlock, width, widths, depths, norm, not affine, rngs)
        self.norm_out = norm(widths[-1])
        self.head = linear(widths[-1], n_classes, rngs, frozen=not affine)

    def __call__(self, x_BxHxWx3: jax.Array, train: bool) -> jax.Array:
        """Logits (B, K)."""
        x_BxHxWxC = self.conv_in(self.norm_in(x_BxHxWx3, train))
        for stage in self.stages:
            for block in stage:
                x_BxHxWxC = block(x_BxHxWxC, train)
        x_BxHxWxC = jax.nn.relu(self.norm_out(x_BxHxWxC, train))
        return self.head(x_BxHxWxC.mean((1, 2)))


class PlainResNet(nnx.Module):
    """The first ResNet (He et al. 2015) with a 3x3 stem; arguments as :class:`PreActResNet`."""

    def __init__(self, depths, width: int, n_classes: int, affine: bool, rngs: nnx.Rngs):
        norm = make_norm(True, affine, width, rngs)
        widths = [width * 2**i for i in range(len(depths))]
        self.conv_in = conv(3, width, rngs, bias=not affine)
        self.norm_in = norm(width)
        self.stages = _stages(PlainBlock, width, widths, depths, norm, not affine, rngs)
        self.head = linear(widths[-1], n_classes, rngs, frozen=not affine)

    def __call__(self, x_BxHxWx3: jax.Array, train: bool) -> jax.Array:
        """Logits (B, K)."""
        x_BxHxWxC = jax.nn.relu(self.norm_in(self.conv_in(x_BxHxWx3), train))
        for stage in self.stages:
            for block in stage:
                x_BxHxWxC = block(x_BxHxWxC, train)
        return self.head(x_BxHxWxC.mean((1, 2)))


class WideResNet(nnx.Module):
    """WideResNet-28 (Zagoruyko & Komodakis 2016): a stem of 16, then 4 blocks each of w, 2w, 4w."""

    def __init__(self, width: int, n_classes: int, affine: bool, rngs: nnx.Rngs):
        norm = make_norm(True, affine, width, rngs)
        widths = [width, 2 * width, 4 * width]
        self.conv_in = conv(3, 16, rngs, bias=not affine, init=he_fan_out)
        self.stages = _stages(PreActBlock, 16, widths, [4, 4, 4], norm, not affine, rngs)
        self.norm_out = norm(widths[-1])
        self.head = linear(widths[-1], n_classes, rngs, frozen=not affine)

    def __call__(self, x_BxHxWx3: jax.Array, train: bool) -> jax.Array:
        """Logits (B, K)."""
        x_BxHxWxC = self.conv_in(x_BxHxWx3)
        for stage in self.stages:
            for block in stage:
                x_BxHxWxC = block(x_BxHxWxC, train)
        x_BxHxWxC = jax.nn.relu(self.norm_out(x_BxHxWxC, train))
        return self.head(x_BxHxWxC.mean((1, 2)))
