"""VGG-16 for small images.

Letters in names are shapes: B images, H height, W width, C channels, D features, K classes.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from .layers import BatchNorm, conv, he_fan_out, linear

# Of ImageNet's channels in [0, 1]: the original applies them to its input, normalized as it is.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONFIGURATION_D = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))  # widths between the pools


class VGG16(nnx.Module):
    """VGG-16 (Simonyan & Zisserman 2015, configuration D), three linear layers at the end.

    Every conv and linear layer has a bias. Without ``affine``, the two hidden linear layers are
    normalized as well: only so the logits do not see the size of the weights.

    Args:
      width: Channels of the first layers; the last ones have 8 times as many.
      image_size: Height and width, a multiple of 32.
      n_classes: Logits.
      batch_norm: Whether a BatchNorm follows every conv.
      affine: Whether the norms learn scale and bias.
      rngs: Source of the initial weights.
    """

    def __init__(
        self,
        width: int,
        image_size: int,
        n_classes: int,
        batch_norm: bool,
        affine: bool,
        rngs: nnx.Rngs,
    ):
        convs, norms, n_in = [], [], 3
        for factors in _CONFIGURATION_D:
            for factor in factors:
                n_out = factor * width
                convs.append(conv(n_in, n_out, rngs, bias=True, init=he_fan_out))
                norms.append(BatchNorm(n_out, affine) if batch_norm else None)
                n_in = n_out
        self.convs, self.norms = nnx.List(convs), nnx.List(norms)
        flat, hidden = n_in * (image_size // 32) ** 2, n_in
        self.linears = nnx.List([linear(flat, hidden, rngs), linear(hidden, hidden, rngs)])
        normalized = batch_norm and not affine
        self.linear_norms = nnx.List(
            [BatchNorm(hidden, affine) if normalized else None for _ in self.linears]
        )
        self.head = linear(hidden, n_classes, rngs, frozen=not affine)

    def __call__(self, x_BxHxWx3: jax.Array, train: bool) -> jax.Array:
        """Logits (B, K)."""
        mean, std = (jnp.asarray(x, x_BxHxWx3.dtype) for x in (_MEAN, _STD))
        x_BxHxWxC, i = (x_BxHxWx3 - mean) / std, 0
        for factors in _CONFIGURATION_D:
            for _ in factors:
                x_BxHxWxC = self.convs[i](x_BxHxWxC)
                if self.norms[i] is not None:
                    x_BxHxWxC = self.norms[i](x_BxHxWxC, train)
                x_BxHxWxC = jax.nn.relu(x_BxHxWxC)
                i += 1
            x_BxHxWxC = nnx.max_pool(x_BxHxWxC, (2, 2), strides=(2, 2))
        x_BxD = x_BxHxWxC.reshape(len(x_BxHxWxC), -1)
        for layer, norm in zip(self.linears, self.linear_norms, strict=True):
            x_BxD = layer(x_BxD)
            x_BxD = jax.nn.relu(x_BxD if norm is None else norm(x_BxD, train))
        return self.head(x_BxD)
