"""The language model of the studies: one training for all seeds in one program, or the paper's.

Studies name their settings in the paper's numbers (GPT-2 small, context 256, 50,000 steps at
learning rate 6e-4). At size ``paper`` these become the flags of ``examples.gpt.train`` on
OpenWebText. At size ``tiny`` a GPT of 2 layers, width 32 and context 32 reads the text that ships
with Python in batches of 8, its weights start at .02 sqrt(768 / width), the learning rate keeps its
ratio to the peak, the schedule its shape, and the decay its exponent: lr * lambda * steps is that
of the paper. Trainings that differ in the strength of the decay alone, or in how their rules name
the same parameters, share one compiled program; what was trained once is remembered.

Before: width 64, context 64, start .02, peak 4e-3, 3 seeds, which took three times as long, moved
the weights less (lr * steps 2.4 instead of 7.2) and left every question of decay open.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import wdlab
from examples.gpt import data, model, optim
from examples.gpt import train as program
from examples.gpt.config import Config
from examples.gpt.configs import CONFIGS
from examples.gpt.step import losses

from . import digits
from .dose import Dose
from .dose import dose as dose_of
from .rows import Row
from .study import Size, at_end, rows_of_run

SEEDS = 5
PAPER = {"learning_rate": 6e-4, "max_iters": 50_000}
STEPS, PEAK = 600, 1.2e-2  # of the tiny training; PEAK stands for the paper's 6e-4
WIDTH, WINDOWS = 32, 20  # of the tiny model; rows of a training's curve
_FIRST: dict[Any, Config] = {}  # a training but for its rules, and what decays
_EVALUATED = 256  # sequences per split


def tiny(**paper: Any) -> Config:
    """The small training that stands for one of the paper's, given by its flags.

    >>> config = tiny(learning_rate=6e-4, max_iters=50_000, weight_decay=0.1)
    >>> config.learning_rate, config.max_iters, config.weight_decay
    (0.012, 600, 0.416666666667)
    """
    paper = PAPER | paper
    adam = paper.get("opt_type", "adam") == "adam"
    rate = PEAK / PAPER["learning_rate"] if adam else 1.0
    time = STEPS / PAPER["max_iters"]
    scales = {"learning_rate": rate, "min_lr": rate, "weight_decay": 1 / (rate * time)}
    changed = {name: round(paper[name] * by, 12) for name, by in scales.items() if name in paper}
    for name in ("max_iters", "lr_decay_iters"):
        if name in paper:
            changed[name] = round(paper[name] * time)
    settings: dict[str, Any] = {"warmup_iters": STEPS // 20} | paper | changed
    return Config(
        n_layer=2, n_head=2, n_embd=WIDTH, block_size=32, batch_size=8,
        gradient_accumulation_steps=1, init_scale=0.02 * (768 / WIDTH) ** 0.5, **settings,
    )  # fmt: skip


def train(config: Config, finetune: Config | None = None) -> list[Row]:
    """Trains the tiny model for every seed; rows of the curve, the last one with the evaluation.

    With ``finetune`` the training goes on under its settings; those rows have phase "fine-tuning".
    """
    phases = {"training": config} | ({"fine-tuning": finetune} if finetune else {})
    configs = [_as_first_written(c) for c in phases.values()]
    found = [jax.device_get(_trained(*configs[: i + 1])[1:]) for i in range(len(configs))]
    return _rows(dict(zip(phases, found, strict=True)), {n: c.max_iters for n, c in phases.items()})


def _as_first_written(config: Config) -> Config:
    """The same training, with the first rules that were seen to let the same parameters decay."""
    ends = {"lr_decay_iters": config.lr_decay_steps, "min_lr": config.min_lr_value}
    config = dataclasses.replace(config, **ends)
    plain = dataclasses.replace(config, rules="ALL", wd_substrings_include="")
    first = _FIRST.setdefault((with_decay(plain, 0.0, 0.0), decay_scales(config)), config)
    return with_decay(first, config.weight_decay, config.l2_reg)


def decay_scales(config: Config) -> tuple[float, ...]:
    """What the rules give each tensor of the model."""
    shapes = model.shapes(config, 128)  # Any number of tokens.
    return tuple(jax.tree.leaves(wdlab.decay_scales(shapes, optim.decay_rules(config))))


@functools.cache
def _trained(*phases: Config) -> tuple[Any, Any, Any]:
    """Where the next phase goes on, curve and ends of the last one; seeds first."""
    *before, last = phases
    keys, params = _trained(*before)[0] if before else _start(_of_model(last))
    run = _program(with_decay(last, 0.0, 0.0))
    after, curve = run(keys, params, (last.weight_decay, last.l2_reg))
    return after, curve, _evaluation(_of_model(last))(after[1])


def _of_model(config: Config) -> Config:
    """The same without the optimizer's settings, which what only evaluates does not read."""
    default = Config()
    own = {name: getattr(default, name) for name in (*Config.OPTIMIZER, "max_iters")}
    return dataclasses.replace(config, **own)


@functools.cache
def _start(config: Config) -> tuple[jax.Array, Any]:
    """Key and initial weights of each seed."""
    keys = jax.vmap(jax.random.key)(jnp.arange(SEEDS))
    params = model.create(config, data.embedded().vocab_size, 0)[1]
    return keys, jax.vmap(digits.drawn_anew, (None, 0))(params, keys)


