"""The user's own function, named on the command line, and what it raises as one line."""

import contextlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Any

# Where frames of the user's own code are not.
_FOREIGN = (
    rf"^<|site-packages|dist-packages|^{re.escape(os.path.dirname(contextlib.__file__))}|"
    + (rf"^{re.escape(os.path.dirname(os.path.dirname(__file__)))}")
)


def load(what: str, name: str) -> Any:
    """Imports ``MODULE:FUNCTION``, also from the working directory as ``python -m`` does.

    Args:
      what: Begins the message where no frame of the user's own does.
      name: The two names, with the colon.

    >>> load("--task json:dumps", "json:dumps")([1])
    '[1]'
    >>> load("--task json:dump_all", "json:dump_all")
    Traceback (most recent call last):
    ValueError: --task json:dump_all: module 'json' has no attribute 'dump_all'
    """
    module, _, function = name.partition(":")
    if module.endswith(".py"):
        module = module.removesuffix(".py").lstrip("./").replace("/", ".")
        raise ValueError(f"{what}: write the module as import does: {module}:{function}")
    if not all(part.isidentifier() for part in (*module.split("."), function)):
        raise ValueError(f"{what}: write MODULE:FUNCTION as import does, such as train:make")
    _see_working_directory()
    with placed(what):
        found = getattr(importlib.import_module(module), function)
    if not callable(found):
        raise ValueError(f"{what} must be a function, got {found!r}.")
    return found


def is_there(module: str) -> bool:
    """Whether a module can be imported, also from the working directory.

    >>> is_there("json"), is_there("no.such")
    (True, False)
    """
    _see_working_directory()
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


def _see_working_directory() -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")


@contextlib.contextmanager
def placed(what: str) -> Iterator[None]:
    """Makes what the user's code raises one line that begins with its file and line.

    >>> with placed("--task a:b"):
    ...     raise TypeError("a() takes no arguments")
    Traceback (most recent call last):
    ValueError: --task a:b: ...
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        cause = error.__cause__ or error
        frames = traceback.extract_tb(cause.__traceback__)
        own = [frame for frame in frames if not re.search(_FOREIGN, frame.filename)]
        text = (str(error).splitlines() or [""])[0]
        if own and cause is error:  # Not put into words by wdlab.
            text = f"{type(error).__name__}: {text}"
        place = f"{os.path.relpath(own[-1].filename)}:{own[-1].lineno}" if own else what
        is_missing = isinstance(error, ModuleNotFoundError) and "examples." in what
        hint = "; in wdlab's repository, pip install 'wdlab[examples]'" if is_missing else ""
        raise ValueError(f"{place}: {text}{hint}") from error
