"""Adafactor against its float64 twin in every coupling and preset, and what it costs."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.oracles import run_wdlab
from tests.oracles.trajectories import (
    SHAPES,
    gradients,
    initial_params,
    learning_rates,
    relative_error,
)
from tests.twins.adafactor import adafactor as twin
from wdlab import conventions
from wdlab.optimizers import adafactor
from wdlab.preconditioners import (
    clip_by_block_rms,
    decay_weights_by_parameter_scale,
    scale_by_factored_rms,
)
from wdlab.preconditioners.factored import factored_dims
from wdlab.rules import ALL

STEPS = 120
PEAK = 0.05
RATES = learning_rates(STEPS, peak=PEAK)
SMALL = {"min_dim_size_to_factor": 3}
CLAMPED = {"axes": "last", "epsilon": "clamped", "eps1": 1e-7, "inverse_sqrt_cap": True}
CLAMPED_TWIN = {
    "axes": "last",
    "clamped": True,
    "eps1": 1e-7,
    "inverse_sqrt_cap": True,
    "least": 1,
}
# Arguments of ours beside a decay of 0.3, arguments of the twin.
CASES = {
    "lr": ({"coupling": "lr", **SMALL}, {"least": 3}),
    "lr2": ({"coupling": "lr2", **SMALL}, {"least": 3, "kappa": lambda lr: lr**2}),
    "schedule": (
        {"coupling": "schedule", "peak_learning_rate": PEAK, **SMALL},
        {"least": 3, "kappa": lambda lr: lr / PEAK},
    ),
    "constant": ({"coupling": "constant", **SMALL}, {"least": 3, "kappa": lambda lr: 1.0}),
    "l2": ({"coupling": "l2", **SMALL}, {"least": 3, "l2": 0.3, "kappa": lambda lr: 0.0}),
    "parameter_scale": (
        {"coupling": "parameter_scale", "axes": "last"},
        {"axes": "last", "least": 1, "decay_by_size": True},
    ),
    "torch": ({"coupling": "lr", **CLAMPED}, CLAMPED_TWIN),
    "keras": (
        {"coupling": "lr", "axes": "last", "inverse_sqrt_cap": True, "decay_first": True},
        {"axes": "last", "least": 1, "inverse_sqrt_cap": True, "decay_first": True},
    ),
    "never factored, averaged step": (
        {"coupling": "lr2", "axes": "never", "momentum": 0.9},
        {"axes": "never", "beta1": 0.9, "kappa": lambda lr: lr**2},
    ),
    "averaged direction, cap, no clipping, no size": (
        {
            "coupling": "lr",
            "momentum": 0.9,
            "momentum_of": "direction",
            "beta2_cap": 0.9,
            "clipping_threshold": None,
            "parameter_scale": None,
            **SMALL,
        },
        {"beta1": 0.9, "average": "direction", "cap": 0.9, "d": None, "eps2": None, "least": 3},
    ),
    "exponent, offset, threshold, eps2": (
        {
            "coupling": "lr",
            "beta2_exponent": 0.5,
            "beta2_offset": 5,
            "clipping_threshold": 0.3,
            "parameter_scale": 2.0,
            "eps1": 1e-4,
            **SMALL,
        },
        {"c": 0.5, "offset": 5, "d": 0.3, "eps2": 2.0, "eps1": 1e-4, "least": 3},
    ),
}


def run(tx, params, grads):
    """Returns the parameters after every step."""
    dtype = params["vector"].dtype.type
    return run_wdlab.run(lambda rate: tx, params, grads, [0.0] * len(grads), dtype)


def run_twin(params, grads, rates, **arguments):
    leaves = {
        name: twin(params[name], [tree[name] for tree in grads], rates, **arguments)
        for name in SHAPES
    }
    return [{name: leaves[name][step] for name in SHAPES} for step in range(len(grads))]


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 2e-6)])
@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin(case, dtype, bound):
    arguments, twin_arguments = CASES[case]
    round_to = lambda tree: jax.tree.map(dtype, tree)  # noqa: E731
    params, grads = round_to(initial_params()), [round_to(g) for g in gradients(STEPS)]
    with jax.enable_x64(dtype is np.float64):
        rate = lambda count: jnp.asarray(RATES)[count]  # noqa: E731
        tx = adafactor(rate, weight_decay=0.3, rules=ALL, **arguments)
        ours = run(tx, params, grads)
    twin_arguments = {"weight_decay": 0.3, **twin_arguments}
    double = [jax.tree.map(np.float64, tree) for tree in grads]
    theirs = run_twin(params, double, RATES, **twin_arguments)
    assert relative_error(ours, theirs) <= bound


@pytest.mark.parametrize("name", ["optax.adafactor", "t5x.Adafactor"])
def test_optax_and_t5x_are_one(name):
    params, grads = initial_params(), gradients(STEPS)
    tx = conventions.build(name, 0.02, weight_decay=0.01)
    theirs = run(optax.adafactor(0.02, weight_decay_rate=0.01), params, grads)
    assert relative_error(run(tx, params, grads), theirs) <= 2e-6


def test_paper_needs_no_learning_rate():
    params, grads = initial_params(), gradients(STEPS)
    rates = [min(1e-2, t**-0.5) for t in range(1, STEPS + 1)]
    with jax.enable_x64(True):
        ours = run(conventions.build("paper.Adafactor", None), params, grads)
    assert relative_error(ours, run_twin(params, grads, rates, axes="last", least=1)) <= 1e-12


def test_losses_in_float32_are_those_of_the_twin():
    """Gradients from the parameters here, so that errors may feed back, for 200 steps."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(32, 12)), rng.normal(size=(32, 5))
    start = rng.normal(size=(12, 5))
    rates = learning_rates(200, peak=0.05)
    decay = {"weight_decay": 0.1, "coupling": "parameter_scale"}
    tx = adafactor(lambda count: jnp.asarray(rates)[count], axes="last", rules=ALL, **decay)

    def loss(w):
        return jnp.mean((jnp.asarray(x, jnp.float32) @ w - jnp.asarray(y, jnp.float32)) ** 2)

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(jax.grad(loss)(w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), loss(w)

    w = jnp.asarray(start, jnp.float32)
    _, ours = jax.lax.scan(step, (w, tx.init(w)), length=200)
    gradient = lambda w: 2 * x.T @ (x @ w - y) / y.size  # noqa: E731
    arguments = {"weight_decay": 0.1, "axes": "last", "least": 1, "decay_by_size": True}
    theirs = [np.mean((x @ w - y) ** 2) for w in twin(start, [gradient] * 200, rates, **arguments)]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    assert theirs[-1] < 0.5 * theirs[0]


def test_palm_decays_by_its_squared_learning_rate():
    tx = conventions.build("palm.Adafactor", None)
    params = {"kernel": jnp.full((4, 4), 2.0)}
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -1e-4 * 2.0, rtol=1e-6)


