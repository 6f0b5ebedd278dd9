"""Training runs: what they leave behind, and that they continue bit for bit."""

import dataclasses
import json
import os
import random
import re
import shlex
import shutil
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from examples.gpt import model, optim, start_from, step
from examples.gpt.config import Config
from examples.gpt.configs import CONFIGS
from examples.gpt.flags import parse
from examples.gpt.train import main
from examples.runs import optimizers, records
from tests.examples.gpt.small_runs import SHORT, SMALL
from tests.forks import Python

pytestmark = [
    # TensorStore futures of a failed read are collected with their exception unread.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
ROOT = Path(__file__).parents[3]
LONG = [*SMALL, "--max_iters=150", "--eval_interval=25"]  # Long enough to be killed on its way.


def train(folder, *argv):
    return main([*argv, f"--out_dir={folder}"])


def rows_of(folder):
    return records.read(folder / "metrics.jsonl")


@pytest.fixture(scope="module")
def long_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    assert train(folder, *LONG) == 0
    return folder


def test_a_run_leaves_records_checkpoints_text_and_a_picture(short_run):
    rows = rows_of(short_run)
    assert [row["step"] for row in rows] == list(range(13))
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 4, 8, 12]
    assert {"batch_loss", "grad_norm", "learning_rate", "weight_norm_decayed"} <= rows[5].keys()
    assert rows[1]["learning_rate"] == 0
    assert rows[4]["learning_rate"] == pytest.approx(CONFIGS["tiny"]().learning_rate)
    assert rows[12]["val_loss"] < rows[0]["val_loss"]
    assert len((short_run / "sample.txt").read_text("utf-8")) == 20
    assert (short_run / "training.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((short_run / "config.json").read_text())["n_embd"] == 8
    assert {p.name for p in (short_run / "checkpoints").iterdir()} >= {"8", "12"}


def test_the_same_seed_gives_the_same_bits_even_over_stale_rows(short_run, tmp_path, capsys):
    """Here: --resume of a run that was killed before its first checkpoint."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 0}\n{"step": 1, "batch_loss": 9.0}\n{"st')
    assert train(folder, *SHORT, "--resume") == 0
    assert (folder / "metrics.jsonl").read_text() == (short_run / "metrics.jsonl").read_text()
    shown = capsys.readouterr().out
    for text in ("wte/embedding", "decayed: ", "half-life", "final train loss", "checkpoint: "):
        assert text in shown
    assert "nothing to resume" in shown


@pytest.mark.slow
def test_a_run_that_was_killed_and_stopped_continues_bit_for_bit(long_run, tmp_path, capsys):
    folder, rows = tmp_path / "run", 0
    command = ["-m", "examples.gpt.train", *LONG, f"--out_dir={folder}", "--resume"]
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        process = Python(*command, folder=tmp_path)
        _wait_for_rows(process, folder, rows + random.randint(27, 50))
        process.send_signal(number)
        assert process.wait() == code
        rows = rows_of(folder)[-1]["step"]
    assert rows < 150
    assert f"SIGTERM: saved at step {rows}; --resume continues" in process.stdout
    assert (folder / "checkpoints" / str(rows)).is_dir()
    assert train(folder, *LONG, "--resume") == 0
    assert re.search(r"resuming at step \d+", capsys.readouterr().out)
    assert (folder / "metrics.jsonl").read_text() == (long_run / "metrics.jsonl").read_text()
    assert (folder / "sample.txt").read_text() == (long_run / "sample.txt").read_text()


def _wait_for_rows(process, folder, count):
    deadline = time.monotonic() + 90
    while len(rows_of(folder)) < count or not start_from.has_checkpoints(folder):
        assert process.poll() is None, "ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.03)


def copy_of(run, tmp_path):
    return shutil.copytree(run, tmp_path / "copy")


@pytest.mark.slow
def test_a_finished_run_can_be_made_longer(short_run, tmp_path):
    folder = copy_of(short_run, tmp_path)
    assert train(folder, *SHORT, "--max_iters=15", "--lr_decay_iters=12", "--resume") == 0
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == list(range(16))
    assert rows[:13] == rows_of(short_run)


def test_a_corrupt_newest_checkpoint_falls_back_and_says_so(short_run, tmp_path, capsys):
    folder = copy_of(short_run, tmp_path)
    for path in (folder / "checkpoints/12/state").glob("**/d/*"):
        path.write_bytes(bytes(path.stat().st_size))
    assert train(folder, *SHORT, "--resume") == 0
    shown = capsys.readouterr().out
    assert "checkpoint of step 12 is damaged" in shown
    assert "resuming at step 8" in shown
    assert (folder / "checkpoints/damaged-12").is_dir()
    assert (folder / "metrics.jsonl").read_text() == (short_run / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--n_embd=16", "n_embd is 8 in the checkpoint, 16 in this run"),
        ("--weight_decay=0.2", "weight_decay is 0.001 in the checkpoint, 0.2 in this run"),
        ("--batch_size=8", "batch_size is 4 in the checkpoint, 8 in this run"),
        ("--max_iters=24", "lr_decay_iters is 12 in the checkpoint, 24 in this run"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(short_run, tmp_path, capsys, change, message):
    folder = copy_of(short_run, tmp_path)
    assert train(folder, *SHORT, change, "--resume") == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (folder / "metrics.jsonl").read_text() == (short_run / "metrics.jsonl").read_text()


def test_an_earlier_run_is_not_overwritten(short_run, tmp_path, monkeypatch, capsys):
    before = (short_run / "metrics.jsonl").read_text()
    assert train(short_run, *SHORT) == 1
    assert "already holds a run: add --resume" in capsys.readouterr().err
    assert (short_run / "metrics.jsonl").read_text() == before
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/gpt/tiny").mkdir(parents=True)
    (tmp_path / "out/gpt/tiny/metrics.jsonl").write_text("")
    assert main(SHORT) == 0
    assert len(rows_of(tmp_path / "out/gpt/tiny-2")) == 13


def test_nan_stops_the_run_with_the_last_good_step_saved(tmp_path, capsys):
    diverging = ["--learning_rate=1e30", "--warmup_iters=0", "--no_decay_lr", "--grad_clip=0"]
    assert train(tmp_path / "run", *SHORT, *diverging) == 1
    error = capsys.readouterr().err
    found = re.search(r"step (\d+) has loss .*saved as step (\d+) in", error)
    assert found, error
    assert int(found[1]) == int(found[2]) + 1
    assert error.count("\n") == 1
    assert (tmp_path / "run/checkpoints" / found[2]).is_dir()


# --- Starts.

TUNED = [*SMALL, "--eval_interval=4", "--learning_rate=1e-4", "--no_decay_lr", "--max_iters=2"]


@pytest.mark.slow
def test_fine_tuning_goes_on_from_another_run_under_new_flags(short_run, tmp_path, capsys):
    source, folder = copy_of(short_run, tmp_path), tmp_path / "tuned"
    start_flags = ["--init_from=resume", f"--ckpt_path={source}"]
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    assert train(folder, *TUNED, *start_flags) == 0
    shown = capsys.readouterr().out
    assert "going on from step 12" in shown
    assert "learning_rate is 0.004 in the checkpoint, 0.0001 in this run" in shown
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == [12, 13, 14]
    for name in ("train_loss", "val_loss", "val_loss_ema"):  # Weights and average came over.
        assert rows[0][name] == rows_of(short_run)[12][name]
    assert rows[1]["learning_rate"] == pytest.approx(1e-4)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before
    shutil.rmtree(source)  # To resume it, its own checkpoints are enough.
    assert train(folder, *TUNED, *start_flags, "--resume") == 0
    assert "resuming at step 14" in capsys.readouterr().out
    assert rows_of(folder) == rows


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n_embd=16"], "does not fit these flags: n_embd is 8 in the checkpoint, 16"),
        (["--opt_type=gdm"], "opt_type is adam in the checkpoint, gdm in this run"),
    ],
)
def test_fine_tuning_another_model_is_refused_by_name(short_run, tmp_path, capsys, flags, message):
    start_flags = ["--init_from=resume", f"--ckpt_path={short_run}/checkpoints/8"]
    assert train(tmp_path / "run", *TUNED, *start_flags, *flags) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_evaluation_alone_writes_the_losses_of_the_checkpoint(short_run, tmp_path, capsys):
    start_flags = ["--init_from=resume", f"--ckpt_path={short_run}/checkpoints", "--eval_only"]
    assert train(tmp_path / "run", *TUNED, *start_flags) == 0
    found = json.loads((tmp_path / "run/evaluation.json").read_text())
    last = rows_of(short_run)[12]
    assert found == {name: last[name] for name in found}
    assert {"train_loss", "val_error", "val_loss_ema"} <= found.keys()
    assert not rows_of(tmp_path / "run")


def test_only_adapters_decay():
    config = dataclasses.replace(Config(n_layer=1, n_head=2, n_embd=8, block_size=8), lora_rank=2)
    scales = wdlab.decay_scales(model.shapes(config, 13), optim.decay_rules(config))
    decayed = {path for path, scale in wdlab.rules.leaves_with_paths(scales) if scale}
    assert decayed
    assert all("lora_" in path for path in decayed)


# --- The compiled step and the optimizer.


def small_step(**changes):
    config = dataclasses.replace(
        Config(n_layer=1, n_head=2, n_embd=8, block_size=8, bias=True, warmup_iters=0),
        **{"decay_lr": False, "learning_rate": 0.1, "weight_decay": 0.1, "log_interval": 1},
    )
    config = dataclasses.replace(config, **changes)
    config.check()
    graph, params = model.create(config, 13, seed=0)
    tx = optim.make_optimizer(config)
    return step.new_carry(params, tx, config), step.make_train_step(graph, tx, config)


def tokens(*shape):
    return np.random.default_rng(0).integers(0, 13, (*shape, 9)).astype(np.int32)


def test_accumulated_micro_batches_equal_one_batch():
    results = []
    for shape in ((1, 6), (3, 2)):
        carry, train_step = small_step(opt_type="gd")
        whole = tokens(6).reshape(*shape, 9)
        carry, metrics = train_step(carry, whole)
        results.append((carry.params, metrics))
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_step_updates_every_buffer_in_place(accumulation):
    """Parameters, moments, moving average, loss scale: no copy, and nothing beside the gradient."""
    carry, train_step = small_step(n_embd=64, bias=False, dtype="float16")
    lowered = train_step.lower(carry, tokens(accumulation, 2))
    compiled = lowered.compile()
    header = compiled.as_text().split("\n")[0]
    pairs = re.findall(r"\{(\d+)\}: \((\d+), \{\}", header)
    assert len(pairs) == len(jax.tree.leaves(carry))
    assert all(output == argument for output, argument in pairs)


def test_the_step_keeps_the_gradient_and_two_trees_beside_it():
    """Old and new moments, until it is known whether the step is finite: no more on a CPU.

    XLA of jaxlib 0.7 keeps three.
    """
    most = 3.25 if jax.__version_info__ >= (0, 8) else 4.25
    carry, train_step = small_step(n_embd=128, bias=False)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(carry.params))
    for accumulation in (1, 2):
        lowered = train_step.lower(carry, tokens(accumulation, 1))
        assert lowered.compile().memory_analysis().temp_size_in_bytes < most * size


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    carry, train_step = small_step()
    carry.params["wte"]["embedding"] = carry.params["wte"]["embedding"].at[3].set(jnp.inf)
    before = jax.tree.map(np.array, carry)
    after, metrics = train_step(carry, tokens(1, 2))
    assert not np.isfinite(metrics["loss"])
    assert (metrics["skipped"], metrics["in_a_row"]) == (1, 1)
    before = before._replace(opt_state=before.opt_state.inner)
    after = after._replace(opt_state=after.opt_state.inner)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, after))


def test_the_moving_average_follows_the_weights():
    carry, train_step = small_step(ema_coef=0.75)
    expected = np.array(carry.ema["wpe"]["embedding"], np.float64)
    for _ in range(3):
        carry, _ = train_step(carry, tokens(1, 2))
        expected = 0.75 * expected + 0.25 * np.asarray(carry.params["wpe"]["embedding"])
    np.testing.assert_allclose(carry.ema["wpe"]["embedding"], expected, rtol=1e-6)
    assert small_step(ema_coef=0.0)[0].ema is None


def test_float16_halves_the_loss_scale_until_the_gradient_fits():
    carry, train_step = small_step(dtype="float16")
    huge = 2.0**30
    carry = carry._replace(loss_scale=carry.loss_scale.replace(scale=jnp.float32(huge)))
    wte = np.array(carry.params["wte"]["embedding"])
    for _ in range(1, 40):
        carry, metrics = train_step(carry, tokens(1, 2))
        if not metrics["in_a_row"]:
            break
        assert np.array_equal(carry.params["wte"]["embedding"], wte)
    assert 1 <= metrics["skipped"] < 39
    assert carry.loss_scale.scale < huge
    assert np.isfinite(metrics["grad_norm"])
    reference, exact_step = small_step()
    _, exact = exact_step(reference, tokens(1, 2))
    np.testing.assert_allclose(metrics["grad_norm"], exact["grad_norm"], rtol=0.01)


def test_metrics_of_a_step_are_those_of_numpy():
    carry, train_step = small_step(opt_type="gd", grad_clip=0.0, weight_decay=0.0)
    before = jax.tree.map(lambda x: np.array(x, np.float64), carry.params)
    after, metrics = train_step(carry, tokens(1, 2))
    grads = jax.tree.map(lambda a, b: (a - np.asarray(b, np.float64)) / 0.1, before, after.params)
    norms = {name: norm_of(part) for name, part in grads.items() if name != "blocks"}
    norms["blocks/0"] = norm_of(grads["blocks"])
    assert metrics["layers"].keys() == norms.keys()
    for layer, norm in norms.items():
        np.testing.assert_allclose(metrics["layers"][layer], norm, rtol=1e-3)
    np.testing.assert_allclose(metrics["grad_norm"], norm_of(grads), rtol=1e-3)
    largest = max(np.abs(g).max() for g in jax.tree.leaves(grads))
    np.testing.assert_allclose(metrics["largest_gradient"], largest, rtol=1e-3)


def norm_of(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def optimizer(**changes):
    settings = {"decay_lr": False, "learning_rate": 0.1, "weight_decay": 0.1, **changes}
    return optim.make_optimizer(dataclasses.replace(Config(), **settings))


def few_params():
    rng = np.random.default_rng(0)
    layer = {"kernel": rng.normal(size=(3, 2)), "bias": rng.normal(size=2)}
    return jax.tree.map(
        np.float32,
        {"blocks": {0: {"mlp": {"fc": layer}}}, "ln_f": {"scale": rng.normal(size=3)}},
    )


def run_optimizer(tx, steps=5):
    @jax.jit
    def update(params, state, i):
        grads = jax.tree.map(lambda p: jnp.sin(9 * p + i), params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = few_params()
    state = tx.init(params)
    for i in range(steps):
        params, state = update(params, state, i)
    return params


def undriven(tx):
    """The updates of a first step without gradient."""
    params = few_params()
    zero = jax.tree.map(np.zeros_like, params)
    return jax.jit(tx.update)(zero, tx.init(params), params)[0]


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-7), a, b)


def test_coupling_lr_is_torch_adamw_on_the_include_list():
    mask = {
        "blocks": {0: {"mlp": {"fc": {"kernel": True, "bias": True}}}},
        "ln_f": {"scale": False},
    }
    twin = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(0.1, b1=0.9, b2=0.95, weight_decay=0.1, mask=mask),
    )
    assert_same(run_optimizer(optimizer(coupling="lr", grad_clip=0.5)), run_optimizer(twin))


@pytest.mark.parametrize(
    ("coupling", "shrink"),
    [("schedule", 0.1), ("lr", 0.01), ("lr2", 0.001), ("lr2_over_peak", 0.01), ("constant", 0.1)],
)
def test_a_coupling_shrinks_a_weight_without_gradient_by_its_factor(coupling, shrink):
    updates = undriven(optimizer(coupling=coupling, rules="KERNELS_ONLY"))
    layer, change = (tree["blocks"][0]["mlp"]["fc"] for tree in (few_params(), updates))
    np.testing.assert_allclose(change["kernel"], -shrink * layer["kernel"], rtol=1e-5)
    assert not change["bias"].any()


def test_a_convention_is_that_systems_optimizer_behind_the_clipping():
    """Composer's AdamW by name and as a chain; at a constant rate eta_t is 1."""
    chain = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.1, weight_decay=0))
    twin = optax.chain(chain, wdlab.decay_weights(0.1))
    named = {"convention": "composer.DecoupledAdamW", "convention_args": "betas=(0.9, 0.999)"}
    assert_same(
        run_optimizer(optimizer(**named, rules="convention", grad_clip=0.5)), run_optimizer(twin)
    )


