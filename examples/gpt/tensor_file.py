"""Reads ``.safetensors``: 8 bytes with the header's length, the header in JSON, the tensors' bytes.

The format is safetensors' own (https://github.com/huggingface/safetensors, README, "Format"); its
package is not needed. Tensors are mapped into memory, so that a model is read once, as it is used.
"""

import json
import math
import struct
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from examples.runs.errors import UserError

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
    "BOOL": np.bool_,
}  # fmt: skip


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one file by name, read-only.

    Raises:
      UserError: If the file is cut off or no safetensors file.
    """
    size = path.stat().st_size
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError(f"its header should have {length} bytes, the file has {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        if not header:
            return {}
        data = np.memmap(path, np.uint8, "r", offset=8 + length)
        return {name: _tensor(data, **entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise UserError(
            f"{path} cannot be read as safetensors: {error}; if a download was cut off, fetch it "
            "again"
        ) from None


def _tensor(data: np.ndarray, dtype: str, shape: list[int], data_offsets: list[int]):
    start, end = data_offsets
    if dtype not in _DTYPES:
        raise ValueError(f"it has a tensor of dtype {dtype!r}; there are {', '.join(_DTYPES)}")
    size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if not 0 <= start <= end <= data.size or end - start != size:
        raise ValueError(f"a tensor should lie at {start} to {end} of {data.size} bytes")
    return data[start:end].view(_DTYPES[dtype]).reshape(shape)
