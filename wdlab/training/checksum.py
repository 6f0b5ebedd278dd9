"""What a checkpoint records of each leaf: its path, its layout, and a checksum of its bits."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

_NUMBERS = (bool, int, float, complex)  # Of Python.
_NAMES = {kind.__name__: kind for kind in _NUMBERS}


def named_leaves(tree: Any) -> dict[str, Any]:
    """Path -> leaf, in the order of ``jax.tree.leaves``.

    Raises:
      ValueError: If two leaves have one path.
      TypeError: If a leaf is neither an array nor a number.

    Example:
      >>> list(named_leaves({"a": [1.0, {"b": 2.0}]}))
      ['a/0', 'a/1/b']
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    named: dict[str, Any] = {}
    for path, leaf in flat:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name in named:
            raise ValueError(f"two leaves of the state have the path {name!r}")
        if not _can_be_saved(leaf):
            raise TypeError(
                f"{name} is a {type(leaf).__name__}: a state holds arrays and numbers, all else "
                "goes into record="
            )
        named[name] = leaf
    return named


def _can_be_saved(leaf: Any) -> bool:
    if type(leaf) in _NUMBERS:
        return True
    return hasattr(leaf, "dtype") and getattr(leaf.dtype, "kind", "") not in tuple("OSUMm")


def layout(leaf: Any) -> str:
    """Dtype and shape in one word; of a Python number, its type.

    Example:
      >>> layout(jnp.zeros((2, 3))), layout(3)
      ('float32[2,3]', 'int')
    """
    if type(leaf) in _NUMBERS:
        return type(leaf).__name__
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def same_layout(one: str, other: str) -> bool:
    """Whether one fits the other: a Python number fits any scalar array of its kind.

    Example:
      >>> same_layout("int", "int32[]"), same_layout("int", "float32[]")
      (True, False)
    """
    pairs = ((one, other), (other, one))
    return one == other or any(
        a in _NAMES and b.startswith(a) and b.endswith("[]") for a, b in pairs
    )


def stored(leaf: Any) -> Any:
    """The array that is written for a leaf: numbers and NumPy scalars become NumPy arrays.

    Example:
      >>> stored(3), stored(np.float32(1.0))
      (array(3), array(1., dtype=float32))
    """
    return np.asarray(leaf) if isinstance(leaf, (*_NUMBERS, np.generic)) else leaf


def to_read(leaf: Any, saved: str) -> jax.ShapeDtypeStruct:
    """How to read what was saved as ``saved`` for a leaf like this; NumPy without a sharding.

    Example:
      >>> to_read(0, "int32[]"), to_read(np.zeros(2), "float64[2]").sharding
      (ShapeDtypeStruct(shape=(), dtype=int32), None)
    """
    if saved in _NAMES:  # It was a Python number.
        return jax.ShapeDtypeStruct((), stored(_NAMES[saved]()).dtype)
    if type(leaf) in _NUMBERS:
        return jax.ShapeDtypeStruct((), jnp.dtype(saved.removesuffix("[]")))
    sharding = getattr(leaf, "sharding", None)
    if sharding is None and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def as_in(leaf: Any, array: Any) -> Any:
    """What was read, in the form of the leaf in whose place it comes.

    Example:
      >>> as_in(0, np.asarray(3)), as_in(jnp.int32(0), np.asarray(3)).dtype
      (3, dtype('int32'))
    """
    if type(leaf) in _NUMBERS:
        return array.item()
    if not isinstance(array, np.ndarray):
        return array
    array = array.astype(leaf.dtype, copy=False)
    if isinstance(leaf, np.ndarray | np.generic):
        return array if isinstance(leaf, np.ndarray) else array[()]
    sharding = getattr(leaf, "sharding", None)
    return jnp.asarray(array) if sharding is None else jax.device_put(array, sharding)


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
        sums[name] = leaf_checksum(_halves(leaf))
        if jax.default_backend() == "cpu":
            sums[name].block_until_ready()
    return jax.device_get(sums)


def described(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays to write, by path, and what the record says of the leaves.

    Example:
      >>> described({"n": 3, "none": jnp.zeros(0)})[1]["layout"]
      {'n': 'int', 'none': 'float32[0]'}
    """
    leaves = named_leaves(state)
    arrays = {name: stored(leaf) for name, leaf in leaves.items()}
    arrays = {name: array for name, array in arrays.items() if array.size}  # Orbax needs entries.
    sums = {name: [int(word) for word in pair] for name, pair in leaf_checksums(arrays).items()}
    return arrays, {"layout": {n: layout(leaf) for n, leaf in leaves.items()}, "checksums": sums}


def _halves(leaf: Any) -> Any:
    """A NumPy array of 64 bits as one of 32, which JAX does not shorten."""
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in "iufc" or leaf.itemsize < 8:
        return leaf
    return np.ascontiguousarray(leaf).view(np.uint32).reshape(*leaf.shape, -1)


def sealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a step with the SHA-256 of its JSON form.

    >>> sealed({})["sha256"][:8]
    '44136fa3'
    """
    text = json.dumps(body, sort_keys=True)
    return {"body": body, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def read_record(step_folder: epath.Path) -> dict[str, Any]:
    """Reads the body of the record of a step.

    Raises:
      ValueError, OSError: If it is not what was saved.

    >>> read_record(epath.Path("/nowhere/10"))
    Traceback (most recent call last):
    FileNotFoundError: ...
    """
    found = json.loads((step_folder / "record" / "metadata").read_text())
    if sealed(found["body"])["sha256"] != found["sha256"]:
        raise ValueError("its record does not have the SHA-256 it was saved with")
    return found["body"]


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
