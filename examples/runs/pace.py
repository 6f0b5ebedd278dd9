"""How many updates the device makes with one call."""

import jax

from . import processes

_SECONDS = 1.0  # Between two looks at the signals and two updates of the bar.
_MEASURED = 4  # Calls, where several processes must agree: to do so they wait for the device.


class Pace:
    """As many updates a call as take about a second; one, until that is known.

    Args:
      fixed: The number, if it is given.

    Example:
      >>> pace = Pace()
      >>> pace.learn(1, 9.0)  # The first call compiles.
      >>> pace.learn(1, 0.02)
      >>> pace.updates
      50
    """

    def __init__(self, fixed: int | None = None):
        self.updates, self._fixed, self._calls = fixed or 1, fixed is not None, 0

    def learn(self, updates: int, seconds: float) -> None:
        """Learns from the time that a call of this many updates took."""
        self._calls += 1
        settled = self._calls > _MEASURED and jax.process_count() > 1
        if self._fixed or settled or self._calls == 1:
            return
        count = max(1, round(_SECONDS * updates / max(seconds, 1e-6)))
        self.updates = int(processes.agree(lambda: str(count)))
