"""Stopping politely."""

import signal
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


class StopRequest:
    """SIGTERM, SIGINT or SIGHUP: finish the current step, save, leave.

    Of several processes each asks the others at the same steps; a signal to one of them stops all.
    """

    def __init__(self):
        self._signal: int | None = None
        self._agreed: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for name in ("SIGTERM", "SIGINT", "SIGHUP"):
            number = getattr(signal, name, None)  # There is no SIGHUP on Windows,
            if number is None or (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                continue  # and nohup asks to stay when the terminal goes.
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        del frame
        self._signal = number

    def ask(self) -> Any:
        """Asks all processes without waiting: what :meth:`hear` takes once it has come."""
        noted = np.full((jax.local_device_count(),), self._signal or 0, np.int32)
        if jax.process_count() == 1:
            return noted.max()
        mesh = jax.sharding.Mesh(jax.devices(), "all")
        each = NamedSharding(mesh, PartitionSpec("all"))
        with jax.set_mesh(mesh):
            return _largest(jax.make_array_from_process_local_data(each, noted))

    def hear(self, answer: Any) -> None:
        """Takes in the answer, which is the same in every process."""
        self._agreed = self._agreed or int(answer) or None

    @property
    def heard(self) -> bool:
        """Whether a signal has come, as far as all processes know. Once true, it stays."""
        if jax.process_count() == 1:
            self.hear(self._signal or 0)
        return self._agreed is not None

    @property
    def requested(self) -> bool:
        """The same, with all processes asked; waits for them."""
        if not self.heard:
            self.hear(jax.device_get(self.ask()))
        return self.heard

    @property
    def name(self) -> str:
        """The signal's name."""
        return signal.Signals(self._agreed).name

    @property
    def exit_code(self) -> int:
        """0 for a polite SIGTERM or SIGHUP, 130 for Ctrl-C, as shells expect."""
        return 130 if self._agreed == signal.SIGINT else 0


@jax.jit
def _largest(numbers: jax.Array) -> jax.Array:
    return jax.lax.with_sharding_constraint(numbers.max(), PartitionSpec())
