"""30 steps of the image models against PyTorch in float64: losses, weights, running statistics.

``python -m tests.oracles.test_resnet_torch`` runs the sizes of the paper's figure, in minutes.
"""

import itertools

import jax
import numpy as np
import pytest

from examples.resnet import model, optim, step
from examples.resnet.config import Config

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")

from tests.oracles import torch_resnet  # noqa: E402

# Width, batch, steps, image size. Rounding grows exponentially with the steps, and faster the fewer
# numbers a BatchNorm takes its mean of: VGG ends at 1x1 pixels, so from 2e-15 at the first step the
# scale-invariant one comes to 2e-8 with a batch of 8, to 1e-10 with 16.
SMALL = {"resnet18": (2, 8, 30, 8), "vgg16": (2, 16, 30, 32)}
FULL = (16, 128, 30, 32)
CASES = list(itertools.product(("resnet18", "vgg16"), (False, True)))


def settings(name, scale_inv, width):
    """The paper's figure: lr 0.08, wd 0.0125 (ResNet-18); lr 0.1, wd 0.008 (VGG-16)."""
    lr, wd = {"resnet18": (0.08, 0.0125), "vgg16": (0.1, 0.008)}[name]
    return Config(
        model=name,
        width=width,
        batch_norm=name == "resnet18" or scale_inv,
        scale_inv=scale_inv,
        lr=lr,
        wd=wd,
        momentum=0.5 if scale_inv else 0.0,
    )


def compare(name, scale_inv, width, batch_size, steps, image_size):
    """Ours and theirs of each step, loss and gradient norm; the largest difference of a leaf."""
    config = settings(name, scale_inv, width)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(steps, batch_size, image_size, image_size, 3))
    y = rng.integers(0, 10, (steps, batch_size))
    graph, params, stats = model.create(config, 10, image_size, 0)
    params, stats = jax.tree.map(lambda a: np.asarray(a, np.float64), (params, stats))
    twin = _twin(name, scale_inv, config)
    torch.set_num_threads(1)  # More of them wait for each other longer than they compute.
    torch_resnet.load(twin, params, stats)
    sgd = torch.optim.SGD(
        [p for p in twin.parameters() if p.requires_grad],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.wd,
    )
    tx = optim.make_optimizer(config, config.lr, config.wd)
    ours = jax.jit(lambda state, x, y: step.one_step(graph, tx, config.ema, state, x, y))
    state = step.new_state(params, stats, tx)
    found = []
    for i in range(steps):
        state, *numbers = ours(state, x[i], y[i])
        theirs = torch_resnet.train_step(
            twin, sgd, torch.from_numpy(x[i].transpose(0, 3, 1, 2).copy()), torch.from_numpy(y[i])
        )
        found.append((numbers, theirs))
    leaves = torch_resnet.to_torch(state.params) | torch_resnet.to_torch(state.stats)
    there = twin.state_dict()
    difference = max(float((leaves[name] - there[name]).abs().max()) for name in leaves)
    return np.array(found, float), difference


def _twin(name, scale_inv, config):
    if name == "resnet18":
        return torch_resnet.resnet18(config.width, 10, scale_inv)
    return torch_resnet.VGG16(config.width, 10, config.batch_norm, scale_inv)


@pytest.mark.parametrize(("name", "scale_inv"), CASES)
def test_training_follows_pytorch(x64, name, scale_inv):
    found, difference = compare(name, scale_inv, *SMALL[name])
    assert np.ptp(found[:, 1, 0]) > 1e-3  # The losses move at all.
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=0, atol=1e-8)
    assert difference < 1e-7


if __name__ == "__main__":
    with jax.enable_x64(True):
        for case in CASES:
            found, difference = compare(*case, *FULL)
            loss, norm = np.abs(found[:, 0] - found[:, 1]).max(0)
            print(
                f"{case[0]} scale_inv={case[1]}: loss {found[0, 1, 0]:.4f} -> "
                f"{found[-1, 1, 0]:.4f}, largest difference {loss:.1e} in loss, {norm:.1e} in "
                f"gradient norm, {difference:.1e} in weights, statistics",
                flush=True,
            )
