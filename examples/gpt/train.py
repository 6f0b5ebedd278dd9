"""Trains the GPT: ``python -m examples.gpt.train CONFIG --flag value``, CONFIG first of all tiny.

The way of data: text -> windows (data.py) -> logits (model.py) -> gradient (step.py) -> clipping,
Adam, decay (optim.py) -> weights; beside it checkpoints, records, and what the user sees.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import wdlab
from examples.runs import processes, run_dir
from examples.runs.command import command, train
from examples.runs.display import Display
from examples.runs.errors import UserError
from examples.runs.records import Records
from examples.runs.share import share_line
from examples.runs.stop import StopRequest
from wdlab.training import Checkpoints

from . import optim, start
from .config import Config
from .flags import parse
from .plot import save_plot
from .sample import generate
from .tracking import open_records
from .trainer import Trainer


def describe(trainer: Trainer, name: str, folder: Path, display: Display) -> None:
    """Shows which parameters decay and why, what the decay will amount to, and where from."""
    config, carry = trainer.config, trainer.state.carry
    wdlab.print_decay(carry.params, trainer.rules, console=display.console)
    if config.l2_reg:
        display.line(f"l2_reg {config.l2_reg}: 2 * l2_reg * w is added to the gradient")
    if optim.is_decoupled(config):
        profile = wdlab.decay_profile(
            config.weight_decay, optim.decay_multiplier(config), config.max_iters
        )
        display.line(
            f"weight decay {config.weight_decay}, coupling {config.coupling!r}:\n{profile}"
        )
    else:
        display.line(
            f"weight decay {config.weight_decay} is L2, added to the gradient before the optimizer"
        )
    display.line(share_line(carry.params, carry.opt_state, carry.ema))
    display.line(f"{name} on {trainer.layout}, results in {folder}")


def finish(trainer: Trainer, folder: Path, records: Records, display: Display, title: str) -> None:
    """The end of a run: losses, text, picture, and where everything lies."""
    config = trainer.config
    if config.sample_tokens:
        text = generate(trainer.graph, trainer.state.carry.params, trainer.data, config)
        display.line(f"sample:\n{text}\n")
        if processes.is_main():
            (folder / "sample.txt").write_text(text, "utf-8")
    if processes.is_main():
        save_plot(records.rows, folder / "training.png", title)
    final = next((row for row in reversed(records.rows) if "val_loss" in row), None)
    if final is not None:
        display.line(
            f"final train loss {final['train_loss']:.4f}, val loss {final['val_loss']:.4f} "
            f"after {final['step']} steps; {display.tokens_per_second:,.0f} tokens/s"
        )
    skipped = next((row["skipped"] for row in reversed(records.rows) if "skipped" in row), 0)
    if skipped:
        display.line(f"{skipped} steps were not finite and were skipped")
    display.line(f"checkpoint: {folder / 'checkpoints' / str(trainer.state.step)}")
    display.line(f"records: {folder / 'metrics.jsonl'}, {folder / 'training.png'}")


def evaluate_only(trainer: Trainer, folder: Path, display: Display) -> None:
    """Losses and errors at the start, into evaluation.json."""
    row = {"step": trainer.state.step, **trainer.evaluation()}
    if processes.is_main():
        (folder / "evaluation.json").write_text(json.dumps(row, indent=2) + "\n")
    for name, value in row.items():
        display.line(f"{name.replace('_', ' ')}: {value:.6g}")


def prepare(name: str, config: Config) -> tuple[Trainer, Path, bool]:
    """The trainer, the run's folder, and whether that holds a checkpoint to go on from."""
    own = "" if config.wandb_run_name else config.out_dir  # Else out_dir is of several runs.
    parent = config.out_dir or "out"
    folder = run_dir.choose(name, own, config.resume, parent)
    resumed = config.resume and start.has_checkpoints(folder)
    try:
        trainer = Trainer(start.find(config, folder))
        if not resumed:
            trainer.restore_source()
    except ValueError as error:  # What wdlab and Optax say of the settings.
        raise UserError(str(error)) from error
    run_dir.make(folder)
    return trainer, folder, resumed


def run(name: str, config: Config, stop: StopRequest) -> int:
    """Runs or resumes one training; the exit code."""
    name = config.wandb_run_name or name
    trainer, folder, resumed = prepare(name, config)
    config, first = trainer.config, trainer.start.step
    with Checkpoints(
        folder / "checkpoints",
        settings=trainer.settings(),
        keep=config.keep_checkpoints,
        best="val_loss",
    ) as checkpoints:
        display = Display(first, config.max_iters, config.tokens_per_step)
        describe(trainer, name, folder, display)
        for note in trainer.restore(checkpoints) if config.resume else trainer.start.notes:
            display.line(note)
        if config.eval_only:
            evaluate_only(trainer, folder, display)
            return 0
        settings_file = json.dumps(dataclasses.asdict(config) | {"first_step": first}, indent=2)
        if processes.is_main():
            (folder / "config.json").write_text(settings_file + "\n")
        records = open_records(config, folder, name, trainer.state.step if resumed else -1)
        code = train(trainer, checkpoints, records, display, stop)
        if code is None:
            finish(trainer, folder, records, display, name)
        return code or 0


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    name, config = parse(sys.argv[1:] if argv is None else argv)
    processes.start(config.distributed)
    with StopRequest() as stop:  # From the start: compiling and a first evaluation take long.
        return run(name, config, stop)


if __name__ == "__main__":
    sys.exit(main())
