"""The training step compiled for TPUs that are not here."""

import importlib.util
import os
import re

import pytest
from jax.experimental import topologies

from examples.gpt import compile_tpu
from examples.runs.layout import Layout
from examples.runs.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("tpu_compiler")
SMALL = ["--n_layer=1", "--n_head=2", "--n_embd=128", "--block_size=128", "--ema_coef=0"]


def test_the_batch_is_shared_by_all_chips_and_the_step_stays_as_large():
    config = compile_tpu.settings("gpt2_xl", [], 16)
    assert (config.dtype, config.mesh_fsdp) == ("bfloat16", 16)
    assert (config.batch_size, config.gradient_accumulation_steps) == (16, 16)
    config = compile_tpu.settings("gpt2_xl", ["--mesh_data=4", "--dtype=float32"], 64)
    assert (config.dtype, config.mesh_fsdp) == ("float32", 16)
    assert (config.batch_size, config.gradient_accumulation_steps) == (64, 4)
    config = compile_tpu.settings("gpt2_xl", ["--batch_size", "256"], 256)
    assert (config.batch_size, config.gradient_accumulation_steps) == (256, 16)


def test_advice_says_what_is_left_to_do():
    config = compile_tpu.settings("train_gpt2_small", ["--mesh_fsdp=2", "--batch_size=16"], 4)
    advice = "\n".join(compile_tpu.advice(config, Layout(make_mesh(2, 2))))
    for flag in (
        "--mesh_fsdp 4",
        "--remat dots",
        "--remat full",
        "--batch_size 4 --gradient_accumulation_steps 64",
    ):
        assert flag in advice


@pytest.mark.parametrize("topology", ["v5e", "v9:2x2", "v5e:0x4", "v5e:4x", "v5p:99x99x99"])
def test_a_slice_of_no_kind_is_refused(topology, capsys):
    assert compile_tpu.main(["--topology", topology, "--config", "gpt2_xl"]) == 1
    error = capsys.readouterr().err
    assert f"--topology '{topology}': write the kind (v4, v5e, v5p, v6e)" in error
    assert error.count("\n") == 1


def test_what_libtpu_says_of_a_slice_is_told_in_one_line(monkeypatch, capsys):
    def refuse(*_, **__):
        raise RuntimeError("INVALID_ARGUMENT: no such slice\nand a long account")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_dump_to=x")
    assert compile_tpu.main(["--topology", "v5e:3x3", "--config", "gpt2_xl"]) == 1
    error = capsys.readouterr().err
    assert "'v5e:3x3': INVALID_ARGUMENT: no such slice; if this is a slice, install" in error
    assert error.count("\n") == 1
    assert os.environ["XLA_FLAGS"] == "--xla_dump_to=x"  # Libtpu would end the process.


def test_without_the_compiler_the_error_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert compile_tpu.main(["--topology", "v5e:2x2", "--config", "gpt2_xl"]) == 1
    assert 'pip install "jax[tpu]"' in capsys.readouterr().err


def test_a_small_model_is_compiled_and_reported(capsys):
    pytest.importorskip("libtpu")
    arguments = ["--topology", "v5e:2x2", "--config", "tiny", *SMALL]
    assert compile_tpu.main(arguments) == 0
    shown = capsys.readouterr().out
    assert re.search(r"memory of a chip: 0\.\d+ of 16 GiB", shown)
    assert re.search(r"all-(gather|reduce): [\d,]+ x", shown)
    assert re.search(r"at most [\d,]+ tokens/s", shown)
