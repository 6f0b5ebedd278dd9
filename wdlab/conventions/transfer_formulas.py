r"""The formulas of the published rules that carry a run's numbers to another run.

With :math:`\delta` the share of a weight that a step takes at the peak (:math:`lr\,\lambda` where
the learning rate multiplies the decay), b the batch size, S the steps, D the tokens, N the
parameters, and m the width over the old width; a prime is of the new run.
"""

import math
from collections.abc import Callable

from wdlab.conventions.training_run import POWERS, TrainingRun
from wdlab.schedules import timescale_of, weight_decay_from_timescale

# (learning rate, shrink per step at the peak) of the new run.
Numbers = tuple[float, float]
# Of the tokens per parameter; the bootstrap's 10th and 90th percentiles are -0.529 and -0.507.
POWER_LINES_EXPONENT = -0.527
# What the root of the mean square of AdamW's step is, in units of the learning rate.
ADAMW_RMS = 0.2


def _ratio(run: TrainingRun, to: TrainingRun, name: str) -> float:
    return getattr(to, name) / getattr(run, name)


def _steps_per_epoch(run: TrainingRun) -> float:
    return (run.epoch_size or math.nan) / (run.batch_size or math.nan)


def unchanged(run: TrainingRun, to: TrainingRun) -> Numbers:
    """The numbers as they are, in their own coupling.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100)
    >>> unchanged(run, run.changed({"learning_rate": 2e-3}))
    (0.002, 0.0002)
    """
    growth = to.learning_rate / run.learning_rate
    power = POWERS[run.coupling]
    return to.learning_rate, run.shrink * growth**power


def _timescale(run: TrainingRun, to: TrainingRun) -> Numbers:
    """Wang and Aitchison: 1 / (lr lambda M) stays, M steps in an epoch."""
    epochs = timescale_of(
        run.shrink / run.learning_rate,
        learning_rate=run.learning_rate,
        steps_per_epoch=_steps_per_epoch(run),
    )
    decay = weight_decay_from_timescale(
        epochs, learning_rate=to.learning_rate, steps_per_epoch=_steps_per_epoch(to)
    )
    return to.learning_rate, to.learning_rate * float(decay)  # pyrefly: ignore


def constant_timescale(run: TrainingRun, to: TrainingRun) -> Numbers:
    """1 / (lr lambda M) stays, M steps in an epoch; muP's learning rate. Wang and Aitchison.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100)
    >>> constant_timescale(run, run.changed({"batch_size": 16}))[1]
    0.0002
    """
    rate, shrink = _timescale(run, to)
    return rate / (_ratio(run, to, "width") if run.width and to.width else 1.0), shrink


def power_lines(run: TrainingRun, to: TrainingRun) -> Numbers:
    """B / (lr lambda D) goes with a power of D / N. Bergsma et al.

    >>> run = TrainingRun(
    ...     learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100, parameters=9
    ... )
    >>> power_lines(run, run.changed({"batch_size": 16}))[1]
    0.0002
    """
    per_parameter = _ratio(run, to, "tokens") / _ratio(run, to, "parameters")
    steps = _ratio(run, to, "batch_size") / _ratio(run, to, "tokens")
    return to.learning_rate, run.shrink * steps * per_parameter**-POWER_LINES_EXPONENT


def independent(run: TrainingRun, to: TrainingRun) -> Numbers:
    """The share that a step takes stays.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100)
    >>> independent(run, run.changed({"learning_rate": 2e-3}))
    (0.002, 0.0001)
    """
    return to.learning_rate, run.shrink


def mup(power: float) -> Callable[[TrainingRun, TrainingRun], Numbers]:
    """The rate falls with the width; the decay that it multiplies grows with a power of it.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, width=64)
    >>> mup(1.0)(run, run.changed({"width": 128}))
    (0.0005, 0.0001)
    """

    def apply(run: TrainingRun, to: TrainingRun) -> Numbers:
        m = _ratio(run, to, "width")
        growth = to.learning_rate / run.learning_rate
        return to.learning_rate / m, run.shrink * growth * m ** (power - 1)

    return apply


def normalized(run: TrainingRun, to: TrainingRun) -> Numbers:
    """Delta sqrt(S) stays. Loshchilov and Hutter.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100)
    >>> normalized(run, run.changed({"steps": 400}))[1]
    5e-05
    """
    return to.learning_rate, run.shrink / math.sqrt(_ratio(run, to, "steps"))


def batch(power: float) -> Callable[[TrainingRun, TrainingRun], Numbers]:
    """The rate grows with a power of the batch size; the decay's number stays.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100)
    >>> batch(1.0)(run, run.changed({"batch_size": 16}))
    (0.002, 0.0002)
    """

    def apply(run: TrainingRun, to: TrainingRun) -> Numbers:
        growth = _ratio(run, to, "batch_size") ** power
        rate, shrink = unchanged(run, to)
        return rate * growth, shrink * growth ** POWERS[run.coupling]

    return apply


def root_batch_and_timescale(run: TrainingRun, to: TrainingRun) -> Numbers:
    """Lr goes with sqrt(b), and b / (lr lambda D) stays. nanochat.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, batch_size=8, steps=100)
    >>> root_batch_and_timescale(run, run.changed({"batch_size": 32}))
    (0.002, 0.0004)
    """
    growth = _ratio(run, to, "batch_size")
    return to.learning_rate * math.sqrt(growth), run.shrink * growth / _ratio(run, to, "tokens")


def _step_rms(optimizer: str, width: float) -> float:
    """RMS of a step of a square matrix, in units of the learning rate.

    An orthogonal matrix of that size has entries of RMS 1 / sqrt(width).
    """
    return 1 / math.sqrt(width) if optimizer == "muon" else ADAMW_RMS


def same_rms(run: TrainingRun, to: TrainingRun) -> Numbers:
    """The step's RMS stays, and the share that decay takes. Liu et al.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, width=64)
    >>> rate, shrink = same_rms(run, run.changed({"optimizer": "muon"}))
    >>> round(rate, 6), shrink  # 1e-3 * 0.2 * sqrt(64)
    (0.0016, 0.0001)
    """
    before = _step_rms(run.optimizer, run.width or 1)
    growth = before / _step_rms(to.optimizer, to.width or 1)
    return to.learning_rate * growth, run.shrink


def muon_width(run: TrainingRun, to: TrainingRun) -> Numbers:
    """Muon's decay falls with the square of the width. nanochat.

    >>> run = TrainingRun(learning_rate=1e-3, weight_decay=0.1, width=64)
    >>> muon_width(run, run.changed({"width": 128}))[1]
    2.5e-05
    """
    rate, shrink = unchanged(run, to)
    return rate, shrink / _ratio(run, to, "width") ** 2
