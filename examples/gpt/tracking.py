"""The rows of a run on Weights & Biases, where ``--wandb_log`` asks for it."""

import dataclasses
from pathlib import Path

from examples.runs import processes
from examples.runs.errors import UserError
from examples.runs.records import Records, Row

from .config import Config


class TrackedRecords(Records):
    """``metrics.jsonl``, and every new row to Weights & Biases as well."""

    def __init__(self, config: Config, folder: Path, name: str, step: int):
        try:
            import wandb  # pyrefly: ignore[missing-import]
        except ImportError:
            raise UserError("--wandb_log needs Weights & Biases: pip install wandb") from None
        super().__init__(folder / "metrics.jsonl", step)
        self._run = wandb.init(
            project=config.wandb_project, name=name, dir=folder, config=dataclasses.asdict(config)
        )

    def append(self, row: Row) -> None:
        """Writes and sends a row, unless the run that is resumed has written it already."""
        known = len(self.rows)
        super().append(row)
        if len(self.rows) > known:
            self._run.log(row, step=row["step"])

    def close(self) -> None:
        """Closes the file and the connection."""
        super().close()
        self._run.finish()


def open_records(config: Config, folder: Path, name: str, step: int) -> Records:
    """The records of a run, with the rows up to ``step`` in them."""
    main = processes.is_main()
    if config.wandb_log and main:
        return TrackedRecords(config, folder, name, step)
    return Records(folder / "metrics.jsonl", step, write=main)
