"""Every convention whose package installs, live: the same arguments to it and to ``build``."""

import importlib
import inspect
import operator
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("torch")
os.environ.setdefault("KERAS_BACKEND", "jax")

from tests.conventions.lists import LIVE
from tests.oracles import package_variants, run_optax, run_torch, run_wdlab
from tests.oracles.compare import BOUNDS, DTYPES, deviation
from tests.oracles.trajectories import PEAK_LEARNING_RATE
from wdlab import conventions  # noqa: E402
from wdlab.conventions import REQUIRED  # noqa: E402
from wdlab.optimizers import assemble  # noqa: E402
from wdlab.preconditioners import scale_by_adam  # noqa: E402
from wdlab.rules import ALL  # noqa: E402

pytestmark = pytest.mark.oracle

# In place of an estimate of the Hessian's diagonal, which needs a loss.
SQUARES = optax.stateless(lambda grads, _: jax.tree.map(jnp.square, grads))
# Key, then arguments beside the defaults, with which it is compared as well.
VARIANTS = {
    "torch.SGD": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True, "maximize": True},
        {"momentum": 1.0, "dampening": 1.2},
        {"momentum": 1.01, "dampening": -0.5},
    ],
    "torch.Adam": [
        {},
        {"decoupled_weight_decay": True, "betas": (0.5, 0.95), "eps": 1e-3},
        {"amsgrad": True, "maximize": True},
    ],
    "torch.AdamW": [{}, {"betas": (0.8, 0.95), "eps": 1e-6, "amsgrad": True}],
    "torch.NAdam": [{}, {"decoupled_weight_decay": True, "momentum_decay": 0.1}],
    "torch.RAdam": [{}, {"decoupled_weight_decay": True, "betas": (0.9, 0.99)}],
    "torch.Adafactor": [{}, {"eps": (1e-6, 0.5), "d": 1.5, "beta2_decay": -0.5}],
    "torch.Adamax": [{}, {"betas": (0.7, 0.99), "eps": 1e-3}],
    "torch.Adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.1}],
    "torch.RMSprop": [{}, {"momentum": 1.0, "alpha": 1.0}, {"centered": True, "alpha": 0.9}],
    "torch.Adadelta": [{}, {"rho": 0.5, "eps": 1e-3, "maximize": True}],
    "torch.ASGD": [{}, {"lambd": 0.3, "alpha": 0.5, "t0": 7, "maximize": True}],
    "torch.Rprop": [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1), "maximize": True}],
    "optax.adamw": [{}, {"nesterov": True, "eps_root": 1e-6, "b2": 0.95}],
    "optax.adafactor": [
        {},
        {"min_dim_size_to_factor": 3, "momentum": 0.9, "clipping_threshold": 0.5},
        {"multiply_by_parameter_scale": False, "clipping_threshold": None},
        {"factored": False, "multiply_by_parameter_scale": False, "decay_rate": 0.5},
    ],
    "optax.lion": [{}, {"b1": 0.5, "b2": 0.8}],
    "optax.contrib.sophia": [
        {"hessian_diagonal_fn": SQUARES},
        {"hessian_diagonal_fn": SQUARES, "update_interval": 3, "clip_threshold": 0.5, "gamma": 2.0},
    ],
    "optax.lamb": [{}, {"b2": 0.95, "eps": 1e-3}],
    "keras.AdamW": [{}, {"amsgrad": True, "beta_2": 0.95, "epsilon": 1e-4}, {"clipnorm": 0.3}],
    "keras.SGD": [
        {},
        {"momentum": 0.9, "global_clipnorm": 0.3},
        {"momentum": 0.9, "nesterov": True},
    ],
    "keras.Adafactor": [{}, {"relative_step": False, "beta_2_decay": -0.5, "epsilon_2": 0.1}],
    "keras.Lion": [{}, {"beta_1": 0.5, "beta_2": 0.8, "clipvalue": 0.2}],
    "transformers.Adafactor": [
        {"relative_step": False},
        {"relative_step": False, "scale_parameter": False, "beta1": 0.9},
        {"relative_step": False, "clip_threshold": 0.3, "eps": (1e-6, 0.5), "decay_rate": -0.5},
        {"lr": None},
        {"lr": None, "scale_parameter": False},
        {"lr": None, "warmup_init": True, "decay_rate": -0.5, "clip_threshold": 0.5},
    ],
    "lion_pytorch.Lion": [{}, {"decoupled_weight_decay": True, "betas": (0.5, 0.8)}],
}
VARIANTS |= package_variants.VARIANTS
# In float64 runs these have float32 inside: beta2_t, the averages, ASGD's rate of the next step.
PARTLY_FLOAT32 = {"optax.adafactor", "keras.Adafactor", "torch.ASGD", "timm.NvNovoGrad"}
CASES = [(name, i) for name, variants in VARIANTS.items() for i in range(len(variants))]


