"""The picture of a run: loss, learning rate, gradient and weight norms."""

from pathlib import Path

from matplotlib.figure import Figure

from examples.runs.records import Row

PANELS = {
    "loss (nats per token)": {
        "batch_loss": "batch",
        "train_loss": "training",
        "val_loss": "val",
        "val_loss_ema": "val, moving average",
    },
    "learning rate": {"learning_rate": None},
    "gradient norm": {"grad_norm": None},
    "weight norm": {
        "weight_norm": "all",
        "weight_norm_decayed": "decayed",
        "weight_norm_exempt": "exempt",
    },
}


def save_plot(rows: list[Row], path: Path, title: str) -> None:
    """Draws the rows of ``metrics.jsonl`` into a PNG."""
    figure = Figure(figsize=(17, 4), layout="constrained")
    figure.suptitle(title)
    for axes, (label, curves) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for column, name in curves.items():
            points = [(row["step"], row[column]) for row in rows if column in row]
            style = {"linewidth": 0.6, "alpha": 0.5} if column == "batch_loss" else {"marker": "."}
            axes.plot(*zip(*points, strict=True), label=name, **style) if points else None
        axes.set_xlabel("step")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if any(curves.values()) and axes.lines:
            axes.legend()
    figure.savefig(path, dpi=120)
