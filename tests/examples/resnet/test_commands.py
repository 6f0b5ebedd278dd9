"""The paper's commands for images: accepted as they stand, and what they train with."""

import json
import os
import shlex

import jax
import numpy as np
import pytest

import wdlab
from examples.resnet import flow, model, optim, sharpness, train, trainer
from examples.resnet.flags import parse
from tests.examples.resnet import small_images
from wdlab.instruments import Estimate

COMMON = "--batch_size 128 --momentum 0.0"
VGG = f"train --model vgg16 {COMMON} --epochs 1000 --lr_flow 1e-4 --first_decay 0.5"
RESNET18 = (
    f"train --model resnet18 --batch_norm {COMMON} --epochs 1000 --lr_flow 1e-4 --first_decay 0.5"
)
RESNET34 = (
    "train --model resnet34preact --dataset cifar100 --batch_norm "
    f"{COMMON} --epochs 1000 --lr_flow 1e-4 --first_decay 0.5"
)
SPHERE = (
    f"flow --model resnet18 --batch_norm --scale_inv {COMMON} --epochs 100 --lr_flow 1e-4 "
    "--flow_every 2 --flow_steps 100 --radius 1.0 --wd 0.0 --exp_name fig2"
)
TRACE = (
    f"flow --model resnet18 --batch_norm {COMMON} --epochs 100 --lr_flow 1e-3 --flow_every 2 "
    "--flow_steps 100 --wd 0.015 --exp_name fig3"
)
COMMANDS = [
    f"{VGG} --lr 0.1 --wd 0.008 --exp_name vgg_fig1",
    f"{VGG} --lr 0.1 --wd 0.0 --exp_name vgg_fig1",
    f"{VGG} --lr 0.01 --wd 0.008 --exp_name vgg_fig1",
    f"{VGG} --lr 0.01 --wd 0. --exp_name vgg_fig1",
    f"{RESNET18} --lr 0.08 --wd 0.0125 --exp_name resnet18_fig1",
    f"{RESNET18} --lr 0.08 --wd 0.0 --exp_name resnet18_fig1",
    f"{RESNET18} --lr 0.001 --wd 0.0125 --exp_name resnet18_fig1",
    f"{RESNET18} --lr 0.001 --wd 0.0 --exp_name resnet18_fig1",
    f"{RESNET34} --lr 0.15 --wd 0.01 --exp_name resnet34_fig1",
    f"{RESNET34} --lr 0.15 --wd 0.0 --exp_name resnet34_fig1",
    f"{RESNET34} --lr 0.001 --wd 0.01 --exp_name resnet34_fig1",
    f"{RESNET34} --lr 0.001 --wd 0.0 --exp_name resnet34_fig1",
    *(f"{SPHERE} --lr {lr}" for lr in ("0.001", "0.003", "0.005")),
    f"{TRACE} --lr 0.1",  # Three times in the document.
]
# Written from the document, in the order of the commands: dataset, lr, lr_flow, wd.
EXPECTED = [
    ("cifar10", 0.1, 1e-4, 0.008),
    ("cifar10", 0.1, 1e-4, 0.0),
    ("cifar10", 0.01, 1e-4, 0.008),
    ("cifar10", 0.01, 1e-4, 0.0),
    ("cifar10", 0.08, 1e-4, 0.0125),
    ("cifar10", 0.08, 1e-4, 0.0),
    ("cifar10", 0.001, 1e-4, 0.0125),
    ("cifar10", 0.001, 1e-4, 0.0),
    ("cifar100", 0.15, 1e-4, 0.01),
    ("cifar100", 0.15, 1e-4, 0.0),
    ("cifar100", 0.001, 1e-4, 0.01),
    ("cifar100", 0.001, 1e-4, 0.0),
    ("cifar10", 0.001, 1e-4, 0.0),
    ("cifar10", 0.003, 1e-4, 0.0),
    ("cifar10", 0.005, 1e-4, 0.0),
    ("cifar10", 0.1, 1e-3, 0.015),
]
CASES = list(zip(COMMANDS, EXPECTED, strict=True))
SMALL = shlex.split(
    "--epochs 1 --width 2 --batch_size 16 --flow_steps 1 --probe_examples 4 --no_jacobian"
)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return small_images.save(tmp_path_factory.mktemp("images"), train=20, test=4, pixels=32)


