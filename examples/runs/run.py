"""One training run of any program, from its flags to the last line.

A program (``examples.gpt.trainer``, ``examples.resnet.trainer``) is a subclass of :class:`Run` that
says what differs: its arrays, a call of its compiled step, what the numbers of a call mean, and
what is due after some steps.
"""

import abc
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

import wdlab
from wdlab.training import Checkpoints

from . import processes, run_dir
from .display import Display
from .errors import UserError
from .layout import Layout
from .mesh import bytes_here, make_mesh
from .pictures import Panels, save_curves
from .records import Records, Row
from .same_optimizer import same_optimizer
from .settings import LARGEST, Settings
from .stop import StopRequest
from .training_loop import TrainingLoop


class Run(TrainingLoop):
    """A training run; a subclass sets what is declared here.

    Args:
      config: The settings.
      least_bytes: What the run takes at the very least.
      first: Updates made before this run.
    """

    program: str  # its folder in out/
    unit: str  # what is counted in a second
    per_step: int  # units in an update
    best: str | None = None  # the column whose lowest value marks a checkpoint to keep
    panels: Panels  # of the picture
    axis = "step"  # of the picture: a column
    otherwise = ""  # how a run goes on with another optimizer
    data: Any  # with a digest()
    tx: Any
    rules: tuple[wdlab.Rule, ...]
    state: Any  # what a checkpoint holds: a named tuple with params, opt_state, ema and more

    def __init__(self, config: Settings, least_bytes: int, first: int = 0):
        super().__init__(first)
        self.config: Any = config
        self.resumed = False
        self.notes: tuple[str, ...] = ()  # For the user, where a run begins.
        self.layout = Layout(make_mesh(config.mesh_data, config.mesh_fsdp))
        self.layout.check_room(least_bytes)

    @abc.abstractmethod
    def optimizers(self, config: Any) -> list[Any]:
        """The optimizers that the run with these settings has, one after the other."""

    @abc.abstractmethod
    def description(self) -> list[str]:
        """Lines about decay, model and data."""

    @abc.abstractmethod
    def result(self, rows: list[Row]) -> list[str]:
        """Lines at the end."""

    def record(self) -> dict[str, Any]:
        """What a checkpoint holds beside the arrays, as JSON values."""
        return {}

    def take(self, record: dict[str, Any]) -> None:
        """Goes on with what :meth:`record` gave."""
        del record

    def carry_out(self, name: str, folder: Path, stop: StopRequest) -> int:
        """Begins or resumes, trains, says what came of it; the exit code."""
        self.name, self.folder, self.stop = name, folder, stop
        with Checkpoints(
            folder / "checkpoints",
            settings=self.settings(),
            keep=self.config.keep_checkpoints,
            best=self.best,
        ) as self.checkpoints:
            notes = self.restore() if self.config.resume else self.notes
            self.display = Display(self.step, self.last, self.per_step, self.unit)
            self.describe()
            self.say(notes)
            return self.train_and_finish()

    @functools.cached_property
    def plan(self) -> wdlab.DecayPlan:
        """What the optimizer does to each parameter."""
        return wdlab.decay_plan(self.tx, self.state.params)

    def settings(self) -> dict[str, Any]:
        """What must be equal for a resumed run to be the same run."""
        found = {"program": self.program, "first_step": self.first, "data": self.data.digest()}
        found["decay_plan"] = self.plan.as_json()
        return self.config.trajectory() | found

    def restore(self) -> list[str]:
        """Goes on from the newest whole checkpoint, if there is one; what to tell the user."""
        same: list[str] = []

        def check(saved: dict[str, Any], now: dict[str, Any]) -> bool:
            same[:] = [self.same_optimizer(saved, now)]
            return any(same)

        restored = self.checkpoints.restore(self.state, check_settings=check)
        if restored is None:
            return [f"nothing to resume here yet: starting at step {self.step}", *self.notes]
        self.state, self.step, self.begun = restored.state, restored.step, restored.step
        self.resumed, self.row, self.pending = True, {}, restored.record["pending"]
        self.take(restored.record)
        notes = [
            f"checkpoint of step {number} is damaged ({why}): set aside, falling back"
            for number, why in restored.damaged.items()
        ]
        return [*notes, *same, f"resuming at step {restored.step}"]

    def same_optimizer(self, saved: dict[str, Any], now: dict[str, Any]) -> str:
        """What to tell where other settings make the same optimizer; empty where others differ."""
        given = self.config, self.state.params, self.optimizers
        return same_optimizer(*given, saved, now, self.otherwise)

    def save(self, *, wait: bool = False) -> str:
        """Saves the state; a row with the column ``best`` takes part in choosing the best step."""
        record = {"pending": self.pending, **self.record()}
        metrics = {self.best: self.row[self.best]} if self.best in self.row else None
        self.checkpoints.save(self.step, self.state, record=record, metrics=metrics)
        if wait:
            self.checkpoints.wait()
        return f"step {self.step} in {self.folder / 'checkpoints'}"

    def describe(self) -> None:
        """Shows which parameters decay and why, the model, where it runs; writes config.json."""
        self.describe_decay()
        size = bytes_here((self.state.params, self.state.opt_state, self.state.ema))
        held = f"weights, their average and the optimizer's state: {size:,} bytes in a process"
        where = f"{self.name} on {self.layout}, results in {self.folder}"
        self.say([*self.description(), held, where])
        about = {"program": self.program, "name": self.name, "first_step": self.first}
        about |= {"state_bytes": size, **dataclasses.asdict(self.config)}
        if processes.is_main():
            run_dir.write(self.folder / "config.json", json.dumps(about, indent=2) + "\n")

    def describe_decay(self) -> None:
        """Which parameters decay, and why; which optimizer trains each where there are several."""
        params, names = self.state.params, self.plan.branches
        branches = jax.tree.unflatten(jax.tree.structure(params), names) if any(names) else None
        wdlab.print_decay(params, self.rules, branches=branches, console=self.display.console)

    def open_records(self) -> Records:
        """The records, with the rows up to this step in them."""
        step = self.step if self.resumed else -1
        return Records(self.folder / "metrics.jsonl", step, write=processes.is_main())

    def train_and_finish(self) -> int:
        """Everything between the first lines and the last ones; the exit code."""
        self.records = self.open_records()
        self.say(self.records.notes)
        try:
            with self.layout.active(), self.display:
                code = self.train()
            self.checkpoints.wait()
        finally:
            self.records.close()
        if code is not None:
            return code
        picture, lines = self.folder / "training.png", self.result(self.records.rows)
        if processes.is_main():
            with run_dir.writing(picture):
                save_curves(self.records.rows, picture, self.name, self.panels, self.axis)
        lines.append(f"checkpoint: {self.folder / 'checkpoints' / str(self.step)}")
        self.say([*lines, f"records: {self.records.path}, {picture}"])
        return 0


def carry_out(
    make: Callable[[Path], Run], config: Settings, program: str, name: str, *, several: bool = False
) -> int:
    """Carries out a program's command: processes, signals, folder, run; the exit code.

    Args:
      make: The run that goes into a folder.
      config: The settings.
      program: Whose run it is.
      name: Of the run.
      several: Whether ``out_dir`` is for several runs, see :func:`run_dir.choose`.
    """
    processes.start(config.distributed)
    with StopRequest() as stop:  # From the start: compiling and a first evaluation take long.
        folder = run_dir.choose(program, name, config.out_dir, config.resume, several=several)
        try:
            run = make(folder)
        except ValueError as error:  # What wdlab and Optax say of the settings.
            raise UserError(str(error)) from error
        if run.last > LARGEST:
            raise UserError(f"{run.last} steps are too many: {LARGEST} can be counted")
        run_dir.make(folder)
        return run.carry_out(name, folder, stop)
