"""What a checkpoint records of each leaf: its path, its layout, and a checksum of its bits."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def named_leaves(tree: Any) -> dict[str, Any]:
    """Path -> leaf, in the order of ``jax.tree.leaves``; numbers become arrays.

    Example:
      >>> list(named_leaves({"a": [1.0, {"b": 2.0}]}))
      ['a/0', 'a/1/b']
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in flat}
    if len(named) != len(flat):
        raise ValueError("two leaves of the state have the same path")
    return {n: leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf) for n, leaf in named.items()}


def layout(leaf: Any) -> str:
    """Dtype and shape in one word.

    Example:
      >>> layout(jnp.zeros((2, 3)))
      'float32[2,3]'
    """
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


@jax.jit
def leaf_checksum(leaf: jax.Array) -> jax.Array:
    """Two 32-bit checksums of an array's bits, uint32, shape (2,); computed where the array lies.

    Each is a sum modulo 2^32 of one-to-one scrambled words, every word scrambled by its place: a
    change within one element always changes both, any other escapes with probability 2^-64. A sum
    has no order, so the result is the same under every sharding.

    Example:
      >>> a, b = leaf_checksum(jnp.zeros(3)), leaf_checksum(jnp.zeros(3).at[1].set(1e-45))
      >>> bool((a != b).all())
      True
    """
    words = _words(leaf)
    place = positions(words.shape)
    sums = [
        jnp.sum(scramble(words ^ scramble(place + np.uint32(salt))), dtype=jnp.uint32)
        for salt in (0x9E3779B9, 0x7F4A7C15)
    ]
    return jnp.stack(sums)


def leaf_checksums(leaves: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """The checksum of every array, on the host.

    On CPUs one after the other: programs that run at once on devices which wait for one another
    can block each other for ever there.

    Example:
      >>> list(leaf_checksums({"w": jnp.zeros(3)}))
      ['w']
    """
    sums = {}
    for name, leaf in leaves.items():
        sums[name] = leaf_checksum(leaf)
        if jax.default_backend() == "cpu":
            sums[name].block_until_ready()
    return jax.device_get(sums)


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of an array as uint32; elements of 64 bits become two words each."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    if leaf.dtype.itemsize == 8:
        return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
    if jnp.issubdtype(leaf.dtype, jnp.floating):
        unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
        leaf = jax.lax.bitcast_convert_type(leaf, unsigned)
    return leaf.astype(jnp.uint32)


def positions(shape: tuple[int, ...]) -> jax.Array:
    """The number of each entry in row-major order, uint32 (modulo 2^32), made where it is used.

    >>> positions((2, 3)).tolist()
    [[0, 1, 2], [3, 4, 5]]
    """
    place = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return place


def scramble(words: jax.Array) -> jax.Array:
    """A one-to-one map of uint32 in which every input bit reaches every output bit.

    >>> scramble(jnp.arange(3, dtype=jnp.uint32)).tolist()
    [0, 1364076727, 821347078]

    Source: the finalizer of MurmurHash3 (A. Appleby, 2011).
    """
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)
