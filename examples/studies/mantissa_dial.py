"""The mantissa dial: at how few bits a language model diverges, with and without weight decay.

Question: Andriushchenko et al. (2024, arXiv:2310.04415, Figure 6) report that bfloat16 training at
a high learning rate diverges without weight decay and not with it, and float32 does not diverge.
Our bfloat16 never diverges at a small size (``lm_bf16_divergence``). Does decay move the frontier
of divergence where rounding is coarse enough to have one?

Command: ``python -m examples.studies.mantissa_dial``; minutes on two CPU cores.

A transformer of one block, width 32, context 32, two heads, on the text that ships with Python.
Both sides and the result of every matrix product, in the forward and the backward pass, are rounded
to m bits after the leading one (``jax.lax.reduce_precision``): 23 is float32, 7 is bfloat16.
AdamW, 200 steps, batch 16, 5 % warm-up, cosine to a tenth, matrices decay with exponent E. A run
has diverged where its loss, averaged over a twentieth of the training, is not finite or rises by
more than 0.5 nats above its lowest, as in ``lm_bf16_divergence``.

Written down before the run. Five paired seeds, three learning rates a factor of 4 apart. Three
statements: with E = 3 fewer of the runs with m <= 4 diverge than with E = 0 (counted for each seed,
paired interval); so at m = 7 (bfloat16); and without decay more diverge at m <= 4, for each m, than
at m = 23. A statement about equal counts, all 0 among them, is undecided.

(First with two blocks, 400 steps, m = 23, 7, 5, 4, 3 and 2, and learning rates 2^-9 to 2^-3: none
of 240 runs diverged. So the rates are now 2^-5 to 2^-1, for there must be something to prevent.
With these and 300 steps: none of 120.)
"""

import functools
import itertools
import sys
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import wdlab
from examples.gpt import data

from . import digits
from .dose import Dose
from .dose import dose as dose_of
from .paired import agreement, difference, in_words, is_lower
from .rows import Point, Row
from .study import Size, Study, Summary, main

BITS = (23, 7, 4, 2)
RATES, EXPONENTS = tuple(float(2.0**k) for k in (-5, -3, -1)), (0.0, 3.0)
STEPS, BATCH, SEEDS = {"tiny": 200, "paper": 10_000}, 16, 5
BLOCKS, WIDTH, HEADS, CONTEXT = 2, 32, 2, 32
WINDOWS, RISE = 20, 0.5  # of the curve; nats
RULES = (wdlab.Rule(".*kernel"), wdlab.Rule(".*", 0.0))
Params = dict[str, Any]


def points(size: Size) -> Sequence[Point]:
    """The numbers of bits, each with its learning rates and exponents as one program."""
    del size
    return [{"bits": bits} for bits in BITS]