def test_muon_trains_the_hidden_matrices_behind_the_clipping_and_adamw_the_rest():
    settings = {"opt_type": "muon", "coupling": "lr", "rules": "KERNELS_ONLY", "grad_clip": 0.5}
    tx = optimizer(**settings)
    plan = wdlab.decay_plan(tx, few_params())
    paths = [path for path, _ in wdlab.rules.leaves_with_paths(few_params())]
    branches = dict(zip(paths, plan.branches, strict=True))
    assert branches.pop("blocks/0/mlp/fc/kernel") == "muon"
    assert set(branches.values()) == {"adamw"}
    updates = undriven(tx)
    layer, change = (tree["blocks"][0]["mlp"]["fc"] for tree in (few_params(), updates))
    np.testing.assert_allclose(change["kernel"], -0.01 * layer["kernel"], rtol=1e-5)
    assert not change["bias"].any()


def test_queries_keys_and_values_are_a_matrix_each():
    config = Config(opt_type="muon", n_embd=32, n_head=4, n_kv_head=2, block="llama")
    views = optim.matrix_axes(config).view("blocks/0/attn/qkv/kernel", (32, 64))
    assert views.split == (32, 16, 16)


def test_schedule_free_is_evaluated_at_its_average_and_warms_up_to_a_constant():
    tx, params = optimizer(opt_type="schedule_free", decay_lr=True, warmup_iters=2), few_params()
    state, rate = tx.init(params), optim.learning_rate(Config(opt_type="schedule_free"))
    assert rate(10_000) == rate(100_000) == rate.peak
    for i in range(3):
        grads = jax.tree.map(lambda p, i=i: np.sin(9 * p + i), params)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert_same(
        optimizers.evaluated(params, state),
        wdlab.optimizers.schedule_free_eval_params(state, params),
    )
    plain = optimizer(opt_type="gd")
    assert optimizers.evaluated(params, plain.init(params)) is params


