"""The decay terms: each against its float64 twin, closed forms, what they refuse.

``tests/test_contract.py`` has what holds for all of them, inside wrappers as well.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.oracles import run_wdlab
from tests.oracles.trajectories import SHAPES, gradients, initial_params, learning_rates
from tests.twins import variants as twins
from wdlab.decay import (
    constrain_norms,
    decay_corrected,
    decay_huber,
    decay_l1,
    decay_proximal,
    decay_toward_ema,
    hyperball,
    keep_initial_norm,
)
from wdlab.optimizers import adams
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import Rule

STEPS = 50
RATES = learning_rates(STEPS, peak=0.05, warmup=10)
SCALES = {"matrix": 1.0, "vector": 0.0, "kernel": 0.5}
RULES = (Rule("vector", 0.0), Rule("kernel", 0.5), Rule(".*"))
DECAY = 0.1 * (1 + np.arange(STEPS) / STEPS)  # A schedule of its own.
START = initial_params()


def rate(count):
    return jnp.asarray(RATES)[count]


def decay(count):
    return jnp.asarray(DECAY)[count]


def finished_steps():
    """Given steps, so that an error is not fed back; with zeros and a spike."""
    rates = zip(gradients(STEPS), RATES, strict=True)
    return [jax.tree.map(lambda g, r=r: -r * g, tree) for tree, r in rates]


def check(make, steps, twin):
    """50 steps of each leaf in float64 are ``twin(leaf's name, its first weights, its steps)``."""
    ours = run_wdlab.run(lambda _: make(), START, steps, RATES, np.float64)
    for name, theta in START.items():
        theirs = twin(name, theta, [tree[name] for tree in steps])
        pairs = zip(ours, theirs, strict=True)
        errors = [np.abs(o[name] - t).max() / np.abs(t).max() for o, t in pairs]
        assert max(errors) <= 1e-12, name


def by_rule(rule, k=RATES * DECAY, **options):
    rule = functools.partial(rule, **options)
    return lambda name, theta, steps: twins.trajectory(rule, theta, steps, k * SCALES[name])


def toward_start(name, theta, steps, mask=lambda u, distance: True):
    def rule(u, w, k):
        return u - k * np.where(mask(u, w - theta), w - theta, 0.0)

    return by_rule(rule)(name, theta, steps)


def agreeing_toward_start(name, theta, steps):
    return toward_start(name, theta, steps, lambda u, distance: u * distance <= 0)


ARGUMENTS = {"multiplier": rate, "rules": RULES}
decay_weights = functools.partial(wdlab.decay_weights, decay, **ARGUMENTS)
CASES = {
    "plain": (decay_weights, by_rule(twins.decoupled)),
    "toward the start": (lambda: decay_weights(toward="init"), toward_start),
    "cautious": (lambda: decay_weights(cautious=True), by_rule(twins.cautious)),
    "cautious, toward the start": (
        lambda: decay_weights(cautious=True, toward="init"),
        agreeing_toward_start,
    ),
    "cautious, ties keep": (
        lambda: decay_weights(cautious=True, ties="keep"),
        by_rule(twins.cautious, ties="keep"),
    ),
    "cautious, sign bits": (
        lambda: decay_weights(cautious=True, ties="signbit"),
        by_rule(twins.cautious, ties="signbit"),
    ),
    "AdamC": (
        lambda: decay_corrected(
            2.0,
            learning_rate=rate,
            peak=0.05,
            normalized=(Rule("kernel"), Rule(".*", 0.0)),
            rules=RULES,
        ),
        lambda name, theta, steps: by_rule(
            twins.decoupled, 2.0 * (RATES**2 / 0.05 if name == "kernel" else RATES)
        )(name, theta, steps),
    ),
    "toward the average": (
        lambda: decay_toward_ema(decay, ema_rate=0.9, **ARGUMENTS),
        lambda name, theta, steps: twins.toward_ema(
            theta, steps, RATES * DECAY * SCALES[name], 0.9
        ),
    ),
    "proximal": (lambda: decay_proximal(decay, **ARGUMENTS), by_rule(twins.proximal)),
    "proximal, previous": (
        lambda: decay_proximal(decay, of="previous", **ARGUMENTS),
        by_rule(twins.proximal_of_the_previous),
    ),
    "L1": (lambda: decay_l1(decay, **ARGUMENTS), by_rule(twins.soft_threshold)),
    "Huber": (lambda: decay_huber(decay, delta=0.5, **ARGUMENTS), by_rule(twins.huber)),
    "projected": (
        lambda: keep_initial_norm(rules=RULES),
        lambda name, theta, steps: (
            twins.projected(theta, steps) if SCALES[name] else theta + np.cumsum(steps, axis=0)
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin(case):
    make, twin = CASES[case]
    check(make, finished_steps(), twin)


@pytest.mark.parametrize("top", [False, True])
def test_adams_equals_its_twin(top):
    """The step of an exempt leaf's entries counts in the mean; no decay of its own."""
    rules = (Rule("vector", 0.0), Rule(".*"))
    arguments = START, gradients(STEPS), RATES, 1.5, {"matrix", "kernel"}
    theirs = twins.adams(*arguments, b2=0.95, top=top)
    make = functools.partial(adams, rate, weight_decay=1.5, rules=rules, amsgrad=top, b2=0.95)
    check(make, gradients(STEPS), lambda name, theta, steps: [tree[name] for tree in theirs])


def test_adams_leaves_the_moments_alone():
    """An implementation that divides v in place while taking its mean changes the step."""
    params = jax.tree.map(jnp.asarray, initial_params())
    tx, plain = adams(0.01, weight_decay=0.1, rules=RULES), scale_by_adam()
    state, expected = tx.init(params), plain.init(params)
    update, plain_update = jax.jit(tx.update), jax.jit(plain.update)
    for tree in gradients(5):
        grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), tree)
        _, state = update(grads, state, params)
        _, expected = plain_update(grads, expected)
    chex.assert_trees_all_equal(state.adam, expected)


def test_adams_does_not_divide_by_nothing():
    params = {"w": jnp.array([4.0])}
    tx = adams(0.5, weight_decay=0.25)
    updates, state = tx.update({"w": jnp.zeros(1)}, tx.init(params), params)
    assert updates["w"].item() == 0.0  # No gradient yet: no statistic, no decay.
    updates, _ = tx.update({"w": jnp.full(1, 1e-12)}, state, params)
    assert updates["w"].item() >= -4.5  # 0.125 / 1e-13 would throw it across zero.


CPR = {
    "uniform": ("uniform", 3.0, {"rho": 0.002}),
    "dependent": ("dependent", 0.5, {"rho": 0.005}),
    "warm_start": ("warm_start", 7, {"rho": 0.02}),
    "inflection": ("inflection", None, {"rho": 0.1, "sample": 5, "ema_rate": 0.5}),
}


def growing_steps():
    """Norms that grow slower and slower, as after a warm-up: every leaf has an inflection."""
    rng = np.random.default_rng(4)
    direction = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    return [
        {name: 0.1 * d * np.exp(-(((t - 12) / 9) ** 2)) for name, d in direction.items()}
        for t in range(STEPS)
    ]


@pytest.mark.parametrize("case", CPR)
def test_cpr_equals_its_twin(case):
    method, value, twin = CPR[case]

    def theirs(name, theta, steps):
        after = twins.cpr(theta, steps, method, value, **twin)
        unconstrained = theta + np.sum(steps, axis=0)
        assert np.linalg.norm(after[-1]) < 0.99 * np.linalg.norm(unconstrained), name
        return after

    ours = {"update_rate": twin["rho"], "sample_steps": twin.get("sample", 200)}
    ours["ema_rate"] = twin.get("ema_rate", 0.99)
    check(lambda: constrain_norms(method, value, **ours), growing_steps(), theirs)


def test_cpr_takes_no_shrinking_for_an_inflection():
    """Growth that slows down below ``min_growth`` sets no bound, nor does a norm that falls."""
    for factor, bounded in ((0.98, False), (1.001, False), (1.05, True)):
        tx = constrain_norms(sample_steps=5, ema_rate=0.5)
        params = jnp.ones(3)
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(40):
            updates, state = update((factor - 1) * params / (1 + 0.02 * t), state, params)
            params = optax.apply_updates(params, updates)
        assert bool(jnp.isfinite(state.leaves.bound)) == bounded, factor


def test_hyperball_equals_its_twin():
    def theirs(name, theta, steps):
        if SCALES[name]:
            return twins.hyperball(theta, steps, RATES)
        return theta - np.cumsum([r * u for r, u in zip(RATES, steps, strict=True)], axis=0)

    check(lambda: hyperball(rate, rules=RULES), gradients(STEPS), theirs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 3e-7), ("bfloat16", 3e-3), ("float16", 4e-4)]
)
def test_hyperball_does_not_drift(dtype, tolerance):
    """After 2,000 steps the norm is the initial one, up to one rounding of the weights."""
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=(16, 8)), dtype)
    directions = jnp.asarray(rng.normal(size=(2000, 16, 8)), dtype)
    tx = hyperball(0.02, rules=1.0)

    def step(carry, direction):
        params, state = carry
        updates, state = tx.update(direction, state, params)
        return (optax.apply_updates(params, updates), state), None

    (last, _), _ = jax.jit(lambda c: jax.lax.scan(step, c, directions))((params, tx.init(params)))
    norms = [np.linalg.norm(np.asarray(x, np.float64)) for x in (params, last)]
    assert abs(norms[1] / norms[0] - 1) <= tolerance


