"""The decay variants: each against its float64 twin, one contract for all, and closed forms."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wdlab
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
from wdlab.schedules import strengths

STEPS = 50
RATES = learning_rates(STEPS, peak=0.05, warmup=10)
SCALES = {"matrix": 1.0, "vector": 0.0, "kernel": 0.5}
RULES = (Rule("vector", 0.0), Rule("kernel", 0.5), Rule(".*"))
NORMALIZED = (Rule("kernel"), Rule(".*", 0.0))
DECAY = 0.1 * (1 + np.arange(STEPS) / STEPS)  # A schedule of its own.


def rate(count):
    return jnp.asarray(RATES)[count]


def decay(count):
    return jnp.asarray(DECAY)[count]


def finished_steps():
    """Given steps, so that an error is not fed back; with zeros and a spike."""
    return [
        jax.tree.map(lambda g, r=r: -r * g, tree)
        for tree, r in zip(gradients(STEPS), RATES, strict=True)
    ]


def trajectory(tx, given):
    params = jax.tree.map(jnp.asarray, initial_params())
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for tree in given:
        updates, state = update(jax.tree.map(jnp.asarray, tree), state, params)
        params = optax.apply_updates(params, updates)
        out.append({name: np.asarray(leaf) for name, leaf in params.items()})
    return out


def worst_error(ours, theirs):
    return max(
        np.abs(mine - other).max() / np.abs(other).max()
        for mine, other in zip(ours, theirs, strict=True)
    )


ARGUMENTS = {"multiplier": rate, "rules": RULES}
CASES = {
    "cautious": (
        lambda: wdlab.decay_weights(decay, cautious=True, **ARGUMENTS),
        lambda name, theta, steps, k: twins.cautious(theta, steps, k),
    ),
    "cautious, ties keep": (
        lambda: wdlab.decay_weights(decay, cautious=True, ties="keep", **ARGUMENTS),
        lambda name, theta, steps, k: twins.cautious(theta, steps, k, "keep"),
    ),
    "cautious, sign bits": (
        lambda: wdlab.decay_weights(decay, cautious=True, ties="signbit", **ARGUMENTS),
        lambda name, theta, steps, k: twins.cautious(theta, steps, k, "signbit"),
    ),
    "AdamC": (
        lambda: decay_corrected(
            2.0, learning_rate=rate, peak=0.05, normalized=NORMALIZED, rules=RULES
        ),
        lambda name, theta, steps, k: twins.corrected(
            theta, steps, 2.0 * SCALES[name], RATES, 0.05, name == "kernel"
        ),
    ),
    "toward the average": (
        lambda: decay_toward_ema(decay, ema_rate=0.9, **ARGUMENTS),
        lambda name, theta, steps, k: twins.toward_ema(theta, steps, k, 0.9),
    ),
    "proximal": (
        lambda: decay_proximal(decay, **ARGUMENTS),
        lambda name, theta, steps, k: twins.proximal(theta, steps, k),
    ),
    "proximal, previous": (
        lambda: decay_proximal(decay, of="previous", **ARGUMENTS),
        lambda name, theta, steps, k: twins.proximal(theta, steps, k, "previous"),
    ),
    "L1": (
        lambda: decay_l1(decay, **ARGUMENTS),
        lambda name, theta, steps, k: twins.l1(theta, steps, k),
    ),
    "Huber": (
        lambda: decay_huber(decay, delta=0.5, **ARGUMENTS),
        lambda name, theta, steps, k: twins.huber(theta, steps, k, 0.5),
    ),
    "projected": (
        lambda: keep_initial_norm(rules=RULES),
        lambda name, theta, steps, k: (
            twins.projected(theta, steps) if SCALES[name] else twins.plain(theta, steps, 0 * k)
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin(case, x64):
    make, twin = CASES[case]
    ours, steps = trajectory(make(), finished_steps()), finished_steps()
    for name, theta in initial_params().items():
        given = [tree[name] for tree in steps]
        theirs = twin(name, theta, given, RATES * DECAY * SCALES[name])
        assert worst_error([tree[name] for tree in ours], theirs) <= 1e-12, name


@pytest.mark.parametrize("top", [False, True])
def test_adams_equals_its_twin(top, x64):
    """The step of an exempt leaf's entries counts in the mean; no decay of its own."""
    rules = (Rule("vector", 0.0), Rule(".*"))
    ours = trajectory(
        adams(rate, weight_decay=1.5, rules=rules, amsgrad=top, b2=0.95), gradients(STEPS)
    )
    theirs = twins.adams(
        initial_params(), gradients(STEPS), RATES, 1.5, {"matrix", "kernel"}, b2=0.95, top=top
    )
    for name in SHAPES:
        error = worst_error([t[name] for t in ours], [t[name] for t in theirs])
        assert error <= 1e-12, name


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
def test_cpr_equals_its_twin(case, x64):
    method, value, twin = CPR[case]
    tx = constrain_norms(
        method,
        value,
        update_rate=twin["rho"],
        sample_steps=twin.get("sample", 200),
        ema_rate=twin.get("ema_rate", 0.99),
    )
    ours = trajectory(tx, growing_steps())
    for name, theta in initial_params().items():
        given = [tree[name] for tree in growing_steps()]
        theirs = twins.cpr(theta, given, method, value, **twin)
        assert worst_error([tree[name] for tree in ours], theirs) <= 1e-12, name
        unconstrained = twins.plain(theta, given, np.zeros(STEPS))
        assert np.linalg.norm(theirs[-1]) < 0.99 * np.linalg.norm(unconstrained[-1]), name


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


