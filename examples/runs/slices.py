"""Slices of TPUs that are not here, described to their compiler (the package ``libtpu``)."""

import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax

from .errors import UserError
from .roofline import CHIPS

_LARGEST = 10_000  # Chips; libtpu fills the memory for more, and a side of 0 ends the process.
# What libtpu asks a real TPU's host for, and that two processes may compile at once.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
INSTALL = 'install the libtpu that belongs to this jaxlib: pip install "jax[tpu]"'


def sides_of(topology: str) -> tuple[str, tuple[int, ...]]:
    """Which chips, and how many in each direction.

    Raises:
      UserError: If it is written in another way, or larger than any slice.

    Example:
      >>> sides_of("v5e:4x8")
      ('v5e', (4, 8))
    """
    found = re.fullmatch(rf"({'|'.join(CHIPS)}):([1-9]\d*(?:x[1-9]\d*){{1,2}})", topology)
    sides = tuple(int(side) for side in found[2].split("x")) if found else ()
    if found is None or math.prod(sides) > _LARGEST:
        raise UserError(
            f"--topology {topology!r}: write the kind ({', '.join(CHIPS)}) and the chips in each "
            f"direction, such as v5e:4x4 or v5p:4x4x8, at most {_LARGEST:,} in all"
        )
    return found[1], sides


def devices_of(topology: str) -> Sequence[Any]:
    """The chips of a slice, as its compiler sees them.

    Raises:
      UserError: Without libtpu, with one that this jaxlib cannot use, or if it knows no such slice.
    """
    kind, sides = sides_of(topology)
    if importlib.util.find_spec("libtpu") is None:
        raise UserError('the TPU\'s compiler is not installed: pip install "jax[tpu]"')
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")  # There is no TPU here to be asked about.
    jax.devices()  # Reads what XLA_FLAGS says of CPUs; libtpu ends the process where it finds that.
    flags = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join(flag for flag in flags if not _of_cpus(flag))
    from jax.experimental import topologies

    chip = {"chip_config_name": "megacore"} if kind == "v4" else {}  # Else each core is a device.
    try:
        return topologies.get_topology_desc(
            topology, platform="tpu", wrap=_closed(kind, sides), **chip
        ).devices
    except Exception as error:  # noqa: BLE001  Whatever libtpu says.
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"libtpu makes nothing of --topology {topology!r}: {reason}; if this is a slice, "
            f"{INSTALL}"
        ) from None


def _of_cpus(flag: str) -> bool:
    return flag.startswith(("--xla_cpu", "--xla_force_host_platform"))


def _closed(kind: str, sides: tuple[int, ...]) -> tuple[bool, ...]:
    """In which directions the links of a slice go round.

    Flat slices: along a side of 16; the others: all, where each side is a multiple of 4 (as MaxText
    has it, src/maxtext/utils/accelerator_to_spec_map.py at e591f30).

    >>> _closed("v5e", (8, 16)), _closed("v5p", (4, 4, 8)), _closed("v5p", (2, 2, 4))
    ((False, True, False), (True, True, True), (False, False, False))
    """
    sides = (*sides, 1)[:3]
    if kind in ("v5e", "v6e"):
        return tuple(side == 16 for side in sides)
    return (all(side % 4 == 0 for side in sides),) * 3
