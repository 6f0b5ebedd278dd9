"""Builds datasets: download with a checked hash, tokenize, write train.bin, val.bin, meta.json."""

import contextlib
import dataclasses
import json
import os
import platform
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from examples.runs.download import download
from examples.runs.errors import UserError, fail
from examples.runs.flags import nearest, parse_dataclass
from examples.runs.run_dir import check_name
from wdlab._core.files import replacing

from . import library
from .data import byte_pairs, encode_characters

STDLIB = "stdlib"  # The name of the corpus that is no download: see library.py.
END_OF_TEXT = 50_256  # GPT-2's token between documents.
VALIDATION_EVERY = 2_000  # One document in so many goes to the validation split.


@dataclasses.dataclass(frozen=True)
class Corpus:
    """A text on the network."""

    url: str
    sha256: str
    tokenizer: Literal["char", "gpt2"]
    documents: bool = False  # a tar of xz-compressed tars of documents, instead of one text


_TINY_SHAKESPEARE = Corpus(
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
    "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "char",
)
CORPORA = {
    "shakespeare_char": _TINY_SHAKESPEARE,
    "shakespeare": dataclasses.replace(_TINY_SHAKESPEARE, tokenizer="gpt2"),
    "openwebtext": Corpus(
        "https://zenodo.org/record/3834942/files/openwebtext.tar.xz",
        "9fe39d154c5bc67da8c359415372b79510eb1e2edb0d035fe4f7fc3a732b9336",
        "gpt2",
        documents=True,
    ),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of ``prepare``."""

    data_dir: str = "data"  # the dataset becomes a folder in here
    name: str = ""  # of the dataset; default: the corpus, or the first file without its suffix
    tokenizer: Literal["char", "gpt2"] = "char"  # for FILES
    url: str = ""  # download the corpus from here instead (a mirror); the hash is still checked
    sha256: str = ""  # expect this hash instead


def main(argv: Sequence[str]) -> int:
    """``python -m examples.gpt.data prepare CORPUS | FILES... [--flags]``; the exit code."""
    try:
        words, flags = _split_flags(argv)
        if "--help" in flags or "-h" in flags:
            parse_dataclass(Options, Options(), ["--help"], "python -m examples.gpt.data prepare")
        if len(words) < 2 or words[0] != "prepare":
            raise UserError(
                "write `python -m examples.gpt.data prepare NAME`, NAME one of "
                f"{', '.join((STDLIB, *CORPORA))}, or text files"
            )
        options = parse_dataclass(Options, Options(), flags, "python -m examples.gpt.data prepare")
        folder = prepare(words[1:], options)
    except (UserError, OSError) as error:
        return fail(error)
    sizes = {s: os.path.getsize(folder / f"{s}.bin") // 2 for s in ("train", "val")}
    print(f"{folder}: {sizes['train']:,} training and {sizes['val']:,} validation tokens")
    return 0


def _split_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words and flags; every flag here takes a value."""
    words, flags, rest = [], [], list(argv)
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("-"):
            words.append(arg)
            continue
        flags.append(arg)
        if "=" not in arg and rest and not rest[0].startswith("-"):
            flags.append(rest.pop(0))
    return words, flags


def prepare(words: Sequence[str], options: Options) -> Path:
    """Builds the dataset of a corpus' name or of text files; returns its folder."""
    corpus = CORPORA.get(words[0])
    name = options.name or (words[0] if corpus else Path(words[0]).stem)
    check_name("--name", name)
    folder = Path(options.data_dir) / name
    if len(words) > 1 and (corpus or words[0] == STDLIB):
        raise UserError(f"{words[0]} is a corpus by itself; {words[1]!r} cannot join it")
    if words[0] == STDLIB:
        _write_library(folder, options)
        return folder
    if corpus is None:
        text = "\n".join(_read_text(Path(word)) for word in words)
        folder.mkdir(parents=True, exist_ok=True)
        _write_text(folder, text, options.tokenizer)
        return folder
    url, sha256 = options.url or corpus.url, options.sha256 or corpus.sha256
    folder.mkdir(parents=True, exist_ok=True)
    file = download(url, folder / url.rsplit("/", 1)[-1], sha256)
    if corpus.documents:
        _write_documents(folder, documents(file), byte_pairs().encode_ordinary)
    else:
        _write_text(folder, _read_text(file), corpus.tokenizer)
    return folder


def _write_library(folder: Path, options: Options) -> None:
    """Writes the standard library's source code, and says which: it differs between Pythons."""
    if options.url:
        raise UserError(f"{STDLIB} is on this machine: leave out --url")
    text = library.text()
    sha256 = library.digest(text)
    if options.sha256 not in ("", sha256):
        raise UserError(
            f"the standard library of Python {platform.python_version()} has sha256 {sha256}, "
            f"expected {options.sha256}: use the Python that the data were made with"
        )
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder, text, "char", library.TRAINING_PERCENT, {"sha256": sha256})
    print(f"Python {platform.python_version()}, sha256 {sha256}")


def _read_text(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no file {path}{nearest(str(path), (STDLIB, *CORPORA))}")
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error}") from None
    if not text:
        raise UserError(f"{path} is empty")
    return text


def documents(archive: Path) -> Iterator[str]:
    """The texts in a tar of xz-compressed tars, in the order they lie there."""
    with tarfile.open(archive, "r|*") as outer:
        for member in outer:
            if not member.isfile() or not member.name.endswith(".xz"):
                continue
            with tarfile.open(fileobj=outer.extractfile(member), mode="r|xz") as inner:
                for document in inner:
                    if (file := inner.extractfile(document)) is not None:
                        yield file.read().decode("utf-8", errors="replace")


def _write_text(
    folder: Path, text: str, tokenizer: str, percent: int = 90, meta: dict[str, str] | None = None
) -> None:
    """Writes one text, the first so many percent for training."""
    if tokenizer == "char":
        characters, tokens = encode_characters(text)
        cut = len(tokens) * percent // 100
        parts = {"train": tokens[:cut], "val": tokens[cut:]}
        _replace(
            folder / "meta.json", json.dumps({"characters": characters} | (meta or {})).encode()
        )
    else:
        encode, cut = byte_pairs().encode_ordinary, len(text) * percent // 100
        parts = {"train": _uint16(encode(text[:cut])), "val": _uint16(encode(text[cut:]))}
        (folder / "meta.json").unlink(missing_ok=True)
    for split, tokens in parts.items():
        _replace(folder / f"{split}.bin", tokens.tobytes())


def _uint16(tokens: list[int]) -> np.ndarray:
    return np.asarray(tokens, np.uint16)


def _replace(path: Path, content: bytes) -> None:
    with replacing(path) as part:
        part.write_bytes(content)


def _write_documents(
    folder: Path, texts: Iterator[str], encode: Callable[[str], list[int]]
) -> None:
    """Writes many documents, each followed by the end-of-text token, without holding them all."""
    with contextlib.ExitStack() as stack:
        parts = [stack.enter_context(replacing(folder / f"{s}.bin")) for s in ("train", "val")]
        train, val = (stack.enter_context(open(part, "wb")) for part in parts)
        for i, text in enumerate(texts):
            target = val if i % VALIDATION_EVERY == 0 else train
            target.write(_uint16([*encode(text), END_OF_TEXT]).tobytes())
        (folder / "meta.json").unlink(missing_ok=True)
