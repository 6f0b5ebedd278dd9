"""The GPU's benchmark without a GPU: its rows at tiny sizes, and what it says of failures."""

import json
import subprocess

import pytest

from examples.benchmarks import gpu, gpu_parts
from examples.benchmarks.rows import ROWS


def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert gpu.main([]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--device cpu" in error


def test_an_unknown_part_is_told_in_one_line(capsys):
    assert gpu.main(["--only=adam"]) == 1
    assert "one of optimizer, muon, gpt, resnet, sweep" in capsys.readouterr().err


def test_a_part_that_fails_leaves_its_reason_and_the_others_their_rows(
    tmp_path, monkeypatch, capsys
):
    rows = {"rows": [{"part": "muon", "what": "muon", "program": "wdlab", "value": 2.0}]}
    monkeypatch.setattr(gpu, "card", lambda device: "a card")
    monkeypatch.setattr(gpu, "LIMITS", {"nothing": 60, "muon": 60})
    failed = subprocess.CompletedProcess(
        [], 1, "", "Traceback ...\nKeyError: 'nothing'\nfor more\n"
    )
    monkeypatch.setattr(gpu.subprocess, "run", lambda *args, **kwargs: failed)
    monkeypatch.setattr(gpu, "commit", str)
    real = gpu.run_part
    monkeypatch.setattr(gpu, "run_part", lambda n, *a: rows if n == "muon" else real(n, *a))
    assert gpu.main(["--device=cpu", f"--out={tmp_path / 'x' / 'gpu.json'}"]) == 0
    found = json.loads((tmp_path / "x" / "gpu.json").read_text())
    assert found["card"] == "a card"
    assert found["parts"]["muon"] == rows
    assert found["parts"]["nothing"]["rows"][0]["remark"] == "KeyError: 'nothing'"
    assert "a card" in capsys.readouterr().out


def test_a_part_that_takes_too_long_is_stopped():
    [row] = gpu.run_part("sweep", "cpu", 0.1)["rows"]
    assert row["remark"] == "stopped after 0 s"


def test_rows_of_optimizers_are_ratios_to_ours():
    rows = gpu_parts.steps("optimizer", ROWS[:1], gpu_parts.TINY, "cpu")
    assert [row["program"] for row in rows][:2] == ["wdlab", "Optax"]
    assert rows[0][gpu_parts.COMPARED] == 1.0
    assert rows[1][gpu_parts.COMPARED] == pytest.approx(rows[1]["value"] / rows[0]["value"])


def test_a_sweep_counts_runs():
    together, alone = gpu_parts.sweep(gpu_parts.TINY, "cpu")
    assert together["unit"] == alone["unit"] == "runs/s"
    assert alone[gpu_parts.COMPARED] == pytest.approx(together["value"] / alone["value"])
