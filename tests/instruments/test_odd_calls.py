"""What a stranger may write: each is refused in one line that says what to write instead."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

import wdlab
from wdlab.cli import main
from wdlab.instruments import monitor
from wdlab.rules import roles

PARAMS = {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}
TX = optax.adamw(1e-3, weight_decay=0.1)
X = jnp.ones((2, 4))


def loss(params, x):
    return jnp.mean((x @ params["kernel"] + params["bias"]) ** 2)


doctor = functools.partial(wdlab.doctor, TX, PARAMS, steps=1000)
RUN = {"learning_rate": 1e-3, "weight_decay": 0.1, "width": 64}
REFUSED = {
    "a function for an optimizer": (
        lambda: wdlab.doctor(optax.adamw, PARAMS, steps=10),
        "got a function. Call it: optax.adamw(1e-3)",
    ),
    "nnx's optimizer": (
        lambda: wdlab.doctor(
            nnx.Optimizer(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), TX, wrt=nnx.Param), PARAMS, steps=10
        ),
        "got an Optimizer. Give its .tx",
    ),
    "the arguments the other way round": (
        lambda: wdlab.doctor(PARAMS, TX, steps=10),
        "expected an Optax transformation, got a dict",
    ),
    "no parameters": (lambda: wdlab.doctor(TX, {}, steps=10), "params has no array, got dict"),
    "None": (lambda: wdlab.doctor(TX, None, steps=10), "params has no array, got NoneType"),
    "a text among the parameters": (
        lambda: wdlab.doctor(TX, PARAMS | {"name": "gpt"}, steps=10),
        "'name' is a str and no array of numbers",
    ),
    "a key among the parameters": (
        lambda: wdlab.equivalent(TX, TX, PARAMS | {"rng": jax.random.key(0)}),
        "'rng' is a PRNGKeyArray and no array of numbers",
    ),
    "a mask of other parameters": (
        lambda: wdlab.doctor(optax.adamw(1e-3, mask={"kernel": True}), PARAMS, steps=10),
        "tx.init fails on these parameters: ValueError: ",
    ),
    "steps as a float": (lambda: wdlab.doctor(TX, PARAMS, steps=1e3), "steps must be a whole"),
    "no batch": (lambda: doctor(loss_fn=loss), "It was given 0 argument(s) beside params"),
    "another batch": (lambda: doctor(loss_fn=loss, batch=X.T), "loss_fn(params, *batch) cannot be"),
    "no scalar": (lambda: doctor(loss_fn=lambda p, x: x, batch=X), "must return a scalar"),
    "a learning rate as text": (lambda: doctor(lr="1e-3"), "lr must be a number or a schedule"),
    "tokens below 0": (lambda: doctor(tokens_per_step=-1), "tokens_per_step must be a number"),
    "a role that is none": (lambda: doctor(roles={"bias": "banana"}), "'banana' of 'bias' is no"),
    "a role of no leaf": (lambda: doctor(roles={"bais": "bias"}), "the nearest is 'bias'"),
    "roles as a list": (lambda: doctor(roles=["bias"]), "roles must be a dict"),
    "no optimizer to compare with": (
        lambda: wdlab.equivalent(TX, None, PARAMS),
        "equivalent: expected an Optax transformation, got a NoneType",
    ),
    "nothing to compare on": (lambda: wdlab.equivalent(TX, TX, {}), "params has no array"),
    "the loss in another place": (lambda: roles(PARAMS, loss, X), "loss_fn must be a function"),
    "groups as a list": (lambda: monitor(0.1, groups=["a"]), "Write groups='attn mlp'"),
    "a transfer to nothing": (lambda: wdlab.transfer(RUN, to=None), "to must be a TrainingRun"),
    "a transfer of a list": (lambda: wdlab.transfer([1], to={}), "run must be a TrainingRun"),
    "a transfer of nothing": (lambda: wdlab.transfer({}, to={"width": 2}), "got nothing"),
    "tokens for no step": (
        lambda: wdlab.transfer(RUN | {"batch_size": 8, "steps": 9}, to={"tokens": 3}),
        "tokens 3 are less than one step of batch_size 8",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_refused_with_what_to_write(name):
    call, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError)) as refused:
        call()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_leaves_without_entries_are_no_fault():
    params = PARAMS | {"none": jnp.ones((0, 3))}
    found = wdlab.doctor(TX, params, steps=1000)
    assert {finding.severity for finding in found.findings} <= {"note"}
    other = optax.adamw(1e-3, weight_decay=0.2)
    assert wdlab.equivalent(TX, other, {"none": jnp.ones((0, 3))})
    assert wdlab.equivalent(TX, other, params).difference.leaf == "bias"


def test_what_is_no_array_in_an_equinox_module_is_no_parameter():
    layers = [eqx.nn.Linear(3, 4, key=jax.random.key(0)), eqx.nn.Lambda(jax.nn.relu)]
    model = eqx.nn.Sequential([*layers, eqx.nn.Dropout(0.1)])
    told = {leaf for group in wdlab.doctor(TX, model, steps=1000).groups for leaf in group.leaves}
    assert told == {"layers/0/weight", "layers/0/bias"}
    assert [leaf.path for leaf in wdlab.decay_plan(TX, model).leaves] == sorted(told, reverse=True)
    assert wdlab.equivalent(TX, optax.adamw(1e-3, weight_decay=0.1), model)


def test_in_a_run_of_few_steps_no_absurd_decay_is_advised():
    for steps in (1, 300):
        told = str(wdlab.doctor(optax.adamw(3e-4), PARAMS, steps=steps))
        assert "no usual decay acts in so few steps: weight_decay=0.0" in told


def test_whole_floats_are_sizes():
    told = wdlab.transfer(RUN | {"batch_size": 1e5, "tokens": 1e9}, to={"tokens": 2e9})
    assert told.to.steps == 20_000


def test_the_commands_tell_mistakes_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd_functions.py").write_text(
        "import optax\n"
        "value = 3\n"
        "def raises(): raise RuntimeError('no data')\n"
        "def one(): return optax.adamw(1e-3)\n"
        "def asks(x): return x\n"
    )
    (tmp_path / "odd_syntax.py").write_text("def f(:\n")
    told = {
        "doctor odd_functions:raises": "odd_functions.py:3: RuntimeError: no data",
        "doctor odd_functions:one": "must give (optimizer, params)",
        "doctor odd_functions:value": "odd_functions:value must be a function, got 3",
        "doctor odd_functions:asks": "missing 1 required positional argument",
        "doctor odd_functions.py:one": "write the module as import does: odd_functions:one",
        "doctor odd_syntax:f": "invalid syntax (odd_syntax.py, line 1)",
        "transfer --learning-rate 1e-3 --weight-decay 0.1 --to width=2 width=4": "width twice",
    }
    for line, message in told.items():
        assert main([*line.split(), *(["--steps", "9"] if "doctor" in line else [])]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
