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
from examples.runs.pace import Pace
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


@pytest.mark.parametrize("updates", [1, 2])
def test_the_numbers_of_a_call_are_fetched_when_the_next_one_has_begun(
    fresh, updates, tmp_path, monkeypatch
):
    trainer, seen, fetch = fresh(updates), [], jax.device_get
    call = trainer.call
    numbers_of = {}

    def noted_call(before):
        numbers = call(before)
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
    # No call goes beyond a row; before an evaluation, after step 4 and at the end, all is read.
    expected = {
        1: "begin 1, begin 2, fetch 1, begin 3, fetch 2, begin 4, fetch 3, fetch 4, "
        "begin 5, begin 6, fetch 5, begin 7, fetch 6, begin 8, fetch 7, fetch 8",
        2: "begin 2, begin 3, fetch 2, begin 4, fetch 3, fetch 4, "
        "begin 6, begin 8, fetch 6, fetch 8",
    }
    assert ", ".join(seen) == expected[updates]


class Batches:
    """The data, with batches of tokens that there are not: nothing is finite after them."""

    def __init__(self, batches, bad):
        self.batches, self.bad = batches, bad
        self.get_state, self.set_state = batches.get_state, batches.set_state

    def __next__(self):
        number = self.get_state()["next_index"]
        batch = next(self.batches)
        return batch + 1_000 if number in self.bad else batch


@pytest.fixture(scope="module")
def fresh():
    """Trainers at the start that share their compiled programs."""
    first = trainer_of()
    state = jax.device_get(first.state)

    def make(updates=3, bad=()):
        trainer = copy.copy(first)
        trainer.config = dataclasses.replace(first.config)
        trainer.state = first.layout.settle(jax.tree.map(jnp.asarray, state))
        trainer.batches = Batches(data.batches(first.data, first.config, first.rows), bad)
        trainer.pace = Pace(updates)
        return trainer

    return make


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return (tmp_path_factory.mktemp("run") / str(i) for i in itertools.count())


@pytest.mark.slow
@settings(max_examples=12)
@given(updates=st.integers(1, 3), bad=st.sets(st.integers(0, STEPS + 4), max_size=6))
def test_calls_of_any_length_and_skipped_steps_leave_what_single_steps_leave(
    fresh, scratch, updates, bad
):
    late = train(fresh(updates, bad), next(scratch))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "_may_start", lambda self: False)
        at_once = train(fresh(1, bad), next(scratch))
    assert late[0] == at_once[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, late[1], at_once[1]))
    assert [json.loads(line)["step"] for line in late[0].splitlines()] == [0, 3, 4, 6, 8]


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 2, 3, 5])
def test_too_many_bad_steps_end_the_run_with_the_state_before_them(fresh, scratch, most, first):
    folder, trainer = next(scratch), fresh(3, range(first, 99))
    object.__setattr__(trainer.config, "max_skipped_steps", most)
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
