"""Each optimizer against its float64 twin; the couplings; Proposition 1; closed forms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.oracles.run_wdlab import train
from tests.twins import adam as twins
from wdlab import optimizers, schedules
from wdlab.rules import ALL, leaves_with_paths
from wdlab.schedules import COUPLINGS

STEPS = 50
LR = schedules.warmup_cosine(0.05, warmup_steps=5, decay_steps=40, end=0.01)
RADAM = {"threshold": 5.0, "place": "outside"}
# Factory, its arguments, the twin of the direction, coupling.
CASES = {
    **{f"adam, {c}": (optimizers.adam, {}, twins.adam, c) for c in COUPLINGS},
    "sgd": (optimizers.sgd, {}, twins.momentum, "lr"),
    "sgd, momentum": (
        *(optimizers.sgd, {"momentum": 0.9}, functools.partial(twins.momentum, mu=0.9), "l2"),
    ),
    "sgdw, nesterov": (
        optimizers.sgdw,
        {"momentum": 0.9, "nesterov": True},
        functools.partial(twins.momentum, mu=0.9, nesterov=True),
        "schedule",
    ),
    "adamw": (
        optimizers.adamw,
        {"b1": 0.8, "b2": 0.95, "eps": 1e-6},
        functools.partial(twins.adam, b1=0.8, b2=0.95, eps=1e-6),
        "lr2",
    ),
    "lionw": (optimizers.lionw, {}, twins.lion, "constant"),
    "radamw": (optimizers.radamw, {}, functools.partial(twins.radam, **RADAM), "schedule"),
}
FACTORIES = [
    optimizers.sgdw,
    optimizers.adamw,
    optimizers.lionw,
    optimizers.radamw,
    optimizers.adafactor,
]


def gradients(params, steps, seed=1):
    rng = np.random.default_rng(seed)
    return [jax.tree.map(lambda p: rng.normal(size=p.shape), params) for _ in range(steps)]


def flat(tree):
    return {path: np.asarray(leaf, np.float64) for path, leaf in leaves_with_paths(tree)}


def shrink_of(coupling, decay, lr, peak=0.05):
    """kappa_t * lambda of a decoupled coupling."""
    kappas = {"schedule": lr / peak, "lr": lr, "lr2": lr * lr, "lr2_over_peak": lr * lr / peak}
    return decay * (kappas | {"constant": 1.0})[coupling]


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_equal_the_float64_twin(case, params, x64):
    """theta' = theta - lr * direction(g + l s theta) - kappa lambda s theta."""
    factory, arguments, direction, coupling = CASES[case]
    grads = gradients(params, STEPS)
    tx = factory(LR, weight_decay=0.1, coupling=coupling, **arguments)
    got = flat(train(tx, params, grads))
    scales = flat(wdlab.decay_scales(params, wdlab.rules.NO_BIAS_OR_NORM))
    assert {float(scale) for scale in scales.values()} == {0.0, 1.0}
    for path, theta in flat(params).items():
        seen = []
        for t, g in enumerate(flat(tree)[path] for tree in grads):
            lr, old = float(LR(t)), theta
            seen.append(g + 0.1 * scales[path] * old if coupling == "l2" else g)
            theta = old - lr * direction(seen)[-1]
            if coupling != "l2":
                theta = theta - shrink_of(coupling, 0.1, lr) * scales[path] * old
        # Weights are of order 1; one that passes close to zero has no relative error of 1e-12.
        np.testing.assert_allclose(got[path], theta, rtol=1e-12, atol=1e-15, err_msg=path)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_proposition_1_sgd_l2_is_weight_decay_at_one_learning_rate(momentum, params, x64):
    """L2 with l = lambda / alpha is weight decay lambda (Loshchilov & Hutter 2019, Prop. 1).

    With momentum the gradient's term is accumulated, so it stops being true.
    """
    alpha, decay = 0.05, 0.01
    grads = gradients(params, STEPS)
    l2 = train(
        optimizers.sgd(alpha, weight_decay=decay / alpha, coupling="l2", momentum=momentum),
        params,
        grads,
    )
    decoupled = train(
        optimizers.sgdw(alpha, weight_decay=decay, coupling="constant", momentum=momentum),
        params,
        grads,
    )
    if momentum == 0:
        chex.assert_trees_all_close(l2, decoupled, rtol=1e-12)
    else:
        difference = np.abs(l2["wte"]["embedding"] - decoupled["wte"]["embedding"]).max()
        assert difference > 0.1


