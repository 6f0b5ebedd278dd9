"""Images per second of ResNet-18, width 16: the example's own step beside PyTorch's.

The pre-activation ResNet-18, float32, batch 128: forward, backward, SGD with
L2, BatchNorm's running statistics. wdlab also keeps the moving average of the weights, which torch
is spared. Our two programs differ in the number of devices that the two cores are shown as.
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from examples.resnet import model, optim, step
from examples.resnet.config import Config
from examples.runs.mesh import Layout, make_mesh

from .side_by_side import Timing, in_turns

BATCH = 128
UNIT = "images/s"
WORK = BATCH  # Of one call, in images.
CONFIG = Config(width=16, batch_norm=True, lr=0.08, momentum=0.0, wd=0.0125, batch_size=BATCH)


def measure(rounds: int) -> dict[str, Timing]:
    """Seconds per step, by program; those of torch only where it is installed."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (BATCH, 32, 32, 3), np.uint8), np.arange(BATCH, dtype=np.int32) % 10
    programs = {"wdlab": ours(x, y, min(2, len(jax.devices())))}
    if len(jax.devices()) > 1:
        programs["wdlab, one device"] = ours(x, y, 1)
    return in_turns({**programs, **torch_programs(x, y)}, rounds)


def ours(x: np.ndarray, y: np.ndarray, devices: int) -> Callable[[], object]:
    """Steps by the example's program."""
    layout = Layout(make_mesh(devices, 1))
    graph, params, stats = model.create(CONFIG, 10, 32, 0, layout)
    mean, std = np.full(3, 128, np.float32), np.full(3, 64, np.float32)
    images = step.Images(*layout.copy((x, y, mean, std)))
    state = step.new_state(params, stats, optim.make_optimizer(CONFIG, CONFIG.lr, CONFIG.wd))
    make_tx = partial(optim.make_optimizer, CONFIG)
    looped = jax.default_backend() != "cpu"
    train_steps = step.make_train_steps(graph, make_tx, CONFIG.ema, False, looped)
    order, key, rates = np.arange(BATCH)[None], jax.random.key(0), (CONFIG.lr, CONFIG.wd)

    def one_step():
        nonlocal state
        with layout.active():
            state, *_ = train_steps(state, images, order, key, rates, 0, 1)
        return jax.block_until_ready(state)

    return one_step


def torch_programs(x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same step by PyTorch, as it is and compiled."""
    try:
        import torch  # pyrefly: ignore[missing-import]

        from tests.oracles import torch_resnet
    except ImportError:
        return {}
    inputs = (torch.tensor(x).permute(0, 3, 1, 2).contiguous().float() - 128) / 64
    labels = torch.tensor(y).long()

    def program(compiled: bool) -> Callable[[], object]:
        resnet = torch_resnet.resnet18(CONFIG.width, 10)
        sgd = torch.optim.SGD(resnet.parameters(), lr=CONFIG.lr, weight_decay=CONFIG.wd)
        forward = torch.compile(resnet) if compiled else resnet
        return lambda: torch_resnet.train_step(forward, sgd, inputs, labels)

    return {"torch": program(compiled=False), "torch.compile": program(compiled=True)}
