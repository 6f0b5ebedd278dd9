"""What a sweep as one program saves: digits, learning rate x weight decay x coupling x seeds.

``python -m examples.benchmarks.sweep [--quick]``, under four minutes on two cores. The 486 runs
(9 learning rates, 9 weight decays, couplings lr and schedule, 3 seeds; an MLP of width 64, 300
steps of 64 images) are timed whole as ``wdlab.sweep.sweep``, compilation included. Beside it:

    reused       one jitted run per point, numbers traced, one after another: timed whole
    recompiled   numbers as Python constants, so that every point compiles: a few points, scaled up
    torch        the same training eagerly, one after another: a few points, scaled up (if torch
                 is installed)
"""

import argparse
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from examples.studies import grids
from examples.studies.sweep import EXAMPLES, task
from wdlab.sweep import make_grid, sweep

STEPS, BATCH, HIDDEN = 300, 64, 64
GRID = {
    "learning_rate": np.geomspace(1e-4, 1e-1, 9).tolist(),
    "weight_decay": np.geomspace(1e-6, 1e-1, 9).tolist(),
    "coupling": ["lr", "schedule"],
}


def main(argv: list[str] | None = None) -> int:
    """Times the ways in turn and prints a table; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="2 seeds on a 3 x 3 grid")
    quick = parser.parse_args(argv).quick
    grid, seeds = dict(GRID), 3
    if quick:
        grid |= {name: GRID[name][::4] for name in ("learning_rate", "weight_decay")}
        seeds = 2
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_enable_compilation_cache", False)
    train = task(hidden=HIDDEN, steps=STEPS, batch_size=BATCH)
    names = [*grid, "seed"]
    points = [dict(zip(names, point, strict=True)) for point in make_grid(grid, seeds)]
    jax.block_until_ready(jax.random.key(0))  # The backend starts before the clocks do.
    few = 2 if quick else 4
    chosen = [points[i] for i in np.linspace(0, len(points) - 1, few).astype(int)]
    times, tables = {}, []
    times["sweep"] = _times(lambda: tables.append(sweep(train, grid, seeds=seeds)))
    times["first points"] = _times(lambda: sweep(train, _one(grid), seeds=1))
    alone: list[float] = []
    times["reused"] = _times(lambda: alone.extend(_reused(train, points)))
    times["recompiled"] = _times(lambda: _recompiled(train, chosen)) * len(points) / few
    if (run := _torch_run()) is not None:
        run(chosen[0])  # Its first calls load kernels.
        times["torch"] = _times(lambda: [run(p) for p in chosen]) * len(points) / few
    _report(times, len(points), few)
    _compare(tables[0]["val_loss"], np.array(alone, np.float32), tables[0]["learning_rate"])
    return 0


def _one(grid: dict) -> dict:
    return {name: values if name == "coupling" else values[:1] for name, values in grid.items()}


def _times(function: Callable[[], object]) -> np.ndarray:
    """Seconds on the clock, and of all cores together: other programs disturb these less."""
    start = np.array([time.perf_counter(), time.process_time()])
    function()
    return np.array([time.perf_counter(), time.process_time()]) - start


def _traced(point: dict) -> tuple[dict, jax.Array]:
    flags = {name: float(point["coupling"] == name) for name in GRID["coupling"]}
    numbers = {name: np.float32(point[name]) for name in ("learning_rate", "weight_decay")}
    return {**numbers, "coupling": flags}, jax.random.key(point["seed"])


def _reused(train: Callable, points: list[dict]) -> list[float]:
    run = jax.jit(train)
    return [float(run(*_traced(point))["val_loss"]) for point in points]


def _recompiled(train: Callable, points: list[dict]) -> None:
    for point in points:
        hyperparameters, key = _traced(point)
        constants = jax.tree.map(float, hyperparameters)
        run = jax.jit(lambda key, constants=constants: train(constants, key))
        jax.block_until_ready(run(key))


def _torch_run() -> Callable[[dict], float] | None:
    """The same training in eager PyTorch; None where it is not installed."""
    try:
        import torch  # pyrefly: ignore[missing-import]
    except ImportError:
        return None
    torch.set_num_threads(1)  # Matrices this small are slower on several.
    (x, y), (x_held, y_held) = jax.tree.map(torch.tensor, grids.mislabelled(EXAMPLES))
    y, y_held = y.long(), y_held.long()
    eta = 0.5 * (1 + np.cos(np.pi * np.arange(STEPS) / STEPS))

    def run(point: dict) -> float:
        torch.manual_seed(point["seed"])
        model = torch.nn.Sequential(
            torch.nn.Linear(64, HIDDEN), torch.nn.ReLU(), torch.nn.Linear(HIDDEN, 10)
        )
        decay = point["weight_decay"]  # torch multiplies it by lr_t: divided by the peak here.
        if point["coupling"] == "schedule":
            decay /= point["learning_rate"]
        weights = [p for p in model.parameters() if p.ndim > 1]
        biases = [p for p in model.parameters() if p.ndim == 1]
        groups = [{"params": weights, "weight_decay": decay}, {"params": biases, "weight_decay": 0}]
        tx = torch.optim.AdamW(groups, lr=point["learning_rate"])
        for step in range(STEPS):
            picked = torch.randint(EXAMPLES, (BATCH,))
            loss = torch.nn.functional.cross_entropy(model(x[picked]), y[picked])
            for group in tx.param_groups:
                group["lr"] = point["learning_rate"] * eta[step]
            tx.zero_grad()
            loss.backward()
            tx.step()
        with torch.no_grad():
            return float(torch.nn.functional.cross_entropy(model(x_held), y_held))

    return run


def _report(times: dict[str, np.ndarray], points: int, few: int) -> None:
    print(f"{points} runs       seconds  of all cores  x the sweep")
    for name, (clock, cores) in times.items():
        how = f"  {few} points, scaled up" if name in ("recompiled", "torch") else ""
        if name == "first points":
            how = "  two points of the sweep alone: data, tracing and compilation"
        print(f"{name:12} {clock:9.2f} {cores:13.2f} {clock / times['sweep'][0]:12.2f}{how}")
    if "torch" not in times:
        print("torch        not installed: python -m pip install 'wdlab[oracle]'")


def _compare(losses: np.ndarray, alone: np.ndarray, rates: np.ndarray) -> None:
    """How far the points are from the reused runs, which are the separate ones."""
    relative = np.abs(losses - alone) / alone
    far = relative > 1e-5
    print(f"{(~far).sum()} of {len(far)} points equal their own run to 1e-5", end="")
    print(f"; the others have learning rate >= {rates[far].min():.2g}" if far.any() else "")
    print("(two devices round differently from one, which training at high rates amplifies)")


if __name__ == "__main__":
    sys.exit(main())
