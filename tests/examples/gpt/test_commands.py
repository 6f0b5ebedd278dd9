"""Every command line of the source's language models: the chain it builds, and that it trains."""

import dataclasses
import functools
import json
import os
import shlex
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wdlab
from examples.gpt import model, optim, start_from
from examples.gpt.config import Config
from examples.gpt.flags import parse
from examples.gpt.train import main
from examples.runs import records
from tests.examples.gpt.papers_commands import COMMANDS, EVERY

SMALL = shlex.split(
    "--n_layer=1 --n_head=2 --n_embd=8 --block_size=8 --batch_size=2 --dropout=0 "
    "--gradient_accumulation_steps=2 --eval_examples=4 --sample_tokens=0"
)
SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 8}
IDS = [f"{i}-{expected.kind}" for i, (expected, _) in enumerate(COMMANDS)]
commands = pytest.mark.parametrize(("expected", "line"), COMMANDS, ids=IDS)


# --- The chain, against formulas in float64 with the numbers that the document gives.


@functools.cache
def small_config(line):
    """The settings of a line with a small model's sizes, from step 10,000 on where it goes on."""
    _, config = parse(shlex.split(line))
    if config.init_from == "resume":
        config = start_from.continued(config, 10_000)
    return dataclasses.replace(config, **SIZES)


def params_of(config):
    sizes = {name: getattr(config, name) for name in (*SIZES, "bias")}
    shapes = model.shapes(Config(**sizes), 13)  # Traced once.
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(rng.normal(size=leaf.shape)), shapes)


def by_path(tree):
    return dict(wdlab.rules.leaves_with_paths(jax.tree.map(lambda x: np.asarray(x, float), tree)))


def state_at(tx, params, count):
    """The optimizer's state as if it had made that many updates without a gradient."""
    return jax.tree.map(lambda x: jnp.int32(count) if x.dtype == jnp.int32 else x, tx.init(params))


@commands
def test_a_line_asks_for_the_settings_of_the_document(expected, line):
    _, config = parse(shlex.split(line))
    assert (config.opt_type, config.dtype, config.block_size) == (
        expected.kind, expected.dtype, expected.block_size,
    )  # fmt: skip
    assert (config.weight_decay, config.l2_reg, config.grad_clip, config.beta1) == (
        expected.weight_decay, expected.l2_reg, expected.clip, expected.beta1,
    )  # fmt: skip
    assert config.beta2 == expected.beta2 or expected.kind == "gdm"
    rate = optim.learning_rate(small_config(line))
    found = [float(rate(step)) for step in expected.steps]
    np.testing.assert_allclose(found, expected.rates, rtol=1e-5, atol=1e-12)
    scales = wdlab.decay_scales(params_of(small_config(line)), optim.decay_rules(config))
    decayed = {path for path, scale in wdlab.rules.leaves_with_paths(scales) if scale}
    assert decayed == set(expected.decayed)
    assert set(by_path(scales)) == set(EVERY)


def different_chains():
    """Of each chain the line with the most decay; others differ in numbers that are read above."""
    numbers = {"weight_decay", "l2_reg", "learning_rate", "min_lr", "beta2", "rules"}
    numbers |= {"max_iters", "lr_decay_iters", "warmup_iters"}
    found = {}
    for (expected, line), name in zip(COMMANDS, IDS, strict=True):
        config = small_config(line)
        rest = [str(getattr(config, field)) for field in config.OPTIMIZER if field not in numbers]
        kind = bool(config.weight_decay), bool(config.l2_reg), expected.decayed, *rest
        most = config.weight_decay, config.l2_reg
        if kind not in found or found[kind][0] < most:
            found[kind] = most, pytest.param(expected, line, id=name)
    return [line for _, line in found.values()]


