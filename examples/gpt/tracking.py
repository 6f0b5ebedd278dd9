"""The rows of a run on Weights & Biases, where ``--wandb_log`` asks for it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from examples.runs.errors import UserError
from examples.runs.records import Row

from .config import Config


def connect(config: Config, folder: Path, name: str) -> Callable[[Row], None]:
    """What sends a row; the connection ends with the process.

    Raises:
      UserError: If the package is missing.
    """
    try:
        import wandb  # pyrefly: ignore[missing-import]
    except ImportError:
        raise UserError("--wandb_log needs Weights & Biases: pip install wandb") from None
    settings = dataclasses.asdict(config)
    run = wandb.init(project=config.wandb_project, name=name, dir=folder, config=settings)
    return lambda row: run.log(row, step=row["step"])
