"""The loop of a run: numbers are read one call late, and nothing else is different for it."""

import copy
import dataclasses
import itertools
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.gpt import data
from examples.gpt.flags import parse
from examples.gpt.start_from import Start
from examples.gpt.trainer import Trainer
from examples.runs.display import Display
from examples.runs.errors import UserError
from examples.runs.records import read
from examples.runs.run import Run
from examples.runs.stop import StopRequest
from tests.examples.gpt.small_runs import SMALL
from wdlab.training import Checkpoints

STEPS = 8
FLAGS = [*SMALL, f"--max_iters={STEPS}", "--eval_interval=4", "--log_interval=3"]


def trainer_of(*flags):
    return Trainer(Start(parse([*FLAGS, *flags])[1]))


def train(trainer, folder):
    """The rows, and the bits at the end."""
    folder.mkdir(parents=True)
    trainer.folder, trainer.display = folder, Display(0, STEPS, 1)
    trainer.stop, trainer.records = StopRequest(), trainer.open_records()
    with Checkpoints(folder / "checkpoints") as trainer.checkpoints:
        try:
            trainer.train()
        finally:
            trainer.records.close()
    return (folder / "metrics.jsonl").read_text(), jax.device_get(trainer.state)


def test_the_numbers_of_a_step_are_fetched_when_the_next_one_has_begun(tmp_path, monkeypatch):
    trainer, seen, fetch = trainer_of(), [], jax.device_get
    call = trainer.call
    numbers_of = {}

    def noted_call():
        numbers = call()
        numbers_of[id(numbers)] = trainer.begun
        seen.append(f"begin {trainer.begun}")
        return numbers

    def noted_fetch(tree):
        if isinstance(tree, tuple) and id(tree[0]) in numbers_of:
            seen.append(f"fetch {numbers_of[id(tree[0])]}")
        return fetch(tree)

    trainer.call = noted_call
    monkeypatch.setattr(jax, "device_get", noted_fetch)
    train(trainer, tmp_path / "run")
    # Before an evaluation, after step 4 and at the end, all is read.
    assert seen == [
        *("begin 1", "begin 2", "fetch 1", "begin 3", "fetch 2", "begin 4", "fetch 3", "fetch 4"),
        *("begin 5", "begin 6", "fetch 5", "begin 7", "fetch 6", "begin 8", "fetch 7", "fetch 8"),
    ]


def with_bad_steps(trainer, bad):
    """The same, with tries in which nothing is finite."""
    step, tries, in_a_row = trainer.train_step, itertools.count(), itertools.count(1)

    def train_step(carry, batch):
        nonlocal in_a_row
        if next(tries) not in bad:
            in_a_row = itertools.count(1)
            return step(carry, batch)
        numbers = {"loss": np.nan, "grad_norm": np.inf, "in_a_row": next(in_a_row)}
        return carry, numbers | {"learning_rate": np.float32(0)}

    trainer.train_step = train_step
    return trainer


@pytest.fixture(scope="module")
def fresh():
    """Trainers at the start that share their compiled programs."""
    first = trainer_of()
    state = jax.device_get(first.state)

    def make(bad=()):
        trainer = copy.copy(first)
        trainer.config = dataclasses.replace(first.config)
        trainer.state = first.layout.settle(jax.tree.map(jnp.asarray, state))
        trainer.batches = data.batches(first.data, first.config, first.rows)
        return with_bad_steps(trainer, bad)

    return make


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return (tmp_path_factory.mktemp("run") / str(i) for i in itertools.count())


@settings(max_examples=12)
@given(bad=st.sets(st.integers(0, STEPS + 4), max_size=6))
def test_steps_that_are_skipped_leave_rows_and_state_as_if_each_was_read_at_once(
    fresh, scratch, bad
):
    late = train(fresh(bad), next(scratch))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_may_start", lambda self: False)
        at_once = train(fresh(bad), next(scratch))
    assert late[0] == at_once[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, late[1], at_once[1]))
    assert [json.loads(line)["step"] for line in late[0].splitlines()] == [0, 3, 4, 6, 8]


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 2, 3, 5])
def test_too_many_bad_steps_end_the_run_with_the_state_before_them(fresh, scratch, most, first):
    folder, trainer = next(scratch), fresh(range(first, 99))
    object.__setattr__(trainer.config, "max_skipped_steps", most)
    trainer.steady = most > 1
    message = f"step {first + 1} has loss nan .* the last of {most} tries .* as step {first} in"
    with pytest.raises(UserError, match=message):
        train(trainer, folder)
    assert int(trainer.state.step) == trainer.step == first
    assert max(row["step"] for row in read(folder / "metrics.jsonl")) <= first
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        saved = checkpoints.restore(fresh().state)
    assert saved.step == first
    assert saved.record["iterator"]["next_index"] == first + most


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 0), ("SIGHUP", 0), ("SIGINT", 130)])
def test_a_signal_is_heard_by_its_name(number, code):
    sent = getattr(signal, number)
    before = signal.signal(sent, signal.SIG_DFL)  # Under nohup SIGHUP is ignored.
    try:
        with StopRequest() as stop:
            assert not stop.requested
            os.kill(os.getpid(), sent)
            assert stop.heard
            assert (stop.requested, stop.name, stop.exit_code) == (True, number, code)
            assert stop.ask() == sent
    finally:
        signal.signal(sent, before)


def test_what_nohup_lets_stay_stays():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)