def schedule(lr: Any, steps: int) -> wdlab.schedules.Schedule:
    """Warm-up and cosine; the rate may be traced."""
    shape = wdlab.schedules.warmup_cosine(1.0, warmup_steps=steps // 20, decay_steps=steps, end=0.1)
    return wdlab.schedules.with_peak(lambda count: lr * shape(count), lr)


def dose(point: Point, size: Size) -> Dose:
    """The strength is chosen for its exponent."""
    del point
    return Dose(max(EXPONENTS), dose_of(max(RATES), STEPS[size], 0.0).lr_steps)


def measure(point: Point, size: Size) -> list[Row]:
    """Every learning rate, exponent and seed: the windows of each curve."""
    cases = list(itertools.product(RATES, EXPONENTS))
    run = functools.partial(one, point["bits"], STEPS[size])
    found = digits.over_seeds(run, SEEDS, *zip(*cases, strict=True))
    return [
        {"seed": s, "lr": lr, "exponent": e, "step": (w + 1) * STEPS[size] // WINDOWS}
        | {"loss": float(found[s, i, w])}
        for s in range(SEEDS)
        for i, (lr, e) in enumerate(cases)
        for w in range(WINDOWS)
    ]


def one(bits: int, steps: int, key: jax.Array, lr: jax.Array, exponent: jax.Array) -> jax.Array:
    """The loss of one training, in windows."""
    corpus = data.embedded()
    tokens = jnp.asarray(corpus.train, jnp.int32)
    start_key, data_key = jax.random.split(key)
    rate = schedule(lr, steps)
    decay = exponent / jax.vmap(rate)(jnp.arange(steps)).sum()
    tx = wdlab.optimizers.adamw(rate, weight_decay=decay, coupling="lr", b2=0.99, rules=RULES)

    def step(carry, key):
        params, state = carry
        starts_B = jax.random.randint(key, (BATCH,), 0, len(tokens) - CONTEXT - 1)
        batch_BxM = tokens[starts_B[:, None] + jnp.arange(CONTEXT + 1)]
        loss, grads = jax.value_and_grad(loss_of)(params, batch_BxM, bits)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    params = init(start_key, corpus.vocab_size)
    params["blocks"] = params["blocks"][:1]
    losses = jax.lax.scan(step, (params, tx.init(params)), jax.random.split(data_key, steps))[1]
    return losses.reshape(WINDOWS, -1).mean(1)


def init(key: jax.Array, tokens: int) -> Params:
    """Normal matrices scaled by their fan-in; norms have a scale."""
    shapes = {"qkv": (WIDTH, 3 * WIDTH), "out": (WIDTH, WIDTH)}
    shapes |= {"up": (WIDTH, 4 * WIDTH), "down": (4 * WIDTH, WIDTH)}
    keys = iter(jax.random.split(key, 3 + BLOCKS * len(shapes)))

    def matrix(rows: int, columns: int) -> Params:
        return {"kernel": jax.random.normal(next(keys), (rows, columns)) * rows**-0.5}

    blocks = [
        {name: matrix(*shape) for name, shape in shapes.items()}
        | {"norm1": {"scale": jnp.ones(WIDTH)}, "norm2": {"scale": jnp.ones(WIDTH)}}
        for _ in range(BLOCKS)
    ]
    positions = 0.02 * jax.random.normal(next(keys), (CONTEXT, WIDTH))
    embedding = 0.02 * jax.random.normal(next(keys), (tokens, WIDTH))
    head = {"norm": {"scale": jnp.ones(WIDTH)}, "head": matrix(WIDTH, tokens)}
    return {"blocks": blocks, "positions": positions, "embedding": embedding, **head}


def product(pattern: str, a: jax.Array, b: jax.Array, bits: int) -> jax.Array:
    """A matrix product of rounded sides, rounded; so are the two of its backward pass.

    The transpose of a rounding is a rounding: cotangents are rounded where values were.
    """
    rounded = functools.partial(jax.lax.reduce_precision, exponent_bits=8, mantissa_bits=bits)
    return rounded(jnp.einsum(pattern, rounded(a), rounded(b)))


def loss_of(params: Params, tokens_BxM: jax.Array, bits: int) -> jax.Array:
    """Mean cross-entropy of the next token, nats."""

    def norm(x, scale):
        return scale * x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)

    def dense(x_BxLxD, name, layer):
        times = functools.partial(product, "nd,de->ne", bits=bits)
        return digits.of_rows(times, x_BxLxD, layer[name]["kernel"])

    x_BxLxD = params["embedding"][tokens_BxM[:, :-1]] + params["positions"]
    future_LxL = jnp.triu(jnp.full((CONTEXT, CONTEXT), -jnp.inf), 1)
    for layer in params["blocks"]:
        heads = dense(norm(x_BxLxD, layer["norm1"]["scale"]), "qkv", layer)
        q, k, v = jnp.moveaxis(heads.reshape(*heads.shape[:2], 3, HEADS, -1), 2, 0)
        scores = product("blhd,bmhd->bhlm", q, k, bits) * (WIDTH // HEADS) ** -0.5
        shares = jax.nn.softmax(scores + future_LxL)
        mixed = product("bhlm,bmhd->blhd", shares, v, bits).reshape(x_BxLxD.shape)
        x_BxLxD = x_BxLxD + dense(mixed, "out", layer)
        inner = jax.nn.gelu(dense(norm(x_BxLxD, layer["norm2"]["scale"]), "up", layer))
        x_BxLxD = x_BxLxD + dense(inner, "down", layer)
    logits = dense(norm(x_BxLxD, params["norm"]["scale"]), "head", params)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens_BxM[:, 1:]).mean()


def diverged(rows: list[Row], bits: int, exponent: float) -> np.ndarray:
    """Whether each run diverged, seeds by learning rates."""
    some = [r for r in rows if r["bits"] == bits and r["exponent"] == exponent]
    curves = [[r["loss"] for r in some if (r["seed"], r["lr"]) == c] for c in _cases()]
    return rises(np.array(curves, float)).reshape(SEEDS, len(RATES))


def rises(loss: np.ndarray) -> np.ndarray:
    """Whether curves, windows last, are not finite or rise above their lowest by more than RISE."""
    loss = np.nan_to_num(loss, nan=np.inf)
    lowest = np.minimum.accumulate(loss, axis=-1)
    return np.logical_or(~np.isfinite(loss).all(-1), (loss > lowest + RISE).any(-1))


def _cases() -> list[tuple[int, float]]:
    return list(itertools.product(range(SEEDS), RATES))


def draw(rows: list[Row]) -> Figure:
    """The share of diverged runs over bits and learning rate, and the loss at the end."""
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    *maps, right = figure.subplots(1, 3)
    for axes, exponent in zip(maps, EXPONENTS, strict=True):
        share_BxL = np.array([diverged(rows, bits, exponent).mean(0) for bits in BITS])
        axes.imshow(share_BxL, vmin=0, vmax=1, cmap="Reds", aspect="auto")
        for (i, j), value in np.ndenumerate(share_BxL):
            axes.text(j, i, f"{value:.0%}", ha="center", va="center")
        axes.set_xticks(range(len(RATES)), [f"{lr:.2g}" for lr in RATES])
        axes.set_yticks(range(len(BITS)), BITS)
        axes.set(title=f"diverged, E = {exponent:g}", xlabel="peak learning rate")
    maps[0].set_ylabel("bits of the mantissa")
    for exponent, style in zip(EXPONENTS, ("o--", "s-"), strict=True):
        right.plot(
            BITS, [last(rows, b, exponent).mean() for b in BITS], style, label=f"E = {exponent:g}"
        )
    right.set(xlabel="bits of the mantissa", ylabel=f"loss at the end, lr {RATES[1]:.2g} (nats)")
    right.legend()
    return figure


def last(rows: list[Row], bits: int, exponent: float) -> np.ndarray:
    """The loss of the last window at the second learning rate, over the seeds."""
    wanted = {"bits": bits, "exponent": exponent, "lr": RATES[1]}
    found = [r for r in rows if wanted.items() <= r.items()]
    end = max(r["step"] for r in found)
    return np.array([r["loss"] for r in found if r["step"] == end], float)


def summarize(rows: list[Row]) -> Summary:
    """How many of each seed's runs diverged."""
    coarse = [bits for bits in BITS if bits <= 4]
    counts = {(b, e): diverged(rows, b, e).sum(1) for b in BITS for e in EXPONENTS}

    def of(bits: Sequence[int], exponent: float) -> np.ndarray:
        return np.sum([counts[b, exponent] for b in bits], axis=0)

    gap = difference(of(coarse, EXPONENTS[1]), of(coarse, 0.0))
    statements = {
        "m <= 4: decay prevents": is_lower(of(coarse, EXPONENTS[1]), of(coarse, 0.0)),
        "bfloat16: decay prevents": is_lower(of([7], EXPONENTS[1]), of([7], 0.0)),
        "coarse rounding causes it": is_lower(counts[23, 0.0], of(coarse, 0.0) / len(coarse)),
    }
    return Summary(
        question="Does decay keep a model from diverging where matrix products are rounded?",
        source="bfloat16, high lr: decay 0 diverges, 0.1 does not (2310.04415, Fig. 6)",
        number=f"m <= 4: {of(coarse, 0.0).sum()} of {len(coarse) * SEEDS * len(RATES)} diverge "
        f"without decay, {of(coarse, EXPONENTS[1]).sum()} with",
        agrees=agreement(list(statements.values())),
        measured=f"diverged runs of each seed, of {len(RATES)} learning rates",
        numbers={
            f"m = {b}, E = {e:g}": counts[b, e].astype(float) for b in BITS for e in EXPONENTS
        },
        seeds=SEEDS,
        remark=in_words(statements) + f"; E = 3 less E = 0, m <= 4, in runs of a seed: {gap}.",
    )


STUDY = Study("mantissa_dial", points, measure, draw, summarize, dose)

if __name__ == "__main__":
    sys.exit(main(STUDY, sys.argv[1:]))
