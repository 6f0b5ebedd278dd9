"""Images for runs of the image models that take a second."""

from pathlib import Path

import numpy as np


def save(folder: Path, train: int = 66, test: int = 24, pixels: int = 16) -> Path:
    """A file of three classes that differ in brightness."""
    rng, y = np.random.default_rng(0), np.arange(train + test) % 3
    noise = rng.integers(0, 90, (len(y), pixels, pixels, 3))
    x = (noise + 80 * y[:, None, None, None]).astype(np.uint8)
    path = folder / "small.npz"
    np.savez(path, x_train=x[:train], y_train=y[:train], x_test=x[train:], y_test=y[train:])
    return path
