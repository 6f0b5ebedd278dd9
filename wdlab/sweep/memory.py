"""How much a chunk of a sweep takes on each device, and how much it may take."""

import os
from collections.abc import Sequence
from typing import Any

import jax

_CPU_SHARE, _DEVICE_SHARE = 0.5, 0.8  # of the memory, for all runs of a chunk


def bytes_of(compiled: Any) -> int:
    """What a compiled program takes on each device, beside its constants; 0 if it does not tell.

    >>> bytes_of(jax.jit(lambda x: x + 1).lower(1.0).compile())
    8
    """
    memory = compiled.memory_analysis()
    if memory is None:  # A backend without the analysis.
        return 0
    parts = (memory.temp_size_in_bytes, memory.argument_size_in_bytes, memory.output_size_in_bytes)
    return sum(parts)


def memory_limit(devices: Sequence[jax.Device]) -> int:
    """The bytes that a chunk may take on each device: a share of what the device has.

    >>> memory_limit(jax.devices()[:1]) > 1 << 20
    True
    """
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"] * _DEVICE_SHARE)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return int(total * _CPU_SHARE) // len(devices)


def check_fits(needed: int, limit: int, what: str) -> None:
    """Refuses what is larger than the limit, naming both.

    >>> check_fits(3 << 20, 1 << 20, "one run")
    Traceback (most recent call last):
    ValueError: one run needs 3 MiB on each device, and a chunk may take 1 MiB. ...
    """
    if needed > limit:
        raise ValueError(
            f"{what} needs {_size(needed)} on each device, and a chunk may take {_size(limit)}. "
            "Use a smaller model or batch, jax.checkpoint inside train, or fewer runs in a chunk."
        )


def _size(number: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024  # pyrefly: ignore
    return f"{number:.4g} GiB"
