"""Trains the GPT: ``python -m examples.gpt.train CONFIG --flag value``, CONFIG first of all tiny.

The way of data: text -> windows (data.py) -> logits (model.py) -> gradient (step.py) -> clipping,
Adam, decay (optim.py) -> weights; beside it checkpoints, records, and what the user sees.
"""

import dataclasses
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

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
from .plot import save_plot
from .sample import generate


class Diverged(UserError):
    """Loss or gradient became NaN or infinite."""


@dataclasses.dataclass
class State:
    """What a checkpoint holds: the arrays, and how many updates made them."""

    params: model.Params
    opt_state: Any
    key: jax.Array  # Dropout's; each step folds its number into it.
    step: int

    def arrays(self) -> dict[str, Any]:
        """The part that is arrays."""
        return {"params": self.params, "opt_state": self.opt_state, "key": self.key}


class Trainer:
    """One run: model, optimizer, data, and the loop over the steps."""

    def __init__(self, config: Config):
        self.config = config
        self.data = data_lib.load(config)
        self.rules = optim.decay_rules(config)
        self.tx = optim.make_optimizer(config)
        self.graph, params = model.create(config, self.data.vocab_size, config.random_seed)
        key = jax.random.key(config.random_seed)
        # Committed to the device, as a step's results are: a second kind would compile twice.
        params, key = jax.device_put((params, key), jax.devices()[0])
        wdlab.check_rules(params, self.rules, allow_uniform=True)
        self.state = State(
            params, wdlab.init_opt_state(self.tx, params), jax.random.key(config.random_seed), 0
        )
        self.batches = data_lib.batches(self.data, config)
        self.windows = {
            split: data_lib.evaluation_windows(tokens, self.data, config)
            for split, tokens in (("train", self.data.train), ("val", self.data.val))
        }
        self.train_step = step.make_train_step(self.graph, self.tx, config)
        self.evaluate = step.make_evaluate(self.graph)
        self.weight_norms = step.make_weight_norms(wdlab.decay_scales(params, self.rules))

    def restore(self, checkpoints: Checkpoints) -> tuple[bool, list[str]]:
        """Continues from the newest whole checkpoint, if there is one; what to tell the user."""
        restored = checkpoints.restore(self.state.arrays())
        if restored is None:
            return False, ["nothing to resume here yet: starting at step 0"]
        self.state = State(**restored.state, step=restored.step)
        self.batches.set_state(restored.record["iterator"])
        notes = [
            f"checkpoint of step {number} is damaged ({why}): set aside, falling back"
            for number, why in restored.damaged.items()
        ]
        return True, [*notes, f"resuming at step {restored.step}"]

    def save(self, checkpoints: Checkpoints, iterator: Any, row: Row | None = None) -> None:
        """Saves the present state; a row with an evaluation takes part in choosing the best."""
        record = {"iterator": iterator, "config": dataclasses.asdict(self.config)}
        metrics = {"val_loss": row["val_loss"]} if row and "val_loss" in row else None
        checkpoints.save(self.state.step, self.state.arrays(), record=record, metrics=metrics)

    def train(self, checkpoints: Checkpoints, records: Records, display: Display) -> int | None:
        """Steps until max_iters (None) or a signal (the exit code to leave with).

        Raises:
          Diverged: If a step is not finite; the state before it is saved.
        """
        config = self.config
        if self.state.step == 0:
            self._record({}, checkpoints, records, display)
        with StopRequest() as stop:
            while self.state.step < config.max_iters:
                before = self.batches.get_state()
                started = time.monotonic()
                metrics = self._step()
                if not (math.isfinite(metrics["loss"]) and math.isfinite(metrics["grad_norm"])):
                    self._diverged(checkpoints, before, metrics)
                display.step(self.state.step, metrics["loss"], time.monotonic() - started)
                self._record(metrics, checkpoints, records, display)
                if stop.requested:
                    self.save(checkpoints, self.batches.get_state())
                    checkpoints.wait()
                    display.line(
                        f"{stop.name}: saved at step {self.state.step}; --resume continues"
                    )
                    return stop.exit_code
        return None

    def _step(self) -> dict[str, float]:
        """One update; numbers of the step as floats. A step that is not finite is not counted."""
        state = self.state
        state.params, state.opt_state, metrics = self.train_step(
            state.params, state.opt_state, next(self.batches), state.key, state.step
        )
        metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
        state.step += all(map(math.isfinite, metrics.values()))
        return metrics

    def _record(self, metrics: dict, checkpoints: Checkpoints, records: Records, display) -> None:
        """After a step: log, evaluate and save where the intervals say so, in this order."""
        config, done = self.config, self.state.step
        last = done == config.max_iters
        row: Row = {"step": done}
        if metrics and (done % config.log_interval == 0 or last):
            row |= {"batch_loss": metrics["loss"], "grad_norm": metrics["grad_norm"]}
            row |= {"learning_rate": metrics["learning_rate"], **self._norms()}
        if done % config.eval_interval == 0 or last:
            row |= {**self._evaluate(), **self._norms()}
            display.line(
                f"step {done}: train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}, "
                f"weight norm {row['weight_norm']:.1f}"
            )
        if len(row) > 1:
            records.append(row)
        if done and "val_loss" in row:
            self.save(checkpoints, self.batches.get_state(), row)

    def _norms(self) -> Row:
        norms = jax.device_get(self.weight_norms(self.state.params))
        return {name: float(value) for name, value in norms.items()}

    def _evaluate(self) -> Row:
        row = {}
        for split, windows in self.windows.items():
            loss, error = jax.device_get(self.evaluate(self.state.params, windows))
            row |= {f"{split}_loss": float(loss), f"{split}_error": float(error)}
        return row

    def _diverged(self, checkpoints: Checkpoints, iterator: Any, metrics: dict) -> None:
        self.save(checkpoints, iterator)
        checkpoints.wait()
        raise Diverged(
            f"step {self.state.step + 1} has loss {metrics['loss']} and gradient norm "
            f"{metrics['grad_norm']}: stopped; the weights before it are saved as step "
            f"{self.state.step} in {checkpoints.directory}. Try a lower --learning_rate, a longer "
            "--warmup_iters or --dtype float32"
        )


