"""Muon with and without weight decay, and beside AdamW at equal rotation.

Question: Muon's step has a spectral norm that the learning rate alone decides, so that nothing but
decay bounds the weights. Liu et al. (2025, Moonlight, arXiv:2502.16982) report that without decay
weights keep growing and the gain over AdamW shrinks; later work (arXiv:2605.10797) that the
spectral norm drifts. Does it drift here, does decay stop it and lower the loss, and do Muon and
AdamW turn the weights equally fast where ``wdlab.optimizers.muon_from_adamw`` says so?

Command: ``python -m examples.studies.muon_decay``; minutes on two CPU cores. The smallest published
scale is 124M parameters; a small network can show the drift and the rotation, not the gain over
AdamW at scale.

The network, teacher and fresh samples of ``one_pass_mlp``; its two hidden matrices (48 x 48, 32 x
48) are trained by Muon or AdamW at lr 1e-3 of AdamW, the rest by AdamW without decay. 4,000 steps,
constant learning rate for norms and rotation, cosine for the loss. AdamW's exponent E is 0 or 8;
Muon's numbers follow from AdamW's by the formula.

Written down before the first run. Five paired seeds. Four statements: without decay the larger
spectral norm of Muon's matrices still grows in the second half (last eighth against the fourth);
with decay it settles, within 5 % over the same; under the cosine Muon's loss with decay is lower
than without; with decay the rotation per step of Muon, over the last eighth, is within 15 % of
AdamW's.
"""

import functools
import itertools
import sys
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab

from . import digits, grids
from . import one_pass_mlp as task
from .dose import Dose
from .error_bars import with_spread
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main

RATE, EXPONENTS, SEEDS = 1e-3, (0.0, 8.0), 5
STEPS, WINDOWS = {"tiny": 4_000, "paper": 40_000}, 40
HIDDEN = task.RULES


def points(size: Size) -> Sequence[Point]:
    """Both optimizers; each with both schedules and its exponents as one program."""
    del size
    return [{"optimizer": optimizer} for optimizer in ("AdamW", "Muon")]


def numbers(optimizer: str, exponent: float, steps: int) -> tuple[float, float]:
    """Learning rate and decay (coupling "lr") of the hidden matrices, under a constant rate."""
    decay = exponent / (RATE * steps)
    if optimizer == "AdamW":
        return RATE, decay
    muon = wdlab.optimizers.muon_from_adamw(RATE, decay)
    return muon.learning_rate, muon.weight_decay


def dose(point: Point, size: Size) -> Dose:
    """Of the run that decays at a constant rate; the cosine takes half."""
    lr, decay = numbers(point["optimizer"], max(EXPONENTS), STEPS[size])
    return Dose(round(lr * decay * STEPS[size], 6), round(lr * STEPS[size], 6))


def measure(point: Point, size: Size) -> list[Row]:
    """Windows of norm and rotation for each schedule, exponent and seed, the last with the loss."""
    optimizer, steps = point["optimizer"], STEPS[size]
    cases = list(itertools.product(("constant", "cosine"), EXPONENTS))
    falls = [float(name == "cosine") for name, _ in cases]
    decays = [numbers(optimizer, exponent, steps)[1] for _, exponent in cases]
    run = functools.partial(one, optimizer, steps)
    curve, loss = digits.over_seeds(run, SEEDS, falls, decays)
    rows = []
    for s, (i, (name, exponent)), w in itertools.product(
        range(SEEDS), enumerate(cases), range(WINDOWS)
    ):
        row = {
            "schedule": name,
            "exponent": exponent,
            "seed": s,
            "step": (w + 1) * steps // WINDOWS,
        }
        row |= {column: float(values[s, i, w]) for column, values in curve.items()}
        rows.append(row | ({"loss": float(loss[s, i])} if w == WINDOWS - 1 else {}))
    return rows


def schedule(lr: float, falls: jax.Array, steps: int) -> wdlab.schedules.Schedule:
    """A half cosine to 0, or a constant, which one may be traced."""
    cosine = grids.cosine(lr, steps)
    return wdlab.schedules.with_peak(lambda count: jnp.where(falls, cosine(count), lr), lr)


def make_optimizer(optimizer: str, falls: jax.Array, decay: jax.Array, steps: int):
    """The hidden matrices' optimizer and AdamW without decay for the rest."""
    lr, _ = numbers(optimizer, 0.0, steps)  # The same for every exponent.
    rest, rate = schedule(RATE, falls, steps), schedule(lr, falls, steps)
    if optimizer == "AdamW":
        return wdlab.optimizers.adamw(rate, weight_decay=decay, coupling="lr", rules=HIDDEN)
    return wdlab.optimizers.muon(
        rate, weight_decay=decay, coupling="lr", rules=HIDDEN, hidden=HIDDEN,
        adam_learning_rate=rest, adam_b2=0.999,
    )  # fmt: skip


