"""Images and labels: CIFAR's archives, files of arrays, digits, augmentation, users' mistakes."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import tarfile
import threading

import jax
import numpy as np
import pytest

from examples.resnet import cifar, data, train
from examples.resnet.augment import augment
from examples.resnet.config import Config
from examples.resnet.flags import parse
from examples.runs.errors import UserError
from tests.examples.resnet import small_images

RNG = np.random.default_rng(0)


def fabricated(name):
    """An archive laid out like the official one, with few images; and those images."""
    archive = cifar.ARCHIVES[name]
    images, labels, buffer = [], [], io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in (*archive.train, *archive.test):
            x = RNG.integers(0, 256, (20, 32, 32, 3), np.uint8)
            y = np.arange(20) % 10
            coarse = np.zeros((20, archive.label_bytes - 1), np.uint8)
            planes = x.transpose(0, 3, 1, 2).reshape(20, -1)
            content = np.concatenate([coarse, y[:, None].astype(np.uint8), planes], 1).tobytes()
            info = tarfile.TarInfo(member)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            images.append(x)
            labels.append(y)
    return buffer.getvalue(), images, labels


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def served(monkeypatch, server, name):
    """Makes the loopback server the official one, with a fabricated archive."""
    folder, url = server
    content, images, labels = fabricated(name)
    archive = cifar.ARCHIVES[name]
    (folder / archive.file).write_bytes(content)
    archive = dataclasses.replace(
        archive, url=f"{url}/{archive.file}", sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setitem(cifar.ARCHIVES, name, archive)
    return images, labels


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_an_archive_is_downloaded_checked_and_read(name, server, tmp_path, monkeypatch):
    images, labels = served(monkeypatch, server, name)
    config = Config(dataset=name, data_dir=str(tmp_path / "data"), batch_size=4)
    found = data.load(config)
    np.testing.assert_array_equal(found.x_train, np.concatenate(images[:-1]))
    np.testing.assert_array_equal(found.y_train, np.concatenate(labels[:-1]))
    np.testing.assert_array_equal(found.x_test, images[-1])
    np.testing.assert_array_equal(found.y_test, labels[-1])
    assert found.n_classes == {"cifar10": 10, "cifar100": 100}[name]
    np.testing.assert_allclose(found.mean, [125.307, 122.961, 113.8575])
    monkeypatch.setattr(cifar, "download", None)  # The second time nothing is downloaded.
    assert data.load(config).digest() == found.digest()


def test_cifar10_5k_is_the_first_of_each_class(server, tmp_path, monkeypatch):
    images, labels = served(monkeypatch, server, "cifar10")
    monkeypatch.setattr(
        data, "first_of_each_class", lambda y, n: (n == 500) * np.flatnonzero(y == 3)[:2]
    )
    config = Config(dataset="cifar10_5k", data_dir=str(tmp_path), batch_size=2)
    found = data.load(config)
    np.testing.assert_array_equal(found.x_train, images[0][[3, 13]])
    assert len(found.x_test) == 20


def test_missing_cifar_without_network_says_where_to_put_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    archive = dataclasses.replace(
        cifar.ARCHIVES["cifar10"], url="http://127.0.0.1:9/cifar-10-binary.tar.gz"
    )
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", archive)
    assert train.main(["--model=vgg16"]) == 1
    error = capsys.readouterr().err
    assert "CIFAR-10 is not here: put cifar-10-binary.tar.gz" in error
    assert "at data/cifar-10-binary.tar.gz" in error
    assert "--dataset digits" in error
    assert error.count("\n") == 1


def test_another_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"something else")
    with pytest.raises(UserError, match="has SHA-256 .* expected c4a38c50.*: remove it"):
        data.load(Config(data_dir=str(tmp_path)))


@pytest.mark.parametrize("content", ["not a tar", "no member", "half an image", "label"])
def test_a_damaged_archive_is_one_sentence(content, tmp_path, monkeypatch):
    buffer = io.BytesIO()
    if content == "not a tar":
        buffer.write(b"x" * 100)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            archive = cifar.ARCHIVES["cifar10"]
            for name in () if content == "no member" else (*archive.train, *archive.test):
                size = 100 if content == "half an image" else 3073
                info = tarfile.TarInfo(name)
                info.size = size
                tar.addfile(info, io.BytesIO(b"\xff" * size))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(buffer.getvalue())
    archive = dataclasses.replace(
        cifar.ARCHIVES["cifar10"], sha256=hashlib.sha256(buffer.getvalue()).hexdigest()
    )
    monkeypatch.setitem(cifar.ARCHIVES, "cifar10", archive)
    with pytest.raises(UserError, match="cifar-10-binary.tar.gz cannot be read"):
        data.load(Config(data_dir=str(tmp_path)))


def test_digits_are_enlarged():
    found = data.digits()
    assert found.x_train.shape == (1500, 32, 32, 3)
    assert found.x_test.shape == (297, 32, 32, 3)
    assert found.n_classes == 10
    assert found.x_train.max() == 255
    np.testing.assert_array_equal(found.x_train[:, ::4, ::4], found.x_train[:, 3::4, 3::4])


def test_the_order_of_an_epoch_takes_every_image_at_most_once():
    order = data.order_of_epoch(jax.random.key(0), 20, 6)
    assert order.shape == (3, 6)
    assert len(np.unique(order)) == 18


def test_augmentation_flips_moves_and_covers():
    x = RNG.uniform(1, 255, (64, 16, 16, 3)).astype(np.float32)
    mean = np.float32([-1, -2, -3])  # No pixel has it.
    out = np.asarray(augment(jax.random.key(0), x, mean))
    flips, shifts = set(), set()
    for before, after in zip(x, out, strict=True):
        covered = (after == mean).all(-1)
        rows, columns = np.flatnonzero(covered.any(1)), np.flatnonzero(covered.any(0))
        assert covered.sum() == 64
        assert len(rows) == len(columns) == 8
        flip, shift = _explain(before, after, covered)
        flips.add(flip)
        shifts.add(shift)
    assert flips == {False, True}
    assert {s for pair in shifts for s in pair} == {-2, -1, 0, 1, 2}


def _explain(before, after, covered):
    """The flip and the movement that make one image from the other outside the square."""
    for flip in (False, True):
        padded = np.pad(before[:, ::-1] if flip else before, ((2, 2), (2, 2), (0, 0)))
        for i in range(5):
            for j in range(5):
                if (padded[i : i + 16, j : j + 16] == after)[~covered].all():
                    return flip, (2 - i, 2 - j)
    raise AssertionError("no flip and movement by at most 2 pixels explains it")


def npz(path, **changes):
    arrays = {
        "x_train": np.zeros((20, 32, 32, 3), np.uint8),
        "y_train": np.arange(20) % 10,
        "x_test": np.zeros((5, 32, 32, 3), np.uint8),
        "y_test": np.arange(5),
    } | changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


BAD_FILES = {
    "missing array": ({"y_test": None}, "must hold x_train, y_train, x_test, y_test"),
    "floats": ({"x_train": np.zeros((20, 32, 32, 3))}, "x_train must be uint8"),
    "labels": ({"y_train": np.arange(19)}, "y_train must be 20 integers"),
    "negative": ({"y_train": -np.ones(20, int)}, "has the negative label -1"),
    "sizes": ({"x_test": np.zeros((5, 16, 16, 3), np.uint8)}, "images of different sizes"),
    "objects": ({"y_train": np.array([None] * 20)}, "Object arrays cannot be loaded"),
    "too few": ({}, "has 20 training images, fewer than one batch of --batch_size 128"),
}


@pytest.mark.parametrize(("changes", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_that_does_not_fit_is_refused(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        data.load(Config(dataset=str(npz(tmp_path / "a.npz", **changes))))


def test_augmentation_that_would_leave_nothing_is_refused(tmp_path):
    flags = ["tiny", f"--dataset={small_images.save(tmp_path, pixels=8)}", "--batch_size=16"]
    data.load(parse(flags))
    with pytest.raises(UserError, match="images of 8 x 8 pixels, and augmentation covers 8 x 8"):
        data.load(parse([*flags, "--no_data_augm=False"]))


BAD = {
    "flag": (["--weight_decay=1"], "unknown flag --weight_decay"),
    "configuration": (["tinny"], "unknown configuration 'tinny' (did you mean 'tiny'?)"),
    "model": (["tiny", "--model=resnet19"], "unknown --model 'resnet19' (did you mean 'resnet18'"),
    "dataset": (["tiny", "--dataset=digit"], "unknown --dataset 'digit' (did you mean 'digits'?)"),
    "no file": (["tiny", "--dataset=no.npz"], "--dataset no.npz must hold"),
    "wd": (["tiny", "--wd=-1"], "--wd must be at least 0 and finite, got -1.0"),
    "lr": (["tiny", "--lr=nan"], "--lr must be positive and finite, got nan"),
    "momentum": (["tiny", "--momentum=1"], "--momentum must be in [0, 1)"),
    "batch of one": (["tiny", "--batch_size=1"], "--batch_size must be at least 2"),
    "radius": (["tiny", "--radius=0"], "--radius must be positive and finite"),
    "not a number": (["tiny", "--epochs=x"], "Error parsing --epochs"),
    "scale_inv linear": (["tiny", "--scale_inv", "--model=linear"], "needs BatchNorm"),
    "scale_inv": (["--scale_inv"], "--scale_inv needs --batch_norm with --model resnet18"),
}


@pytest.mark.parametrize(("argv", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_on_stderr_and_leaves_nothing(
    argv, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert train.main(argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert os.listdir(tmp_path) == []
