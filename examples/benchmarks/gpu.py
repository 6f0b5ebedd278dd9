"""What a GPU makes of wdlab, Optax and PyTorch: one command of under eight minutes.

``python -m examples.benchmarks.gpu [--only muon]`` measures on the GPU that is there and writes one
JSON file beside a table. Each part runs in a process of its own, so that one that fails or takes
too long costs its own rows alone. ``--device cpu`` tries the command with tiny sizes; its figures
say nothing.
"""

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from ..runs.errors import UserError, fail
from ..runs.flags import parse_dataclass
from ..studies.rows import commit

# Seconds that a part may take; together under eight minutes.
LIMITS = {"optimizer": 100, "muon": 50, "gpt": 160, "resnet": 90, "sweep": 60}
COLUMNS = ("part", "what", "program", "value", "unit", "wdlab's speed over it", "remark")
PACKAGES = ("jax", "jaxlib", "optax", "flax", "torch")


@dataclasses.dataclass(frozen=True)
class Flags:
    """What to measure, and where."""

    device: Literal["gpu", "cpu"] = "gpu"  # cpu: tiny sizes, to try the command
    only: str = ""  # one of optimizer, muon, gpt, resnet, sweep; empty: all
    out: str = "out/gpu.json"  # the file for the figures; what is there is replaced


def environment(device: str) -> dict[str, str]:
    """Of a part's process: JAX leaves memory to PyTorch, and looks at this device alone."""
    platforms = {"gpu": "cuda,cpu", "cpu": "cpu"}[device]
    return {**os.environ, "JAX_PLATFORMS": platforms, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def run_part(name: str, device: str, limit: float) -> dict[str, Any]:
    """One part in a process of its own: its rows, or one row that says why there are none."""
    command = [sys.executable, "-m", "examples.benchmarks.gpu_parts", name, device]
    started = time.monotonic()
    try:
        done = subprocess.run(
            command, env=environment(device), timeout=limit, text=True, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return {"rows": [_nothing(name, f"stopped after {limit:.0f} s")], "seconds": limit}
    lines = done.stdout.splitlines()
    seconds = round(time.monotonic() - started, 1)
    if done.returncode or not lines:
        return {"rows": [_nothing(name, _error_in(done.stderr))], "seconds": seconds}
    return json.loads(lines[-1]) | {"seconds": seconds}


def _error_in(text: str) -> str:
    """The last line that names an error."""
    found = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
    return found[-1] if found else "ended without a word"


def _nothing(name: str, why: str) -> dict[str, Any]:
    return {"part": name, "what": "not measured", "remark": why}


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


def table_of(title: str, rows: Sequence[dict[str, Any]]) -> Table:
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


def main(argv: Sequence[str]) -> int:
    """The command; the exit code."""
    try:
        flags = parse_dataclass(Flags, Flags(), argv, "python -m examples.benchmarks.gpu")
        if flags.only and flags.only not in LIMITS:
            raise UserError(f"--only {flags.only!r}: write one of {', '.join(LIMITS)}")
        name, console = card(flags.device), Console(width=max(130, Console().width))
        if importlib.util.find_spec("torch") is None:
            console.print("without PyTorch's rows: it is not installed")
        parts = {}
        for part in [flags.only] if flags.only else LIMITS:
            with console.status(f"{part} on {name}"):
                limit = LIMITS[part] * (1 if flags.device == "gpu" else 10)
                parts[part] = run_part(part, flags.device, limit)
        found = {"card": name, "commit": commit(), "versions": versions(), "parts": parts}
        path = Path(flags.out)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        console.print(table_of(name, [row for part in parts.values() for row in part["rows"]]))
        console.print(f"figures: {path}")
    except (UserError, OSError) as error:
        return fail(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
