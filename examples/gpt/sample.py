"""Text from a trained model: ``python -m examples.gpt.sample out/gpt/tiny --prompt "The "``."""

import dataclasses
import sys
from collections.abc import Sequence

from examples.runs.command import command
from examples.runs.errors import UserError
from examples.runs.flags import parse_dataclass
from examples.runs.settings import NOT_NEGATIVE, POSITIVE, Settings, free

from . import start_from
from .config import LENGTH
from .generation import generate
from .trainer import Trainer

_USAGE = "python -m examples.gpt.sample RUN"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Text from the model of a run: RUN is the run's folder, or that of one of its checkpoints."""

    prompt: str = ""  # what the text goes on from; empty: the start of a line or document
    sample_tokens: int = free(300, LENGTH)  # length of the text
    temperature: float = free(0.8, POSITIVE)  # 0.1: nearly always the likeliest token
    top_k: int | None = free(None, POSITIVE)  # draw among the k likeliest tokens; default all
    random_seed: int = free(0, NOT_NEGATIVE)  # another text
    ema: bool = free(False)  # from the moving average of the weights


@command
def main(argv: Sequence[str] | None = None) -> int:
    """The command; the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    run, flags = ("", argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    flags = parse_dataclass(Sampling, Sampling(), flags if run else ["--help"], _USAGE)
    print(text_of(run, flags))
    return 0


def text_of(run: str, sampling: Sampling) -> str:
    """Draws the text.

    Raises:
      UserError: If there is no run, or it does not have what is asked for.
    """
    start = start_from.checkpoint_of(run)
    drawn = {f.name: getattr(sampling, f.name) for f in dataclasses.fields(sampling)}
    asked = {name: value for name, value in drawn.items() if name not in ("prompt", "ema")}
    one_device = {name: getattr(Settings(), name) for name in ("mesh_data", "mesh_fsdp")}
    # The kernel that it was trained with may not be here.
    config = dataclasses.replace(start.config, attention="auto", **one_device)
    dataclasses.replace(config, **asked).check()
    trainer = Trainer(dataclasses.replace(start, config=config))
    trainer.restore_source()
    params = trainer.state.ema if sampling.ema else trainer.evaluated
    if params is None:
        raise UserError("--ema: this run has kept no moving average of its weights")
    config = dataclasses.replace(config, **asked)
    return generate(trainer.graph, params, trainer.data, config, sampling.prompt)


if __name__ == "__main__":
    sys.exit(main())