@functools.cache
def _program(config: Config) -> Callable[..., tuple[Any, Any]]:
    """One phase of all seeds: ``(keys, params, strengths) -> ((keys, params) after it, curve)``."""
    corpus = data.embedded()
    tokens = jnp.asarray(corpus.train[: config.n_train_tokens], jnp.int32)
    graph = model.make_graph(config, corpus.vocab_size)

    def one(strengths, seed):
        key, params = seed
        key, phase_key = jax.random.split(key)
        params, seen = _steps(graph, with_decay(config, *strengths), params, tokens, phase_key)
        return (key, params), {k: v.reshape(WINDOWS, -1).mean(1) for k, v in seen.items()}

    @jax.jit
    def run(keys, params, strengths):
        return jax.lax.map(functools.partial(one, strengths), (keys, params))

    return run


@functools.cache
def _evaluation(config: Config) -> Callable[[Any], dict[str, jax.Array]]:
    """Losses of both splits and the norm of the weights, of all seeds, as one program."""
    corpus = data.embedded()
    graph = model.make_graph(config, corpus.vocab_size)
    asked = dataclasses.replace(config, eval_examples=_EVALUATED)
    parts = corpus.train, corpus.val
    windows_2xNxBxM = jnp.stack([data.evaluation_windows(p, corpus, asked) for p in parts])

    def of_seed(params):
        train, val = jax.lax.map(functools.partial(_evaluate, graph, params), windows_2xNxBxM)
        return {"train_loss": train, "val_loss": val, "weight_norm": optax.tree.norm(params)}

    return jax.jit(lambda params: jax.lax.map(of_seed, params))


def with_decay(config: Config, weight_decay: Any, l2_reg: Any) -> Config:
    """The same with other strengths, which may be traced."""
    return dataclasses.replace(config, weight_decay=weight_decay, l2_reg=l2_reg)


def dose(size: Size, name: str = "train_gpt2_small_block256", **flags: Any) -> Dose:
    """The dose of one training; flags in the paper's numbers."""
    config = tiny(**flags) if size == "tiny" else dataclasses.replace(CONFIGS[name](), **flags)
    rate = optim.learning_rate(config)
    decay = None if config.l2_reg else 1.0  # The shrink has the strength in it.
    return dose_of(rate, config.max_iters, decay, optim.shrink(config))


def _loss(graph, params, tokens_BxM) -> jax.Array:
    return losses(graph, params, tokens_BxM)[0]


def _evaluate(graph, params, windows_NxBxM) -> jax.Array:
    return jax.lax.map(lambda w: _loss(graph, params, w), windows_NxBxM).mean()


def _steps(graph, config: Config, params, tokens, key):
    """``max_iters`` steps of the example's own optimizer on windows drawn with replacement."""
    tx = optim.make_optimizer(config)

    def step(carry, key):
        params, state = carry
        starts_B = jax.random.randint(
            key, (config.batch_size,), 0, len(tokens) - config.block_size - 1
        )
        batch_BxM = tokens[starts_B[:, None] + jnp.arange(config.block_size + 1)]
        loss, grads = jax.value_and_grad(lambda p: _loss(graph, p, batch_BxM))(params)
        updates, state = tx.update(grads, state, params)
        seen = {"loss": loss, "grad_norm": optax.tree.norm(grads)}
        return (optax.apply_updates(params, updates), state), seen

    start = (params, tx.init(params))
    (params, _), seen = jax.lax.scan(step, start, jax.random.split(key, config.max_iters))
    return params, seen


def _rows(found: dict[str, Any], steps: dict[str, int]) -> list[Row]:
    rows = []
    for phase, (curve, ends) in found.items():
        for seed, i in itertools.product(range(SEEDS), range(WINDOWS)):
            row = {"phase": phase, "seed": seed, "step": (i + 1) * steps[phase] // WINDOWS}
            row |= {name: float(values[seed, i]) for name, values in curve.items()}
            last = i == WINDOWS - 1
            rows.append(row | ({k: float(v[seed]) for k, v in ends.items()} if last else {}))
    return rows


def paper(name: str, config: str, finetune: dict[str, Any] | None = None, **flags) -> list[Row]:
    """One run of ``examples.gpt.train CONFIG`` (and its fine-tuning), continued if it was cut off.

    Its folder is out/studies/runs/<name>. Rows as :func:`train` gives them, of one seed.
    """
    rows, folder = [], Path("out/studies/runs") / name
    phases = {"training": flags} | ({"fine-tuning": finetune} if finetune else {})
    for phase, settings in phases.items():
        argv = [config, *(f"--{k}={v}" for k, v in settings.items())]
        if phase == "fine-tuning":
            argv += ["--init_from=resume", f"--ckpt_path={folder / 'training'}"]
        for row in rows_of_run(program.main, argv, folder / phase):
            row = {k: v for k, v in row.items() if isinstance(v, int | float)}
            rows.append({"phase": phase, "seed": 0, "loss": row.get("batch_loss"), **row})
    return [{k: v for k, v in row.items() if v is not None} for row in rows]


def measure(size: Size, name: str, config: str, finetune=None, **flags) -> list[Row]:
    """The rows of one training at either size; flags in the paper's numbers."""
    if size == "paper":
        return paper(name, config, finetune, **flags)
    return train(tiny(**flags), tiny(**finetune) if finetune else None)


def final(rows: list[Row], column: str, phase: str = "training", **point: Any) -> np.ndarray:
    """The last value of a column for each seed, of the points that have these values."""
    return at_end(rows, column, phase=phase, **point)