def test_statistics_are_float32_for_bfloat16_parameters():
    params = jnp.ones((256, 128), jnp.bfloat16)
    state = scale_by_factored_rms().init(params)
    assert (state.v_row.shape, state.v_row.dtype) == ((128,), jnp.float32)
    assert (state.v_col.shape, state.v_col.dtype) == ((256,), jnp.float32)


def gpt2_shapes(layers=12, width=768, vocabulary=50257, length=1024):
    block = {
        "ln_1": {"scale": (width,), "bias": (width,)},
        "qkv": {"kernel": (width, 3 * width), "bias": (3 * width,)},
        "proj": {"kernel": (width, width), "bias": (width,)},
        "ln_2": {"scale": (width,), "bias": (width,)},
        "up": {"kernel": (width, 4 * width), "bias": (4 * width,)},
        "down": {"kernel": (4 * width, width), "bias": (width,)},
    }
    top = {"wte": (vocabulary, width), "wpe": (length, width), "ln_f": {"scale": (width,)}}
    shapes = {"h": [block] * layers, **top}
    make = lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32)  # noqa: E731
    return jax.tree.map(make, shapes, is_leaf=lambda x: isinstance(x, tuple))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_state_of_gpt2_is_a_hundredth_of_its_parameters():
    params = gpt2_shapes()
    tx = adafactor(1e-2, weight_decay=0.1, coupling="lr")
    assert count(params) > 124e6
    assert count(jax.eval_shape(tx.init, params)) <= 0.01 * count(params)
    heavy = adafactor(1e-2, momentum=0.9, momentum_dtype="bfloat16")
    moments = [
        x for x in jax.tree.leaves(jax.eval_shape(heavy.init, params)) if x.dtype == "bfloat16"
    ]
    assert count(moments) == count(params)


