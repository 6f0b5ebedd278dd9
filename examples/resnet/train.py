"""Trains an image model: ``python -m examples.resnet.train``, or with flags (see ``config.py``).

The way of data: images on the device -> batch (augment.py) -> logits (model.py) -> gradient, SGD
with L2 (step.py, optim.py) -> weights; after every epoch the sphere, the evaluation, the records.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

import wdlab
from examples.runs import processes, run_dir
from examples.runs.command import command, train
from examples.runs.display import Display
from examples.runs.errors import UserError
from examples.runs.records import Records
from examples.runs.share import share_line
from examples.runs.stop import StopRequest
from wdlab.training import Checkpoints

from .config import Config
from .flags import parse
from .plot import save_plot
from .trainer import Probe, Trainer


def describe(trainer: Trainer, display: Display) -> None:
    """Shows which parameters decay and why, and the model."""
    config, state = trainer.config, trainer.state
    wdlab.print_decay(state.params, trainer.rules, console=display.console)
    display.line(
        f"weight decay {config.wd} is L2: wd * w is added to the gradient, before the momentum"
    )
    count = sum(p.size for p in jax.tree.leaves(state.params))
    display.line(
        f"{config.model} of width {config.width}, {count:,} parameters, on {config.dataset}: "
        f"{len(trainer.data.x_train)} training and {len(trainer.data.x_test)} test images, "
        f"{trainer.data.n_classes} classes"
    )
    display.line(share_line(state.params, state.opt_state, state.ema))


def run(config: Config, probe: Probe | None = None) -> int:
    """Runs or resumes one training; the exit code."""
    processes.start(config.distributed)
    with StopRequest() as stop:  # From the start: compiling and a first evaluation take long.
        return _run(config, probe, stop)


def _run(config: Config, probe: Probe | None, stop: StopRequest) -> int:
    folder = run_dir.choose(config.exp_name, config.out_dir, config.resume)
    try:
        trainer = Trainer(config, probe)
    except ValueError as error:  # What wdlab and Optax say of the settings.
        raise UserError(str(error)) from error
    run_dir.make(folder)
    plan = wdlab.decay_plan(trainer.tx, trainer.state.params).as_json()
    settings = config.trajectory() | {"data": trainer.data.digest(), "decay_plan": plan}
    settings["program"] = "flow" if probe else "train"
    with Checkpoints(
        folder / "checkpoints", settings=settings, keep=config.keep_checkpoints
    ) as checkpoints:
        found, notes = trainer.restore(checkpoints) if config.resume else (False, [])
        last = config.epochs * trainer.epochs.steps
        display = Display(trainer.step, last, config.batch_size, "images")
        describe(trainer, display)
        display.line(f"{config.exp_name} on {trainer.layout}, results in {folder}")
        for note in notes:
            display.line(note)
        if processes.is_main():
            settings_file = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
            (folder / "config.json").write_text(settings_file)
        first = trainer.step if found else -1
        records = Records(folder / "metrics.jsonl", first, write=processes.is_main())
        code = train(trainer, checkpoints, records, display, stop)
        if code is None and processes.is_main():
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


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    return run(parse(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    sys.exit(main())