def test_proposition_1_stops_being_true_under_a_schedule(params, x64):
    grads = gradients(params, STEPS)
    l2 = train(optimizers.sgd(LR, weight_decay=0.2, coupling="l2"), params, grads)
    constant = train(optimizers.sgdw(LR, weight_decay=0.01, coupling="constant"), params, grads)
    coupled = train(optimizers.sgdw(LR, weight_decay=0.2, coupling="lr"), params, grads)
    chex.assert_trees_all_close(l2, coupled, rtol=1e-12)
    assert np.abs(l2["wte"]["embedding"] - constant["wte"]["embedding"]).max() > 1e-2


@pytest.mark.parametrize("factory", FACTORIES)
def test_ten_thousand_float32_steps_follow_the_closed_form(factory):
    """Relative error 1e-5 in float32, one scan."""
    tx = factory(1e-3, weight_decay=0.1, coupling="lr")
    weights = {"kernel": jnp.array([[4.0]])}
    zeros = jax.tree.map(jnp.zeros_like, weights)

    def body(carry, _):
        weights, state = carry
        updates, state = tx.update(zeros, state, weights)
        return (optax.apply_updates(weights, updates), state), None

    scan = jax.jit(lambda carry: jax.lax.scan(body, carry, length=10_000)[0])
    got = scan((weights, tx.init(weights)))[0]
    np.testing.assert_allclose(got["kernel"], 4.0 * (1 - 1e-4) ** 10_000, rtol=1e-5)


@pytest.mark.parametrize(
    ("coupling", "double_lr", "half_schedule"),
    [
        ("schedule", 1, 0.5),
        ("lr", 2, 0.5),
        ("lr2", 4, 0.25),
        ("lr2_over_peak", 2, 0.25),
        ("constant", 1, 1),
    ],
)
def test_decay_per_update_as_documented(coupling, double_lr, half_schedule, x64):
    """What a change of learning rate, schedule, accumulation or clipping does to the decay."""
    weights = {"kernel": jnp.full((2, 2), 4.0)}
    zeros = jax.tree.map(jnp.zeros_like, weights)

    def decay(learning_rate, wrap=lambda tx: tx, updates=1):
        tx = wrap(optimizers.adamw(learning_rate, weight_decay=0.1, coupling=coupling))
        return 1 - float(train(tx, weights, [zeros] * updates)["kernel"][0, 0]) / 4.0

    base = decay(0.1)
    np.testing.assert_allclose(decay(0.2), double_lr * base, rtol=1e-10)
    halved = schedules.with_peak(lambda count: 0.05, peak=0.1)
    np.testing.assert_allclose(decay(halved), half_schedule * base, rtol=1e-10)
    accumulated = decay(0.1, lambda tx: optax.MultiSteps(tx, 4).gradient_transformation(), 4)
    np.testing.assert_allclose(accumulated, base, rtol=1e-10)
    clipped = decay(0.1, lambda tx: optax.chain(optax.clip_by_global_norm(1e-3), tx))
    np.testing.assert_allclose(clipped, base, rtol=1e-10)


def test_a_schedule_in_place_of_a_number_keeps_the_states_structure(params):
    """A checkpoint of one loads into the other (in Optax it does not)."""
    number = optimizers.adamw(0.1, weight_decay=0.1, coupling="lr")
    schedule = optimizers.adamw(LR, weight_decay=lambda count: 0.1 * count, coupling="lr")
    without = optimizers.adamw(LR)
    states = [tx.init(params) for tx in (number, schedule, without)]
    chex.assert_trees_all_equal_structs(*states)