def runner(name):
    system = name.split(".")[0]
    if system == "keras":
        pytest.importorskip("keras")
        from tests.oracles import run_keras

        return run_keras.run
    return run_optax.run if system == "optax" else run_torch.run


def ours(name, arguments):
    arguments = dict(arguments)
    relative = "lr" in arguments
    for ignored in ("lr", *package_variants.IGNORED.get(name, ())):
        arguments.pop(ignored, None)
    return lambda rate: conventions.build(
        name,
        None if relative else rate,
        peak_learning_rate=PEAK_LEARNING_RATE,
        **arguments,
    )


def error_of(name, variant, weight_decay, dtype):
    decay = conventions.get(name).decay_argument
    arguments = {**VARIANTS[name][variant], **({decay: weight_decay} if decay else {})}
    # SGD's weights leap to 1e3 at the spike and swing back through zero: float32 keeps the
    # rounding of the leap. torch's default epsilon of Adafactor is that of the weights' dtype.
    # Optax's Sophia is wrapped: its 1 - b2 of a float32 b2 is ours too. D-Adaptation's first
    # steps of 1e-9 are lost in float32, theirs as ours.
    same = name in ("torch.SGD", "keras.SGD", "torch.Adafactor", "optax.contrib.sophia")
    same = same or name == "dadaptation.DAdaptAdam"
    theirs_in = dtype if same else np.float64
    make = ours(name, arguments)
    return deviation(runner(name), name, arguments, make, dtype, theirs_in=theirs_in)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])  # 0.01 in float32.
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_equals_the_package_in_float64(name, variant, weight_decay, record_property):
    scale = 0.1 if name == "optax.adafactor" else 1.0  # Per step: the rate is no factor.
    error = error_of(name, variant, weight_decay * scale, np.float64)
    record_property("error", f"{error:.1e}")
    bound = BOUNDS[np.float32 if name in PARTLY_FLOAT32 else np.float64]
    assert error <= package_variants.IN_FLOAT32.get(name, bound)


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_equals_the_package_in_float32(name, variant, record_property):
    error = error_of(name, variant, 1e-2, np.float32)
    record_property("error", f"{error:.1e}")
    bound = BOUNDS[np.float32]
    if name in package_variants.IN_FLOAT32:  # Both sides round.
        bound += package_variants.IN_FLOAT32[name]
    assert error <= bound


