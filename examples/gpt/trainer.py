"""The GPT's run: its arrays, its data, one step, evaluations, and the columns of its rows."""

import json
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import wdlab
from examples.runs import optimizers, processes, run_dir
from examples.runs.errors import Diverged
from examples.runs.pace import Pace
from examples.runs.records import Records, Row
from examples.runs.run import Run
from wdlab.instruments import readings

from . import data as data_lib
from . import model, optim, step, tracking
from .config import Config
from .evaluation import Evaluation
from .generation import generate
from .start_from import Start, model_of, restored

_MOST_UPDATES = 32  # Of a call, so that the device has not too many batches in its memory.


class Called(NamedTuple):
    """What a call gives beside the state."""

    count: int  # The updates that it is to make;
    start: Any  # where the data were before the first;
    made: step.Metrics  # see step.make_train_steps;
    weights: step.Metrics  # where its last step has a row.


class Trainer(Run):
    """Model, optimizer, data, and what a step means.

    Args:
      start: The settings, and what the run begins with.
    """

    program, unit, best = "gpt", "tokens", "val_loss"
    otherwise = "begin a run that goes on from it: --init_from=resume --ckpt_path=FOLDER"
    panels = {
        "loss (nats per token)": {
            "batch_loss": "batch",
            "train_loss": "training",
            "val_loss": "val",
            "val_loss_ema": "val, moving average",
        },
        "learning rate": {"learning_rate": None},
        "gradient norm": {"grad_norm": None},
        "weight norm": {
            "weight_norm": "all",
            "weight_norm_decayed": "decayed",
            "weight_norm_exempt": "exempt",
        },
        "rotation in a step (radians)": {
            "monitor/decayed/rotation": "decayed",
            "monitor/exempt/rotation": "exempt",
        },
        "decay / step (norms)": {"monitor/decayed/decay_share": "decayed"},
        "balance (at equilibrium 1)": {"monitor/decayed/balance": "decayed"},
    }

    def __init__(self, start: Start):
        config = start.config
        super().__init__(config, config.least_bytes, start.step)
        self.start, self.notes = start, start.notes
        self.last, self.per_step = config.max_iters, config.tokens_per_step
        self.row_steps = self.row_clipped = 0  # Since the last row with metrics: steps, clipped.
        self.data = data_lib.load(config)
        self.rules, self.tx = optim.decay_rules(config), optim.make_optimizer(config)
        self.graph, params = model_of(start, self.data.vocab_size, self.layout)
        wdlab.check_rules(params, self.rules, allow_uniform=True)
        self.state = self.layout.settle(
            step.new_carry(params, self.tx, config, start.step, self.layout.copies)
        )
        self.rows = self.layout.rows(config.batch_size)
        self.batches = data_lib.batches(self.data, config, self.rows)
        self.evaluation = Evaluation(self.graph, self.data, config, self.layout)
        where = self.layout.of(self.state)
        train_step = step.make_train_step(self.graph, self.tx, config, where)
        self.train_steps = step.make_train_steps(train_step, config, where)
        self.pace = Pace(config.updates_per_call)
        most = config.updates_per_call or _MOST_UPDATES
        self.most = min(most, config.log_interval, config.eval_interval, config.max_iters)
        self.weight_metrics = step.make_weight_metrics(config)

    def optimizers(self, config: Config) -> list[optax.GradientTransformation]:
        """The one of these settings."""
        return [optim.make_optimizer(config)]

    def restore_source(self) -> None:
        """Takes what the checkpoint holds that the run starts from (:func:`restored`)."""
        self.state = restored(self.start, self.state)

    def record(self) -> dict[str, Any]:
        """Where the data are, and what the next row counts."""
        return {"iterator": self.batches.get_state(), "row": [self.row_steps, self.row_clipped]}

    def take(self, record: dict[str, Any]) -> None:
        """Goes on with the very next batch."""
        self.batches.set_state(record["iterator"])
        self.row_steps, self.row_clipped = record["row"]

    def call(self, before: Called | None) -> Called:
        """Some updates, at most to the next row.

        One that is not finite changes nothing, does not count as a step, and is the last.
        """
        count, start = min(self.pace.updates, self._until_row()), self.batches.get_state()
        tokens_SxAxBxM = self._next_tokens(count)
        goes_on = self.layout.copy(np.bool_(True)) if before is None else before.made["goes_on"]
        self.state, made = self.train_steps(self.state, tokens_SxAxBxM, count, goes_on)
        self.begun += count
        weights = self._weights(made) if step.is_logged(self.config, self.begun) else {}
        return Called(count, start, made, weights)

    def _until_row(self) -> int:
        intervals = (self.config.log_interval, self.config.eval_interval)
        return min(self.most, self.last - self.begun, *(n - self.begun % n for n in intervals))

    def _next_tokens(self, count: int) -> np.ndarray | jax.Array:
        """The next batches, filled up to one shape: another one would compile another program."""
        batches = [next(self.batches) for _ in range(count)]
        batches += [np.zeros_like(batches[0])] * (self.most - count)
        return self.layout.batch(np.stack(batches), self.rows, self.config.batch_size, axis=2)

    def _weights(self, made: step.Metrics) -> step.Metrics:
        state, rate = self.state, made["learning_rate"]
        found = self.weight_metrics(state.params, state.opt_state, rate)
        if self.config.doctor:  # Copies: the next step takes the state's buffers.
            seen = readings(state.opt_state)
            found |= {f"monitor/{name}": value + 0 for name, value in seen.items()}
        return found

    def describe_decay(self) -> None:
        """With ``--doctor`` its report as well, and as a page beside the results."""
        super().describe_decay()
        if not self.config.doctor:
            return
        about = {"steps": self.config.max_iters, "tokens_per_step": self.config.tokens_per_step}
        report = wdlab.doctor(self.tx, self.state.params, **about)
        report.print(self.display.console)
        if processes.is_main():
            run_dir.write(self.folder / "doctor.html", report.html())

    def read(self, numbers: Called, seconds: float) -> Row:
        """Counts, shows, and where it is due gives the columns of ``metrics.jsonl``."""
        made, done = numbers.made, int(numbers.made["done"])
        self.step += done
        self.row_steps += done
        self.row_clipped += int(made["clipped"])
        if done:
            self.display.step(self.step, float(made["loss"]), seconds)
        if done < numbers.count:
            self._skip(numbers)
            return {}
        self.pace.learn(done, seconds)
        if not step.is_logged(self.config, self.step):
            return {}
        names = ("learning_rate", "grad_norm", "largest_gradient")
        row = {"batch_loss": made["loss"]} | {name: made[name] for name in names}
        row |= {f"grad_norm/{layer}": norm for layer, norm in made["layers"].items()}
        row["clip_rate"] = self.row_clipped / self.row_steps
        self.row_steps = self.row_clipped = 0
        row |= {name: made[name] for name in ("loss_scale",) if name in made}
        row = {name: float(value) for name, value in (row | numbers.weights).items()}
        return row | {"skipped": int(made["skipped"])}

    def _skip(self, numbers: Called) -> None:
        """Goes back to the batch after the one whose step is not finite."""
        self.begun = self.step
        self.batches.set_state(numbers.start)
        for _ in range(int(numbers.made["done"]) + 1):
            next(self.batches)
        names = ("in_a_row", "loss", "grad_norm")
        in_a_row, loss, norm = (float(numbers.made[name]) for name in names)
        why = f"step {self.step + 1} has loss {loss} and gradient norm {norm}"
        if in_a_row == 1:
            self.display.line(f"{why}: skipped, with the decay; going on with the next batch")
        if in_a_row >= self.config.max_skipped_steps:
            raise Diverged(
                f"{why}, the last of {in_a_row:.0f} tries in a row that are not finite "
                "(--max_skipped_steps)",
                "Try a lower --learning_rate, a longer --warmup_iters or --dtype float32",
                self.step,
            )

    def is_due(self, step: int) -> bool:
        """Evaluations, and a checkpoint with each."""
        return step % self.config.eval_interval == 0 or step in (self.first, self.last)

    def look(self) -> tuple[Row, str] | None:
        """The evaluation; at the very start a signal comes first."""
        if self.step == self.first and self.stop.requested:
            return None
        row = self.evaluation.row(self.evaluated, self.state.ema)
        text = (
            f"step {self.step}: train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f}"
        )
        if "val_loss_ema" in row:
            text += f"; of the moving average: val loss {row['val_loss_ema']:.4f}"
        return row, text

    @property
    def evaluated(self) -> model.Params:
        """The weights that count: those that are trained, or schedule-free's average."""
        return optimizers.evaluated(self.state.params, self.state.opt_state)

    def train_and_finish(self) -> int:
        """With ``--eval_only`` losses and errors at the start, into evaluation.json, alone."""
        if not self.config.eval_only:
            return super().train_and_finish()
        row = {"step": self.step, **self.evaluation.row(self.evaluated, self.state.ema)}
        if processes.is_main():
            run_dir.write(self.folder / "evaluation.json", json.dumps(row, indent=2) + "\n")
        self.say(f"{name.replace('_', ' ')}: {value:.6g}" for name, value in row.items())
        return 0

    def open_records(self) -> Records:
        """As every program's, and on Weights & Biases where ``--wandb_log`` asks for it."""
        records = super().open_records()
        if self.config.wandb_log and processes.is_main():
            records.also = tracking.connect(self.config, self.folder, self.name)
        return records

    def description(self) -> list[str]:
        """What the decay will amount to."""
        return optim.described(self.config)

    def result(self, rows: list[Row]) -> list[str]:
        """Text from the model, the last losses, the steps that were skipped."""
        lines = []
        if self.config.sample_tokens:
            text = generate(self.graph, self.evaluated, self.data, self.config)
            lines.append(f"sample:\n{text}\n")
            if processes.is_main():
                run_dir.write(self.folder / "sample.txt", text)
        for row in [row for row in rows if "val_loss" in row][-1:]:
            lines.append(
                f"final train loss {row['train_loss']:.4f}, val loss {row['val_loss']:.4f} after "
                f"{row['step']} steps; {self.display.tokens_per_second:,.0f} tokens/s"
            )
        skipped = [row["skipped"] for row in rows if "skipped" in row][-1:]
        return lines + [f"{n} steps were not finite and were skipped" for n in skipped if n]
