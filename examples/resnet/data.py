"""Images and labels: CIFAR, scikit-learn's digits, or a file of arrays.

Letters in names are shapes: N images, H height, W width, S steps of an epoch, B images of a step.
"""

import dataclasses
import hashlib
import zipfile
from pathlib import Path

import jax
import numpy as np

from examples.runs.errors import UserError
from examples.runs.flags import nearest

from . import cifar
from .augment import CUTOUT
from .config import Config

CIFAR_MEAN = np.array([125.307, 122.961, 113.8575], np.float32)  # of red, green, blue in 0..255
CIFAR_STD = np.array([51.5865, 50.847, 51.255], np.float32)
NAMES = ("cifar10", "cifar100", "cifar10_5k", "digits")


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Two splits, and the constants that the pixels are normalized with."""

    x_train: np.ndarray  # uint8, (N, H, H, 3)
    y_train: np.ndarray  # int32, (N,)
    x_test: np.ndarray
    y_test: np.ndarray
    n_classes: int
    mean: np.ndarray  # float32, (3,), per channel, pixels in 0..255
    std: np.ndarray

    @property
    def image_size(self) -> int:
        """Height and width in pixels."""
        return self.x_train.shape[1]

    def digest(self) -> str:
        """A fingerprint of the data, so that a resumed run can see whether it is the same."""
        found = hashlib.sha256()
        for part in (self.x_train, self.y_train, self.x_test, self.y_test):
            found.update(part.tobytes())
        return found.hexdigest()[:16]


def load(config: Config) -> Dataset:
    """Reads the data that the configuration names.

    Raises:
      UserError: If it is missing or damaged, has fewer images than one batch, or nothing of them
        would be left by the augmentation.
    """
    if config.dataset == "digits":
        data = digits()
    elif config.dataset in cifar.ARCHIVES:
        data = _cifar(config.dataset, config)
    elif config.dataset == "cifar10_5k":
        data = _cifar("cifar10", config)
        chosen = first_of_each_class(data.y_train, 500)
        data = dataclasses.replace(data, x_train=data.x_train[chosen], y_train=data.y_train[chosen])
    else:
        data = _from_file(config.dataset)
    if len(data.x_train) < config.batch_size:
        raise UserError(
            f"{config.dataset} has {len(data.x_train)} training images, fewer than one batch of "
            f"--batch_size {config.batch_size}"
        )
    if not config.no_data_augm and data.image_size <= CUTOUT:
        raise UserError(
            f"{config.dataset} has images of {data.image_size} x {data.image_size} pixels, and "
            f"augmentation covers {CUTOUT} x {CUTOUT} of them: leave --no_data_augm=False out"
        )
    return data


def _cifar(name: str, config: Config) -> Dataset:
    archive = cifar.ARCHIVES[name]
    x_train, y_train, x_test, y_test = cifar.load(archive, Path(config.data_dir))
    n = archive.n_classes
    return Dataset(x_train, y_train, x_test, y_test, n, CIFAR_MEAN, CIFAR_STD)


def digits() -> Dataset:
    """scikit-learn's 1797 handwritten digits of 8x8 pixels, enlarged to 32x32x3; 297 to test.

    The last ones are the test images: other people wrote them.
    """
    from sklearn.datasets import load_digits

    found = load_digits()
    gray_Nx8x8 = np.round(found.images * (255 / 16)).astype(np.uint8)  # pyrefly: ignore
    x = np.repeat(gray_Nx8x8.repeat(4, 1).repeat(4, 2)[..., None], 3, axis=-1)
    y = found.target.astype(np.int32)  # pyrefly: ignore
    return _with_own_constants(x[:1500], y[:1500], x[1500:], y[1500:])


def _with_own_constants(x_train, y_train, x_test, y_test) -> Dataset:
    mean = x_train.mean((0, 1, 2), dtype=np.float64).astype(np.float32)
    std = np.maximum(x_train.std((0, 1, 2), dtype=np.float64), 1).astype(np.float32)
    n_classes = int(max(y_train.max(), y_test.max())) + 1
    return Dataset(x_train, y_train, x_test, y_test, n_classes, mean, std)


def _from_file(name: str) -> Dataset:
    path = Path(name)
    if path.suffix != ".npz":
        hint = nearest(name, NAMES)
        raise UserError(f"unknown --dataset {name!r}{hint}; there are {', '.join(NAMES)}, FILE.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"--dataset {name} must hold x_train, y_train, x_test, y_test: {error}"
        ) from None
    x_train, y_train, x_test, y_test = arrays
    images, labels = zip(
        _checked(name, "train", x_train, y_train),
        _checked(name, "test", x_test, y_test),
        strict=True,
    )
    if images[0].shape[1:] != images[1].shape[1:]:
        raise UserError(f"--dataset {name}: x_train and x_test have images of different sizes")
    return _with_own_constants(images[0], labels[0], images[1], labels[1])


def _checked(name: str, split: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images as uint8 (N, H, H, 3) and labels as int32 (N,), or what is wrong with them."""
    if x.ndim == 3:  # Gray.
        x = np.repeat(x[..., None], 3, axis=-1)
    y = y.reshape(-1) if y.ndim == 2 and y.shape[1] == 1 else y
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or x.shape[1] != x.shape[2]:
        raise UserError(
            f"--dataset {name}: x_{split} must be uint8 (N, H, H, 3) or (N, H, H), got "
            f"{x.dtype} {x.shape}"
        )
    if not np.issubdtype(y.dtype, np.integer) or y.shape != x.shape[:1] or not len(y):
        raise UserError(
            f"--dataset {name}: y_{split} must be {len(x)} integers, got {y.dtype} {y.shape}"
        )
    if y.min() < 0:
        raise UserError(f"--dataset {name}: y_{split} has the negative label {y.min()}")
    return x, y.astype(np.int32)


def first_of_each_class(labels_N: np.ndarray, count: int) -> np.ndarray:
    """Indices of the first ``count`` images of every class, class by class.

    Example:
      >>> first_of_each_class(np.array([1, 0, 1, 1, 0]), 2)
      array([1, 4, 0, 2])
    """
    classes = np.unique(labels_N)
    return np.concatenate([np.flatnonzero(labels_N == c)[:count] for c in classes])


def order_of_epoch(key: jax.Array, n: int, batch_size: int) -> jax.Array:
    """A permutation of n images in steps, int32 (S, B); the last partial batch is dropped."""
    steps = n // batch_size
    return jax.random.permutation(key, n)[: steps * batch_size].reshape(steps, batch_size)
