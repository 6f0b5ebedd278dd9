"""The optimizer, written out so that the place of the decay term is visible."""

import dataclasses
from collections.abc import Callable
from functools import cache, partial

import jax
import optax
from jax.typing import ArrayLike

import wdlab
from examples.runs import conventions, optimizers
from wdlab import Rule
from wdlab.preconditioners import MatrixAxes

from .config import Config

AXES = MatrixAxes("in_out", kernels="flatten")  # A convolution is one matrix.
FROZEN = "head/.*"  # What scale_inv keeps as it was initialized.


def decay_rules(config: Config) -> tuple[Rule, ...]:
    """Which parameters decay: those of the preset, of those that are trained."""
    frozen = (Rule(FROZEN, 0.0),) if config.scale_inv else ()
    if config.rules == conventions.OWN_RULES:
        return frozen + wdlab.conventions.get(config.convention).rules
    return frozen + getattr(wdlab.rules, config.rules)


def is_trained(config: Config, params: dict) -> dict:
    """Like params: whether a leaf is trained (otherwise it stays as it was initialized)."""
    rules = (Rule(FROZEN, 0.0, optional=True), Rule(".*")) if config.scale_inv else (Rule(".*"),)
    return jax.tree.map(bool, wdlab.decay_scales(params, rules))


def first_decay_epoch(config: Config) -> int:
    """The first epoch (from 0) of the small learning rate."""
    return int(config.epochs * config.first_decay)


def rates(config: Config, epoch: int) -> tuple[float, float]:
    """Learning rate and weight decay of an epoch, counted from 0: they change between epochs."""
    if epoch < first_decay_epoch(config):
        return config.lr, config.wd
    return config.lr_flow, config.wd * config.wd_gamma_decay


def make_optimizer_of_rates(config: Config) -> Callable[..., optax.GradientTransformation]:
    """``(lr, wd) -> make_optimizer``, the same function for all runs that share these settings."""
    decide = ["momentum", "scale_inv", "rules", "opt_type", "convention"]
    if config.convention or config.opt_type != "sgd":  # The peak is part of the program.
        decide += ["convention_args", "coupling", "lr"]
    return _of_rates(dataclasses.replace(Config(), **{n: getattr(config, n) for n in decide}))


@cache
def _of_rates(config: Config) -> Callable[..., optax.GradientTransformation]:
    return partial(make_optimizer, config)


def make_optimizer(config: Config, lr: ArrayLike, wd: ArrayLike) -> optax.GradientTransformation:
    """torch.optim.SGD: L2 into the gradient, momentum, learning rate; frozen layers stay.

    With ``convention`` or ``opt_type`` another optimizer, for which ``config.lr`` is the peak.
    """
    frozen = optax.identity()
    if config.scale_inv:
        frozen = wdlab.freeze((Rule(FROZEN), Rule(".*", 0.0)))
    if config.convention:
        name, words, rules = config.convention, config.convention_args, decay_rules(config)
        return optax.chain(conventions.build(name, words, lr, wd, rules, config.lr), frozen)
    if config.opt_type != "sgd":
        other = optimizers.build(
            config.opt_type, lr, weight_decay=wd, coupling=config.coupling, b1=0.9, b2=0.99,
            rules=decay_rules(config), peak_learning_rate=config.lr, axes=AXES,
        )  # fmt: skip
        return optax.chain(other, frozen)
    return optax.chain(
        wdlab.add_l2_gradient(wd, rules=decay_rules(config)),
        optax.sgd(lr, momentum=config.momentum or None),  # pyrefly: ignore  lr may be traced.
        frozen,
    )
