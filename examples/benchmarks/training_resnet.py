"""Images per second of ResNet-18, width 16: the example's own step beside PyTorch's.

The pre-activation ResNet-18, float32, batch 128: forward, backward, SGD with
L2, BatchNorm's running statistics. wdlab also keeps the moving average of the weights, which torch
is spared. Our two programs differ in the number of devices that the two cores are shown as.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from examples.resnet import model, optim, step
from examples.resnet.config import Config
from examples.runs.layout import Layout
from examples.runs.mesh import make_mesh

from .side_by_side import Timing, in_turns

BATCH = 128
UNIT = "images/s"
WORK = BATCH  # Of one call, in images.
CONFIG = Config(width=16, batch_norm=True, lr=0.08, momentum=0.0, wd=0.0125, batch_size=BATCH)


def images_of(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """A batch of random images, and their labels."""
    rng, batch = np.random.default_rng(0), config.batch_size
    x = rng.integers(0, 256, (batch, 32, 32, 3), np.uint8)
    return x, np.arange(batch, dtype=np.int32) % 10


def measure(rounds: int, config: Config = CONFIG) -> dict[str, Timing]:
    """Seconds per step, by program; those of torch only where it is installed."""
    x, y = images_of(config)
    programs = {"wdlab": ours(config, x, y, min(2, len(jax.devices())))}
    if len(jax.devices()) > 1:
        programs["wdlab, one device"] = ours(config, x, y, 1)
    return in_turns({**programs, **torch_programs(config, x, y, "cpu")}, rounds)


def ours(config: Config, x: np.ndarray, y: np.ndarray, devices: int) -> Callable[[], object]:
    """Steps by the example's program."""
    layout = Layout(make_mesh(devices, 1))
    graph, params, stats = model.create(config, 10, 32, 0, layout)
    mean, std = np.full(3, 128, np.float32), np.full(3, 64, np.float32)
    images = step.Images(*layout.copy((x, y, mean, std)))
    state = step.new_state(params, stats, optim.make_optimizer(config, config.lr, config.wd))
    make_tx = partial(optim.make_optimizer, config)
    looped = jax.default_backend() != "cpu"
    train_steps = step.make_train_steps(graph, make_tx, config.ema, False, looped)
    order, key, rates = np.arange(len(y))[None], jax.random.key(0), (config.lr, config.wd)

    def one_step():
        nonlocal state
        with layout.active():
            state, *_ = train_steps(state, images, order, key, rates, 0, 1)
        return jax.block_until_ready(state)

    return one_step


def torch_programs(
    config: Config, x: np.ndarray, y: np.ndarray, device: str
) -> dict[str, Callable[[], object]]:
    """The same step by PyTorch, as it is and compiled; on a GPU in bfloat16 too."""
    try:
        import torch  # pyrefly: ignore[missing-import]

        from tests.oracles import torch_resnet
    except ImportError:
        return {}
    images = torch.tensor(x, device=device).permute(0, 3, 1, 2).contiguous()
    inputs = (images.float() - 128) / 64
    labels = torch.tensor(y, device=device).long()

    def program(compiled: bool, half: bool = False) -> Callable[[], object]:
        layout = torch.channels_last if half else torch.contiguous_format
        resnet: Any = torch_resnet.resnet18(config.width, 10)
        resnet = resnet.to(device, memory_format=layout)
        sgd = torch.optim.SGD(resnet.parameters(), lr=config.lr, weight_decay=config.wd)
        forward, pixels = resnet, inputs.contiguous(memory_format=layout)
        if compiled:
            forward = torch.compile(resnet)

        def step() -> object:
            with torch.autocast(device, torch.bfloat16, enabled=half):
                return torch_resnet.train_step(forward, sgd, pixels, labels)

        return step

    programs = {"torch": program(compiled=False), "torch.compile": program(compiled=True)}
    if device != "cpu":
        name = "torch.compile, channels last, bfloat16"
        programs[name] = program(compiled=True, half=True)
    return programs