def test_hyperball_where_there_is_no_sphere():
    params = {"zero": jnp.zeros((2, 2)), "still": jnp.ones(2), "back": jnp.ones(4)}
    directions = {"zero": jnp.ones((2, 2)), "still": jnp.zeros(2), "back": jnp.ones(4)}
    tx = hyperball(1.0, rules=1.0)
    updates, _ = tx.update(directions, tx.init(params), params)
    np.testing.assert_array_equal(updates["zero"], -np.ones((2, 2)))  # The plain step.
    np.testing.assert_array_equal(updates["still"], np.zeros(2))
    np.testing.assert_array_equal(updates["back"], np.zeros(4))  # Through the centre: stays.
    tiny = jnp.full(3, 1e-25)  # Squares underflow.
    stepped = tiny + tx.update(jnp.array([1e25, 0.0, 0.0]), tx.init(tiny), tiny)[0]
    np.testing.assert_allclose(np.linalg.norm(np.float64(stepped)), 3**0.5 * 1e-25, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_l1_never_carries_a_weight_across_zero(dtype, x64):
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=4000), dtype)
    step = jnp.asarray(rng.normal(size=4000) * 0.3, dtype)
    tx = decay_l1(0.2)
    updates, _ = tx.update(step, tx.init(params), params)
    stepped = np.float64(params) + np.float64(step)
    new = np.asarray(optax.apply_updates(params, updates), np.float64)
    assert (new * stepped >= 0).all()
    assert (new[np.abs(stepped) <= 0.19] == 0).all()
    assert (np.abs(new) <= np.abs(stepped) * (1 + 1e-6) + 1e-12).all()


