"""Growth of logits at high learning rates, in float32 and with a bfloat16 flash kernel's roundings.

Question: Wortsman et al. (2023, arXiv:2309.14322, section 3.1) find two instabilities at high
learning rates that small models show as well: attention logits grow where queries and keys have no
norm, and output logits drift away from log Z = 0, which weight decay mitigates. Do logits grow
here, does decay hold them, and does it then save the runs that diverge in bfloat16 (Andriushchenko
et al. 2024, arXiv:2310.04415, Figure 6)?

Command: ``python -m examples.studies.logit_growth``; four minutes on two CPU cores. The smallest
published scale is about 10M parameters; this model has 20 thousand.

The model, text and batches of ``mantissa_dial`` with one block, no norm of queries and keys, 200
steps of AdamW, 5 % warm-up, cosine to a tenth, peak learning rates 3e-3 to 1. All kernels decay,
the head too: not at all; by the schedule alone ("independent") with E = 3 at every rate; or by the
learning rate, equal at 3e-2. Attention in float32 (``attention.plain``) or as a flash kernel rounds
(``attention.flash_bf16``). Seen at every step: the largest attention logit of the batch, and the
mean of |log Z| over its tokens. A run has diverged as in ``mantissa_dial``.

Written down before the first run. Five paired seeds; five statements, each with 95 % intervals. In
float32 without decay the largest attention logit of the last twentieth is higher at 0.1 than at
3e-3. At 0.1 with independent decay it is lower than without, and so is |log Z|. Under flash_bf16
fewer runs of a seed diverge with independent decay than without, which is claim (b). Without decay
more diverge under flash_bf16 than in float32. A statement about equal counts, all 0 among them, is
undecided. Decay by the learning rate is shown beside it. (With 300 steps: the first three yes, the
last two undecided, 5 and 4 of 30 runs diverged under either form.)
"""

import functools
import itertools
import sys
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from examples.gpt import attention, data

from . import digits, mantissa_dial
from .dose import Dose
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main

FORMS = {"float32": attention.plain, "flash_bf16": attention.flash_bf16}
RATES, EXPONENT, EQUAL_AT = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0), 3.0, 0.03
DECAYS = {"none": 0, "independent": 0, "by lr": 1}  # the power of the learning rate in E
LOW, HIGH = 0.003, 0.1  # the rates of the statements about logits
STEPS, SEEDS, WINDOWS = {"tiny": 200, "paper": 10_000}, 5, mantissa_dial.WINDOWS
COLUMNS = ("loss", "logit", "log_z")


def points(size: Size) -> Sequence[Point]:
    """Each form of attention; all decays, learning rates and seeds as one program."""
    del size
    return [{"form": form} for form in FORMS]


def exponent(decay: str, lr: float) -> float:
    """E at a peak learning rate."""
    return EXPONENT * (decay != "none") * (lr / EQUAL_AT) ** DECAYS[decay]


def dose(point: Point, size: Size) -> Dose:
    """The largest of the decays and learning rates."""
    del point
    return Dose(max(exponent(decay, max(RATES)) for decay in DECAYS), max(RATES) * STEPS[size])


