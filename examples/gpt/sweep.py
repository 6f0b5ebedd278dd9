"""The tiny GPT as a sweep: learning rate x weight decay x coupling, every run in one program.

``wdlab sweep --task examples.gpt.sweep:tiny --learning-rate 1e-4:1e-1:9 --weight-decay 1e-6:1e-1:9
--coupling lr,schedule,l2 --seeds 3 --out_dir out/sweep-gpt``: 729 runs of 1,000 steps, hours on two
CPU cores, so ``examples.gpt.sweep:small`` has 150 steps of a narrower model.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import wdlab
from wdlab.sweep import Optimizer, adam_of, train_function

from . import data as gpt_data
from .config import Config
from .configs import CONFIGS
from .model import GPT, Params, make_graph
from .step import losses


def run(
    config: Config,
    hyperparameters: dict[str, Any],
    key: jax.Array,
    *,
    optimizer: Optimizer | None = None,
) -> Mapping[str, Any]:
    """One run of a configuration; the hyper-parameters take the place of its own.

    Windows start anywhere in the text, as in :mod:`examples.gpt.data`; the learning rate is the
    peak of the configuration's warm-up and cosine to a tenth. ``optimizer`` takes the place of
    clipping, Adam and this schedule.
    """
    dataset = gpt_data.load(config)
    graph = make_graph(config, dataset.vocab_size)
    held_out = gpt_data.evaluation_windows(dataset.val, dataset, config)
    offsets_M = np.arange(config.block_size + 1)
    tokens = dataset.train.astype("int32")
    eta = wdlab.schedules.warmup_cosine(
        1.0, warmup_steps=config.warmup_iters, decay_steps=config.lr_decay_steps, end=0.1
    )

    def init(key: jax.Array) -> Params:
        model = GPT(config, dataset.vocab_size, nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param))

    def loss(params: Params, starts_B: Any) -> jax.Array:
        tokens_BxM = jnp.asarray(tokens)[starts_B[:, None] + offsets_M]
        return losses(graph, params, tokens_BxM)[0]

    def adam(h: Mapping[str, Any]) -> optax.GradientTransformation:
        rates = {"b1": config.beta1, "b2": config.beta2, **h}
        step = adam_of(rates, schedule=eta, rules=getattr(wdlab.rules, config.rules))
        return optax.chain(optax.clip_by_global_norm(config.grad_clip), step)

    def evaluate(params: Params) -> dict[str, jax.Array]:
        loss_N, error_N = jax.lax.map(lambda x: losses(graph, params, x), held_out)
        return {"val_loss": loss_N.mean(), "val_error": error_N.mean()}

    train = train_function(
        init,
        loss,
        np.arange(len(tokens) - config.block_size),
        optimizer or adam,
        steps=config.max_iters,
        batch_size=config.batch_size,
        metrics=evaluate,
    )
    return train(hyperparameters, key)


def tiny(hyperparameters: dict[str, Any], key: jax.Array) -> Mapping[str, Any]:
    """The configuration ``tiny``, whole: a minute a run."""
    return run(CONFIGS["tiny"](), hyperparameters, key)


def small(hyperparameters: dict[str, Any], key: jax.Array) -> Mapping[str, Any]:
    """``tiny`` cut to 2 blocks of width 48, context 32, batch 8, 150 steps."""
    return run(SMALL, hyperparameters, key)


SMALL = dataclasses.replace(
    CONFIGS["tiny"](), n_layer=2, n_embd=48, block_size=32, batch_size=8, max_iters=150,
    warmup_iters=15, eval_examples=128,
)  # fmt: skip
