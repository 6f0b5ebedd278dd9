"""The command line: what it prints is what the objects say, and a mistake is one line."""

import importlib.metadata
import subprocess
import sys

import pytest

from wdlab import conventions
from wdlab.cli import main
from wdlab.conventions import recipes

PROFILE = "profile --weight-decay 0.1 --learning-rate 6e-4 --steps 50000 --coupling lr"
CONVERT = "convert 0.1 --learning-rate 6e-4 --from torch.AdamW --to"


@pytest.fixture
def run(capsys):
    """Status, output and errors of a line."""

    def run(line):
        try:
            status = main(line.split())
        except SystemExit as stopped:
            status = stopped.code
        return (status, *capsys.readouterr())

    return run


def test_the_profile_follows_the_schedule(run):
    status, out, err = run(PROFILE)
    assert (status, err) == (0, "")
    assert "6e-05" in out
    assert "11,552.1 steps" in out
    assert run(PROFILE.replace("50000", "5e4"))[1] == out
    cosine = f"{PROFILE} --schedule cosine --warmup-steps 2000 --end-learning-rate 6e-5"
    assert run(cosine)[1] != out


def test_a_conversion_begins_with_the_number(run):
    status, out, err = run(f"{CONVERT} composer.DecoupledAdamW")
    assert (status, err) == (0, "")
    assert out.splitlines()[0] == "6e-05"
    for name in ("torch.AdamW", "composer.DecoupledAdamW"):
        assert conventions.get(name).equation in out


def test_flags_have_hyphens_or_underscores(run):
    line = "convert 0.1 --learning-rate=6e-4 --from torch.AdamW --to tfa.AdamW"
    assert run(line) == run(line.replace("learning-rate", "learning_rate"))


@pytest.mark.parametrize("name", ["t5x.Adafactor", "T5X.adafactor"])
def test_one_convention_is_its_text(run, name):
    convention = conventions.get("t5x.Adafactor")
    assert run(f"conventions {name}")[1] == f"{convention}\n"
    for text in (convention.equation, convention.version, convention.source, *convention.traps):
        assert text in str(convention)


def test_one_recipe_is_its_text_and_its_number_elsewhere(run):
    recipe = recipes.get("LLaMA 7B")
    assert run("recipes llama 7b")[1] == f"{recipe}\n"
    out = run("recipes nanogpt --to big_vision.adam")[1]
    assert out == f"{recipes.get('nanoGPT')}\nin big_vision.adam  6e-05\n"
    assert "eps            not stated" in str(recipe)


@pytest.mark.parametrize("command", ["conventions", "recipes"])
def test_without_a_name_every_row_is_shown(run, command):
    _, out, _ = run(command)
    known = conventions.names() if command == "conventions" else recipes.names()
    assert all(name in out for name in known)


@pytest.mark.parametrize(
    ("line", "shown", "hidden"),
    [
        ("recipes llama", ["LLaMA 7B", "LLaMA 2 7B"], "PaLM"),
        ("recipes gpt --to torch.SGD", ["GPT-3 175B", "nanoGPT", "in torch.SGD"], "PaLM"),
        ("conventions LION", ["optax.lion", "keras.Lion"], "torch.AdamW"),
    ],
)
def test_a_part_of_a_name_lists_all_that_have_it(run, line, shown, hidden):
    status, out, _ = run(line)
    assert status == 0
    assert all(name in out for name in shown)
    assert hidden not in out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (PROFILE.replace("coupling lr", "coupling l2"), "depends on the gradients"),
        (PROFILE.replace("0.1", "-0.1"), "--weight-decay must be"),
        (PROFILE.replace("0.1", "nan"), "--weight-decay must be"),
        (PROFILE.replace("6e-4", "nan"), "--learning-rate must be"),
        (PROFILE.replace("0.1", "1e308").replace("6e-4", "1e308"), "beyond the largest float"),
        (PROFILE.replace("0.1", "much"), "invalid float value"),
        (PROFILE.replace("50000", "0"), "--steps must be"),
        (PROFILE.replace("50000", "1.5"), "write a whole number"),
        (PROFILE.replace("50000", str(10**12)), "steps, not tokens"),
        (PROFILE.replace("50000", str(10**400)), "write a whole number"),
        (PROFILE.replace("50000", "9" * 5000), "write a whole number"),
        (f"{PROFILE} --schedule cosine --end-learning-rate 1", "--end-learning-rate must"),
        (f"{PROFILE} --end-learning-rate 1e-5", "a constant schedule has no end"),
        (f"{PROFILE} --schedule cosine --warmup-steps 1e15", "--steps must be"),
        (PROFILE.replace("--steps", "--step"), "required: --steps"),
        (f"{CONVERT} torch.Adam", "no number is equal"),
        (f"{CONVERT} torch.Adamw", "nearest is 'torch.AdamW'"),
        (f"{CONVERT.replace('6e-4', '0')} torch.AdamW", "learning_rate"),
        (f"{CONVERT.replace('6e-4', '1e-320').replace('torch', 'tfa')} torch.AdamW", "no float"),
        ("conventions torch.Adamww", "nearest is 'torch.AdamW'"),
        ("recipes lamma", "nearest is 'LLaMA 7B'"),
        ("recipes T5 --to torch.AdamW", "does not state"),
        ("recipes --to torch.Adamww", "nearest is 'torch.AdamW'"),
        ("", "required: COMMAND"),
        ("profit", "invalid choice"),
    ],
)
def test_a_mistake_is_one_line(run, line, message):
    status, out, err = run(line)
    assert (status, out) == (2, "")
    assert err.startswith("wdlab")
    assert message in err
    assert err.count("\n") == 1
    assert len(err) < 1000


def test_the_version_is_that_of_the_package(run):
    status, out, _ = run("--version")
    assert (status, out) == (0, f"wdlab {importlib.metadata.version('wdlab')}\n")


def test_a_reader_that_has_enough_is_no_error():
    command = f"{sys.executable} -m wdlab.cli conventions | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stdout.startswith("convention ")
    assert done.stderr == ""


def test_stopped_by_the_keyboard(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(conventions, "names", stop)
    assert run("conventions") == (130, "", "wdlab: stopped.\n")
