"""Augmentation on the device, for a whole batch: flip, translation, cutout.

Letters in names are shapes: B images, H height, W width.
"""

import jax
import jax.numpy as jnp

TRANSLATION = 2  # pixels at most
CUTOUT = 8  # side of the square


def augment(key: jax.Array, x_BxHxWx3: jax.Array, mean_3: jax.Array) -> jax.Array:
    """Flips half of the images, moves each by up to 2 pixels, covers 8x8 pixels with the mean.

    Args:
      key: Every image draws its own flip, movement and square from it.
      x_BxHxWx3: Pixels in 0..255; where an image is moved away there is 0, black.
      mean_3: Colour of the squares.

    Example:
      >>> augment(jax.random.key(0), jnp.full((2, 16, 16, 3), 255.0), jnp.zeros(3)).shape
      (2, 16, 16, 3)
    """
    flip_key, shift_key, square_key = jax.random.split(key, 3)
    B, H, W, _ = x_BxHxWx3.shape
    flipped_B = jax.random.bernoulli(flip_key, shape=(B, 1, 1, 1))
    x_BxHxWx3 = jnp.where(flipped_B, x_BxHxWx3[:, :, ::-1], x_BxHxWx3)
    shifts_Bx2 = jax.random.randint(shift_key, (B, 2), 0, 2 * TRANSLATION + 1)
    x_BxHxWx3 = jax.vmap(_shift)(x_BxHxWx3, shifts_Bx2)
    largest = jnp.array([H - CUTOUT + 1, W - CUTOUT + 1])
    corners_Bx2 = jax.random.randint(square_key, (B, 2), 0, largest)
    rows_BxH = _inside(jnp.arange(H), corners_Bx2[:, :1])
    columns_BxW = _inside(jnp.arange(W), corners_Bx2[:, 1:])
    covered_BxHxWx1 = (rows_BxH[:, :, None] & columns_BxW[:, None, :])[..., None]
    return jnp.where(covered_BxHxWx1, mean_3, x_BxHxWx3)


def _shift(x_HxWx3: jax.Array, shift_2: jax.Array) -> jax.Array:
    t = TRANSLATION
    padded = jnp.pad(x_HxWx3, ((t, t), (t, t), (0, 0)))
    return jax.lax.dynamic_slice(padded, (shift_2[0], shift_2[1], 0), x_HxWx3.shape)


def _inside(positions: jax.Array, first_Bx1: jax.Array) -> jax.Array:
    return (positions >= first_Bx1) & (positions < first_Bx1 + CUTOUT)
