"""Idle time between programs, on executions that are written down."""

from examples.benchmarks.idle import Execution, after_warm_up, rows

RAN = [
    Execution("train_steps", 0, 1, 5),
    Execution("train_steps", 6, 7, 9),  # called after the first had ended
    Execution("evaluate", 8, 9, 10),  # queued, and no gap
    Execution("train_steps", 9, 14, 16),  # queued, but the runtime took 4 ms
]


def test_a_gap_is_told_with_whether_the_next_program_had_been_called():
    assert rows(RAN) == [
        ["evaluate, train_steps", "1", "1", "1.00", "4.00", "4.00"],
        ["train_steps, train_steps", "1", "0", "4.00", "2.00", "2.00"],
        ["train_steps, evaluate", "1", "1", "2.00", "0.00", "0.00"],
        ["idle in all: 40.0%", "", "", "", "", ""],
    ]


def test_what_comes_before_the_middle_call_is_warm_up():
    assert after_warm_up(RAN) == RAN[1:]
