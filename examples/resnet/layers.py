"""The layers of the image models, with PyTorch's conventions: BatchNorm, GroupNorm, conv, linear.

Letters in names are shapes: B images, H height, W width, C channels.
"""

import functools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

EPSILON = 1e-5  # Added to a variance, as in PyTorch.


class BatchNorm(nnx.Module):
    """Batch normalization with torch.nn.BatchNorm2d's running statistics.

    Training normalizes with the batch's mean and biased variance, and leaves the batch's mean and
    *unbiased* variance in ``mean`` and ``var``: whoever calls mixes them into the running ones
    (``step.py``). Evaluation normalizes with what ``mean`` and ``var`` hold.
    """

    def __init__(self, channels: int, affine: bool):
        self.mean = nnx.BatchStat(jnp.zeros(channels))
        self.var = nnx.BatchStat(jnp.ones(channels))
        self.scale = nnx.Param(jnp.ones(channels)) if affine else None
        self.bias = nnx.Param(jnp.zeros(channels)) if affine else None
        self.epsilon = EPSILON

    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalizes every channel; x has any number of axes, the channels last."""
        if train:
            axes = tuple(range(x.ndim - 1))
            mean_C = x.mean(axes)
            var_C = jnp.square(x - mean_C).mean(axes)
            n = x.size // x.shape[-1]
            self.mean[...] = jax.lax.stop_gradient(mean_C)
            self.var[...] = jax.lax.stop_gradient(var_C * (n / (n - 1)))
        else:
            mean_C, var_C = self.mean[...], self.var[...]
        factor_C = jax.lax.rsqrt(var_C + self.epsilon)
        if self.scale is None or self.bias is None:
            return (x - mean_C) * factor_C
        return (x - mean_C) * (factor_C * self.scale[...]) + self.bias[...]


class GroupNorm(nnx.GroupNorm):
    """Group normalization, called like :class:`BatchNorm`: it does the same in training."""

    def __init__(self, channels: int, groups: int, rngs: nnx.Rngs):
        super().__init__(
            channels, num_groups=groups, epsilon=EPSILON, use_fast_variance=False, rngs=rngs
        )

    def __call__(self, x_BxHxWxC: jax.Array, train: bool) -> jax.Array:
        """Normalizes every group of channels of every image."""
        del train
        return super().__call__(x_BxHxWxC)


def torch_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """PyTorch's default for weights: uniform in +-1/sqrt(fan_in)."""
    bound = 1 / math.sqrt(math.prod(shape[:-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


_PART = 16  # Images on a device, to sum a weight gradient over.


def convolve(x_BxHxWxC: jax.Array, kernel: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
    """``lax.conv_general_dilated``, whose weight gradient is faster on CPUs.

    There XLA takes the more time for an image the more of them there are (32x32 pixels, 16
    channels: 1.5 times for 64 what it takes for 16, jaxlib 0.10.2), so the sum over the batch is
    made of parts. Forward mode through it works after ``jax.grad``, as Hessian-vector products do
    it, not before.
    """

    def conv(x: jax.Array, k: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(x, k, *args, **kwargs)

    def backward(saved: tuple[jax.Array, jax.Array], d: jax.Array) -> tuple[jax.Array, jax.Array]:
        x, k = saved

        def weight_gradient(x: jax.Array, d: jax.Array) -> jax.Array:
            return jax.linear_transpose(lambda k: conv(x, k), k)(d)[0]

        def in_parts(x: jax.Array, d: jax.Array) -> jax.Array:
            size = _PART * max(1, jax.sharding.get_abstract_mesh().size)
            if len(x) % size:
                return weight_gradient(x, d)
            # Every part has images of every device.
            split = (a.reshape(size, len(a) // size, *a.shape[1:]) for a in (x, d))
            parts = zip(*(jnp.unstack(a, axis=1) for a in split), strict=True)
            return functools.reduce(operator.add, (weight_gradient(*part) for part in parts))

        dk = lax.platform_dependent(x, d, cpu=in_parts, default=weight_gradient)
        return jax.linear_transpose(lambda x: conv(x, k), x)(d)[0], dk

    differentiable = jax.custom_vjp(conv)
    differentiable.defvjp(lambda x, k: (conv(x, k), (x, k)), backward)
    return differentiable(x_BxHxWxC, kernel)


he_fan_out = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    n_in: int, n_out: int, rngs: nnx.Rngs, *, size=3, stride=1, bias=False, init=torch_uniform
) -> nnx.Conv:
    """A convolution, padded by half its size on every side."""
    return nnx.Conv(
        n_in,
        n_out,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=bias,
        kernel_init=init,
        bias_init=_bias_init(n_in * size * size) if init is torch_uniform else _ZEROS,
        conv_general_dilated=convolve,
        rngs=rngs,
    )


class FrozenLinear(nnx.Linear):
    """A linear layer that keeps its initial weights: no gradient reaches them."""

    def __call__(self, inputs: jax.Array) -> jax.Array:
        """Like the layer that trains."""
        logits = inputs @ jax.lax.stop_gradient(self.kernel[...])
        return logits if self.bias is None else logits + jax.lax.stop_gradient(self.bias[...])


def linear(n_in: int, n_out: int, rngs: nnx.Rngs, *, bias=True, frozen=False) -> nnx.Linear:
    """A linear layer with PyTorch's default initialization."""
    kind = FrozenLinear if frozen else nnx.Linear
    return kind(
        n_in,
        n_out,
        use_bias=bias,
        kernel_init=torch_uniform,
        bias_init=_bias_init(n_in),
        rngs=rngs,
    )


_ZEROS = nnx.initializers.zeros_init()


def _bias_init(fan_in: int):
    bound = 1 / math.sqrt(fan_in)

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