def test_missing_coupling_lists_the_choices_with_their_shrinks():
    with pytest.raises(ValueError, match="coupling is missing") as error:
        optimizers.adamw(1e-3, weight_decay=0.1)
    text = str(error.value)
    for choice, shrink in [
        ("schedule", "0.1"),
        ("lr", "0.0001"),
        ("lr2", "1e-07"),
        ("lr2_over_peak", "0.0001"),
        ("l2", ""),
    ]:
        assert f"'{choice}' {shrink}" in text
    optimizers.adamw(1e-3)  # No decay, no coupling needed.


def test_schedule_coupling_needs_a_peak():
    plain = optax.linear_schedule(1e-3, 0.0, 10)
    with pytest.raises(ValueError, match="peak_learning_rate"):
        optimizers.adamw(plain, weight_decay=0.1, coupling="schedule")
    optimizers.adamw(plain, weight_decay=0.1, coupling="schedule", peak_learning_rate=1e-3)


BAD = {
    "decay_negative": {"weight_decay": -0.1},
    "decay_nan": {"weight_decay": float("nan")},
    "decay_inf": {"weight_decay": float("inf")},
    "decay_flips_sign": {"weight_decay": 20.0, "learning_rate": 0.1},
    "decay_bool": {"weight_decay": True},
    "decay_none": {"weight_decay": None},
    "decay_string": {"weight_decay": "0.1"},
    "decay_array": {"weight_decay": np.ones(3)},
    "decay_complex": {"weight_decay": 0.1j},
    "decay_function_of_params": {"weight_decay": lambda params, grads: 0.1},
    "lr_negative": {"learning_rate": -0.1},
    "lr_nan": {"learning_rate": float("nan")},
    "lr_inf": {"learning_rate": float("inf")},
    "lr_none": {"learning_rate": None},
    "lr_string": {"learning_rate": "1e-3"},
    "lr_bool": {"learning_rate": True},
    "b1_one": {"b1": 1.0},
    "b1_negative": {"b1": -0.1},
    "b1_nan": {"b1": float("nan")},
    "b1_none": {"b1": None},
    "b2_above_one": {"b2": 1.5},
    "b2_one": {"b2": 1.0},
    "b2_negative": {"b2": -0.9},
    "b2_string": {"b2": "0.999"},
    "eps_negative": {"eps": -1.0},
    "eps_nan": {"eps": float("nan")},
    "eps_none": {"eps": None},
    "eps_inf": {"eps": float("inf")},
    "peak_zero": {"peak_learning_rate": 0.0, "coupling": "schedule"},
    "peak_negative": {"peak_learning_rate": -1.0, "coupling": "schedule"},
    "coupling_unknown": {"coupling": "torch"},
    "rules_function": {"rules": lambda params: params},
    "rules_none": {"rules": None},
    "rules_string": {"rules": "bias"},
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_hyperparameters_are_refused_by_name(name):
    arguments = {"learning_rate": 1e-3, "weight_decay": 0.1, "coupling": "lr", **BAD[name]}
    argument = next(iter(BAD[name]))
    with pytest.raises((TypeError, ValueError), match=argument):
        optimizers.adamw(**arguments)


ODD = {
    "int32": jnp.ones(3, jnp.int32),
    "uint8": jnp.ones(3, jnp.uint8),
    "bool": jnp.ones(3, bool),
    "int4": jnp.ones(3, jnp.int4),
    "float8": jnp.ones(3, jnp.float8_e4m3fn),
    "prng_key": jax.random.key(0),
    "string": "weights",
    "python_int": 1,
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize(
    "make",
    [
        lambda: optimizers.adamw(1e-3, weight_decay=0.1, coupling="lr", rules=ALL),
        lambda: wdlab.decay_weights(0.1),
        lambda: wdlab.add_l2_gradient(0.1),
    ],
    ids=["adamw", "decay_weights", "add_l2_gradient"],
)
def test_odd_leaves_are_refused_by_name(name, make):
    with pytest.raises(TypeError, match="layer/odd_kernel"):
        make().init({"layer": {"odd_kernel": ODD[name]}})


class TestInjectHyperparams:
    """Optax turns rules that are functions into schedules, and b2 into 1.0 beside bfloat16."""

    @pytest.mark.parametrize("inject", [wdlab.inject_hyperparams, optax.inject_hyperparams])
    def test_takes_a_tree_of_scales(self, inject, params):
        params = jax.tree.map(jnp.asarray, params)
        rules = wdlab.decay_scales(params, wdlab.rules.NO_BIAS_OR_NORM)
        tx = inject(optimizers.adamw)(0.1, weight_decay=0.5, coupling="lr", rules=rules)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = tx.update(zeros, tx.init(params), params)
        expected = jax.tree.map(lambda p, s: -0.05 * s * p, params, rules)
        chex.assert_trees_all_close(updates, expected, rtol=1e-6)

    def test_bfloat16_keeps_b2(self):
        weights = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
        tx = wdlab.inject_hyperparams(optimizers.adamw)(0.1, weight_decay=0.1, coupling="lr")
        state = tx.init(weights)
        assert abs(float(state.hyperparams["b2"]) - 0.999) < 1e-6
        updates, _ = jax.jit(tx.update)(weights, state, weights)
        assert updates["kernel"].dtype == jnp.bfloat16
        assert np.isfinite(np.asarray(updates["kernel"], np.float32)).all()

    def test_plain_optax_fails_aloud_beside_bfloat16(self):
        weights = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
        tx = optax.inject_hyperparams(optimizers.adamw)(0.1, weight_decay=0.1, coupling="lr")
        with pytest.raises(ValueError, match="b2 must be"):
            tx.init(weights)

    def test_schedule_keeps_its_peak(self, x64):
        weights = {"kernel": jnp.full((1, 1), 4.0)}
        zeros = [jax.tree.map(jnp.zeros_like, weights)] * 20
        kwargs = {"weight_decay": 0.1, "coupling": "schedule"}
        got = train(wdlab.inject_hyperparams(optimizers.adamw)(LR, **kwargs), weights, zeros)
        expected = train(optimizers.adamw(LR, **kwargs), weights, zeros)
        chex.assert_trees_all_close(got, expected, rtol=1e-12)

    def test_injected_step_value_does_not_pass_for_a_peak(self):
        """Plain inject_hyperparams gives the factory this step's value; eta_t must not be 1."""
        tx = optax.inject_hyperparams(optimizers.adamw)(LR, weight_decay=0.1, coupling="schedule")
        with pytest.raises(ValueError, match="peak"):
            tx.init({"kernel": jnp.ones((2, 2))})

    def test_bad_numbers_are_refused_at_construction(self):
        with pytest.raises(ValueError, match="weight_decay"):
            wdlab.inject_hyperparams(optimizers.adamw)(0.1, weight_decay=-1.0, coupling="lr")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        *(("sgd", {"momentum": 1.0}), ("sgdw", {"momentum": -0.1}), ("adam", {"b2": 1.0})),
        *(("adamw", {"b2": 1.5}), ("adamw", {"eps": -1.0}), ("radamw", {"threshold": 3.0})),
        *(("lionw", {"b1": 1.0}), ("adafactor", {"momentum": 1.0}), ("adams", {"b2": 1.0})),
        *((name, {"weight_decay": -1.0}) for name in ("sgd", "sgdw", "adam", "adamw", "lionw")),
        *((name, {"learning_rate": -1.0}) for name in ("radamw", "adafactor", "adams")),
        *((name, {"coupling": "torch"}) for name in ("sgdw", "adamw", "lionw", "adafactor")),
        *((name, {"weight_decay": 2.0, "coupling": "constant"}) for name in ("sgdw", "adamw")),
        *((name, {"rules": "bias"}) for name in ("sgd", "adamw", "adafactor", "adams")),
    ],
)
def test_each_optimizer_complains_in_its_own_name(name, bad):
    more = {"weight_decay": 0.1} if name == "adams" else {}
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: "):
        getattr(optimizers, name)(**{"learning_rate": 1e-3, **more, **bad})