def test_gdm_is_torch_sgd_with_l2_before_momentum():
    twin = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    ours = optimizer(opt_type="gdm", grad_clip=0, rules="ALL")
    assert_same(run_optimizer(ours), run_optimizer(twin))


def test_l2_reg_adds_its_gradient_before_the_clipping():
    params = few_params()
    norm = 0.5 * optax.tree.norm(params)
    assert norm > 1
    updates = undriven(optimizer(opt_type="gd", l2_reg=0.25, weight_decay=0.0, rules="ALL"))
    assert_same(updates, jax.tree.map(lambda p: -0.1 * 0.5 * p / norm, params))


# --- The command line, and users' mistakes.


def test_flags_as_the_papers_scripts_write_them():
    words = shlex.split(
        "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 "
        "--learning-rate 0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.1 "
        "--dtype=bfloat16 --random_seed=0 --out_dir=models --decay_lr=False --no_bias "
        "--wd_substrings_include='wte wpe mlp attn lm_head ln'"
    )
    name, config = parse(words)
    assert (name, config.n_embd, config.block_size) == ("train_gpt2_small_block256", 768, 256)
    assert (config.learning_rate, config.min_lr, config.weight_decay) == (6e-4, 6e-5, 0.1)
    assert (config.coupling, config.decay_lr, config.bias) == ("lr", False, False)
    assert optim.decay_rules(config) == wdlab.rules.containing("wte wpe mlp attn lm_head ln")