def test_proximal_of_the_previous_weight_is_optax_momo():
    """Its step is not divided, the proximal operator's is: MoMo's own code divides both."""
    params = {"w": jnp.array([3.0, -2.0, 0.5])}
    grads = {"w": jnp.array([0.1, 0.2, -0.3])}
    whole = optax.contrib.momo(0.5, weight_decay=0.3)
    parts = optax.chain(optax.contrib.momo(0.5), decay_proximal(0.3, multiplier=0.5, of="previous"))
    loss = jnp.array(1e6)  # So large that the step is the learning rate's.
    expected, _ = whole.update(grads, whole.init(params), params, value=loss)
    got, _ = parts.update(grads, parts.init(params), params, value=loss)
    chex.assert_trees_all_close(got, expected, rtol=1e-6)


def undriven(tx, start, steps=30):
    """The weight after ``steps`` steps without any gradient."""
    params = jnp.asarray(start)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(jnp.zeros_like(params), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params), state


def test_closed_forms_of_undriven_weights(x64):
    start = np.array([3.0, -0.5, 0.0])
    close = {"rtol": 1e-13, "atol": 0}
    np.testing.assert_allclose(undriven(decay_proximal(5.0), start)[0], start / 6.0**30, **close)
    np.testing.assert_allclose(
        undriven(decay_l1(0.05), start)[0], [1.5, 0.0, 0.0], rtol=1e-13, atol=1e-15
    )
    # Down a straight line until delta, then geometrically: 3 - 0.1 t until it is at most 1.
    last = np.array([1.0 * 0.9**10, -0.5 * 0.9**30, 0.0])
    np.testing.assert_allclose(undriven(decay_huber(0.1, delta=1.0), start)[0], last, rtol=1e-12)
    constant = decay_corrected(0.5, learning_rate=0.2, normalized=1.0)
    np.testing.assert_allclose(undriven(constant, start)[0], start * 0.9**30, **close)
    np.testing.assert_array_equal(undriven(decay_toward_ema(0.5, ema_rate=0.9), start)[0], start)


