"""Trains an image model: ``python -m examples.resnet.train``, or with flags (see ``config.py``).

The way of data: images on the device -> batch (augment.py) -> logits (model.py) -> gradient, SGD
with L2 (step.py, optim.py) -> weights; after every epoch the sphere, the evaluation, the records.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

import wdlab
from examples.runs import run_dir
from examples.runs.display import Display
from examples.runs.errors import UserError, fail
from examples.runs.records import Records, Row
from examples.runs.stop import StopRequest
from wdlab.checkpoint import CheckpointError, Checkpoints

from . import data as data_lib
from . import model, optim, step
from .config import Config
from .flags import parse
from .loop import Diverged, Epochs
from .plot import save_plot

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
        self.data = data_lib.load(config)
        self.graph, params, stats = model.create(
            config, self.data.n_classes, self.data.image_size, config.random_seed
        )
        self.train_images, self.test_images = self._on_device()
        key = jax.random.key(config.random_seed)
        self.epochs = Epochs(self.graph, config, self.train_images, jax.random.fold_in(key, 1))
        self.rules = optim.decay_rules(config)
        wdlab.check_rules(params, self.rules, allow_uniform=True)
        self.trained = optim.is_trained(config, params)
        self.tx = optim.make_optimizer(config, config.lr, config.wd)
        if config.radius is not None:
            params = step.project(params, self.trained, config.radius)
        # Committed to the device, as a step's results are: a second kind would compile twice.
        params, stats = jax.device_put((params, stats), jax.devices()[0])
        self.state = step.new_state(params, stats, self.tx)
        self.step, self.pending = 0, True  # pending: the row of this step is still to be made
        self.evaluate = step.make_evaluate(self.graph)
        self.recompute_stats = step.make_recompute_stats(self.graph)

    def _on_device(self) -> tuple[step.Images, step.Images]:
        d = self.data
        splits = ((d.x_train, d.y_train), (d.x_test, d.y_test))
        train, test = (
            step.Images(*jax.device_put((x, y, d.mean, d.std), jax.devices()[0])) for x, y in splits
        )
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

    def train(self, checkpoints: Checkpoints, records: Records, display: Display) -> int | None:
        """Trains until the last epoch (None) or a signal (the exit code to leave with).

        Raises:
          Diverged: If a step is not finite; the state before it is saved.
        """
        last = self.config.epochs * self.epochs.steps
        with StopRequest() as stop:
            self._finish_epoch(checkpoints, records, display, lambda: stop.requested)
            while self.step < last and not stop.requested:
                try:
                    self._advance(display)
                except Diverged:
                    self.save(checkpoints)
                    checkpoints.wait()
                    raise
                self._finish_epoch(checkpoints, records, display, lambda: stop.requested)
            if self.step < last or self.pending:
                self.save(checkpoints)
                checkpoints.wait()
                display.line(f"{stop.name}: saved at step {self.step}; --resume continues")
                return stop.exit_code
        return None

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


def describe(trainer: Trainer, display: Display) -> None:
    """Shows which parameters decay and why, and the model."""
    config = trainer.config
    wdlab.print_decay(trainer.state.params, trainer.rules, console=display.console)
    display.line(
        f"weight decay {config.wd} is L2: wd * w is added to the gradient, before the momentum"
    )
    count = sum(p.size for p in jax.tree.leaves(trainer.state.params))
    display.line(
        f"{config.model} of width {config.width}, {count:,} parameters, on {config.dataset}: "
        f"{len(trainer.data.x_train)} training and {len(trainer.data.x_test)} test images, "
        f"{trainer.data.n_classes} classes"
    )


def run(config: Config, probe: Probe | None = None) -> int:
    """Runs or resumes one training; the exit code."""
    try:
        trainer = Trainer(config, probe)
    except ValueError as error:  # What wdlab and Optax say of the settings.
        raise UserError(str(error)) from error
    folder = run_dir.choose(config.exp_name, config.out_dir, config.resume)
    plan = wdlab.decay_plan(trainer.tx, trainer.state.params).digest()
    settings = config.trajectory() | {"data": trainer.data.digest(), "decay_plan": plan}
    settings["program"] = "flow" if probe else "train"
    with Checkpoints(
        folder / "checkpoints", settings=settings, keep=config.keep_checkpoints
    ) as checkpoints:
        found, notes = trainer.restore(checkpoints) if config.resume else (False, [])
        last = config.epochs * trainer.epochs.steps
        display = Display(trainer.step, last, config.batch_size, "images")
        describe(trainer, display)
        display.line(f"{config.exp_name} on {jax.devices()[0].device_kind}, results in {folder}")
        for note in notes:
            display.line(note)
        settings_file = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        (folder / "config.json").write_text(settings_file)
        records = Records(folder / "metrics.jsonl", trainer.step if found else -1)
        try:
            with display:
                code = trainer.train(checkpoints, records, display)
            checkpoints.wait()
        finally:
            records.close()
        if code is None:
            finish(trainer, folder, records, display)
        return code or 0


def finish(trainer: Trainer, folder: Path, records: Records, display: Display) -> None:
    """The end of a run: picture, result, and where everything lies."""
    save_plot(records.rows, folder / "training.png", trainer.config.exp_name)
    final = records.rows[-1]
    display.line(
        f"final train loss {final['train_loss']:.4f}, test error {final['test_error']:.4f} after "
        f"{final['epoch']} epochs; {display.tokens_per_second:,.0f} images/s"
    )
    display.line(f"checkpoint: {folder / 'checkpoints' / str(trainer.step)}")
    display.line(f"records: {folder / 'metrics.jsonl'}, {folder / 'training.png'}")


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code. Users' mistakes are one line on stderr."""
    try:
        return run(parse(sys.argv[1:] if argv is None else argv))
    except (UserError, CheckpointError, OSError) as error:
        return fail(error)


if __name__ == "__main__":
    sys.exit(main())
