"""Traps and conversions in the real packages: what an undriven weight loses, and how."""

import numpy as np
import pytest

pytest.importorskip("torch")

from tests.oracles import run_optax, run_torch  # noqa: E402
from tests.oracles.trajectories import learning_rates  # noqa: E402
from wdlab.conventions import convert  # noqa: E402

pytestmark = pytest.mark.oracle

PEAK, STEPS, DECAY = 6e-3, 1000, 0.1
# Real packages whose decay follows the schedule, and their arguments.
FOLLOWING = {
    "torch.AdamW": {},
    "torch.SGD": {},
    "torch.Adafactor": {},
    "keras.AdamW": {},
    "keras.SGD": {},
    "keras.Adafactor": {},
    "keras.Lion": {},
    "optax.adamw": {},
    "optax.lion": {},
    "lion_pytorch.Lion": {},
}


def left_of_one(name, weight_decay, rates, **arguments):
    """What an undriven weight of 1 is after the run, in the real package."""
    key = "weight_decay_rate" if name == "optax.adafactor" else "weight_decay"
    params = {"matrix": np.ones((2, 2))}
    grads = [{"matrix": np.zeros((2, 2))}] * len(rates)
    if name.startswith("keras"):
        pytest.importorskip("keras")
        from tests.oracles import run_keras

        run = run_keras.run
    else:
        run = run_optax.run if name.startswith("optax") else run_torch.run
    after = run(name, {key: weight_decay, **arguments}, params, grads, rates, np.float64)
    return float(after[-1]["matrix"][0, 0])


def rates():
    return learning_rates(STEPS, peak=PEAK, warmup=100)


@pytest.mark.parametrize("name", FOLLOWING)
def test_converted_decays_shrink_alike_over_1000_steps_of_the_real_packages(name):
    decay = convert(DECAY, learning_rate=PEAK, source="torch.AdamW", target=name)
    expected = np.prod(1 - DECAY * rates())
    np.testing.assert_allclose(left_of_one(name, decay, rates()), expected, rtol=1e-10)


def test_schedule_only_decay_converts_to_lion_pytorch_and_optax_adafactor():
    shrink = np.prod(1 - 6e-4 * rates() / PEAK)
    decoupled = {"decoupled_weight_decay": True}
    sides = {"learning_rate": PEAK, "source": "torch.AdamW"}
    decay = convert(DECAY, target="lion_pytorch.Lion", target_arguments=decoupled, **sides)
    assert decay == 6e-4
    found = left_of_one("lion_pytorch.Lion", decay, rates(), **decoupled)
    np.testing.assert_allclose(found, shrink, rtol=1e-10)
    decay = convert(DECAY, target="optax.adafactor", **sides)
    found = left_of_one("optax.adafactor", decay, np.full(STEPS, PEAK))
    np.testing.assert_allclose(found, (1 - 6e-4) ** STEPS, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "arguments", "left"),
    [
        ("torch.SGD", {"momentum": 0.9}, None),  # Amplified: more than lr * lambda is lost.
        ("torch.Adam", {}, None),  # L2 alone is the whole gradient: steps of lr.
        ("optax.adafactor", {}, 0.9),  # Neither rate nor schedule.
        ("optax.lamb", {}, 1 - 0.5),  # The trust ratio divides the decay out.
        ("keras.SGD", {}, 1 - 0.5 * 0.1),  # Decoupled, though the class is called SGD.
        ("torch.AdamW", {}, 1 - 0.5 * 0.1),
        ("transformers.Adafactor", {"relative_step": False}, 1 - 0.5 * 0.1 * 2.0),  # Times RMS.
    ],
)
def test_traps_are_still_there(name, arguments, left):
    """One step at rate 0.5 with decay 0.1, of weights of 2."""
    params, grads = {"matrix": np.full((2, 2), 2.0)}, [{"matrix": np.zeros((2, 2))}]
    key = "weight_decay_rate" if name == "optax.adafactor" else "weight_decay"
    run = run_torch.run
    if name.startswith("keras"):
        pytest.importorskip("keras")
        from tests.oracles import run_keras

        run = run_keras.run
    if name.startswith("optax"):
        run = run_optax.run
    steps = 1 if left is not None else 20
    after = run(name, {key: 0.1, **arguments}, params, grads * steps, [0.5] * steps, np.float64)
    found = float(after[-1]["matrix"][0, 0]) / 2.0
    if left is None:
        assert not np.isclose(found, (1 - 0.05) ** steps, rtol=1e-3)
    else:
        np.testing.assert_allclose(found, left, rtol=1e-12)


def test_pytorch_optimizer_has_both_meanings_under_one_flag():
    """``fixed_decay`` there is TensorFlow Addons' constant decay, its default torch's."""
    pytest.importorskip("pytorch_optimizer")
    args = {"weight_decay": 0.1, "weight_decouple": True}
    params, grads = {"matrix": np.ones((2, 2))}, [{"matrix": np.zeros((2, 2))}]
    for fixed, left in ((False, 1 - 0.5 * 0.1), (True, 1 - 0.1)):
        arguments = {**args, "fixed_decay": fixed}
        after = run_torch.run(
            "pytorch_optimizer.AdamC", arguments, params, grads, [0.5], np.float64
        )
        np.testing.assert_allclose(after[0]["matrix"], left, rtol=1e-12)