def measure(point: Point, size: Size) -> list[Row]:
    """Every decay, learning rate and seed: the windows of each column."""
    cases = list(itertools.product(DECAYS, RATES))
    rates, exponents = [lr for _, lr in cases], [exponent(*case) for case in cases]
    run = functools.partial(one, FORMS[point["form"]], STEPS[size])
    found = digits.over_seeds(run, SEEDS, rates, exponents)
    return [
        {"seed": s, "decay": decay, "lr": lr, "step": (w + 1) * STEPS[size] // WINDOWS}
        | {name: float(found[name][s, i, w]) for name in COLUMNS}
        for s, (i, (decay, lr)), w in itertools.product(
            range(SEEDS), enumerate(cases), range(WINDOWS)
        )
    ]


def one(attend: Callable, steps: int, key: jax.Array, lr: jax.Array, exponent: jax.Array):
    """What is seen over one training, in windows."""
    corpus = data.embedded()
    tokens = jnp.asarray(corpus.train, jnp.int32)
    start_key, data_key = jax.random.split(key)
    rate = mantissa_dial.schedule(lr, steps)
    strength = exponent / jax.vmap(rate)(jnp.arange(steps)).sum()
    tx = wdlab.optimizers.adamw(
        rate, weight_decay=strength, coupling="lr", b2=0.99, rules=mantissa_dial.RULES
    )

    def step(carry, key):
        params, state = carry
        last = len(tokens) - mantissa_dial.CONTEXT - 1
        starts_B = jax.random.randint(key, (mantissa_dial.BATCH,), 0, last)
        batch_BxM = tokens[starts_B[:, None] + jnp.arange(mantissa_dial.CONTEXT + 1)]
        (_, seen), grads = jax.value_and_grad(loss_of, has_aux=True)(params, batch_BxM, attend)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), seen

    params = mantissa_dial.init(start_key, corpus.vocab_size)
    params["blocks"] = params["blocks"][:1]
    seen = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(data_key, steps))[1]
    return {name: values.reshape(WINDOWS, -1).mean(1) for name, values in seen.items()}


def loss_of(params: mantissa_dial.Params, tokens_BxM: jax.Array, attend: Callable):
    """Mean cross-entropy of the next token, nats; and what is seen of the batch."""

    def normed(x_BxLxD, layer):
        size = jnp.square(x_BxLxD).mean(-1, keepdims=True)
        return layer["scale"] * x_BxLxD * jax.lax.rsqrt(size + 1e-6)

    dense = functools.partial(digits.of_rows, jnp.matmul)
    x_BxLxD = params["embedding"][tokens_BxM[:, :-1]] + params["positions"]
    shape = (*x_BxLxD.shape[:2], mantissa_dial.HEADS, -1)
    largest = []
    for layer in params["blocks"]:
        together = dense(normed(x_BxLxD, layer["norm1"]), layer["qkv"]["kernel"])
        q, k, v = (part.reshape(shape) for part in jnp.split(together, 3, -1))
        scores = jnp.einsum("blhd,bmhd->bhlm", q, k) * jnp.tri(q.shape[1]) * q.shape[-1] ** -0.5
        largest.append(jnp.abs(scores).max())
        mixed = attend(q, k, v).reshape(x_BxLxD.shape)
        x_BxLxD = x_BxLxD + dense(mixed, layer["out"]["kernel"])
        inner = jax.nn.gelu(dense(normed(x_BxLxD, layer["norm2"]), layer["up"]["kernel"]))
        x_BxLxD = x_BxLxD + dense(inner, layer["down"]["kernel"])
    logits = dense(normed(x_BxLxD, params["norm"]), params["head"]["kernel"])
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BxM[:, 1:]).mean()
    log_z = jnp.abs(jax.nn.logsumexp(logits, -1)).mean()
    seen = {"loss": loss, "logit": jnp.stack(largest).max(), "log_z": log_z}
    return loss, jax.lax.stop_gradient(seen)


def curves(rows: list[Row], column: str, form: str, decay: str) -> np.ndarray:
    """A column, seeds by learning rates by windows."""
    wanted = {"form": form, "decay": decay}
    found = [r for r in rows if wanted.items() <= r.items()]
    found.sort(key=lambda r: (r["seed"], r["lr"], r["step"]))
    return np.array([r[column] for r in found], float).reshape(-1, len(RATES), WINDOWS)


def last(rows: list[Row], column: str, form: str, decay: str, lr: float) -> np.ndarray:
    """A column in the last window for each seed."""
    return curves(rows, column, form, decay)[:, RATES.index(lr), -1]


