"""One training run: model, optimizer, data, and the loop over the epochs."""

import dataclasses
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import wdlab
from examples.runs.display import Display
from examples.runs.mesh import Layout, make_mesh
from examples.runs.records import Records, Row
from examples.runs.stop import StopRequest
from wdlab.training import Checkpoints

from . import data as data_lib
from . import model, optim, step
from .config import Config
from .loop import Diverged, Epochs

Probe = Callable[["Trainer", Callable[[], bool]], Row | None]  # None: stopped before its end


class Trainer:
    """One run: model, optimizer, data, and the loop over the epochs.

    Args:
      config: The settings.
      probe: Further numbers for the rows of some epochs (``flow.py``); it may take long, and asks
        now and then whether to stop. With it the learning rate stays ``lr``.
    """

    def __init__(self, config: Config, probe: Probe | None = None):
        self.config, self.probe = config, probe
        self.layout = Layout(make_mesh(config.mesh_data, config.mesh_fsdp))
        self.layout.rows(config.batch_size)  # Whether the devices can share it.
        self.data = data_lib.load(config)
        self.graph, params, stats = model.create(
            config, self.data.n_classes, self.data.image_size, config.random_seed, self.layout
        )
        self.train_images, self.test_images = self._on_device()
        key = jax.random.key(config.random_seed)
        self.epochs = Epochs(self.graph, config, self.train_images, jax.random.fold_in(key, 1))
        self.rules = optim.decay_rules(config)
        wdlab.check_rules(params, self.rules, allow_uniform=True)
        self.trained = optim.is_trained(config, params)
        self.tx = optim.make_optimizer(config, config.lr, config.wd)
        if config.radius is not None:
            with self.layout.active():
                params = step.project(params, self.trained, config.radius)
        self.state = self.layout.settle(step.new_state(params, stats, self.tx))
        self.step, self.pending = 0, True  # pending: the row of this step is still to be made
        self.evaluate = step.make_evaluate(self.graph)
        self.recompute_stats = step.make_recompute_stats(self.graph)

    def _on_device(self) -> tuple[step.Images, step.Images]:
        d = self.data
        splits = ((d.x_train, d.y_train), (d.x_test, d.y_test))
        train, test = (step.Images(*self.layout.copy((x, y, d.mean, d.std))) for x, y in splits)
        return train, test

    @property
    def epoch(self) -> int:
        """Whole epochs done."""
        return self.step // self.epochs.steps

    def rates(self, epoch: int) -> tuple[float, float]:
        """Learning rate and weight decay of an epoch; with a probe they stay as they are."""
        if self.probe is not None:
            return self.config.lr, self.config.wd
        return optim.rates(self.config, epoch)

    def restore(self, checkpoints: Checkpoints) -> tuple[bool, list[str]]:
        """Continues from the newest whole checkpoint, if there is one; what to tell the user."""
        restored = checkpoints.restore(self.state)
        if restored is None:
            return False, ["nothing to resume here yet: starting at step 0"]
        self.state, self.step = restored.state, restored.step
        self.pending = restored.record["pending"]
        notes = [
            f"checkpoint of step {number} is damaged ({why}): set aside, falling back"
            for number, why in restored.damaged.items()
        ]
        return True, [*notes, f"resuming at step {restored.step}"]

    def save(self, checkpoints: Checkpoints) -> None:
        """Saves the present state."""
        record = {"pending": self.pending, "config": dataclasses.asdict(self.config)}
        checkpoints.save(self.step, self.state, record=record)

    def train(
        self, checkpoints: Checkpoints, records: Records, display: Display, stop: StopRequest
    ) -> int | None:
        """Trains until the last epoch (None) or a signal (the exit code to leave with).

        Raises:
          Diverged: If a step is not finite; the state before it is saved.
        """
        with self.layout.active():
            return self._train(checkpoints, records, display, stop)

    def _train(self, checkpoints, records, display, stop) -> int | None:
        last = self.config.epochs * self.epochs.steps
        while not stop.requested:
            self._finish_epoch(checkpoints, records, display, lambda: stop.requested)
            if self.step == last and not self.pending:
                return None
            if stop.requested:
                break
            try:
                self._advance(display)
            except Diverged:
                self.save(checkpoints)
                checkpoints.wait()
                raise
        self.save(checkpoints)
        checkpoints.wait()
        display.line(f"{stop.name}: saved at step {self.step}; --resume continues")
        return stop.exit_code

    def _advance(self, display: Display) -> None:
        """Some steps, at most to the end of the epoch."""
        started, before = time.monotonic(), self.step
        loss = math.nan
        try:
            self.state, done, loss = self.epochs.advance(
                self.rates(self.epoch), self.state, self.epoch, before % self.epochs.steps
            )
            self.step += done
        except Diverged as error:
            self.state, self.step = error.state, before + error.done
            saved = f"the weights before it are saved as step {self.step}"
            raise Diverged(f"{error}; {saved}", error.state, error.done) from None
        if self.step % self.epochs.steps == 0:
            self.pending = True
            if self.config.radius is not None:
                params = step.project(self.state.params, self.trained, self.config.radius)
                self.state = self.state._replace(params=params)
        display.step(self.step, loss, time.monotonic() - started)

    def _finish_epoch(self, checkpoints, records, display, stopped: Callable[[], bool]) -> None:
        """At the end of an epoch: evaluate, probe, record, save."""
        if self.step % self.epochs.steps or not self.pending:
            return
        row = self._evaluate()
        if self.probe is not None:
            found = self.probe(self, stopped)
            if found is None:
                return
            row |= found
        records.append(row)
        display.line(
            f"epoch {self.epoch}: train loss {row['train_loss']:.4f}, test error "
            f"{row['test_error']:.4f} (EMA {row['ema_test_error']:.4f}), weight norm "
            f"{row['weight_norm']:.2f}"
        )
        self.pending = False
        zero = jnp.zeros_like(self.state.loss_sum)
        self.state = self.state._replace(loss_sum=zero)
        last = self.epoch == self.config.epochs
        if self.step and (self.epoch % self.config.save_every == 0 or last):
            self.save(checkpoints)

    def _evaluate(self) -> Row:
        row: Row = {"step": self.step, "epoch": self.epoch}
        if self.step:
            row["batch_loss"] = float(self.state.loss_sum) / self.epochs.steps
        row["lr"], row["wd"] = self.rates(max(self.epoch - 1, 0))  # Of the epoch that ends.
        ema_stats = self.state.stats
        if jax.tree.leaves(ema_stats):
            order = self.epochs.order(0)  # Shuffled: the batches of sorted data are no samples.
            ema_stats = self.recompute_stats(self.state.ema, ema_stats, self.train_images, order)
        row |= self.measure(self.state.params, self.state.stats)
        return row | self.measure(self.state.ema, ema_stats, "ema_")

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
