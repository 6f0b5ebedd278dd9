"""Several processes that train together: how they meet, and what one of them decides for all."""

import inspect
import json
import os
import re
import sys
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from . import errors
from .errors import UserError

_SHUTDOWN = 60  # Seconds that the first to finish waits for the last.
_LONGEST = 4_096  # Bytes of what process 0 tells the others.
_NO_ANSWER = re.compile("Gloo|NCCL|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED")
_HERE = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start(distributed: bool = False) -> None:
    """Joins the other processes of this run, if it has any. Call it before anything else of JAX.

    They find each other by the variables JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID; or, with ``distributed`` or under SLURM and Open MPI, as
    JAX itself finds them: on a TPU slice, by the cluster's variables.

    Raises:
      UserError: If one of the variables is missing or wrong, or nothing tells of other processes.
    """
    tasks = [os.environ.get(name, "1") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")]
    if any(name in os.environ for name in _HERE):
        _prepare_cpu()
        jax.distributed.initialize(**_from_environment())
    elif distributed or any(count != "1" for count in tasks):
        try:
            jax.distributed.initialize(shutdown_timeout_seconds=_SHUTDOWN)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"no other processes found ({error}): outside of a TPU slice, SLURM and Open MPI "
                f"set {', '.join(_HERE)}"
            ) from None
    elif jax.process_count() > 1:
        raise UserError(f"this is one of {jax.process_count()} hosts of a slice: add --distributed")


def _prepare_cpu() -> None:
    """Collectives between processes on CPUs, one program at a time.

    Two programs that run at once mix up their messages, each process in its own order, and wait
    for each other for ever.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_cpu_enable_async_dispatch", False)


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
    known = inspect.signature(jax.distributed.initialize).parameters
    timeout = "shutdown_timeout_seconds"  # Not in jax 0.7.
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(number),
        "coordinator_bind_address": address if loopback else None,
        "cluster_detection_method": "deactivate",
        **({timeout: _SHUTDOWN} if timeout in known else {}),
    }


def is_main() -> bool:
    """Whether this process speaks and writes for all."""
    return jax.process_index() == 0


def agree(decide: Callable[[], str]) -> str:
    """What ``decide`` returns on process 0, given to every process.

    Raises:
      UserError: On every process, if ``decide`` raises it on process 0.

    Example:
      >>> agree(lambda: "out/gpt/tiny-2")
      'out/gpt/tiny-2'
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


def is_alone(error: Exception) -> bool:
    """Whether an error says that another process of this run does not answer."""
    return jax.distributed.is_initialized() and _NO_ANSWER.search(str(error)) is not None


def fail(error: Exception) -> int:
    """Prints an error as one line on stderr; the exit code of a failed command.

    One of several processes ends here and now: the orderly way out waits for the others, which wait
    for this one. They are stopped by the launcher, or by JAX when it misses this one.
    """
    if is_alone(error):
        error = UserError(
            f"another process of this run has died or is out of reach ({str(error).splitlines()[0]}"
            "); start all of them again with --resume: they go on from the newest checkpoint that "
            "they had finished together, on as many processes as there are then"
        )
    code = errors.fail(error)
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
