"""Where a run starts from: nothing, its own last checkpoint, another run's, or GPT-2's weights."""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from examples.runs import run_dir
from examples.runs.errors import UserError
from examples.runs.layout import Layout
from wdlab.training import Checkpoints

from .config import Config
from .model import Params, create, make_graph
from .step import Carry, first_loss_scale
from .weights import load_gpt2

_WRITE = (
    "write the folder of a run of this program, such as out/gpt/tiny, its checkpoints folder, or "
    "one step in it, such as out/gpt/tiny/checkpoints/1000"
)


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run begins with."""

    config: Config  # The flags, with what follows from the start: sizes, the number of steps.
    step: int = 0  # Updates made before this run.
    params: Params | None = None  # Instead of fresh ones.
    checkpoints: Path | None = None  # To be restored from: the folder of the steps,
    source: Config | None = None  # and the settings of the run that saved them.
    notes: tuple[str, ...] = ()  # For the user.


def find(config: Config, folder: Path) -> Start:
    """Looks up where the run in ``folder`` starts from, or has started from if it is resumed.

    Raises:
      UserError: If there is nothing to start from, or it does not fit.
    """
    if config.init_from == "scratch":
        if config.ckpt_path:
            raise UserError("--ckpt_path needs --init_from resume, or gpt2 for GPT-2's weights")
        return Start(config)
    if config.init_from == "resume":
        if not (config.resume and has_checkpoints(folder)):
            return _from_run(config)
        first = run_dir.settings_of(folder).get("first_step")
        if first is None:
            raise UserError(f"{folder / 'config.json'} does not say from which step the run began")
        return Start(continued(config, first), first)
    path = Path(config.ckpt_path or Path(config.data_dir) / config.init_from)
    config, params = load_gpt2(path, config)
    config.check()
    return Start(config, params=params, notes=(f"weights of {config.init_from} from {path}",))


def has_checkpoints(folder: Path) -> bool:
    """Whether the run in this folder has saved a step."""
    return any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*"))


def continued(config: Config, first: int) -> Config:
    """The count of the steps continues: max_iters more of them, the schedule ends with them."""
    last = first + config.max_iters
    ends = last if config.lr_decay_iters is None else config.lr_decay_iters
    return dataclasses.replace(config, max_iters=last, lr_decay_iters=ends)


def checkpoint_of(run: str) -> Start:
    """A run as its checkpoint has it, under its own settings.

    Raises:
      UserError: If there is none, or its settings are not there.
    """
    checkpoints, step = _locate(run, "RUN")
    if not run_dir.settings_of(checkpoints.parent):
        raise UserError(f"{checkpoints.parent / 'config.json'}, the run's settings, is missing")
    config = _settings(checkpoints.parent, Config())
    return Start(config, step, None, checkpoints, config)


def model_of(start: Start, vocab_size: int, layout: Layout) -> tuple[Any, Params]:
    """How the model computes, and the weights that it begins with, where they belong.

    Raises:
      UserError: If the start's weights are for another number of tokens.
    """
    config, params = start.config, start.params
    if params is None:
        return create(config, vocab_size, config.random_seed, layout)
    known = len(params["wte"]["embedding"])
    if known != vocab_size:
        raise UserError(
            f"--init_from {config.init_from} has weights for {known} tokens, but the data "
            f"of --dataset {config.dataset} has {vocab_size}: give a data set in GPT-2's tokens, "
            "such as --dataset openwebtext"
        )
    return make_graph(config, vocab_size), jax.device_put(params, layout.parameters(params))


def restored(start: Start, fresh: Carry) -> Carry:
    """The state of the checkpoint that the run starts from; ``fresh`` where it starts from none.

    Raises:
      CheckpointError: If the checkpoint is damaged or does not fit.
    """
    if start.checkpoints is None or start.source is None:
        return fresh
    # What that run kept decides what is read: it may have had no average, or no loss scale.
    like = fresh._replace(
        ema=fresh.params if start.source.ema_coef else None,
        loss_scale=first_loss_scale(start.source),
    )
    with Checkpoints(start.checkpoints, read_only=True) as checkpoints:
        step = checkpoints.restore(like, check_settings=False, step=start.step)
    found = step.state  # pyrefly: ignore[missing-attribute]  None only without a step.
    if fresh.loss_scale is None or found.loss_scale is None:
        found = found._replace(loss_scale=fresh.loss_scale)
    if fresh.ema is None or found.ema is None:
        begun = None if fresh.ema is None else jax.tree.map(jax.numpy.copy, found.params)
        found = found._replace(ema=begun)
    return found


def _from_run(config: Config) -> Start:
    checkpoints, step = _locate(config.ckpt_path, "--ckpt_path")
    source = _settings(checkpoints.parent, config)
    changes = _changes(source, config)
    wrong = [changes[name] for name in Config.that_decide("weights") if name in changes]
    if wrong:
        raise UserError(
            f"--ckpt_path {config.ckpt_path} does not fit these flags: {', '.join(wrong)}; give "
            "those it was trained with"
        )
    config = continued(config, step)
    notes = [f"going on from step {step} of {checkpoints}, to step {config.max_iters}"]
    notes += [f"other settings than its own: {', '.join(changes.values())}"] if changes else []
    return Start(config, step, None, checkpoints, source, tuple(notes))


def _locate(path: str, what: str) -> tuple[Path, int]:
    """The folder of the steps, and which one is meant: by default the newest."""
    folder = Path(path).absolute()
    if folder.is_dir():
        if folder.name.isdecimal():
            return folder.parent, int(folder.name)
        for steps in (folder / "checkpoints", folder):
            if numbers := [int(p.name) for p in steps.glob("*") if p.name.isdecimal()]:
                return steps, max(numbers)
        found = "holds no checkpoint"
    elif path.endswith(".pt"):
        found = "is PyTorch's, which is not read" if folder.exists() else "does not exist"
    else:
        found = "is no folder" if folder.exists() else "does not exist"
    raise UserError(f"{what} {path} {found}: {_WRITE}")


def _settings(folder: Path, config: Config) -> Config:
    """The settings of the run that was saved; where they are not told, those of this one."""
    saved = run_dir.settings_of(folder)
    known = {field.name for field in dataclasses.fields(Config)} - {"init_from"}  # The run's own.
    return dataclasses.replace(config, **{k: v for k, v in saved.items() if k in known})


def _changes(source: Config, config: Config) -> dict[str, str]:
    """Flag -> both of its values, for each flag that differs and decides numbers or weights."""
    return {
        name: f"{name} is {old} in the checkpoint, {new} in this run"
        for name in Config.that_decide("numbers", "weights")
        if (old := getattr(source, name)) != (new := getattr(config, name))
    }
