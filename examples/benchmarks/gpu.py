"""What a GPU makes of wdlab, Optax and PyTorch: one command of under eight minutes.

``python -m examples.benchmarks.gpu [--only muon]`` measures on the GPU that is there and writes one
JSON file, after each step of its own, and a table. JAX and PyTorch run in processes of their own:
neither takes the other's memory or CUDA libraries, and one that fails or takes too long costs only
the rows that it has not written yet. ``--device cpu`` tries the command with tiny sizes; its
figures say nothing.
"""

import contextlib
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ..runs.errors import UserError, fail
from ..runs.flags import parse_dataclass
from ..studies.rows import commit

Row = dict[str, Any]
# (part, side) -> seconds that it may take, and what those before it have left; the last is the one
# that needs it most. Together under eight minutes.
LIMITS = {
    ("optimizer", "jax"): 70, ("optimizer", "torch"): 30, ("muon", "jax"): 40,
    ("muon", "torch"): 20, ("sweep", "jax"): 40, ("resnet", "jax"): 50, ("resnet", "torch"): 60,
    ("gpt", "jax"): 70, ("gpt", "torch"): 90,
}  # fmt: skip
PARTS = tuple(dict.fromkeys(part for part, _ in LIMITS))
COMPARED = "wdlab's speed over it"
COLUMNS = ("part", "what", "program", "value", "unit", COMPARED, "remark")
PACKAGES = ("jax", "jaxlib", "optax", "flax", "torch")


@dataclasses.dataclass(frozen=True)
class Flags:
    """What to measure, and where."""

    device: Literal["gpu", "cpu"] = "gpu"  # cpu: tiny sizes, to try the command
    only: str = ""  # one of optimizer, muon, sweep, resnet, gpt; empty: all
    out: str = "out/gpu.json"  # the file for the figures; what is there is replaced


def environment(device: str, side: str = "jax") -> dict[str, str]:
    """Of a process: JAX takes memory as it needs it; beside PyTorch it makes the weights alone."""
    platforms = "cuda,cpu" if (device, side) == ("gpu", "jax") else "cpu"
    return {**os.environ, "JAX_PLATFORMS": platforms, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def run_side(part: str, side: str, device: str, name: str, limit: float) -> list[Row]:
    """A part's rows by JAX or by PyTorch, as far as they were written, and why there are no more.

    Args:
      part: Of ``PARTS``.
      side: ``jax`` or ``torch``.
      device: ``gpu`` or ``cpu``.
      name: The card's.
      limit: Seconds after which it is stopped.
    """
    command = [sys.executable, "-m", "examples.benchmarks.gpu_parts", part, side, device, name]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, env=environment(device, side), stdout=out, stderr=errors,
            start_new_session=True,
        )  # fmt: skip
        try:
            why = "" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            why = f"stopped after {limit:.0f} s"
        finally:  # Its helpers as well: torch.compile has some, which outlive it.
            _kill_group(process.pid)
            process.wait()
        out.seek(0)
        errors.seek(0)
        rows = [json.loads(line) for line in out if line.startswith("{") and line.endswith("\n")]
        if why == "failed":
            why = _error_in(errors.read(), process.returncode)
    if why or not rows:
        rows.append({"part": part, "program": side, "what": "not measured", "remark": why})
    return rows


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # All of them have ended.
        os.killpg(leader, signal.SIGKILL)


def _error_in(text: str, code: int) -> str:
    """The last line that names an error."""
    found = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return found[-1] if found else f"ended with code {code}" + (" (killed)" if code == -9 else "")


def compared(rows: Sequence[Row]) -> list[Row]:
    """The rows, with our speed over each one's where both are there.

    >>> ours = {"what": "adamw", "program": "wdlab", "value": 2.0, "unit": "ms"}
    >>> [row[COMPARED] for row in compared([ours, ours | {"program": "torch", "value": 3.0}])]
    [1.0, 1.5]
    """
    ours = {
        row["what"]: row["value"] for row in rows if row["program"] == "wdlab" and "value" in row
    }

    def ratio(row: Row) -> Row:
        mine, value = ours.get(row["what"]), row.get("value")
        if not mine or not value:
            return {}
        return {COMPARED: value / mine if row["unit"] == "ms" else mine / value}

    return [row | ratio(row) for row in rows]


def card(device: str) -> str:
    """The name of the device.

    Raises:
      UserError: If JAX finds none of this kind.
    """
    program = "import jax; print(jax.devices()[0].platform, jax.devices()[0].device_kind)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(device), text=True, capture_output=True
    )
    found = done.stdout.split(maxsplit=1)
    if done.returncode or (found[0] == "cpu") != (device == "cpu"):
        raise UserError(
            "JAX finds no GPU here: pip install 'wdlab[cuda]' on a machine with one, or try the "
            "command with --device cpu"
        )
    return found[1].strip()


def table_of(title: str, rows: Sequence[Row]) -> Table:
    """The rows as text; a column that a row has not is empty."""
    table = Table(*COLUMNS, title=title)
    for row in rows:
        table.add_row(*(_text(row.get(name, "")) for name in COLUMNS))
    return table


def _text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    there = [name for name in PACKAGES if importlib.util.find_spec(name)]
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in there}


def measure(flags: Flags, name: str, console: Console) -> list[Row]:
    """All rows; what is there is written after each process."""
    path, found = Path(flags.out), {"card": name, "commit": commit(), "versions": versions()}
    path.parent.mkdir(parents=True, exist_ok=True)
    there = [side for side in ("jax", "torch") if importlib.util.find_spec(side)]
    if "torch" not in there:
        console.print("without PyTorch's rows: it is not installed")
    rows, seconds = [], {}
    end = time.monotonic() + (sum(LIMITS.values()) if flags.only else 0)
    for (part, side), limit in LIMITS.items():
        end += 0 if flags.only else limit
        if side in there and flags.only in ("", part):
            started = time.monotonic()
            with console.status(f"{part} by {side} on {name}"):
                slack = 10 * limit if flags.device == "cpu" else 0
                rows += run_side(part, side, flags.device, name, end - started + slack)
            seconds[f"{part}, {side}"] = round(time.monotonic() - started, 1)
            rows = compared(rows)
            path.write_text(json.dumps(found | {"seconds": seconds, "rows": rows}, indent=1) + "\n")
    return rows


def main(argv: Sequence[str]) -> int:
    """The command; the exit code: 0 if anything was measured."""
    try:
        flags = parse_dataclass(Flags, Flags(), argv, "python -m examples.benchmarks.gpu")
        if flags.only and flags.only not in PARTS:
            raise UserError(f"--only {flags.only!r}: write one of {', '.join(PARTS)}")
        name, console = card(flags.device), Console(width=max(130, Console().width))
        rows = measure(flags, name, console)
        console.print(table_of(name, rows))
        console.print(f"figures: {flags.out}")
    except (UserError, OSError) as error:
        return fail(error)
    return 0 if any("value" in row for row in rows) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # So that no part lives on.
    sys.exit(main(sys.argv[1:]))