def describe_decay(trainer: Trainer, display: Display) -> None:
    """Shows which parameters decay and why, and what the decay will amount to."""
    config = trainer.config
    wdlab.print_decay(trainer.state.params, trainer.rules, console=display.console)
    if not optim.is_decoupled(config):
        display.line(
            f"weight decay {config.weight_decay} is L2, added to the gradient before the optimizer"
        )
        return
    profile = wdlab.decay_profile(
        config.weight_decay, optim.decay_multiplier(config), config.max_iters
    )
    display.line(f"weight decay {config.weight_decay}, coupling {config.coupling!r}:\n{profile}")


def finish(trainer: Trainer, folder: Path, records: Records, display: Display, title: str) -> None:
    """The end of a run: losses, text, picture, and where everything lies."""
    config = trainer.config
    if config.sample_tokens:
        text = generate(trainer.graph, trainer.state.params, trainer.data, config)
        (folder / "sample.txt").write_text(text, "utf-8")
        display.line(f"sample:\n{text}\n")
    save_plot(records.rows, folder / "training.png", title)
    final = next((row for row in reversed(records.rows) if "val_loss" in row), None)
    if final is not None:
        display.line(
            f"final train loss {final['train_loss']:.4f}, val loss {final['val_loss']:.4f} "
            f"after {final['step']} steps; {display.tokens_per_second:,.0f} tokens/s"
        )
    display.line(f"checkpoint: {folder / 'checkpoints' / str(trainer.state.step)}")
    display.line(f"records: {folder / 'metrics.jsonl'}, {folder / 'training.png'}")


def run(name: str, config: Config) -> int:
    """Runs or resumes one training; the exit code."""
    try:
        trainer = Trainer(config)
    except ValueError as error:  # What wdlab and Optax say of the settings.
        raise UserError(str(error)) from error
    folder = run_dir.choose(name, config.out_dir, config.resume)
    plan = wdlab.decay_plan(trainer.tx, trainer.state.params).digest()
    settings = config.trajectory() | {"data": trainer.data.digest(), "decay_plan": plan}
    with Checkpoints(
        folder / "checkpoints", settings=settings, keep=config.keep_checkpoints, best="val_loss"
    ) as checkpoints:
        found, notes = trainer.restore(checkpoints) if config.resume else (False, [])
        start = trainer.state.step
        display = Display(start, config.max_iters, config.tokens_per_step)
        describe_decay(trainer, display)
        display.line(f"{name} on {jax.devices()[0].device_kind}, results in {folder}")
        for note in notes:
            display.line(note)
        settings_file = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
        (folder / "config.json").write_text(settings_file)
        records = Records(folder / "metrics.jsonl", start if found else -1)
        try:
            with display:
                code = trainer.train(checkpoints, records, display)
            checkpoints.wait()
        finally:
            records.close()
        if code is None:
            finish(trainer, folder, records, display, name)
        return code or 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code. Users' mistakes are one line on stderr."""
    try:
        return run(*parse(sys.argv[1:] if argv is None else argv))
    except (UserError, CheckpointError, OSError) as error:
        return fail(error)


if __name__ == "__main__":
    sys.exit(main())