@pytest.mark.parametrize(
    ("shape", "axes", "least", "dims"),
    [
        ((3, 3, 64, 128), "largest", 32, (2, 3)),
        ((128, 3, 3, 64), "largest", 32, (3, 0)),
        ((128, 64, 3, 3), "last", 1, (2, 3)),
        ((128, 128, 2), "largest", 128, (0, 1)),
        ((128, 127), "largest", 128, None),
        ((512,), "last", 1, None),
        ((512, 512), "never", 1, None),
        ((), "last", 1, None),
    ],
)
def test_which_axes_are_factored(shape, axes, least, dims):
    assert factored_dims(shape, axes, least) == dims


def test_largest_axes_are_optax_ones():
    params = {"k": jnp.ones((130, 3, 200)), "t": jnp.ones((140, 140, 2)), "v": jnp.ones(300)}
    ours, theirs = scale_by_factored_rms().init(params), optax.scale_by_factored_rms().init(params)
    shapes = lambda state: jax.tree.map(jnp.shape, tuple(state))  # noqa: E731
    assert shapes(ours) == shapes(theirs)


def test_up_clipping_enlarges_small_updates_only():
    small, large, zero = jnp.full(4, 0.5), jnp.full(4, 3.0), jnp.zeros(4)
    tx = clip_by_block_rms(1.0, direction="up")
    updates, _ = tx.update([small, large, zero], optax.EmptyState())
    assert [float(u[0]) for u in updates] == [1.0, 3.0, 0.0]


def test_decay_by_parameter_scale_composes_with_any_step():
    theta = {"kernel": jnp.array([3.0, -3.0]), "bias": jnp.array([5.0])}
    rules = {"kernel": 0.5, "bias": 0.0}
    decay = decay_weights_by_parameter_scale(0.1, multiplier=0.5, rules=rules)
    tx = optax.chain(optax.sgd(1.0), decay)
    zeros = jax.tree.map(jnp.zeros_like, theta)
    updates, _ = tx.update(zeros, tx.init(theta), theta)
    np.testing.assert_allclose(updates["kernel"], [-0.225, 0.225], rtol=1e-6)
    assert updates["bias"].tolist() == [0.0]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"weight_decay": 0.1}, "coupling is missing"),
        ({"coupling": "parameter_scale", "parameter_scale": None}, "coupling='lr'"),
        ({"axes": "rows"}, "'largest', 'last' or 'never'"),
        ({"momentum_of": "gradient"}, "'step' or 'direction'"),
        ({"coupling": "l2", "decay_first": True}, "decay_first"),
        ({"momentum": 1.0}, "momentum"),
        ({"clipping_threshold": 0.0}, "threshold"),
        ({"clipping_direction": "sideways"}, "'down' or 'up'"),
        ({"beta2_cap": 1.5}, "cap"),
        ({"min_dim_size_to_factor": 0}, "min_dim_size_to_factor"),
    ],
)
def test_refuses_with_the_line_to_write(arguments, found):
    with pytest.raises(ValueError, match=found):
        adafactor(1e-2, **arguments)
