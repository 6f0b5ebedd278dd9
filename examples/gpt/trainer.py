"""One run: the state, the loop over the steps, evaluations, rows, checkpoints."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import wdlab
from examples.runs.display import Display
from examples.runs.errors import UserError
from examples.runs.mesh import Layout, make_mesh
from examples.runs.records import Records, Row
from examples.runs.stop import StopRequest
from wdlab.training import Checkpoints

from . import data as data_lib
from . import model, optim, step
from .rows import evaluation_line, metrics_row, not_finite
from .start import Start

_EVERY_STEP = ("loss", "grad_norm", "skipped", "in_a_row")  # Metrics that every step needs.


class Diverged(UserError):
    """Loss or gradient stayed NaN or infinite."""


@dataclasses.dataclass
class State:
    """What a checkpoint holds: the arrays, how many updates made them, what the next row counts."""

    carry: step.Carry
    key: jax.Array  # Dropout's; each step folds its number into it.
    step: int
    row_steps: int = 0  # Updates since the last row with metrics,
    row_clipped: int = 0  # and how many of them were clipped.

    def arrays(self) -> dict[str, Any]:
        """The part that is arrays."""
        return {**self.carry._asdict(), "key": self.key}


class Trainer:
    """Model, optimizer, data, and the loop over the steps."""

    def __init__(self, start: Start):
        self.config = config = start.config
        self.start = start
        self.layout = Layout(make_mesh(config.mesh_data, config.mesh_fsdp))
        self.data = data_lib.load(config)
        self.rules = optim.decay_rules(config)
        self.tx = optim.make_optimizer(config)
        self.graph, self.state = self._initial_state()
        wdlab.check_rules(self.state.carry.params, self.rules, allow_uniform=True)
        self.rows = self.layout.rows(config.batch_size)
        self.batches = data_lib.batches(self.data, config, self.rows)
        self.windows = {
            split: self._evaluation_windows(tokens)
            for split, tokens in (("train", self.data.train), ("val", self.data.val))
        }
        where = self.layout.of(self.state.carry)
        self.train_step = step.make_train_step(self.graph, self.tx, config, where)
        self.evaluate = step.make_evaluate(self.graph)
        self.weight_metrics = step.make_weight_metrics(config)

    def _initial_state(self) -> tuple[Any, State]:
        config = self.config
        if self.start.params is None:
            graph, params = model.create(
                config, self.data.vocab_size, config.random_seed, self.layout
            )
        else:
            graph = model.make_graph(config, self.data.vocab_size)
            params = self.start.params
            known = len(params["wte"]["embedding"])
            if known != self.data.vocab_size:
                raise UserError(
                    f"--init_from {config.init_from} has weights for {known} tokens, but the data "
                    f"of --dataset {config.dataset} has {self.data.vocab_size}: give a data set "
                    "in GPT-2's tokens, such as --dataset openwebtext"
                )
        params = jax.device_put(params, self.layout.parameters(params))
        scale, key = jax.jit(
            lambda: (step.first_loss_scale(config), jax.random.key(config.random_seed)),
            out_shardings=self.layout.copies,
        )()
        state = wdlab.init_opt_state(self.tx, params)
        carry = self.layout.settle(self._with_average(step.Carry(params, state, None, scale)))
        return graph, State(carry, key, self.start.step)

    def _evaluation_windows(self, tokens: np.ndarray) -> np.ndarray | jax.Array:
        windows_NxBxM = data_lib.evaluation_windows(tokens, self.data, self.config)
        size = windows_NxBxM.shape[1]
        self.layout.rows(size, "the smaller of --batch_size and --eval_examples, ")
        return self.layout.batch(windows_NxBxM, np.arange(size), size, axis=1)

    def _with_average(self, carry: step.Carry) -> step.Carry:
        """The same with a moving average at its start: the weights. Or without one."""
        ema = jax.tree.map(jnp.copy, carry.params) if self.config.ema_coef else None
        return carry._replace(ema=ema)

    def restore_source(self) -> None:
        """Takes weights, optimizer state and average from the checkpoint that the run starts from.

        Raises:
          CheckpointError: If it is damaged or does not fit.
        """
        start, carry = self.start, self.state.carry
        if start.checkpoints is None or start.source is None:
            return
        # What that run kept decides what is read: it may have had no average, or no loss scale.
        like = carry._replace(
            ema=carry.params if start.source.ema_coef else None,
            loss_scale=step.first_loss_scale(start.source),
        )
        with Checkpoints(start.checkpoints, read_only=True) as checkpoints:
            restored = checkpoints.restore(
                {**like._asdict(), "key": self.state.key}, check_settings=False, step=start.step
            )
        assert restored is not None  # A step that is named is there or an error.
        found = step.Carry(**{name: restored.state[name] for name in step.Carry._fields})
        if carry.loss_scale is None or found.loss_scale is None:
            found = found._replace(loss_scale=carry.loss_scale)
        if carry.ema is None or found.ema is None:
            found = self._with_average(found)
        self.state.carry = found

    def settings(self) -> dict[str, Any]:
        """What must be equal for a resumed run to be the same run."""
        plan = wdlab.decay_plan(self.tx, self.state.carry.params).as_json()
        found = {"data": self.data.digest(), "decay_plan": plan, "first_step": self.start.step}
        return self.config.trajectory() | found

    def restore(self, checkpoints: Checkpoints) -> list[str]:
        """Continues from this run's newest whole checkpoint, if there is one; what to tell."""
        restored = checkpoints.restore(self.state.arrays())
        if restored is None:
            nothing = f"nothing to resume here yet: starting at step {self.state.step}"
            return [nothing, *self.start.notes]
        arrays = dict(restored.state)
        key = arrays.pop("key")
        self.state = State(step.Carry(**arrays), key, restored.step, *restored.record["row"])
        self.batches.set_state(restored.record["iterator"])
        notes = [
            f"checkpoint of step {number} is damaged ({why}): set aside, falling back"
            for number, why in restored.damaged.items()
        ]
        return [*notes, f"resuming at step {restored.step}"]

    def save(self, checkpoints: Checkpoints, row: Row | None = None) -> None:
        """Saves the present state; a row with an evaluation takes part in choosing the best."""
        record = {
            "iterator": self.batches.get_state(),
            "row": [self.state.row_steps, self.state.row_clipped],
            "config": dataclasses.asdict(self.config),
        }
        metrics = {"val_loss": row["val_loss"]} if row and "val_loss" in row else None
        checkpoints.save(self.state.step, self.state.arrays(), record=record, metrics=metrics)

    def train(
        self, checkpoints: Checkpoints, records: Records, display: Display, stop: StopRequest
    ) -> int | None:
        """Steps until max_iters (None) or a signal (the exit code to leave with).

        Raises:
          Diverged: If too many steps in a row are not finite; the state before them is saved.
        """
        if not stop.requested and self.state.step == self.start.step:
            self._record({}, checkpoints, records, display)
        while not stop.requested:
            if self.state.step >= self.config.max_iters:
                return None
            started = time.monotonic()
            metrics = self._step()
            if metrics["in_a_row"]:
                self._skipped(metrics, checkpoints, display)
            else:
                display.step(self.state.step, metrics["loss"], time.monotonic() - started)
                self._record(metrics, checkpoints, records, display)
        self.save(checkpoints)
        checkpoints.wait()
        display.line(f"{stop.name}: saved at step {self.state.step}; --resume continues")
        return stop.exit_code

    def _step(self) -> dict[str, Any]:
        """One update, and its metrics. One that was skipped does not count as a step."""
        state = self.state
        log = self._is_logged(state.step + 1)
        batch = self.layout.batch(next(self.batches), self.rows, self.config.batch_size, axis=1)
        with self.layout.active():
            state.carry, metrics = self.train_step(state.carry, batch, state.key, state.step, log)
        metrics = jax.device_get(metrics if log else {name: metrics[name] for name in _EVERY_STEP})
        if not metrics["in_a_row"]:
            state.step += 1
            state.row_steps += 1
            state.row_clipped += int(0 < self.config.grad_clip < metrics["grad_norm"])
        return metrics

    def _is_logged(self, done: int) -> bool:
        return done % self.config.log_interval == 0 or done == self.config.max_iters

    def _record(self, metrics: dict, checkpoints: Checkpoints, records: Records, display) -> None:
        """After a step: log, evaluate and save where the intervals say so, in this order."""
        done = self.state.step
        row: Row = {"step": done}
        if metrics and self._is_logged(done):
            row |= self._metrics(metrics)
        ends = (self.start.step, self.config.max_iters)
        if done % self.config.eval_interval == 0 or done in ends:
            row |= self.evaluation()
            display.line(evaluation_line(row))
        if len(row) > 1:
            records.append(row)
        if done > self.start.step and "val_loss" in row:
            self.save(checkpoints, row)

    def evaluation(self) -> Row:
        """Loss and error on both splits, for the weights and for their moving average."""
        carry, row = self.state.carry, {}
        averaged = {} if carry.ema is None else {"_ema": carry.ema}
        for suffix, params in {"": carry.params, **averaged}.items():
            for split, windows in self.windows.items():
                with self.layout.active():
                    loss, error = jax.device_get(self.evaluate(params, windows))
                row[f"{split}_loss{suffix}"] = float(loss)
                row[f"{split}_error{suffix}"] = float(error)
        return row

    def _metrics(self, made: dict) -> Row:
        """Of the step just made, of the steps since the last such row, of the weights."""
        state, rate = self.state, jnp.float32(made["learning_rate"])
        weights = self.weight_metrics(state.carry.params, state.carry.opt_state, rate)
        since = {"clip_rate": state.row_clipped / state.row_steps}
        state.row_steps = state.row_clipped = 0
        if state.carry.loss_scale is not None:
            since["loss_scale"] = state.carry.loss_scale.scale
        return metrics_row(made, {**since, **jax.device_get(weights)})

    def _skipped(self, metrics: dict, checkpoints: Checkpoints, display: Display) -> None:
        in_a_row, why = int(metrics["in_a_row"]), not_finite(metrics, self.state.step + 1)
        if in_a_row == 1:
            display.line(f"{why}: skipped, with the decay; going on with the next batch")
        if in_a_row < self.config.max_skipped_steps:
            return
        self.save(checkpoints)
        checkpoints.wait()
        raise Diverged(
            f"{why}, the last of {in_a_row} tries in a row that are not finite "
            f"(--max_skipped_steps): stopped; the weights before it are saved as step "
            f"{self.state.step} in {checkpoints.directory}. Try a lower --learning_rate, a longer "
            "--warmup_iters or --dtype float32"
        )
