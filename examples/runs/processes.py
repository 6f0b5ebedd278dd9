"""Several processes that train together: how they meet, and what one of them decides for all."""

import json
import os
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from .errors import UserError

_LONGEST = 4_096  # Bytes of what process 0 tells the others.
_HERE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start(distributed: bool = False) -> None:
    """Joins the other processes of this run, if it has any. To be called before all else of JAX.

    They find each other by the variables JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID; or, with ``distributed`` or under SLURM and Open MPI, as
    JAX itself finds them: on a TPU slice, by the cluster's variables.

    Raises:
      UserError: If one of the variables is missing or wrong, or nothing tells of other processes.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    tasks = [os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
    if any(name in os.environ for name in _HERE):
        jax.distributed.initialize(**_from_environment())
    elif distributed or any(count != "1" for count in tasks):
        try:
            jax.distributed.initialize()
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"no other processes found ({error}): outside of a TPU slice, SLURM and Open MPI "
                f"set {', '.join(_HERE)}"
            ) from None
    elif jax.process_count() > 1:
        raise UserError(f"this is one of {jax.process_count()} hosts of a slice: add --distributed")


def _from_environment() -> dict:
    if missing := [name for name in _HERE if name not in os.environ]:
        raise UserError(f"{', '.join(missing)} is not set, but {', '.join(_HERE)} belong together")
    address, count, number = (os.environ[name] for name in _HERE)
    if not (count.isdigit() and number.isdigit() and int(number) < int(count) and ":" in address):
        raise UserError(
            "JAX_COORDINATOR_ADDRESS must be host:port and JAX_PROCESS_ID from 0 to "
            f"JAX_NUM_PROCESSES - 1, got {address!r}, {number!r} of {count!r}"
        )
    host = address.rsplit(":", 1)[0]
    loopback = host in ("localhost", "127.0.0.1")
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(number),
        "coordinator_bind_address": address if loopback else None,
        "cluster_detection_method": "deactivate",
    }


def is_main() -> bool:
    """Whether this process speaks and writes for all."""
    return jax.process_index() == 0


def agree(decide: Callable[[], str]) -> str:
    """What ``decide`` returns on process 0, told to every process.

    Raises:
      UserError: On every process, if ``decide`` raises it on process 0.

    Example:
      >>> agree(lambda: "out/tiny-2")
      'out/tiny-2'
    """
    if jax.process_count() == 1:
        return decide()
    said: dict[str, str] = {}
    if is_main():
        try:
            said = {"decision": decide()}
        except UserError as error:
            said = {"error": str(error)}
    words = np.frombuffer(json.dumps(said).encode().ljust(_LONGEST), np.uint8)
    said = json.loads(multihost_utils.broadcast_one_to_all(words).tobytes())
    if "error" in said:
        raise UserError(said["error"])
    return said["decision"]
