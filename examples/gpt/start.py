"""Where a run starts from: nothing, its own last checkpoint, another run's, or GPT-2's weights."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from examples.runs.errors import UserError

from .config import Config, check
from .model import Params
from .weights import load_gpt2

# What must be as it was for the weights to fit and to mean the same.
MODEL = (
    "block n_layer n_head n_kv_head n_embd n_inner block_size bias weight_tying learnable_ln gelu "
    "norm_eps rope_theta lora_rank lora_alpha scan_layers opt_type"
)
# What may differ without a word: it says where things lie and how often they are looked at.
_UNTOLD = (
    "out_dir data_dir resume init_from ckpt_path eval_only wandb_run_name wandb_log wandb_project "
    "eval_interval eval_examples log_interval keep_checkpoints sample_tokens temperature top_k "
    "max_skipped_steps mesh_data mesh_fsdp distributed"
)
_WRITE = (
    "write the folder of a run of this program, such as out/tiny, its checkpoints folder, or one "
    "step in it, such as out/tiny/checkpoints/1000"
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
        first = json.loads((folder / "config.json").read_text())["first_step"]
        return Start(continued(config, first), first)
    path = Path(config.ckpt_path or Path(config.data_dir) / config.init_from)
    config, params = load_gpt2(path, config)
    check(config)
    return Start(config, params=params, notes=(f"weights of {config.init_from} from {path}",))


def has_checkpoints(folder: Path) -> bool:
    """Whether the run in this folder has saved a step."""
    return any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*"))


def continued(config: Config, first: int) -> Config:
    """The count of the steps continues: max_iters more of them, the schedule ends with them."""
    last = first + config.max_iters
    ends = last if config.lr_decay_iters is None else config.lr_decay_iters
    return dataclasses.replace(config, max_iters=last, lr_decay_iters=ends)


def _from_run(config: Config) -> Start:
    checkpoints, step = _locate(config.ckpt_path)
    if step is None:
        step = max(int(p.name) for p in checkpoints.iterdir() if p.name.isdecimal())
    source = _settings(checkpoints.parent / "config.json", config)
    changes = _changes(source, config)
    wrong = [text for name, text in changes.items() if name in MODEL.split()]
    if wrong:
        raise UserError(
            f"--ckpt_path {config.ckpt_path} does not fit these flags: {', '.join(wrong)}; give "
            "those it was trained with"
        )
    config = continued(config, step)
    notes = [f"going on from step {step} of {checkpoints}, to step {config.max_iters}"]
    told = [text for name, text in changes.items() if name not in _UNTOLD.split()]
    notes += [f"other settings than there: {', '.join(told)}"] if told else []
    return Start(config, step, None, checkpoints, source, tuple(notes))


def _locate(path: str) -> tuple[Path, int | None]:
    """The folder of the steps, and which one is meant (None: the newest)."""
    folder = Path(path).absolute()
    if has_checkpoints(folder):
        return folder / "checkpoints", None
    if folder.is_dir():
        if folder.name.isdecimal():
            return folder.parent, int(folder.name)
        if any(p.name.isdecimal() for p in folder.iterdir()):
            return folder, None
        found = "holds no checkpoint"
    elif path.endswith(".pt"):
        found = "is PyTorch's, which is not read here" if folder.exists() else "does not exist"
    else:
        found = "is no folder" if folder.exists() else "does not exist"
    raise UserError(f"--ckpt_path {path} {found}: {_WRITE}")


def _settings(path: Path, config: Config) -> Config:
    """The settings of the run that was saved; where they are not told, those of this one."""
    try:
        saved: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return config
    known = {field.name for field in dataclasses.fields(Config)}
    return dataclasses.replace(config, **{k: v for k, v in saved.items() if k in known})


def _changes(source: Config, config: Config) -> dict[str, str]:
    """Flag -> both of its values, for each flag that differs."""
    there, here = dataclasses.asdict(source), dataclasses.asdict(config)
    return {
        name: f"{name} is {there[name]} there, {here[name]} here"
        for name in here
        if there[name] != here[name]
    }
