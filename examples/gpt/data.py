"""Tokens for the GPT: the embedded text, nanoGPT's files, and batches of windows by grain.

``python -m examples.gpt.data prepare stdlib | shakespeare_char | shakespeare | openwebtext |
FILES...`` builds a dataset (see ``corpora.py``).
"""

import dataclasses
import hashlib
import json
import pickle
from pathlib import Path
from pydoc_data import topics
from typing import Any

import grain
import numpy as np

from examples.runs.errors import UserError
from examples.runs.flags import nearest

from .config import Config

GPT2_VOCABULARY = 50_304  # 50257 tokens, padded to a multiple of 64.


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Two splits of one text, as tokens."""

    train: np.ndarray  # uint16, one dimension
    val: np.ndarray
    vocab_size: int
    characters: tuple[str, ...] | None  # token -> character; None for byte-pair encoding

    def decode(self, tokens: np.ndarray) -> str:
        """The text of some tokens (their numbers, where the encoding is not at hand)."""
        if self.characters is not None:
            return "".join(self.characters[token] for token in tokens)
        try:
            return byte_pairs().decode([int(token) for token in tokens])
        except UserError:
            return " ".join(map(str, tokens))

    def encode(self, text: str) -> list[int]:
        """The tokens of some text.

        Raises:
          UserError: If there are none for it, or the encoding is not at hand.
        """
        if self.characters is None:
            return byte_pairs().encode_ordinary(text) if text else []
        numbers = {character: i for i, character in enumerate(self.characters)}
        if unknown := sorted(set(text) - numbers.keys()):
            raise UserError(f"the data have no {unknown[0]!r}, so the model knows no token for it")
        return [numbers[character] for character in text]

    def digest(self) -> str:
        """A fingerprint of the data, so that a resumed run can see whether it is the same."""
        ends = b"".join(part[i].tobytes() for part in (self.train, self.val) for i in _ENDS)
        sizes = f"{len(self.train)} {len(self.val)} {self.vocab_size} ".encode()
        return hashlib.sha256(sizes + ends).hexdigest()[:16]


_ENDS = (slice(0, 1 << 20), slice(-(1 << 20), None))


def byte_pairs() -> Any:
    """GPT-2's encoding.

    Raises:
      UserError: If its package is missing.
    """
    try:
        import tiktoken  # pyrefly: ignore[missing-import]
    except ImportError:
        raise UserError("GPT-2's byte pairs need tiktoken: pip install tiktoken") from None
    return tiktoken.get_encoding("gpt2")


def load(config: Config) -> Dataset:
    """Reads the dataset that the configuration names.

    Raises:
      UserError: If a file is missing, empty or damaged, or a split is shorter than one window.
    """
    data = embedded() if config.dataset == "pydoc" else _from_folder(config)
    if config.n_train_tokens is not None:
        data = dataclasses.replace(data, train=data.train[: config.n_train_tokens])
    for split, tokens in (("training", data.train), ("validation", data.val)):
        if len(tokens) < config.block_size + 1:
            raise UserError(
                f"the {split} text of {config.dataset!r} has {len(tokens)} tokens, but "
                f"--block_size {config.block_size} needs at least {config.block_size + 1}"
            )
    return data


def embedded() -> Dataset:
    """The reference texts of this Python (``help('lambda')`` and so on), by characters, 90/10."""
    text = "\n".join(topics.topics[name] for name in sorted(topics.topics))
    characters, tokens = encode_characters(text)
    cut = len(tokens) * 9 // 10
    return Dataset(tokens[:cut], tokens[cut:], len(characters), characters)


def encode_characters(text: str) -> tuple[tuple[str, ...], np.ndarray]:
    """The sorted characters of a text, and the text as indices into them.

    Example:
      >>> encode_characters("abca")
      (('a', 'b', 'c'), array([0, 1, 2, 0], dtype=uint16))
    """
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    used, tokens = np.unique(points, return_inverse=True)
    if len(used) > 1 << 16:
        raise UserError(f"the text has {len(used)} different characters; uint16 holds 65536")
    return tuple(map(chr, used)), tokens.astype(np.uint16)


def _from_folder(config: Config) -> Dataset:
    folder = Path(config.data_dir) / config.dataset
    if not folder.is_dir():
        parent = Path(config.data_dir)
        names = ["pydoc", *(p.name for p in parent.iterdir())] if parent.is_dir() else ["pydoc"]
        raise UserError(
            f"no dataset {config.dataset!r} in {config.data_dir}{nearest(config.dataset, names)}: "
            f"build it with `python -m examples.gpt.data prepare {config.dataset}`"
        )
    train, val = (_tokens(folder / f"{split}.bin") for split in ("train", "val"))
    vocab_size, characters = _vocabulary(folder)
    return Dataset(train, val, vocab_size, characters)


def _tokens(path: Path) -> np.ndarray:
    if not path.is_file():
        raise UserError(f"data file {path} is missing")
    size = path.stat().st_size
    if size == 0 or size % 2:
        raise UserError(f"data file {path} has {size} bytes: not a sequence of uint16 tokens")
    return np.memmap(path, dtype=np.uint16, mode="r")


def _vocabulary(folder: Path) -> tuple[int, tuple[str, ...] | None]:
    """Vocabulary size and characters from meta.json (ours) or meta.pkl (nanoGPT's)."""
    try:
        if (folder / "meta.json").exists():
            characters = tuple(json.loads((folder / "meta.json").read_text("utf-8"))["characters"])
            return len(characters), characters
        if (folder / "meta.pkl").exists():
            with open(folder / "meta.pkl", "rb") as file:
                meta = _PlainUnpickler(file).load()
            return meta["vocab_size"], tuple(meta["itos"][i] for i in range(meta["vocab_size"]))
    except (ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"the vocabulary in {folder} (meta.json or meta.pkl): {error}") from None
    return GPT2_VOCABULARY, None


class _PlainUnpickler(pickle.Unpickler):
    """Reads dicts, strings and numbers; whatever would import or call anything is refused."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"refused to load {module}.{name}: only plain data is read")


class _Windows:
    """Draws the windows of one step: deterministic in the step's index and the seed.

    All processes draw the same windows, and each reads those in its rows of the batch.
    """

    def __init__(self, data: Dataset, config: Config, rows: np.ndarray):
        self.tokens, self.vocab_size, self.rows = data.train, data.vocab_size, rows
        self.shape = (config.gradient_accumulation_steps, config.batch_size)
        self.offsets = np.arange(config.block_size + 1)

    def __call__(self, index: int, rng: np.random.Generator) -> np.ndarray:
        del index  # The generator was made from it.
        starts = rng.integers(len(self.tokens) - len(self.offsets) + 1, size=self.shape)
        starts = starts[:, self.rows]
        return checked(self.tokens[starts[..., None] + self.offsets], self.vocab_size)


def batches(
    data: Dataset, config: Config, rows: np.ndarray | None = None
) -> grain.DatasetIterator[np.ndarray]:
    """Endless batches, int32, shape (accumulation, batch_size, block_size + 1).

    Windows start anywhere, drawn with replacement. The iterator is grain's: its ``get_state`` goes
    into the checkpoint, and ``set_state`` continues with the very next batch, on any number of
    processes. ``rows``: which of the batch_size sequences to read, by default all.
    """
    rows = np.arange(config.batch_size) if rows is None else rows
    steps = grain.MapDataset.range(1 << 62).seed(config.random_seed)
    drawn = steps.random_map(_Windows(data, config, rows))
    read = grain.ReadOptions(num_threads=1, prefetch_buffer_size=4)
    return drawn.to_iter_dataset(read).__iter__()


def evaluation_windows(tokens: np.ndarray, data: Dataset, config: Config) -> np.ndarray:
    """The same evenly spaced windows at every evaluation, int32, (batches, B, block_size + 1)."""
    size = min(config.batch_size, config.eval_examples)
    count = -(-config.eval_examples // size)
    starts = np.linspace(0, len(tokens) - config.block_size - 1, count * size).astype(np.int64)
    windows = tokens[starts[:, None] + np.arange(config.block_size + 1)]
    return checked(windows, data.vocab_size).reshape(count, size, -1)


def checked(tokens: np.ndarray, vocab_size: int) -> np.ndarray:
    """Refuses tokens outside the vocabulary, which the embedding would turn into NaN."""
    if tokens.max() >= vocab_size:
        raise UserError(f"the data holds token {tokens.max()}, the vocabulary has {vocab_size}")
    return tokens.astype(np.int32)


if __name__ == "__main__":
    import sys

    from .corpora import main

    sys.exit(main(sys.argv[1:]))
