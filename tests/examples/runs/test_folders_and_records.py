"""Which folder a run means, and that no good row of its records is lost."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.gpt.corpora import main as corpora
from examples.gpt.train import main as gpt
from examples.resnet.train import main as resnet
from examples.runs import run_dir
from examples.runs.errors import UserError
from examples.runs.records import Records, read

JUNK = [b"{", b"\xff\xfe", b'{"step": "x"}', b"[1]", b"3", b'{"loss": 1.0}', b'{"step": -1}']
JUNK += [b'{"step": true}', b'{"step": 1.5}', b"null", b"[" * 5_000]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def row(step):
    return {"step": step, "loss": step / 3}


def write(folder, lines):
    (folder / "metrics.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return (tmp_path_factory.mktemp("run") for _ in iter(int, 1))


@given(
    st.lists(st.one_of(st.integers(0, 9), st.sampled_from(JUNK)), max_size=8),
    st.integers(-1, 9),
    st.sampled_from([b"", b'{"st', b'{"step": 4}']),
)
def test_no_good_row_is_lost(folders, lines, step, end):
    folder = next(folders)
    given = [line if isinstance(line, bytes) else json.dumps(row(line)).encode() for line in lines]
    write(folder, given)
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(end)
    before = (folder / "metrics.jsonl").read_bytes()
    good = {line for line in lines if isinstance(line, int)} | (
        {4} if end.endswith(b"}") else set()
    )
    records = Records(folder / "metrics.jsonl", step)
    records.append(row(10))
    records.close()
    assert [r["step"] for r in read(folder / "metrics.jsonl")] == [
        *sorted(s for s in good if s <= step),
        10,
    ]
    aside = set(files(folder)) - {"metrics.jsonl"}
    assert bool(aside) == (
        any(isinstance(line, bytes) for line in lines) or (step < 0 and bool(good))
    )
    assert [(folder / name).read_bytes() for name in aside] == [before] * len(aside)
    assert len(records.notes) == len(aside)
    assert all("\n" not in note and aside <= set(note.split()) for note in records.notes)


def test_an_older_file_that_was_kept_stays(tmp_path):
    for i in range(3):
        write(tmp_path, [json.dumps(row(i)).encode()])
        Records(tmp_path / "metrics.jsonl", -1).close()
    assert files(tmp_path) == [
        "metrics-1.jsonl",
        "metrics-2.jsonl",
        "metrics-3.jsonl",
        "metrics.jsonl",
    ]
    assert read(tmp_path / "metrics-2.jsonl") == [row(1)]


def test_a_file_that_cannot_be_written_is_named_and_what_to_do(tmp_path):
    records = Records(tmp_path / "metrics.jsonl", -1)
    named = pytest.raises(UserError, match="metrics.jsonl cannot be written: No space left .*me")
    with contextlib.suppress(OSError), open("/dev/full", "a") as records._file, named:
        records.append(row(0))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written: Is a directory"):
        Records(tmp_path / "folder", -1)


# --- Folders.


def made(program, name, of=None):
    folder = run_dir.choose(program, name, "", resume=False)
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"program": program, "name": of or name}))
    return str(folder)


def test_each_program_and_each_name_has_folders_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [made(*run) for run in (("gpt", "tiny"), ("resnet", "tiny"), ("gpt", "tiny"))] == [
        "out/gpt/tiny", "out/resnet/tiny", "out/gpt/tiny-2",
    ]  # fmt: skip
    assert made("gpt", "tiny-3") == "out/gpt/tiny-3"  # Another name, where the next would go.
    resumed = {
        p: str(run_dir.choose(p, "tiny", "", resume=True)) for p in ("gpt", "resnet", "flow")
    }
    assert resumed == {p: f"out/{p}/tiny" for p in ("resnet", "flow")} | {"gpt": "out/gpt/tiny-2"}
    assert made("gpt", "tiny") == "out/gpt/tiny-4"
    with pytest.raises(UserError, match="--out_dir out/gpt/tiny holds a run of gpt, not of resnet"):
        run_dir.choose("resnet", "tiny", "out/gpt/tiny", resume=True)


@pytest.mark.parametrize("name", ["../..", "..", ".", "a/b", "/tmp/x", "a\\b", "a\nb", "\x1b[2J"])
@pytest.mark.parametrize(
    "command",
    [
        lambda name: gpt(["tiny", f"--wandb_run_name={name}"]),
        lambda name: gpt(["tiny", f"--wandb_run_name={name}", "--out_dir=models"]),
        lambda name: resnet(["tiny", f"--exp_name={name}"]),
        lambda name: corpora(["prepare", __file__, f"--name={name}"]),
    ],
    ids=["gpt", "gpt in a folder", "resnet", "data"],
)
def test_a_name_does_not_lead_out_of_its_folder(command, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(name) == 1
    error = capsys.readouterr().err
    assert "must be the name of a folder" in error
    assert error.count("\n") == 1
    assert files(tmp_path) == []


TINY = {"gpt": (gpt, ["tiny"]), "resnet": (resnet, ["tiny", "--model=linear", "--no_batch_norm"])}
SIZES = [
    (
        "gpt",
        "--max_iters=1000000000000",
        "--max_iters must be at most 2147483647, got 1000000000000",
    ),
    ("gpt", "--max_iters=1" + 400 * "0", "at most 2147483647, got 10000000000000000000..."),
    ("gpt", "--max_iters=1" + 5000 * "0", "Error parsing --max_iters"),
    ("gpt", "--random_seed=99999999999", "--random_seed must be at most 2147483647"),
    ("gpt", "--n_embd=1e9", "Error parsing --n_embd"),
    ("gpt", "--n_embd=900000000", "needs at least"),
    ("gpt", "--n_layer=1000000000", "needs at least"),
    ("gpt", "--batch_size=1000000000", "needs at least"),
    ("gpt", "--gradient_accumulation_steps=2000000000", "needs at least"),
    ("gpt", "--eval_examples=2000000000", "needs at least"),
    ("gpt", "--sample_tokens=9999999", "--sample_tokens must be from 0 to 1000000"),
    ("gpt", "--learning_rate=1e400", "--learning_rate must be positive and finite"),
    ("resnet", "--epochs=1000000000000", "--epochs must be at most 2147483647"),
    ("resnet", "--epochs=2000000000", "steps are too many: 2147483647 can be counted"),
    ("resnet", "--width=100000000 --model=vgg16", "needs at least"),
]


@pytest.mark.parametrize(("program", "flags", "message"), SIZES)
def test_a_size_that_cannot_be_is_one_line_before_anything_is_made(
    program, flags, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    command, tiny = TINY[program]
    assert command([*tiny, *flags.split()]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert len(error) < 500
    assert files(tmp_path) == []
