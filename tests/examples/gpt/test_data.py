"""Datasets: the embedded text, nanoGPT's files, downloads from a loopback server, the batches."""

import hashlib
import http.server
import io
import json
import pickle
import tarfile
import threading
import types

import numpy as np
import pytest

from examples.gpt import corpora, data, library
from examples.gpt.config import Config
from examples.gpt.configs import CONFIGS
from examples.gpt.corpora import main
from examples.runs.errors import UserError

TEXT = "to be, or not to be: that is the question\n" * 20


@pytest.fixture
def server(tmp_path):
    """A web server on loopback: the folder it serves, and its address."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def prepare(tmp_path, *argv):
    return main(["prepare", *map(str, argv), "--data_dir", str(tmp_path / "data")])


def config_for(tmp_path, dataset, **changes):
    return Config(data_dir=str(tmp_path / "data"), dataset=dataset, block_size=8, **changes)


def test_the_embedded_text_is_split_90_10_and_decodes():
    text = data.embedded()
    assert len(text.train) + len(text.val) > 300_000
    assert len(text.train) == (len(text.train) + len(text.val)) * 9 // 10
    assert text.train.dtype == np.uint16
    assert text.train.max() < text.vocab_size
    assert "statement" in text.decode(text.train[:20_000])


def test_files_become_a_character_dataset(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text("ÄÖ€😀")
    assert prepare(tmp_path, tmp_path / "a.txt", tmp_path / "b.txt", "--name=both") == 0
    loaded = data.load(config_for(tmp_path, "both", n_train_tokens=50))
    raw = np.fromfile(tmp_path / "data/both/train.bin", np.uint16)
    whole = loaded.decode(np.concatenate([raw, loaded.val]))
    assert whole == TEXT + "\nÄÖ€😀"
    assert len(loaded.train) == 50
    assert "training and" in capsys.readouterr().out


def test_download_is_checked_kept_and_not_repeated(tmp_path, server, capsys):
    folder, address = server
    (folder / "input.txt").write_text(TEXT)
    sha256 = hashlib.sha256(TEXT.encode()).hexdigest()
    command = ["shakespeare_char", f"--url={address}/input.txt", f"--sha256={sha256}"]
    assert prepare(tmp_path, *command) == 0
    loaded = data.load(config_for(tmp_path, "shakespeare_char"))
    assert loaded.decode(np.concatenate([loaded.train, loaded.val])) == TEXT
    (folder / "input.txt").unlink()
    assert prepare(tmp_path, *command) == 0
    capsys.readouterr()


def test_a_wrong_hash_keeps_nothing(tmp_path, server, capsys):
    folder, address = server
    (folder / "input.txt").write_text(TEXT)
    assert prepare(tmp_path, "shakespeare_char", "--url", f"{address}/input.txt") == 1
    error = capsys.readouterr().err
    assert "expected 86c4e6aa9db7c042" in error
    assert error.count("\n") == 1
    assert list((tmp_path / "data/shakespeare_char").iterdir()) == []


def test_openwebtext_is_read_from_tars_in_a_tar(tmp_path, server, monkeypatch, capsys):
    folder, address = server
    (folder / "owt.tar").write_bytes(tar_of_tars([["first one", "second"], ["third"]]))
    sha256 = hashlib.sha256((folder / "owt.tar").read_bytes()).hexdigest()
    pairs = types.SimpleNamespace(encode_ordinary=lambda text: [ord(c) for c in text])
    monkeypatch.setattr(corpora, "byte_pairs", lambda: pairs)
    monkeypatch.setattr(corpora, "VALIDATION_EVERY", 3)
    command = ["openwebtext", "--url", f"{address}/owt.tar", "--sha256", sha256]
    assert prepare(tmp_path, *command) == 0
    parts = [
        np.fromfile(tmp_path / f"data/openwebtext/{s}.bin", np.uint16) for s in ("train", "val")
    ]
    texts = ["".join("|" if t == corpora.END_OF_TEXT else chr(t) for t in part) for part in parts]
    assert texts == ["second|third|", "first one|"]
    assert data.load(config_for(tmp_path, "openwebtext")).vocab_size == data.GPT2_VOCABULARY


def tar_of_tars(subsets):
    outer_file = io.BytesIO()
    with tarfile.open(fileobj=outer_file, mode="w") as outer:
        for i, texts in enumerate(subsets):
            inner_file = io.BytesIO()
            with tarfile.open(fileobj=inner_file, mode="w:xz") as inner:
                for j, text in enumerate(texts):
                    _add(inner, f"{j}.txt", text.encode())
            _add(outer, f"openwebtext/subset{i}.xz", inner_file.getvalue())
    return outer_file.getvalue()


def _add(tar, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


@pytest.fixture
def small_library(tmp_path, monkeypatch):
    """A standard library of three modules, with what does not belong to it."""
    root = tmp_path / "lib"
    modules = {
        "b.py": b"# -*- coding: latin-1 -*-\nb = '\xe9'\n",
        "a/z.py": "z = '€'\n".encode(),
        "a.py": b"a = 1\n" * 40,
        "test/t.py": b"test",
        "a/tests/t.py": b"test",
        "site-packages/p.py": b"package",
        "_sysconfigdata__linux.py": b"/home/me",
        "config-3.11/c.py": b"/home/me",
        "a/notes.txt": b"text",
    }
    for name, content in modules.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    monkeypatch.setattr(library.sysconfig, "get_path", lambda name: str(root))
    return root


LIBRARY = "z = '\\u20ac'\n\n" + "a = 1\n" * 40 + "\n# -*- coding: latin-1 -*-\nb = '\\xe9'\n"


def test_the_standard_library_is_its_modules_in_order(tmp_path, small_library, capsys):
    assert prepare(tmp_path, "stdlib") == 0
    raw = [np.fromfile(tmp_path / f"data/stdlib/{s}.bin", np.uint16) for s in ("train", "val")]
    meta = json.loads((tmp_path / "data/stdlib/meta.json").read_text())
    assert "".join(meta["characters"][t] for t in np.concatenate(raw)) == LIBRARY
    assert len(raw[0]) == len(LIBRARY) * 99 // 100
    assert meta["sha256"] == hashlib.sha256(LIBRARY.encode()).hexdigest()
    assert meta["sha256"] in capsys.readouterr().out
    embedded = library.dataset()
    assert (embedded.train == raw[0]).all()
    assert (embedded.val == raw[1]).all()
    assert embedded.characters == tuple(meta["characters"])


LIBRARY_MISTAKES = {
    "another text": ("--sha256=0", "expected 0: use the Python"),
    "address": ("--url=http://127.0.0.1:9/x", "leave out --url"),
    "two": ("more.txt", "stdlib is a corpus by itself"),
}


@pytest.mark.parametrize(("word", "message"), LIBRARY_MISTAKES.values(), ids=LIBRARY_MISTAKES)
def test_a_mistake_about_the_standard_library(tmp_path, small_library, capsys, word, message):
    assert prepare(tmp_path, "stdlib", word) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_library_without_modules_or_that_cannot_be_read_is_said(tmp_path):
    with pytest.raises(UserError, match="no .py files"):
        library.text(tmp_path)
    (tmp_path / "bad.py").write_bytes(b"# coding: no-such\n")
    with pytest.raises(UserError, match="bad.py cannot be read as Python"):
        library.text(tmp_path)


def nanogpt_folder(tmp_path, meta=None, train=TEXT, val=TEXT):
    folder = tmp_path / "data/mine"
    folder.mkdir(parents=True)
    for split, content in (("train", train), ("val", val)):
        np.frombuffer(content.encode(), np.uint8).astype(np.uint16).tofile(folder / f"{split}.bin")
    if meta is not None:
        (folder / "meta.pkl").write_bytes(meta)
    return folder


def test_nanogpt_files_are_read_with_their_pickled_vocabulary(tmp_path):
    meta = {"vocab_size": 128, "itos": {i: chr(i) for i in range(128)}, "stoi": {}}
    nanogpt_folder(tmp_path, pickle.dumps(meta))
    loaded = data.load(config_for(tmp_path, "mine"))
    assert loaded.vocab_size == 128
    assert loaded.decode(loaded.train[:5]) == "to be"


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    import os

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    nanogpt_folder(tmp_path, pickle.dumps({"vocab_size": Evil()}))
    with pytest.raises(UserError, match="refused to load .*mkdir"):
        data.load(config_for(tmp_path, "mine"))
    assert not (tmp_path / "ran").exists()


BAD_FOLDERS = {
    "missing": (lambda f: (f / "val.bin").unlink(), "val.bin is missing"),
    "empty": (lambda f: (f / "train.bin").write_bytes(b""), "train.bin has 0 bytes"),
    "odd": (lambda f: (f / "train.bin").write_bytes(b"abc"), "has 3 bytes: not a sequence"),
    "short": (lambda f: (f / "val.bin").write_bytes(b"ab" * 8), "has 8 tokens, .* at least 9"),
    "meta": (lambda f: (f / "meta.json").write_text("{"), "the vocabulary in"),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_bad_data_files_are_named(tmp_path, spoil, message):
    spoil(nanogpt_folder(tmp_path))
    with pytest.raises(UserError, match=message):
        data.load(config_for(tmp_path, "mine"))


def test_a_token_outside_the_vocabulary_is_an_error_not_nan(tmp_path):
    folder = nanogpt_folder(tmp_path)
    (folder / "meta.json").write_text(json.dumps({"characters": list("abc")}))
    config = config_for(tmp_path, "mine")
    with pytest.raises(UserError, match="the vocabulary has 3"):
        data.evaluation_windows(data.load(config).val, data.load(config), config)


BAD_COMMANDS = {
    "no corpus": ([], "write `python -m examples.gpt.data prepare NAME`"),
    "no file": (["prepare", "shakespear_char"], "did you mean 'shakespeare_char'"),
    "no server": (
        ["prepare", "shakespeare_char", "--url", "http://127.0.0.1:9/x"],
        "could not download",
    ),
    "flag": (["prepare", "shakespeare_char", "--sha=1"], "did you mean --sha256"),
    "two": (["prepare", "openwebtext", "more.txt"], "openwebtext is a corpus by itself"),
}


@pytest.mark.parametrize(("argv", "message"), BAD_COMMANDS.values(), ids=BAD_COMMANDS)
def test_bad_commands_say_what_to_write(tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_batches_follow_the_seed_and_their_state():
    config = CONFIGS["tiny"]()
    text = data.load(config)
    first, second = data.batches(text, config), data.batches(text, config)
    drawn = [next(first) for _ in range(5)]
    assert drawn[0].shape == (1, config.batch_size, config.block_size + 1)
    assert drawn[0].dtype == np.int32
    assert all((next(second) == batch).all() for batch in drawn)
    state = first.get_state()
    following = next(first)
    third = data.batches(text, config)
    third.set_state(json.loads(json.dumps(state)))
    assert (next(third) == following).all()
    assert not (drawn[0] == drawn[1]).all()
