"""Stopping politely."""

import signal
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


class StopRequest:
    """SIGTERM or SIGINT: finish the current step, save, leave.

    Of several processes each asks ``requested`` once a step; a signal to one of them stops all, at
    the same step.
    """

    def __init__(self):
        self._signal: int | None = None
        self._agreed: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        del frame
        self._signal = number

    @property
    def requested(self) -> bool:
        """Whether a signal has come, to any process. Once true, it stays."""
        if self._agreed is None:
            self._agreed = self._signal
            if jax.process_count() > 1:
                noted = multihost_utils.process_allgather(np.int32(self._signal or 0))
                self._agreed = int(np.max(noted)) or None
        return self._agreed is not None

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self._agreed).name

    @property
    def exit_code(self) -> int:
        """0 for a polite SIGTERM, 130 for Ctrl-C, as shells expect."""
        return 130 if self._agreed == signal.SIGINT else 0
