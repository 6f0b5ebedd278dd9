"""CIFAR-10 and CIFAR-100 from their official archives (the binary version: nothing to unpickle)."""

import dataclasses
import tarfile
from pathlib import Path

import numpy as np

from examples.runs.download import download, hash_of
from examples.runs.errors import UserError


@dataclasses.dataclass(frozen=True)
class Archive:
    """One official archive: where it comes from, and what is in it."""

    name: str  # of the data set, for people
    url: str
    sha256: str
    train: tuple[str, ...]  # members with the training images, in order
    test: tuple[str, ...]
    label_bytes: int  # bytes before the pixels of an image; the last one is the label
    n_classes: int

    @property
    def file(self) -> str:
        """The archive's file name."""
        return self.url.rsplit("/", 1)[1]


ARCHIVES = {
    "cifar10": Archive(
        name="CIFAR-10",
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        train=tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
        test=("cifar-10-batches-bin/test_batch.bin",),
        label_bytes=1,
        n_classes=10,
    ),
    "cifar100": Archive(
        name="CIFAR-100",
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        sha256="58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        train=("cifar-100-binary/train.bin",),
        test=("cifar-100-binary/test.bin",),
        label_bytes=2,  # the coarse label, then the fine one
        n_classes=100,
    ),
}


def load(archive: Archive, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, test images and labels; downloaded if they are not there.

    Returns:
      uint8 (N, 32, 32, 3), int32 (N,), and the same for the test images.

    Raises:
      UserError: If the archive is neither there nor to be had, or is another one.
    """
    path = _fetch(archive, folder)
    try:
        with tarfile.open(path) as tar:
            train, test = (_read(tar, names, archive) for names in (archive.train, archive.test))
    except (OSError, KeyError, ValueError, EOFError, tarfile.TarError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return *train, *test


def _fetch(archive: Archive, folder: Path) -> Path:
    path = folder / archive.file
    if path.is_file():
        found = hash_of(path)
        if found != archive.sha256:
            raise UserError(
                f"{path} has SHA-256 {found}, expected {archive.sha256}: remove it, then it is "
                "downloaded again"
            )
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return download(archive.url, path, archive.sha256)
    except (UserError, OSError) as error:
        raise UserError(
            f"{archive.name} is not here: put {archive.file} (from {archive.url}) at {path}, or "
            f"train without it: --dataset digits. {error}"
        ) from None


def _read(tar: tarfile.TarFile, names: tuple[str, ...], archive: Archive):
    records = np.concatenate([_records(tar, name, archive.label_bytes) for name in names])
    planes_Nx3x32x32 = records[:, archive.label_bytes :].reshape(-1, 3, 32, 32)
    labels_N = records[:, archive.label_bytes - 1].astype(np.int32)
    if labels_N.max() >= archive.n_classes:
        raise ValueError(f"label {labels_N.max()}, but there are {archive.n_classes} classes")
    return np.ascontiguousarray(planes_Nx3x32x32.transpose(0, 2, 3, 1)), labels_N


def _records(tar: tarfile.TarFile, name: str, label_bytes: int) -> np.ndarray:
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is not a file")
    return np.frombuffer(file.read(), np.uint8).reshape(-1, label_bytes + 3 * 32 * 32)
