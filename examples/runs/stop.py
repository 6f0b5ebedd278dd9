"""Stopping politely."""

import signal
from typing import Any


class StopRequest:
    """SIGTERM or SIGINT: finish the current step, save, leave."""

    def __init__(self):
        self._signal: int | None = None
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
        """Whether a signal has come."""
        return self._signal is not None

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self._signal).name

    @property
    def exit_code(self) -> int:
        """0 for a polite SIGTERM, 130 for Ctrl-C, as shells expect."""
        return 130 if self._signal == signal.SIGINT else 0