@pytest.mark.parametrize(("expected", "line"), different_chains())
def test_a_line_builds_the_chain_of_the_document(expected, line):
    """Two steps at the peak of the schedule against torch's formulas in float64."""
    config = small_config(line)
    tx, params = optim.make_optimizer(config), params_of(config)
    update = jax.jit(lambda *given: tx.update(*given, value=jnp.float32(0)))
    step, lr = expected.steps[2], expected.rates[2]
    state, p = state_at(tx, params, step), by_path(params)
    m, v = ({path: 0.0 for path in p} for _ in range(2))
    for i in range(2):
        grads = jax.tree.map(lambda x, i=i: np.sin(9 * x + i), params)
        updates, state = update(grads, state, params)
        g = {path: x + 2 * expected.l2_reg * scale_of(expected, path) * p[path]
             for path, x in by_path(grads).items()}  # fmt: skip
        norm = np.sqrt(sum(np.sum(x**2) for x in g.values()))
        assert norm > expected.clip
        for path, made in by_path(updates).items():
            x, shrink = g[path] * expected.clip / norm, expected.weight_decay * p[path]
            shrink *= scale_of(expected, path)
            if expected.kind == "gdm":
                m[path] = expected.beta1 * m[path] + x + shrink
                wanted = -lr * m[path]
            else:
                m[path] = expected.beta1 * m[path] + (1 - expected.beta1) * x
                v[path] = expected.beta2 * v[path] + (1 - expected.beta2) * x**2
                m_hat = m[path] / (1 - expected.beta1 ** (step + i + 1))
                v_hat = v[path] / (1 - expected.beta2 ** (step + i + 1))
                wanted = -lr * (m_hat / (np.sqrt(v_hat) + 1e-8) + shrink)
            tolerance = 2e-5 * np.abs(wanted).max()
            np.testing.assert_allclose(made, wanted, rtol=2e-5, atol=tolerance)


def scale_of(expected, path):
    return float(path in expected.decayed)


# --- The runs.


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """A dataset of thirteen characters under the names that the lines use."""
    folder = tmp_path_factory.mktemp("data")
    tokens = np.random.default_rng(0).integers(0, 13, 400).astype(np.uint16)
    for name in ("openwebtext", "shakespeare_char"):
        (folder / name).mkdir()
        (folder / name / "meta.json").write_text(json.dumps({"characters": list("abcdefghijklm")}))
        for split in ("train", "val"):
            tokens.tofile(folder / name / f"{split}.bin")
    return folder


@pytest.fixture(scope="module")
def source(data_dir, tmp_path_factory):
    """A run of three steps to go on from."""
    folder = tmp_path_factory.mktemp("source") / "run"
    line = f"train_gpt2_small_block256 --max_iters=3 --data_dir={data_dir} --out_dir={folder}"
    assert main([*line.split(), *SMALL]) == 0
    return folder


def different_lines():
    """The first line of each chain, dtype, start and choice of what decays.

    With ALL_COMMANDS=1 in the environment, all lines.
    """
    everything = [
        pytest.param(line, id=name) for (_, line), name in zip(COMMANDS, IDS, strict=True)
    ]
    if os.environ.get("ALL_COMMANDS"):
        return everything
    seen, kept = set(), []
    for (expected, line), command in zip(COMMANDS, everything, strict=True):
        chain = (expected.kind, bool(expected.weight_decay), bool(expected.l2_reg))
        aspects = {chain, expected.dtype, "init_from" in line, expected.decayed}
        if not aspects <= seen:
            seen |= aspects
            kept.append(command)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("line", different_lines())
def test_a_line_trains(line, data_dir, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    argv = [*shlex.split(line), *SMALL, "--max_iters", "2", f"--data_dir={data_dir}"]
    first = 0
    if "--ckpt_path" in line:
        argv, first = [*argv, f"--ckpt_path={request.getfixturevalue('source')}"], 3
    assert main(argv) == 0
    (config_file,) = tmp_path.glob("**/config.json")
    _, config = parse(argv)
    parent = "models" if "--out_dir=models" in line else "out/gpt"
    assert config_file.parent == tmp_path / parent / (
        config.wandb_run_name or "train_shakespeare_char"
    )
    rows = records.read(config_file.parent / "metrics.jsonl")
    assert [row["step"] for row in rows] == [first, first + 2]
    assert all(np.isfinite(rows[-1][name]) for name in ("val_loss", "val_loss_ema", "batch_loss"))
    assert rows[-1]["clip_rate"] in (0.0, 0.5, 1.0)
    assert (config_file.parent / f"checkpoints/{first + 2}").is_dir()
    shutil.rmtree(config_file.parent)