# Of Keras' other optimizers the directions are arguments of scale_by_adam.
KERAS = {
    "Nadam": {"first_moment": "nadam", "momentum_decay": 1.0},
    "Adamax": {"second_moment": "max"},
    "Adagrad": {
        "b1": None,
        "second_moment": "sum",
        "epsilon": "inside",
        "initial_second_moment": 0.1,
    },
    "RMSprop": {"b1": None, "b2": 0.9, "epsilon": "inside", "bias_correction": False},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", KERAS)
def test_directions_of_keras(name, dtype):
    direction = scale_by_adam(**{"eps": 1e-7, **KERAS[name]})
    make = lambda rate: assemble(name, direction, rate, 0.01, "lr", ALL)  # noqa: E731
    theirs = {"weight_decay": 0.01}
    assert deviation(runner("keras"), f"keras.{name}", theirs, make, dtype) <= BOUNDS[dtype]


def test_momentum_of_big_vision_is_kept_in_bfloat16():
    """big_vision's order: second moment, average, rate, decay, schedule, sign."""

    def theirs(rate):
        return optax.chain(
            optax.scale_by_factored_rms(
                min_dim_size_to_factor=3,
                decay_rate_fn=lambda t, c: jnp.minimum(0.9, 1.0 - (t + 1.0) ** -c),
            ),
            optax.ema(0.9, debias=False, accumulator_dtype=jnp.bfloat16),
            optax.scale(PEAK_LEARNING_RATE),
            optax.add_decayed_weights(0.01),
            optax.scale_by_schedule(lambda count: rate(count) / PEAK_LEARNING_RATE),
            optax.scale(-1.0),
        )

    arguments = {"wd": 0.01, "beta2_cap": 0.9, "min_dim_size_to_factor": 3, "rules": ALL}
    make = ours("big_vision.adafactor", arguments)
    run = lambda name, _, *trajectory: run_wdlab.run(theirs, *trajectory)  # noqa: E731
    assert deviation(run, "", {}, make, np.float32, theirs_in=np.float32) <= 2e-6


def original(name):
    """The real class or function of a key."""
    modules = {"keras": "keras.optimizers", "optax": "optax"}
    system, _, attribute = name.partition(".")
    if system in modules:
        return operator.attrgetter(attribute)(importlib.import_module(modules[system]))
    return run_torch.original(name)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_defaults_are_those_of_the_signature(name):
    if name.startswith("keras"):
        pytest.importorskip("keras")
    convention = conventions.get(name)
    parameters = inspect.signature(original(name)).parameters
    for argument, value in convention.defaults.items():
        theirs = parameters[argument].default
        if argument in ("dtype_momentum", "mu_dtype") and theirs is not None:
            theirs = np.dtype(theirs).name
        if argument == "hessian_diagonal_fn":  # Hutchinson's, an object.
            theirs = None
        assert theirs == value, f"{name}: {argument} was {theirs!r}, ours is {value!r}"
    rate = parameters.get("lr", parameters.get("learning_rate")).default
    rate = None if rate is inspect.Parameter.empty else rate
    assert rate == convention.learning_rate
    ignored = {"params", "lr", "learning_rate", "kwargs", "foreach", "capturable", "fused"}
    ignored |= {"differentiable", "use_triton", "mask", "weight_decay_mask", "name", "use_ema"}
    ignored |= {"ema_overwrite_frequency", "ema_momentum", "loss_scale_factor"}
    ignored |= {"triton", *convention.refused}
    assert set(parameters) - ignored == set(convention.defaults)


def test_keras_accumulates_as_multi_steps_does():
    """At a constant rate, one that Keras' float32 variable holds: by hand it counts gradients."""
    from tests.oracles import run_keras
    from tests.oracles.trajectories import gradients, initial_params, relative_error

    more = {"momentum": 0.9, "weight_decay": 0.1, "gradient_accumulation_steps": 3, "clipnorm": 0.3}
    given = initial_params(), gradients(12), [2.0**-4] * 12
    theirs = run_keras.run("keras.SGD", more, *given, np.float64)
    mine = run_wdlab.run(lambda rate: ours("keras.SGD", more)(2.0**-4), *given, np.float64)
    assert relative_error(mine, theirs) <= BOUNDS[np.float64]


def test_mup_defaults():
    mup = pytest.importorskip("mup")
    assert set(inspect.signature(mup.MuAdam).parameters) >= {"params", "impl", "kwargs"}
    assert conventions.get("mup.MuAdamW").defaults["widths"] is REQUIRED
    source = inspect.getsource(mup.optim.process_param_groups)
    assert "kwargs.get('weight_decay', 0.)" in source  # Not torch.AdamW's 1e-2.


def test_every_live_key_is_compared():
    of_matrices = {key for key in LIVE if "muon" in key.lower()}  # In test_muons_live.py.
    assert set(VARIANTS) | of_matrices | {"mup.MuSGD", "mup.MuAdam", "mup.MuAdamW"} == LIVE
