"""The picture of a run: losses, errors, weight norm, and what the flow probe found."""

from pathlib import Path

from matplotlib.figure import Figure

from examples.runs.records import Row

PANELS = {
    "cross-entropy (nats)": {
        "train_loss": "train",
        "test_loss": "test",
        "ema_train_loss": "train, EMA",
        "flow_train_loss": "train, after flow",
    },
    "error": {
        "train_error": "train",
        "test_error": "test",
        "ema_test_error": "test, EMA",
        "flow_test_error": "test, after flow",
    },
    "weight norm": {"weight_norm": "weights", "ema_weight_norm": "EMA"},
    "curvature after flow": {
        "flow_hessian_trace": "Hessian trace",
        "flow_jacobian_norm": "Jacobian norm",
        "flow_top_eigenvalue": "top eigenvalue",
    },
}


def save_plot(rows: list[Row], path: Path, title: str) -> None:
    """Draws the rows of ``metrics.jsonl`` into a PNG; panels without a curve are left out."""
    found = {column for row in rows for column in row}
    panels = {label: curves for label, curves in PANELS.items() if found & curves.keys()}
    figure = Figure(figsize=(4.5 * len(panels), 4), layout="constrained")
    figure.suptitle(title)
    for axes, (label, curves) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for column, name in curves.items():
            points = [(row["epoch"], row[column]) for row in rows if column in row]
            axes.plot(*zip(*points, strict=True), label=name, marker=".") if points else None
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.set_yscale("log" if label.startswith(("cross", "curv")) else "linear")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