def diverged(rows: list[Row], form: str, decay: str) -> np.ndarray:
    """How many of a seed's learning rates diverge."""
    return mantissa_dial.rises(curves(rows, "loss", form, decay)).sum(-1)


def draw(rows: list[Row]) -> Figure:
    """The largest logit over time, and loss, logit and |log Z| at the end over the rates."""
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    first, *panels = figure.subplots(1, 4)
    steps = np.linspace(1, WINDOWS, WINDOWS) / WINDOWS
    labels = {
        "loss": "loss at the end (nats)",
        "logit": "largest attention logit at the end",
        "log_z": "|log Z| at the end",
    }
    for form, style in zip(FORMS, ("-", "--"), strict=True):
        for i, decay in enumerate(DECAYS):
            text = f"{form}, {'no' if decay == 'none' else decay} decay"
            values = curves(rows, "logit", form, decay)[:, RATES.index(HIGH)]
            first.plot(steps, values.mean(0), style, color=f"C{i}", label=text)
            for axes, column in zip(panels, labels, strict=True):
                values = curves(rows, column, form, decay)[..., -1].mean(0)
                axes.plot(RATES, values, style, color=f"C{i}")
    first.set(xlabel="share of the training", ylabel=f"largest logit, lr {HIGH:g}", yscale="log")
    for axes, label in zip(panels, labels.values(), strict=True):
        axes.set(xscale="log", yscale="log", xlabel="peak learning rate", ylabel=label)
    panels[0].set_yscale("linear")
    figure.legend(loc="outside upper center", ncols=6, fontsize=8)
    return figure


def summarize(rows: list[Row]) -> Summary:
    """The five statements."""
    exact, rounded = FORMS
    grown = last(rows, "logit", exact, "none", HIGH), last(rows, "logit", exact, "none", LOW)
    held = {
        column: [last(rows, column, exact, decay, HIGH) for decay in ("independent", "none")]
        for column in ("logit", "log_z")
    }
    count = {(f, d): diverged(rows, f, d) for f in FORMS for d in DECAYS}
    statements = {
        "attention logits grow with the learning rate": is_lower(*reversed(grown)),
        "decay holds them": is_lower(*held["logit"]),
        "and log Z": is_lower(*held["log_z"]),
        "under flash_bf16 decay prevents divergence": is_lower(
            count[rounded, "independent"], count[rounded, "none"]
        ),
        "flash_bf16 causes it": is_lower(count[exact, "none"], count[rounded, "none"]),
    }
    numbers: dict[str, np.ndarray] = {}
    for (form, decay), runs in count.items():
        numbers[f"{form}, decay {decay}: diverged, of {len(RATES)}"] = runs.astype(float)
        for column, name in (("logit", "largest attention logit"), ("log_z", "mean |log Z|")):
            for lr in (LOW, HIGH):
                label = f"{form}, decay {decay}, lr {lr:g}: {name}"
                numbers[label] = last(rows, column, form, decay, lr)
    total = len(RATES) * SEEDS
    gaps = {name: difference(*values) for name, values in held.items()}
    return Summary(
        question="Do logits grow at high learning rates, and does decay prevent what follows?",
        source="logits grow, decay mitigates (2309.14322); it saves bfloat16 (2310.04415)",
        number=f"of {total} diverge without / with decay: float32 "
        f"{count[exact, 'none'].sum()} / {count[exact, 'independent'].sum()}, "
        f"flash_bf16 {count[rounded, 'none'].sum()} / {count[rounded, 'independent'].sum()}",
        agrees=agreement(list(statements.values())),
        measured="diverged learning rates of a seed; logits in the last twentieth",
        numbers=numbers,
        seeds=SEEDS,
        remark=in_words(statements)
        + f"; with decay less without, float32, lr {HIGH:g}: largest attention logit "
        f"{gaps['logit']}, |log Z| {gaps['log_z']}.",
    )


STUDY = Study("logit_growth", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