def test_an_include_list_on_the_command_line_takes_the_place_of_the_preset():
    assert parse(["tiny"])[1].rules == "NO_BIAS_OR_NORM"
    assert parse(["tiny", "--wd_substrings_include", "mlp"])[1].rules == "substrings"


def test_every_named_configuration_makes_sense():
    for name in CONFIGS:
        assert parse([name])[0] == name


BAD = {
    "configuration": (["tniy"], "unknown configuration 'tniy' (did you mean 'tiny'?)"),
    "flag": (
        ["tiny", "--weight_decy=1"],
        "unknown flag --weight_decy: did you mean --weight_decay",
    ),
    "stray word": (["tiny", "0.1"], "Unrecognized options: 0.1"),
    "not a number": (["tiny", "--n_layer=two"], "Error parsing --n_layer"),
    "no value": (["tiny", "--n_layer"], "Missing value for argument '--n_layer'"),
    "choice": (["tiny", "--dtype=float64"], "invalid choice 'float64' for argument '--dtype'"),
    "new flag": (["tiny", "--ema_coeff=0.9"], "unknown flag --ema_coeff: did you mean --ema_coef"),
    "run name": (["tiny", "--wandb_run=x"], "unknown flag --wandb_run: did you mean --wandb_"),
    "start": (["tiny", "--init_from=gpt3"], "invalid choice 'gpt3' for argument '--init_from'"),
    "average": (["tiny", "--ema_coef=1"], "--ema_coef must be in [0, 1), got 1.0"),
    "dampening": (["tiny", "--dampening=-1"], "--dampening must be in [0, 1), got -1.0"),
    "dampened Adam": (["tiny", "--dampening=0.1"], "--dampening 0.1 is of --opt_type gdm"),
    "convention": (["tiny", "--convention=torch.Adamw"], "the nearest is 'torch.AdamW'"),
    "its arguments": (
        ["tiny", "--convention=torch.AdamW", "--convention_args", "beta=1"],
        "--convention torch.AdamW: torch.AdamW has no argument 'beta'; the nearest is 'betas'",
    ),
    "half a call": (
        ["tiny", "--convention=torch.AdamW", "--convention_args", "betas=("],
        "--convention_args 'betas=(' are not keyword arguments of plain values",
    ),
    "its moments": (
        ["tiny", "--convention=torch.AdamW", "--beta1=0.8"],
        "--beta1 and --convention exclude each other",
    ),
    "no convention": (["tiny", "--rules=convention"], "--rules convention needs --convention NAME"),
    "skips": (["tiny", "--max_skipped_steps=0"], "--max_skipped_steps must be positive"),
    "path alone": (["tiny", "--ckpt_path=x"], "--ckpt_path needs --init_from resume"),
    "no checkpoint": (
        ["tiny", "--init_from=resume", "--ckpt_path=out/x"],
        "--ckpt_path out/x does not exist: write the folder of a run of this program",
    ),
    "a .pt file": (
        ["tiny", "--init_from=resume", f"--ckpt_path={__file__}.pt"],
        ".pt does not exist: write the folder of a run of this program",
    ),
    "no step": (
        ["tiny", "--init_from=resume", f"--ckpt_path={ROOT}"],
        f"--ckpt_path {ROOT} holds no checkpoint: write the folder of a run",
    ),
    "heads": (["tiny", "--n_embd=97"], "--n_embd 97 is not divisible by --n_head 3"),
    "negative decay": (["tiny", "--weight_decay=-0.1"], "--weight_decay must be at least 0"),
    "spaced negative": (["tiny", "--weight_decay", "-0.1"], "--weight_decay must be at least 0"),
    "NaN decay": (["tiny", "--weight_decay=nan"], "--weight_decay must be at least 0 and finite"),
    "infinite rate": (["tiny", "--learning_rate=inf"], "--learning_rate must be positive"),
    "dropout": (["tiny", "--dropout=1"], "--dropout must be in [0, 1), got 1.0"),
    "both decays": (["tiny", "--l2_reg=1e-3"], "--l2_reg and --weight_decay exclude each other"),
    "warm-up": (["tiny", "--warmup_iters=9999"], "--warmup_iters 9999 must be less than"),
    "min_lr": (["tiny", "--min_lr=1"], "--min_lr 1.0 must be at most --learning_rate"),
    "empty include": (["tiny", "--wd_substrings_include="], "expected words such as"),
    "dataset": (["tiny", "--dataset=pidoc"], "no dataset 'pidoc' in data (did you mean 'pydoc'?)"),
    "short text": (["tiny", "--block_size=99999"], "has 46505 tokens, but --block_size 99999"),
    "out_dir is a file": ([*SHORT, f"--out_dir={__file__}"], "cannot write to --out_dir"),
    "out_dir below a file": ([*SHORT, f"--out_dir={__file__}/x"], "cannot write to --out_dir"),
    "out_dir forbidden": ([*SHORT, "--out_dir=/proc/x"], "cannot write to --out_dir /proc/x"),
}


@pytest.mark.parametrize(("argv", "message"), BAD.values(), ids=BAD)
def test_a_mistake_is_one_line_on_stderr_and_leaves_nothing(
    argv, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 1
    shown = capsys.readouterr()
    assert message.replace("46505", "") in re.sub(r"(?<=has )\d+(?= tokens)", "", shown.err)
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1
    assert os.listdir(tmp_path) == []
