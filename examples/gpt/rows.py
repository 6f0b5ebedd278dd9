"""What the trainer says: the rows of ``metrics.jsonl``, and lines for the user."""

from collections.abc import Mapping
from typing import Any

from examples.runs.records import Row


def metrics_row(made: Mapping[str, Any], others: Mapping[str, Any]) -> Row:
    """The metrics of the step made, as numbers under the names of ``metrics.jsonl``.

    Args:
      made: What the train step returned.
      others: More numbers for the row, of the weights and of the steps before.

    Example:
      >>> step = {"loss": 2.0, "learning_rate": 0.1, "grad_norm": 5.0, "largest_gradient": 4.0}
      >>> row = metrics_row({**step, "layers": {"wte": 5.0}, "skipped": 0}, {"clip_rate": 1.0})
      >>> row["batch_loss"], row["grad_norm/wte"]
      (2.0, 5.0)
    """
    row = {"batch_loss": made["loss"]}
    row |= {name: made[name] for name in ("learning_rate", "grad_norm", "largest_gradient")}
    row |= {f"grad_norm/{layer}": norm for layer, norm in made["layers"].items()}
    return {k: float(x) for k, x in (row | dict(others)).items()} | {
        "skipped": int(made["skipped"])
    }


def not_finite(made: Mapping[str, Any], number: int) -> str:
    """What is wrong with a step that is not finite.

    Example:
      >>> not_finite({"loss": 2.0, "grad_norm": float("inf")}, 7)
      'step 7 has loss 2.0 and gradient norm inf'
    """
    loss, norm = float(made["loss"]), float(made["grad_norm"])
    return f"step {number} has loss {loss} and gradient norm {norm}"


def evaluation_line(row: Row) -> str:
    """An evaluation for the user.

    Example:
      >>> evaluation_line({"step": 3, "train_loss": 1.0, "val_loss": 2.0, "val_loss_ema": 1.5})
      'step 3: train loss 1.0000, val loss 2.0000; of the moving average: val loss 1.5000'
    """
    line = f"step {row['step']}: train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}"
    if "val_loss_ema" in row:
        line += f"; of the moving average: val loss {row['val_loss_ema']:.4f}"
    return line