def different_commands():
    """The first of each program, model and constraint.

    The rates and the decay are inputs of its compiled step: the others repeat it with other
    numbers, which the next test reads. With ALL_COMMANDS=1 in the environment, all of them.
    """
    if os.environ.get("ALL_COMMANDS"):
        return COMMANDS
    kinds = {}
    for command in sorted(COMMANDS, key=lambda line: "--scale_inv" not in line):  # Most at once.
        config = parse(shlex.split(command)[1:])
        for aspect in (command.split()[0], config.model, f"scale_inv {config.scale_inv}"):
            kinds.setdefault(aspect, command)
    return sorted(set(kinds.values()))


@pytest.mark.slow
@pytest.mark.parametrize("command", different_commands())
def test_a_command_runs(command, images, tmp_path, monkeypatch):
    """The trace itself, a compilation of half a minute, is in test_resnet_model.py."""
    monkeypatch.setattr(sharpness.Sharpness, "trace", lambda *_: Estimate(1.0, 0.1, 10))
    program, *flags = shlex.split(command)
    main = {"train": train.main, "flow": flow.main}[program]
    assert main([*flags, *SMALL, f"--dataset={images}", f"--out_dir={tmp_path}"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1]
    assert ("flow_hessian_trace" in rows[1]) == (program == "flow")
    if "--radius" in flags:
        assert rows[1]["weight_norm"] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("command", "expected"), CASES)
def test_a_command_trains_with_what_the_document_says(command, expected):
    program, *flags = shlex.split(command)
    config = parse(flags)
    dataset, lr, lr_flow, wd = expected
    assert (config.dataset, config.batch_size, config.momentum) == (dataset, 128, 0.0)
    assert config.width == 64
    assert config.model == flags[flags.index("--model") + 1]
    assert config.batch_norm == ("--batch_norm" in flags) == (config.model != "vgg16")
    assert (config.lr_flow, config.wd_flow) == (lr_flow, 0.0)
    assert config.no_data_augm
    if program == "train":
        at = [optim.rates(config, epoch) for epoch in (0, 499, 500, 501, 999)]
        assert at == [(lr, wd)] * 2 + [(lr_flow, wd)] * 3
    else:
        probed = object.__new__(trainer.Trainer)
        probed.config, probed.probe = config, flow.FlowProbe()
        assert [probed.rates(epoch) for epoch in (0, 49, 50, 51, 99)] == [(lr, wd)] * 5


@pytest.mark.parametrize("command", [COMMANDS[0], COMMANDS[4], COMMANDS[12]])
def test_the_chain_is_sgd_with_l2_in_the_gradient_on_what_is_trained(command):
    """lr * (g + wd * w) for every trained leaf, and nothing for the frozen ones."""
    config = parse([*shlex.split(command)[1:], "--width=2", "--wd=0.25"])
    params = model.shapes(config, 10, 32)[1]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    grads = jax.tree.map(lambda p: np.sin(9 * p), params)
    tx = optim.make_optimizer(config, config.lr, config.wd)
    updates, _ = tx.update(grads, tx.init(params), params)
    scales = wdlab.decay_scales(params, optim.decay_rules(config))
    for name, update in updates.items():
        trees = (update, grads[name], params[name], scales[name])
        for u, g, w, scale in zip(*map(jax.tree.leaves, trees), strict=True):
            frozen = name == "head" and config.scale_inv
            assert scale == (0 if frozen else 1)
            wanted = 0 * w if frozen else -config.lr * (g + 0.25 * w)
            np.testing.assert_allclose(u, wanted, rtol=1e-5, atol=1e-7)
