"""Torch's checkpoint files without arbitrary code: safetensors, or pickles of tensors alone.

A pickle can run anything when it is loaded. ``.safetensors`` cannot; of ``.pt``, ``.pth`` and
``.bin`` only what ``torch.load(weights_only=True)`` lets through is read, and only where torch is
installed. Both packages are imported when a file asks for them.
"""

import contextlib
import importlib
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wdlab.from_torch.names import as_numpy
from wdlab.from_torch.state import nested

_PICKLES = (".pt", ".pth", ".bin")
_GROUPS = "param_groups"


def load_tensors(path: str | Path) -> dict[str, Any]:
    """Loads a model's tensors by name.

    Args:
      path: ``.safetensors``, or ``.pt``, ``.pth``, ``.bin`` (needs torch).

    Raises:
      ValueError: If the file has another ending, or is damaged.
      ImportError: If the package for it is missing.
      pickle.UnpicklingError: If the file holds objects that could run code when they are loaded.

    >>> load_tensors("model.npz")
    Traceback (most recent call last):
    ValueError: 'model.npz' is neither .safetensors nor .pt, .pth, .bin. ...
    """
    suffix = Path(path).suffix
    if suffix == ".safetensors":
        with _opened(path) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  No mapping.
    if suffix in _PICKLES:
        return _without_code(_package("torch"), str(path))
    if (Path(path) / ".metadata").exists():
        raise ValueError(
            f"{str(path)!r} is a folder of torch.distributed.checkpoint. Where torch is, write "
            "torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, 'run.pt')."
        )
    raise ValueError(
        f"{str(path)!r} is neither .safetensors nor {', '.join(_PICKLES)}. Save the tensors with "
        "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')."
    )


def load_state_dict(path: str | Path) -> dict[str, Any]:
    """Loads a torch optimizer's ``state_dict()``.

    Args:
      path: ``.safetensors`` as :func:`save_state_dict` writes it, or ``.pt``, ``.pth``, ``.bin``.

    Raises:
      ValueError: If the file has another ending, or is a safetensors file of something else.

    >>> load_state_dict("optimizer.ckpt")
    Traceback (most recent call last):
    ValueError: 'optimizer.ckpt' is neither .safetensors nor .pt, .pth, .bin. ...
    """
    if Path(path).suffix != ".safetensors":
        return load_tensors(path)
    with _opened(path) as file:
        metadata = file.metadata() or {}
        if _GROUPS not in metadata:
            raise ValueError(
                f"{str(path)!r} holds no optimizer state: its metadata has no {_GROUPS!r}. Write "
                "it with wdlab.from_torch.save_state_dict(optimizer.state_dict(), path)."
            )
        state: dict[str, dict[str, Any]] = {}
        for key in file.keys():  # noqa: SIM118  The file is no mapping.
            parameter, buffer = key.rsplit(".", 1)
            state.setdefault(parameter, {})[buffer] = file.get_tensor(key)
    return {"state": state, _GROUPS: json.loads(metadata[_GROUPS])}


def save_state_dict(state_dict: Mapping[str, Any], path: str | Path) -> None:
    """Writes a torch optimizer's ``state_dict()`` as safetensors: keys "0.exp_avg", groups as JSON.

    Run it where torch is, so that the other side needs no torch.

    Args:
      state_dict: ``optimizer.state_dict()``; groups of numbers, strings and lists.
      path: Ends in ``.safetensors``.

    Raises:
      ValueError: If the path ends otherwise.

    >>> save_state_dict({"state": {}, "param_groups": []}, "optimizer.pt")
    Traceback (most recent call last):
    ValueError: path must end in .safetensors, got 'optimizer.pt'.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}.")
    state_dict = nested(state_dict)
    tensors = {
        f"{index}.{buffer}": as_numpy(value).copy()
        for index, entry in state_dict["state"].items()
        for buffer, value in entry.items()
        if value is not None
    }
    groups = json.dumps(state_dict[_GROUPS], default=lambda value: as_numpy(value).tolist())
    _package("safetensors.numpy").save_file(tensors, str(path), metadata={_GROUPS: groups})


def _without_code(torch: Any, path: str) -> Any:
    """Loads tensors and plain containers; refuses the rest, without torch's advice to run it."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        if "weights_only" not in str(error):
            raise
        named = re.search(r"GLOBAL (\S+)", str(error))
        found = f"an object of {named[1]}" if named else "more"
        raise pickle.UnpicklingError(
            f"{path!r} holds {found}. What is no tensor, number, string or plain container can run "
            "any code when it is loaded, so it is not. Where the file was made, save the tensors "
            "alone: safetensors.torch.save_file(model.state_dict(), 'model.safetensors') and "
            "wdlab.from_torch.save_state_dict(optimizer.state_dict(), 'optimizer.safetensors'); "
            "numbers as float(x) instead of NumPy's."
        ) from None


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    package = _package("safetensors")
    try:
        with package.safe_open(str(path), "np") as file:
            yield file
    except package.SafetensorError as error:
        raise ValueError(
            f"{str(path)!r} cannot be read as safetensors: {error}. If a download was cut off, "
            "fetch it again."
        ) from error


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top = name.split(".")[0]
        hint = "" if top == "safetensors" else " Or save the file as .safetensors where torch is."
        raise ImportError(f"this file needs {top}: pip install {top}.{hint}") from error
