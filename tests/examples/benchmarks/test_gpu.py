"""The GPU's benchmark without a GPU: its rows at tiny sizes, and what it says of failures."""

import json
import time

import pytest

from examples.benchmarks import gpu, gpu_parts
from examples.benchmarks.rows import ROWS

ROW = {"part": "muon", "what": "muon", "program": "wdlab", "value": 2.0, "unit": "ms"}
HERE = gpu_parts.Place("jax", "cpu", "cpu")


@pytest.fixture
def played(tmp_path, monkeypatch):
    """Plays a process of a part by a shell's commands."""

    def play(commands: str) -> None:
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{commands}\n")
        program.chmod(0o700)
        monkeypatch.setattr(gpu.sys, "executable", str(program))

    return play


def test_without_a_gpu_it_says_so_in_one_line(capsys):
    assert gpu.main([]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--device cpu" in error


def test_an_unknown_part_is_told_in_one_line(capsys):
    assert gpu.main(["--only=adam"]) == 1
    assert "one of optimizer, muon, sweep, resnet, gpt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("end", "remark"),
    [
        ("echo 'KeyError: 1' >&2; echo for more >&2; exit 1", "KeyError: 1"),
        ("kill -9 $$", "ended with code -9 (killed)"),
        ("sleep 60 & sleep 60", "stopped after 1 s"),
    ],
)
def test_what_was_written_before_an_end_is_kept_and_its_reason_told(played, end, remark):
    played(f"echo '{json.dumps(ROW)}'; echo a warning; printf '{{\"cut\": '; {end}")
    started = time.monotonic()
    assert gpu.run_side("muon", "jax", "cpu", "a card", 1.0) == [
        ROW,
        {"part": "muon", "program": "jax", "what": "not measured", "remark": remark},
    ]
    assert time.monotonic() - started < 10  # Nor does a helper that outlives it keep us.


def test_a_side_that_fails_leaves_the_others_their_rows_in_the_file(tmp_path, monkeypatch, capsys):
    out, seen = tmp_path / "x" / "gpu.json", []

    def run_side(part, side, device, name, limit):
        if seen:
            seen.append(json.loads(out.read_text())["rows"])
        seen.append(limit)
        return [ROW if side == "jax" else ROW | {"program": "torch", "value": 3.0}]

    monkeypatch.setattr(gpu, "card", lambda device: "a card")
    monkeypatch.setattr(gpu, "commit", str)
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: name in ("jax", "torch"))
    monkeypatch.setattr(gpu, "versions", dict)
    monkeypatch.setattr(gpu, "run_side", run_side)
    assert gpu.main(["--only=muon", f"--out={out}"]) == 0
    first, rows, second = seen
    assert rows == [ROW | {gpu.COMPARED: 1.0}]  # Written before the next one begins.
    assert second <= first <= sum(gpu.LIMITS.values()) < 8 * 60
    found = json.loads(out.read_text())
    assert found["card"] == "a card"
    assert found["rows"][1][gpu.COMPARED] == 1.5
    assert "a card" in capsys.readouterr().out


def test_a_program_that_fails_leaves_its_reason():
    def measure():
        raise MemoryError("out of memory\nlong account")

    row = gpu_parts.guarded("gpt", "GPT-2 small", "torch", measure)
    assert row["remark"] == "not measured: MemoryError: out of memory"


def test_rows_of_optimizers_are_of_one_step():
    rows = list(gpu_parts.steps("optimizer", ROWS[:1], gpu_parts.TINY, HERE))
    assert [row["program"] for row in rows] == ["wdlab", "Optax"]
    assert all(row["unit"] == "ms" and row["value"] > 0 for row in rows)


@pytest.mark.parametrize("side", ["jax", "torch"])
@pytest.mark.parametrize("part", ["gpt", "resnet"])
def test_a_training_s_programs_are_timed_one_after_another(part, side, monkeypatch):
    module = {"gpt": gpu_parts.training_gpt, "resnet": gpu_parts.training_resnet}[part]

    def fails():
        raise RuntimeError("no compiler")

    programs = {"torch.compile": fails, "torch": lambda: None}
    monkeypatch.setattr(module, "ours", lambda *_: lambda: None)
    monkeypatch.setattr(module, "torch_programs", lambda *_: programs)
    place = gpu_parts.Place(side, "cuda", "NVIDIA H200")
    rows = list(gpu_parts.PARTS[part](gpu_parts.TINY, place))
    assert [row["program"] for row in rows] == (["wdlab"] if side == "jax" else [*programs])
    assert rows[-1]["unit"] == {"gpt": "tokens/s", "resnet": "images/s"}[part]
    if side == "torch":
        assert rows[0]["remark"] == "not measured: RuntimeError: no compiler"
    if part == "gpt":
        assert rows[-1]["remark"].endswith("% of the card's peak")


def test_a_sweep_counts_runs():
    together, alone = gpu.compared(list(gpu_parts.sweep(gpu_parts.TINY, HERE)))
    assert together["unit"] == alone["unit"] == "runs/s"
    assert alone[gpu.COMPARED] == pytest.approx(together["value"] / alone["value"])
