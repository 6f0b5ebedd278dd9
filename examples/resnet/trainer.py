"""The image models' run: arrays, data, some steps of an epoch, and what an epoch's row tells."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

import wdlab
from examples.runs import conventions, optimizers
from examples.runs.records import Row
from examples.runs.run import Run

from . import data as data_lib
from . import model, optim, step
from .config import Config
from .epochs import Epochs, Numbers

Probe = Callable[["Trainer"], Row | None]  # None: stopped before its end


class Trainer(Run):
    """Model, optimizer, data, and the rows of the epochs.

    Args:
      config: The settings.
      probe: Further numbers for the rows of some epochs (``flow.py``); it may take long, and asks
        now and then whether to stop. With it the learning rate stays ``lr``.
    """

    unit, axis = "images", "epoch"
    panels = {
        "cross-entropy (nats)": {
            "train_loss": "train",
            "test_loss": "test",
            "ema_train_loss": "train, EMA",
            "flow_train_loss": "train, after flow",
        },
        "error": {
            "train_error": "train",
            "test_error": "test",
            "ema_test_error": "test, EMA",
            "flow_test_error": "test, after flow",
        },
        "weight norm": {"weight_norm": "weights", "ema_weight_norm": "EMA"},
        "curvature after flow": {
            "flow_hessian_trace": "Hessian trace",
            "flow_jacobian_norm": "Jacobian norm",
            "flow_top_eigenvalue": "top eigenvalue",
        },
    }

    def __init__(self, config: Config, probe: Probe | None = None):
        super().__init__(config, config.least_bytes)
        self.probe, self.program = probe, "flow" if probe else "resnet"
        self.per_step = config.batch_size
        self.layout.rows(config.batch_size)  # Whether the devices can share it.
        self.data = data_lib.load(config)
        self.graph, params, stats = model.create(
            config, self.data.n_classes, self.data.image_size, config.random_seed, self.layout
        )
        d = self.data
        splits = ((d.x_train, d.y_train), (d.x_test, d.y_test))
        placed = (step.Images(*self.layout.copy((x, y, d.mean, d.std))) for x, y in splits)
        self.train_images, self.test_images = placed
        self.epochs = Epochs(self.graph, config, self.train_images, self.layout)
        self.last = config.epochs * self.epochs.steps
        self.rules = optim.decay_rules(config)
        wdlab.check_rules(params, self.rules, allow_uniform=True)
        self.trained = optim.is_trained(config, params)
        self.tx = optim.make_optimizer(config, config.lr, config.wd)
        if config.radius is not None:
            with self.layout.active():
                params = step.project(params, self.trained, config.radius)
        self.state = self.layout.settle(step.new_state(params, stats, self.tx))
        self.evaluate = step.make_evaluate(self.graph)
        self.recompute_stats = step.make_recompute_stats(self.graph)

    def optimizers(self, config: Config) -> list[optax.GradientTransformation]:
        """That before and that after the change of rates."""
        rates = [self.rates(0), self.rates(optim.first_decay_epoch(config))]
        return [optim.make_optimizer(config, *both) for both in rates]

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.epochs.steps

    def rates(self, epoch: int) -> tuple[float, float]:
        """Learning rate and weight decay of an epoch; with a probe they stay as they are."""
        if self.probe is not None:
            return self.config.lr, self.config.wd
        return optim.rates(self.config, epoch)

    def call(self, before: Numbers | None) -> Numbers:
        """Some steps, at most to the end of the epoch."""
        rates = self.rates(self.begun // self.epochs.steps)
        self.state, numbers = self.epochs.call(rates, self.state, self.begun, before)
        self.begun += numbers.last - self.begun % self.epochs.steps
        return numbers

    def read(self, numbers: Numbers, seconds: float) -> Row:
        """Counts and shows; a row there is after an epoch alone, when the sphere was reached."""
        self.step = self.epochs.reached(numbers, self.step, seconds)
        self.display.step(self.step, float(numbers.loss), seconds)
        if self.is_due(self.step) and self.config.radius is not None:
            params = step.project(self.state.params, self.trained, self.config.radius)
            self.state = self.state._replace(params=params)
        return {}

    def is_due(self, step: int) -> bool:
        """After every epoch."""
        return step % self.epochs.steps == 0

    def look(self) -> tuple[Row, str] | None:
        """The evaluation and the probe; a signal comes first."""
        row = None if self.stop.requested else self._evaluation()
        found = self.probe(self) if row is not None and self.probe is not None else {}
        if row is None or found is None:
            return None
        self.state = self.state._replace(loss_sum=jnp.zeros_like(self.state.loss_sum))
        text = (
            f"epoch {self.epoch}: train loss {row['train_loss']:.4f}, test error "
            f"{row['test_error']:.4f} (EMA {row['ema_test_error']:.4f}), weight norm "
            f"{row['weight_norm']:.2f}"
        )
        return row | found, text

    def is_saved(self) -> bool:
        """Some epochs, and the last one."""
        return self.epoch % self.config.save_every == 0 or self.step == self.last

    def _evaluation(self) -> Row:
        row: Row = {"epoch": self.epoch}
        if self.step:
            row["batch_loss"] = float(self.state.loss_sum) / self.epochs.steps
        row["lr"], row["wd"] = self.rates(max(self.epoch - 1, 0))  # Of the epoch that ends.
        state = self.state
        params, stats = state.params, state.stats
        if optimizers.averages(state.opt_state):
            params = optimizers.evaluated(params, state.opt_state)
            stats = self._stats_of(params)
        row |= self.measure(params, stats)
        return row | self.measure(state.ema, self._stats_of(state.ema), "ema_")

    def _stats_of(self, params: model.Params) -> model.Stats:
        """BatchNorm's statistics of weights that are an average."""
        stats = self.state.stats
        if not jax.tree.leaves(stats):
            return stats
        order = self.epochs.order(0)  # Shuffled: the batches of sorted data are no samples.
        return self.recompute_stats(params, stats, self.train_images, order)

    def measure(self, params: model.Params, stats: model.Stats, prefix: str = "") -> Row:
        """Losses and errors on both splits, the norm, and the loss with the L2 term."""
        row: Row = {}
        for split, images in (("train", self.train_images), ("test", self.test_images)):
            loss, error = jax.device_get(self.evaluate(params, stats, images))
            row |= {f"{prefix}{split}_loss": float(loss), f"{prefix}{split}_error": float(error)}
        norm = float(step.masked_norm(params, self.trained))
        decayed = float(step.masked_norm(params, wdlab.decay_scales(params, self.rules)))
        penalty = self.config.wd / 2 * decayed**2
        return row | {
            f"{prefix}weight_norm": norm,
            f"{prefix}train_objective": row[f"{prefix}train_loss"] + penalty,
            f"{prefix}test_objective": row[f"{prefix}test_loss"] + penalty,
        }

    def describe_decay(self) -> None:
        """One line where all decay, as in the paper's code: that biases do is no surprise there."""
        if self.config.rules != "ALL":
            return super().describe_decay()
        decayed = wdlab.inspect_decay(self.state.params, self.rules).totals
        return self.say([f"--rules ALL, with biases and norm scales: {decayed}"])

    def description(self) -> list[str]:
        """What decay means here, the model, the data."""
        config, data = self.config, self.data
        count = sum(p.size for p in jax.tree.leaves(self.state.params))
        meaning = (
            f"weight decay {config.wd} is L2: wd * w is added to the gradient, before the momentum"
        )
        if config.opt_type != "sgd":
            meaning = f"weight decay {config.wd}, coupling {config.coupling!r}"
        if config.convention:
            meaning = conventions.described(config.convention, config.wd)
        return [
            meaning,
            f"{config.model} of width {config.width}, {count:,} parameters, on {config.dataset}: "
            f"{len(data.x_train)} training and {len(data.x_test)} test images, "
            f"{data.n_classes} classes",
        ]

    def result(self, rows: list[Row]) -> list[str]:
        """The last epoch."""
        return [
            f"final train loss {row['train_loss']:.4f}, test error {row['test_error']:.4f} after "
            f"{row['epoch']} epochs; {self.display.tokens_per_second:,.0f} images/s"
            for row in rows[-1:]
        ]
