"""Warm restarts: AdamWR and SGDWR against one cosine and a constant learning rate.

Question: Loshchilov and Hutter (2019, arXiv:1711.05101, section 4.4 and Figure 4) report that a
cosine with warm restarts, each period twice the last, gives good weights long before the end of
the budget, and the best ones at its end. Does it, at equal numbers of updates?

Command: ``python -m examples.studies.warm_restarts``; minutes on two CPU cores at size tiny.

Digits MLP on the first 400 images, schedule-only decay (SGDW and AdamW of the paper), lambda from
normalized decay sqrt(b / (B T)) * 0.025 with T the epochs of the period (restarts) or of the whole
budget. The periods are 1, 2, 4 and 8 fifteenths of the budget; test loss and error are read at the
end of each, where the learning rate of the restarts is 0.

Two statements for each optimizer, test loss on paired seeds with a 95 % interval: restarts are
lower than the cosine at the end of the third period, and at most 1 % higher at the end.
"""

import math
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import wdlab

from . import digits
from .dose import Dose
from .dose import dose as dose_of
from .error_bars import with_spread
from .paired import agreement, is_lower, word
from .rows import Point, Row
from .study import Size, Study, Summary, main, spread

SEEDS, EXAMPLES, BATCH, NORMALIZED = 5, 400, 32, 0.025
UNIT = {"tiny": 150, "paper": 2_500}  # steps of the first period
PERIODS = (1, 2, 4, 8)
SCHEDULES = ("constant", "cosine", "restarts")
RATES = {"adam": 3e-3, "sgd": 0.1}


def points(size: Size) -> Sequence[Point]:
    """Every schedule for both optimizers."""
    del size
    return [{"optimizer": name, "schedule": s} for name in RATES for s in SCHEDULES]


def measure(point: Point, size: Size) -> list[Row]:
    """Losses at the end of each period, a row per seed and period."""
    unit, peak = UNIT[size], RATES[point["optimizer"]]
    ends = np.cumsum(PERIODS) * unit

    def run(key):
        params, rows = digits.init(key), []
        for i, (lr, decay) in enumerate(stages(point["schedule"], peak, unit)):
            make = wdlab.optimizers.adamw if point["optimizer"] == "adam" else wdlab.optimizers.sgdw
            tx = make(lr, weight_decay=decay, coupling="schedule")
            # The moments start again with each period, in every schedule alike.
            stage_key = jax.random.fold_in(key, i)
            options = {"steps": PERIODS[i] * unit, "examples": EXAMPLES, "batch_size": BATCH}
            params, *_ = digits.train(tx, params, stage_key, **options)
            rows.append(digits.evaluate(params))
        return jax.tree.map(lambda *values: jnp.stack(values), *rows)

    seen = digits.over_seeds(run, SEEDS)
    return [
        {"seed": seed, "step": int(end), **{k: float(v[seed, i]) for k, v in seen.items()}}
        for seed in range(SEEDS)
        for i, end in enumerate(ends)
    ]


def stages(schedule: str, peak: float, unit: int) -> list[tuple[wdlab.schedules.Schedule, float]]:
    """Learning rate, as a function of the period's own step, and lambda of each period."""
    total, start, found = sum(PERIODS) * unit, 0, []
    for period in PERIODS:
        steps = period * unit
        lr = {
            "constant": wdlab.schedules.constant(peak),
            "cosine": shifted(wdlab.schedules.cosine(peak, decay_steps=total), start, peak),
            "restarts": wdlab.schedules.cosine(peak, decay_steps=steps),
        }[schedule]
        updates = steps if schedule == "restarts" else total  # B T / b
        found.append((lr, NORMALIZED * math.sqrt(1 / updates)))
        start += steps
    return found


def shifted(schedule: wdlab.schedules.Schedule, start: int, peak: float):
    """The rest of a schedule from a step on, with the same peak."""
    return wdlab.schedules.with_peak(lambda count: schedule(count + start), peak)


def of(rows: list[Row], optimizer: str, schedule: str, name: str) -> np.ndarray:
    """Values of one run, seeds by periods."""
    wanted = {"optimizer": optimizer, "schedule": schedule}
    values = [r[name] for r in rows if wanted.items() <= r.items()]
    return np.array(values, float).reshape(SEEDS, -1)


def draw(rows: list[Row]) -> Figure:
    """Test error at the end of each period."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, optimizer in zip(figure.subplots(1, 2), RATES, strict=True):
        for schedule, style in zip(SCHEDULES, ("s:", "o--", "^-"), strict=True):
            values = of(rows, optimizer, schedule, "test_loss")
            steps = of(rows, optimizer, schedule, "step")[0]
            with_spread(axes, steps, [*values.T], fmt=style, label=schedule)
        axes.set(xscale="log", xlabel="step", ylabel="test loss (nats)", title=optimizer)
        axes.set_xticks(steps, [f"{step:g}" for step in steps], minor=False)
        axes.minorticks_off()
        axes.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """Test loss half-way (the end of the third period) and at the end."""
    numbers, early, late = {}, [], []
    for optimizer in RATES:
        loss = {s: of(rows, optimizer, s, "test_loss") for s in SCHEDULES}
        for s in SCHEDULES:
            numbers[f"{optimizer}, {s}, at 7/15 of the budget"] = loss[s][:, 2]
            numbers[f"{optimizer}, {s}, at the end"] = loss[s][:, 3]
        early.append(is_lower(loss["restarts"][:, 2], loss["cosine"][:, 2]))
        late.append(is_lower(loss["restarts"][:, 3], 1.01 * loss["cosine"][:, 3]))
    end = {s: spread(numbers[f"adam, {s}, at the end"]) for s in ("restarts", "cosine")}
    return Summary(
        question="Do warm restarts give good weights early, and the best at the end?",
        source="better at any time, and as good or better at the end (AdamW, Fig. 4)",
        number=f"Adam at the end: restarts {end['restarts']}, cosine {end['cosine']} nats",
        agrees=agreement([*early, *late]),
        measured="test loss, nats",
        numbers=numbers,
        seeds=SEEDS,
        remark="; ".join(
            f"{optimizer}: lower early {word(a)}, at most 1 % higher at the end {word(b)}"
            for optimizer, a, b in zip(RATES, early, late, strict=True)
        )
        + ".",
    )


def dose(point: Point, size: Size) -> Dose:
    """Of all periods."""
    unit, peak = UNIT[size], RATES[point["optimizer"]]
    periods = [
        dose_of(lr, period * unit, decay, wdlab.schedule_multiplier(lr))
        for period, (lr, decay) in zip(PERIODS, stages(point["schedule"], peak, unit), strict=True)
    ]
    exponent = sum(d.exponent or 0.0 for d in periods)
    return Dose(round(exponent, 6), sum(d.lr_steps for d in periods))


STUDY = Study("warm_restarts", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
