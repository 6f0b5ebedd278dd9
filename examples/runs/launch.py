"""Starts several processes of one program on this machine, that train together.

``python -m examples.runs.launch --processes 2 --devices 2 examples.gpt.train tiny --mesh_fsdp 4``:
two processes with two CPU devices each. Without --devices each process sees what it would see
alone. SIGTERM and SIGHUP go on to all of them; when one fails, the others are stopped.
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

_GRACE = 20.0  # Seconds for the others to end when one process has failed.


def environments(processes: int, devices: int = 0) -> list[dict[str, str]]:
    """What tells each process who the others are; ``devices`` CPU devices each, if not 0.

    >>> [env["JAX_PROCESS_ID"] for env in environments(2)]
    ['0', '1']
    """
    env = {"XLA_FLAGS": "", **os.environ, "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{_free_port()}"}
    env["JAX_NUM_PROCESSES"] = str(processes)
    if devices:
        flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", env["XLA_FLAGS"])
        env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "XLA_FLAGS": flags}
    return [{**env, "JAX_PROCESS_ID": str(number)} for number in range(processes)]


def start(module: Sequence[str], processes: int, devices: int = 0) -> list[subprocess.Popen]:
    """Starts ``python -m module...`` in each process; ``devices`` CPU devices each, if not 0."""
    command = [sys.executable, "-m", *module]
    return [subprocess.Popen(command, env=env) for env in environments(processes, devices)]


def wait(processes: Sequence[subprocess.Popen]) -> int:
    """Waits for all; the exit code of the first that failed, after which the others are killed."""
    while all(process.poll() in (None, 0) for process in processes):
        if all(process.poll() == 0 for process in processes):
            return 0
        time.sleep(0.05)
    failed = next(process.returncode for process in processes if process.poll())
    deadline = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    return failed if failed > 0 else 128 - failed  # As shells tell of a signal.


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.runs.launch", description=__doc__)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--devices", type=int, default=0, help="CPU devices of each process")
    parser.add_argument("module", nargs=argparse.REMAINDER, help="the program and its arguments")
    args = parser.parse_args(argv)
    if args.processes < 1 or not args.module:
        parser.error(
            "give --processes N (at least 1) and a program such as examples.gpt.train tiny"
        )
    processes = start(args.module, args.processes, args.devices)

    def pass_on(number: int, frame: object) -> None:
        del frame
        for process in processes:
            process.send_signal(number)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)  # A terminal's Ctrl-C reaches them by itself.
    return wait(processes)


if __name__ == "__main__":
    sys.exit(main())