def test_hyperball_equals_its_twin(x64):
    ours = trajectory(hyperball(rate, rules=RULES), gradients(STEPS))
    for name, theta in initial_params().items():
        given = [tree[name] for tree in gradients(STEPS)]
        theirs = (
            twins.hyperball(theta, given, RATES)
            if SCALES[name]
            else twins.plain(theta, [-r * u for r, u in zip(RATES, given, strict=True)], 0 * RATES)
        )
        assert worst_error([tree[name] for tree in ours], theirs) <= 1e-12, name


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


# One contract for all; each maker takes a number that may be traced.
LR = wdlab.schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=20, end=0.01)
HALF = (Rule("(.*/)?bias", 0.0, optional=True), Rule(".*", 0.5))
SOME = {"multiplier": LR, "rules": HALF}
MEMBERS = {
    "decay_corrected": lambda x: decay_corrected(
        x, learning_rate=LR, normalized=(Rule("(.*/)?kernel"), Rule(".*", 0.0)), rules=HALF
    ),
    "decay_toward_ema": lambda x: decay_toward_ema(x, ema_rate=0.5, **SOME),
    "decay_proximal": lambda x: decay_proximal(x, **SOME),
    "decay_proximal_previous": lambda x: decay_proximal(x, of="previous", **SOME),
    "decay_l1": lambda x: decay_l1(x, **SOME),
    "decay_huber": lambda x: decay_huber(x, delta=0.5, **SOME),
    "cautious_signbit": lambda x: wdlab.decay_weights(x, cautious=True, ties="signbit", **SOME),
    "adams": lambda x: adams(LR, weight_decay=x, rules=HALF),
    "cpr_uniform": lambda x: constrain_norms("uniform", 0.1, multiplier=x, rules=HALF),
    "cpr_inflection": lambda x: constrain_norms(multiplier=x, sample_steps=1, rules=HALF),
    "hyperball": lambda x: hyperball(x, rules=HALF),
    "keep_initial_norm": lambda x: optax.chain(optax.scale(x), keep_initial_norm(rules=HALF)),
}
every_member = pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS.keys())


def tree(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,), "scale": (), "empty_kernel": (0, 2)}
    return {"layer": {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}}


def grads_like(params, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(0.1 * rng.normal(size=p.shape), p.dtype), params)


