"""The image models of the studies: small trainings that share their programs, or the paper's.

At size ``paper`` a study's settings are the flags of ``examples.resnet.train`` or ``.flow``. At the
others the same steps run on 768 of scikit-learn's digits, 16x16 pixels where the model takes them
and the study does not say otherwise, with learning rate and decay as arguments of the program, so
that all settings and seeds of a model share one compilation.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from examples.resnet import data, model, optim, step
from examples.resnet.config import Config
from examples.resnet.sharpness import Sharpness

from . import digits
from .dose import Dose
from .rows import Row
from .study import rows_of_run

TRAIN = 768  # images
SEEDS = 2
PROBED = 100  # images whose Hessian is measured


class Model(NamedTuple):
    """One model's programs and data."""

    config: Config
    dataset: data.Dataset
    train: step.Images
    test: step.Images
    start: Any  # parameters and BatchNorm statistics of seed 0
    trained: Any  # like the parameters: whether a leaf is trained
    train_step: Callable[..., Any]
    evaluate: Callable[..., Any]
    sharpness: Sharpness


@functools.cache
def build(
    name: str,
    width: int,
    *,
    batch_norm: bool = True,
    scale_inv: bool = False,
    stride: int | None = None,
    others: bool = False,
) -> Model:
    """A model's programs; compiled at their first call, whatever learning rate and decay.

    With ``stride`` every stride-th of 32 pixels is taken; with ``others`` all digits that are not
    trained on are test images.
    """
    config = Config(
        dataset="digits", model=name, width=width, batch_norm=batch_norm, scale_inv=scale_inv,
        batch_size=64, momentum=0.0,
    )  # fmt: skip
    dataset = _small(data.digits(), stride or (1 if name == "vgg16" else 2), others)
    train, test = (
        step.Images(*map(jnp.asarray, (x, y, dataset.mean, dataset.std)))
        for x, y in ((dataset.x_train, dataset.y_train), (dataset.x_test, dataset.y_test))
    )
    graph, params, stats = model.create(config, dataset.n_classes, dataset.image_size, 0)

    @functools.partial(jax.jit, donate_argnums=0)
    def train_step(state: step.State, images: step.Images, indices_B, lr, wd):
        x, y = images.batch(indices_B)
        tx = optim.make_optimizer(config, lr, wd)
        state, loss, _ = step.one_step(graph, tx, config.ema, state, x, y)
        return state, loss

    trained = optim.is_trained(config, params)
    sharpness = Sharpness(graph, dataset, train, PROBED, 0)
    evaluate = step.make_evaluate(graph)
    start = params, stats
    return Model(config, dataset, train, test, start, trained, train_step, evaluate, sharpness)


def _small(digits: data.Dataset, stride: int, others: bool) -> data.Dataset:
    x = np.concatenate([digits.x_train, digits.x_test])[:, ::stride, ::stride]
    y = np.concatenate([digits.y_train, digits.y_test])
    first = TRAIN if others else len(digits.x_train)
    return dataclasses.replace(
        digits, x_train=x[:TRAIN], y_train=y[:TRAIN], x_test=x[first:], y_test=y[first:]
    )


class Run:
    """One training of a model."""

    def __init__(self, m: Model, seed: int, *, radius: float | None = None):
        self.model, self.radius, self.epoch, self.seed = m, radius, 0, seed
        params, stats = jax.tree.map(jnp.copy, m.start)
        params = digits.drawn_anew(params, jax.random.key(seed))
        if radius is not None:
            params = step.project(params, m.trained, radius)
        tx = optim.make_optimizer(m.config, 0.1, 0.1)
        self.state = step.new_state(params, stats, tx)

    def copy(self) -> "Run":
        """The same, to train on by itself."""
        twin = object.__new__(Run)
        twin.__dict__ |= self.__dict__ | {"state": jax.tree.map(jnp.copy, self.state)}
        return twin

    def train(self, lr: float, wd: float, epochs: int) -> list[float]:
        """Trains; the mean batch loss of every epoch. NaN from the first step that is not finite.

        On the sphere all trained weights are projected after every epoch.
        """
        means = []
        for _ in range(epochs):
            key = jax.random.fold_in(jax.random.key(self.seed), self.epoch)
            losses = []
            for indices_B in data.order_of_epoch(key, TRAIN, self.model.config.batch_size):
                self.state, loss = self.model.train_step(
                    self.state, self.model.train, indices_B, lr, wd
                )
                losses.append(loss)
            self.epoch += 1
            if self.radius is not None:
                params = step.project(self.state.params, self.model.trained, self.radius)
                self.state = self.state._replace(params=params)
            means.append(float(jnp.stack(losses).mean()))
        return means

    def measure(self, prefix: str = "") -> Row:
        """Losses and errors on both splits, and the norm of the trained weights."""
        row, state = {}, self.state
        for split, images in (("train", self.model.train), ("test", self.model.test)):
            loss, error = self.model.evaluate(state.params, state.stats, images)
            row |= {f"{prefix}{split}_loss": float(loss), f"{prefix}{split}_error": float(error)}
        return row | {f"{prefix}weight_norm": self.norm()}

    def norm(self) -> float:
        """Of the trained weights."""
        return float(step.masked_norm(self.state.params, self.model.trained))

    def flow(self, lr: float, epochs: int) -> Row:
        """What a copy is like after the gradient flow, its Hessian's trace included."""
        copy = self.copy()
        copy.train(lr, 0.0, epochs)
        found = self.model.sharpness.trace(copy.state.params, copy.state.stats, lambda: False)
        row = copy.measure("flow_") | {"flow_hessian_trace": float(found.value)}
        return row | {"flow_trace_error": float(found.standard_error)}


def dose(phases: Sequence[tuple[float, float, int]], steps: int = TRAIN // 64) -> Dose:
    """The dose of phases of (learning rate, L2, epochs), each of so many steps.

    L2 in the gradient of plain SGD is decay; the largest learning rate counts.
    """
    exponent = sum(lr * wd * epochs for lr, wd, epochs in phases) * steps
    lr_steps = max(lr for lr, _, _ in phases) * sum(epochs for *_, epochs in phases) * steps
    return Dose(round(exponent, 6), round(lr_steps, 6))


def paper(program: Callable[..., int], name: str, **flags: Any) -> list[Row]:
    """The rows of one run of ``examples.resnet.train`` or ``.flow``; a run cut off goes on."""
    argv = [f"--{key}" if value is True else f"--{key}={value}" for key, value in flags.items()]
    argv += ["--momentum=0.0", "--batch_size=128"]
    rows = rows_of_run(program, argv, Path("out/studies/runs") / name)
    return [row | {"seed": flags.get("random_seed", 42)} for row in rows]