def test_distance_from_the_average_shrinks_at_the_documented_rate(x64):
    tx = decay_toward_ema(0.25, ema_rate=0.9)
    state, params, update = tx.init(jnp.array(1.0)), jnp.array(5.0), jax.jit(tx.update)
    for t in range(1, 20):
        updates, state = update(jnp.array(0.0), state, params)
        params = params + updates
        np.testing.assert_allclose(params - state.ema, 4 * (0.9 * 0.75) ** t, rtol=1e-11)


def test_cpr_reaches_its_bound():
    """A steady push outward: the multiplier rises until the stepped norm is the bound's."""
    tx = optax.chain(optax.sgd(0.01), constrain_norms("uniform", 2.0, update_rate=0.1))
    params = jnp.ones(4)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(3000):
        updates, state = update(-jnp.ones(4), state, params)
        params = optax.apply_updates(params, updates)
    assert float(jnp.sum((params + 0.01) ** 2)) == pytest.approx(2.0, rel=1e-3)
    inside, state = undriven(constrain_norms("uniform", 50.0), np.ones(4))
    assert inside.tolist() == [1.0] * 4  # Below the bound nothing decays.
    assert float(state.leaves.multiplier) == 0.0


def test_cautious_ties_at_exact_zeros():
    """A zero step decays, keeps, or has the sign of its sign bit."""
    params, step = jnp.array([1.0, -1.0, 1.0, -1.0]), jnp.array([0.0, 0.0, -0.0, -0.0])
    expected = {"decay": [1, 1, 1, 1], "keep": [0, 0, 0, 0], "signbit": [0, 1, 1, 0]}
    for ties, mask in expected.items():
        tx = wdlab.decay_weights(0.5, cautious=True, ties=ties)
        updates, _ = tx.update(step, tx.init(params), params)
        np.testing.assert_array_equal(updates, -0.5 * params * np.array(mask), err_msg=ties)


REFUSED = {
    "negative": (lambda: decay_l1(-0.1), r"weight_decay must be .* \[0, inf\), got -0.1"),
    "flips": (lambda: decay_huber(0.1, delta=1.0, multiplier=20.0), "shrinks weights by 2 a step"),
    "delta": (lambda: decay_huber(0.1, delta=0.0), r"delta must be .*\(0, inf\), got 0"),
    "of": (lambda: decay_proximal(0.1, of="both"), "of must be 'stepped' or 'previous'"),
    "ties": (lambda: wdlab.decay_weights(0.1, ties="no"), "ties must be 'decay', 'keep'"),
    "ema": (lambda: decay_toward_ema(0.1, ema_rate=1.5), r"ema_rate must be .*\[0, 1\]"),
    "peak": (
        lambda: decay_corrected(0.1, learning_rate=rate, normalized=1.0),
        "AdamC's decay lr_t\\*\\*2 / peak needs the peak learning rate",
    ),
    "method": (lambda: constrain_norms("best"), "method must be 'uniform'"),
    "no value": (lambda: constrain_norms("uniform"), "value must be a number"),
    "needless": (lambda: constrain_norms("inflection", 2.0), "value must be None"),
    "steps": (lambda: constrain_norms("warm_start", 2.5), "value must be a whole number"),
    "hyperball": (lambda: hyperball(-1.0, rules=1.0), "learning_rate must be"),
    "callable": (lambda: hyperball(1.0, rules=lambda p: p), "rules must be data"),
    "adams": (lambda: adams(0.1, weight_decay=None), "weight_decay must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_arguments_are_refused(case):
    make, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message):
        make()