def run(tx, params, steps=3, jit=False):
    update, state = jax.jit(tx.update) if jit else tx.update, tx.init(params)
    for step in range(steps):
        updates, state = update(grads_like(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@every_member
def test_jit_equals_eager_and_traces_once(make):
    tx, traces = make(0.3), []

    def update(updates, state, params):
        traces.append(1)
        return tx.update(updates, state, params)

    counted = optax.GradientTransformation(tx.init, update)
    compiled = run(counted, tree(), jit=True)
    assert len(traces) == 1
    chex.assert_trees_all_close(compiled, run(tx, tree()), rtol=2e-6, atol=1e-7)


@every_member
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_dtypes_and_state_structure_are_kept(make, dtype, x64):
    tx, params = make(0.3), tree(dtype)
    state = tx.init(params)
    updates, later = jax.eval_shape(tx.update, grads_like(params), state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(later, state)
    if dtype == "float16":  # Where an epsilon of 1e-8, or a squared norm, would be lost.
        chex.assert_tree_all_finite(run(tx, params, steps=1, jit=True)[0])


@every_member
def test_missing_params_are_asked_for(make):
    tx, params = make(0.3), tree()
    with pytest.raises(ValueError, match="needs the current params. Write tx.update"):
        tx.update(grads_like(params), tx.init(params))


@every_member
def test_integers_are_refused_at_init(make):
    with pytest.raises(TypeError, match="parameter 'kernel' is int32"):
        make(0.3).init({"kernel": jnp.zeros(2, jnp.int32)})


@every_member
def test_inside_masked_and_multi_steps(make):
    params = tree()
    mask = {"layer": {"kernel": True, "bias": False, "scale": True, "empty_kernel": True}}
    new, _ = run(optax.masked(make(0.3), mask), params)
    pushed = sum(grads_like(params, step)["layer"]["bias"] for step in range(3))
    chex.assert_trees_all_close(new["layer"]["bias"], params["layer"]["bias"] + pushed, rtol=1e-6)
    assert not np.array_equal(new["layer"]["kernel"], params["layer"]["kernel"])
    twice = optax.MultiSteps(make(0.3), every_k_schedule=2)
    slow, state = run(twice, params, steps=4, jit=True)
    chex.assert_tree_all_finite(slow)
    assert int(state.gradient_step) == 2
    assert not np.array_equal(slow["layer"]["kernel"], params["layer"]["kernel"])


@every_member
def test_vmap_over_the_strength(make):
    numbers = jnp.array([0.1, 0.3])
    together = jax.jit(jax.vmap(lambda x: run(make(x), tree())[0]))(numbers)
    for i, number in enumerate([0.1, 0.3]):
        alone, _ = run(make(number), tree(), jit=True)
        chex.assert_trees_all_close(
            jax.tree.map(lambda x, i=i: x[i], together), alone, rtol=3e-6, atol=1e-7
        )


@pytest.mark.parametrize("name", ["decay_toward_ema", "cpr_inflection", "hyperball", "adams"])
def test_states_are_donated_partitioned_and_made_for_nnx(name):
    make, params = MEMBERS[name], tree()
    expected, _ = run(make(0.3), params, jit=True)
    update = wdlab.make_update(make(0.3))
    donated = jax.tree.map(jnp.array, params)
    state = wdlab.init_opt_state(make(0.3), params)
    for step in range(3):
        donated, state = update(donated, state, grads_like(params, step))
    chex.assert_trees_all_close(donated, expected, rtol=1e-6)
    labels = {"layer": {"kernel": "a", "bias": "b", "scale": "b", "empty_kernel": "b"}}
    parts = optax.partition({"a": make(0.3), "b": optax.identity()}, labels)
    split, _ = run(parts, params, jit=True)
    if name != "adams":  # Its mean is over what it sees.
        chex.assert_trees_all_close(split["layer"]["kernel"], expected["layer"]["kernel"])
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, make(0.3), wrt=nnx.Param)
    before = jnp.array(model.kernel[...])
    for _ in range(2):  # The learning rate of the first is 0.
        optimizer.update(model, nnx.grad(lambda m: jnp.sum(m(jnp.ones((4, 3))) ** 2))(model))
    assert not jnp.array_equal(before, model.kernel[...])


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
    "batch": (
        lambda: strengths.normalized_weight_decay(0.1, batch_size=9, dataset_size=8, epochs=1),
        "dataset_size must be a whole number >= 9, got 8",
    ),
    "timescale": (
        lambda: strengths.weight_decay_from_timescale(0.0, learning_rate=0.1),
        r"timescale must be .*\(0, inf\), got 0",
    ),
    "hold": (
        lambda: strengths.weight_decay_from_timescale(9.0, learning_rate=0.1, hold="end"),
        "hold must be 'peak' or 'step'",
    ),
    "factor": (
        lambda: strengths.cosine_restarts(1.0, first_steps=5, factor=1.2),
        "factor must be a whole number >= 1, got 1.2",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_senseless_arguments_are_refused(case):
    make, message = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=message):
        make()


def test_restarts_equal_a_walk_through_them(x64):
    for first, factor in ((7, 1), (3, 2), (2, 3)):
        lr = strengths.cosine_restarts(0.5, first_steps=first, factor=factor, end=0.1)
        decay = strengths.restarts_weight_decay(0.05, first_steps=first, factor=factor)
        values, lengths = zip(
            *(twins.sgdr(t, 0.5, 0.1, first, factor) for t in range(100)), strict=True
        )
        np.testing.assert_allclose(jax.vmap(lr)(jnp.arange(100)), values, rtol=1e-13)
        expected = 0.05 / np.sqrt(lengths)
        np.testing.assert_allclose(jax.vmap(decay)(jnp.arange(100)), expected, rtol=1e-13)
    late = 3 * (2**29 - 1)  # The start of the 30th restart, where a float32 log would be lost.
    assert float(strengths.cosine_restarts(1.0, first_steps=3, factor=2)(late)) == 1.0
    assert float(strengths.cosine_restarts(1.0, first_steps=3, factor=2)(late - 1)) < 1e-6
    jitted = jax.jit(strengths.cosine_restarts(1.0, first_steps=3, factor=2))
    assert float(jitted(jnp.int32(3))) == 1.0


def test_normalized_decay_of_a_restart_is_that_of_a_run_of_its_length():
    decay = strengths.restarts_weight_decay(0.05, first_steps=40, factor=2)
    for t, epochs in ((0, 4), (40, 8), (120, 16)):  # Ten batches an epoch.
        alone = strengths.normalized_weight_decay(
            0.05, batch_size=20, dataset_size=200, epochs=epochs
        )
        np.testing.assert_allclose(decay(t), alone, rtol=1e-6)


def test_timescale_is_the_shrink_of_adamw(x64):
    """After tau steps at a constant learning rate an undriven weight has shrunk to about 1/e."""
    decay = strengths.weight_decay_from_timescale(5.0, learning_rate=1e-2, steps_per_epoch=200)
    tx = wdlab.optimizers.adamw(1e-2, weight_decay=decay, coupling="lr", rules=1.0)
    got = undriven(tx, np.array([1.0]), steps=1000)[0]
    np.testing.assert_allclose(got, (1 - 1 / 1000) ** 1000, rtol=1e-12)
    back = strengths.timescale_of(decay, learning_rate=1e-2, steps_per_epoch=200)
    assert back == pytest.approx(5.0, rel=1e-15)


def test_timescale_held_at_every_step(x64):
    """The product lr_t lambda_t is 1/tau wherever the learning rate is not 0."""
    lr = wdlab.schedules.warmup_cosine(0.1, warmup_steps=5, decay_steps=20)
    held = strengths.weight_decay_from_timescale(50.0, learning_rate=lr, hold="step")
    products = [float(lr(t) * held(t)) for t in range(22)]
    np.testing.assert_allclose(products[1:20], 1 / 50, rtol=1e-12)
    assert products[0] == 0.0
    assert products[21] == 0.0
    constant = strengths.weight_decay_from_timescale(50.0, learning_rate=lr)
    assert constant == pytest.approx(0.2)


def test_own_schedules_of_the_strength_work_in_the_optimizers(x64):
    rising = strengths.cosine_between(0.04, 0.4, steps=10)
    tx = wdlab.optimizers.adamw(0.5, weight_decay=rising, coupling="lr", rules=1.0)
    got = undriven(tx, np.array([1.0]), steps=12)[0]
    t = np.minimum(np.arange(12), 10)
    values = 0.4 + (0.04 - 0.4) * (1 + np.cos(np.pi * t / 10)) / 2
    np.testing.assert_allclose(got, np.prod(1 - 0.5 * values), rtol=1e-12)