def one(optimizer: str, steps: int, key: jax.Array, falls: jax.Array, decay: jax.Array):
    """The curve of one training and its loss on samples that it has not seen."""
    teacher_key, start_key, data_key, _, held_key = jax.random.split(key, 5)
    teacher = task.mlp(teacher_key, (task.INPUTS, task.TEACHER, task.CLASSES), norm=False)
    widths = (task.INPUTS, *2 * (task.HIDDEN["tiny"],), task.CLASSES)
    params = task.mlp(start_key, widths, norm=True)
    tx = make_optimizer(optimizer, falls, decay, steps)

    def step(carry, key):
        params, state = carry
        grads = jax.grad(task.loss)(params, *task.samples(teacher, key, task.BATCH))
        updates, state = tx.update(grads, state, params)
        new: digits.Params = optax.apply_updates(params, updates)  # pyrefly: ignore
        return (new, state), rotation(hidden_of(params), hidden_of(new))

    def window(carry, keys):
        carry, angles = jax.lax.scan(step, carry, keys)
        norms = [jnp.linalg.norm(kernel, 2) for kernel in hidden_of(carry[0])]
        return carry, {"spectral": jnp.stack(norms).max(), "rotation": angles.mean()}

    keys = jax.random.split(data_key, steps).reshape(WINDOWS, -1)
    (params, _), curve = jax.lax.scan(window, (params, tx.init(params)), keys)
    return curve, task.loss(params, *task.samples(teacher, held_key, task.HELD_OUT))


def hidden_of(params: digits.Params) -> list[jax.Array]:
    """The matrices that decay."""
    return [layer["kernel"] for layer in params["layers"][:2]]


def rotation(old: list[jax.Array], new: list[jax.Array]) -> jax.Array:
    """The mean angle between each matrix before and after a step, radians."""

    def angle(a, b):  # Of a small angle the chord is exact where the cosine is not.
        return jnp.linalg.norm(a / jnp.linalg.norm(a) - b / jnp.linalg.norm(b))

    return jnp.stack([angle(a, b) for a, b in zip(old, new, strict=True)]).mean()


def curve(rows: list[Row], column: str, optimizer: str, exponent: float) -> np.ndarray:
    """A column under the constant rate, seeds by windows."""
    wanted = {"optimizer": optimizer, "schedule": "constant", "exponent": exponent}
    found = [r[column] for r in rows if wanted.items() <= r.items()]
    return np.array(found, float).reshape(SEEDS, WINDOWS)


def eighth(values: np.ndarray, number: int) -> np.ndarray:
    """The mean over one eighth of the windows, for each seed."""
    size = WINDOWS // 8
    return values[:, (number - 1) * size : number * size].mean(1)


def loss(rows: list[Row], optimizer: str, exponent: float) -> np.ndarray:
    """Under the cosine, over the seeds."""
    wanted = {"optimizer": optimizer, "schedule": "cosine", "exponent": exponent}
    return np.array([r["loss"] for r in rows if wanted.items() <= r.items() and "loss" in r])


def draw(rows: list[Row]) -> Figure:
    """Spectral norm and rotation over the steps; the loss under the cosine."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    *panels, right = figure.subplots(1, 3)
    labels = {"spectral": "largest spectral norm", "rotation": "rotation per step (radians)"}
    for axes, (column, label) in zip(panels, labels.items(), strict=True):
        for optimizer, color in (("AdamW", "C0"), ("Muon", "C1")):
            for exponent, style in zip(EXPONENTS, ("--", "-"), strict=True):
                values = curve(rows, column, optimizer, exponent)
                text = f"{optimizer}, {'decay' if exponent else 'no decay'}"
                share = np.arange(1, WINDOWS + 1) / WINDOWS
                axes.plot(share, values.mean(0), style, color=color, label=text)
        axes.set(xlabel="share of the training, constant rate", ylabel=label, yscale="log")
    panels[0].legend()
    for i, optimizer in enumerate(("AdamW", "Muon")):
        for exponent, marker in zip(EXPONENTS, "os", strict=True):
            values = loss(rows, optimizer, exponent)
            text = ("decay" if exponent else "no decay") if i == 0 else None
            at = i + 0.1 * bool(exponent)
            with_spread(right, [at], [values], fmt=marker, color=f"C{i}", label=text)
    right.set_xticks([0, 1], ["AdamW", "Muon"])
    right.set_ylabel("loss under the cosine (nats)")
    right.legend()
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The four statements."""
    decay = max(EXPONENTS)
    norms = {e: curve(rows, "spectral", "Muon", e) for e in EXPONENTS}
    growth = {e: eighth(norms[e], 8) / eighth(norms[e], 4) for e in EXPONENTS}
    turns = {o: eighth(curve(rows, "rotation", o, decay), 8) for o in ("AdamW", "Muon")}
    ratio = turns["Muon"] / turns["AdamW"]
    losses = {(o, e): loss(rows, o, e) for o in ("AdamW", "Muon") for e in EXPONENTS}
    statements = {
        "the spectral norm drifts without decay": is_lower(np.ones(SEEDS), growth[0.0]),
        "with decay it settles": bool(abs(growth[decay].mean() - 1) < 0.05),
        "decay lowers Muon's loss": is_lower(losses["Muon", decay], losses["Muon", 0.0]),
        "equal rotation": bool(abs(ratio.mean() - 1) < 0.15),
    }
    gap = difference(losses["Muon", decay], losses["Muon", 0.0])
    return Summary(
        question="Does Muon need weight decay, and does it turn weights as AdamW does?",
        source="without it norms drift and the gain shrinks (Moonlight; 2605.10797)",
        number=f"loss with decay {gap.mean:+.3f} nats; rotation {ratio.mean():.2f} of AdamW's",
        agrees=agreement(list(statements.values())),
        measured="growth of the spectral norm, constant rate; rotation over AdamW's; loss, nats",
        numbers={f"growth in the second half, E = {e:g}": growth[e] for e in EXPONENTS}
        | {"rotation, Muon over AdamW": ratio}
        | {f"loss, {o}, E = {e:g}": values for (o, e), values in losses.items()},
        seeds=SEEDS,
        remark=in_words(statements) + f"; loss with decay less without {gap}.",
    )


STUDY = Study("muon_decay", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
