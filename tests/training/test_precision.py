"""How much decay survives in 16-bit parameters, against float64 and the closed form."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from wdlab.instruments import lost_to_rounding
from wdlab.training import precision

pytestmark = pytest.mark.usefixtures("fully_optimized")
WRAPPERS = {
    "stochastic_rounding": precision.stochastic_rounding,
    "kahan": precision.kahan,
    "float32_masters": precision.float32_masters,
}


def decayed(tx, start, steps):
    """The parameters after steps without gradients, in one scan."""
    zeros = jax.tree.map(jnp.zeros_like, start)

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(zeros, state, params)
        return (optax.apply_updates(params, updates), state), None

    scan = jax.jit(lambda carry: jax.lax.scan(body, carry, length=steps)[0])
    return scan((start, tx.init(start)))[0]


def test_plain_bfloat16_loses_all_of_it():
    tx = wdlab.optimizers.sgdw(1e-3, weight_decay=0.1, coupling="lr")
    np.testing.assert_array_equal(
        decayed(tx, {"kernel": jnp.ones(9, jnp.bfloat16)}, 1000)["kernel"], 1
    )


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("stochastic_rounding", 0.02), ("kahan", 1e-3), ("float32_masters", 1e-3)],
)
def test_a_thousand_steps_of_undriven_decay_survive(name, tolerance):
    weights = np.random.default_rng(0).uniform(0.5, 2.0, size=100_000)
    start = {"kernel": jnp.asarray(weights, jnp.bfloat16)}
    tx = WRAPPERS[name](wdlab.optimizers.sgdw(1e-3, weight_decay=0.1, coupling="lr"))
    got = np.asarray(decayed(tx, start, 1000)["kernel"], np.float64)
    expected = np.asarray(start["kernel"], np.float64) * (1 - 1e-4) ** 1000
    assert abs(got.mean() / expected.mean() - 1) < tolerance
    if name == "stochastic_rounding":  # Unbiased: the mean error against its standard error.
        error = got - expected
        assert abs(error.mean() / (error.std() / np.sqrt(error.size))) < 4


@pytest.mark.parametrize("name", WRAPPERS)
def test_wide_leaves_are_those_of_the_optimizer_alone(name):
    params = {"kernel": jnp.linspace(0.0, 1.0, 6)}
    inner = wdlab.optimizers.adamw(0.1, weight_decay=0.1, coupling="lr")
    tx = WRAPPERS[name](inner)
    alone, _ = inner.update(params, inner.init(params), params)
    wrapped, _ = tx.update(params, tx.init(params), params)
    chex.assert_trees_all_equal(alone, wrapped)


def test_stochastic_rounding_is_reproducible_and_differs_by_seed():
    start = {"kernel": jnp.ones(64, jnp.bfloat16)}

    def run(seed):
        tx = wdlab.optimizers.sgdw(1e-3, weight_decay=0.5, coupling="lr")
        return np.asarray(
            decayed(precision.stochastic_rounding(tx, seed=seed), start, 20)["kernel"]
        )

    np.testing.assert_array_equal(run(0), run(0))
    assert (run(0) != run(1)).any()


def noise_twin(key, shape):
    """MurmurHash3's finalizer, twice, over positions in C order."""

    def mixed(x):
        x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return x ^ (x >> np.uint32(16))

    first, second = np.asarray(jax.random.key_data(key))
    position = np.arange(np.prod(shape, dtype=np.int64)).astype(np.uint32).reshape(shape)
    return (mixed(mixed(position ^ first) + second) >> np.uint32(8)) * 2.0**-24


def test_the_noise_of_rounding_is_its_twin_even_and_uncorrelated():
    shape = (200, 5000)
    now, then = (
        np.asarray(precision.uniform_noise(key, shape), np.float64)
        for key in jax.random.split(jax.random.key(3))
    )
    np.testing.assert_array_equal(now, noise_twin(jax.random.split(jax.random.key(3))[0], shape))
    for scale in (2**8, 2**16, 2**24):  # Upper, middle and lower eight bits.
        counts = np.bincount((now * scale).astype(np.int64).ravel() % 256, minlength=256)
        chi_squared = np.sum((counts - now.size / 256) ** 2 / (now.size / 256))
        assert abs(chi_squared - 255) < 5 * np.sqrt(2 * 255)
    others = (then, np.roll(now, 1, axis=1), np.roll(now, 1, axis=0), np.roll(then, 1, axis=1))
    for other in others:
        assert abs(np.corrcoef(now.ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(now.size)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_number_is_rounded_to_each_neighbour_as_often_as_it_is_near(dtype):
    low = jnp.asarray([1.0, -3.0, 0.01, 1.5], dtype)
    high = jnp.nextafter(low, jnp.asarray([2.0, -4.0, 1.0, 0.0], dtype))
    low, high = (np.asarray(x, np.float64)[:, None] for x in (low, high))
    shares = np.asarray([[0.1], [0.5], [0.75], [2.0**-10]])
    tries = 400_000
    x = jnp.broadcast_to(jnp.asarray(low + shares * (high - low), jnp.float32), (4, tries))
    got = np.asarray(precision._round_stochastically(x, dtype, jax.random.key(0)), np.float64)
    assert np.all((got == low) | (got == high))
    error = np.sqrt(shares * (1 - shares) / tries)
    assert np.all(np.abs(np.mean(got == high, axis=1, keepdims=True) - shares) < 4.5 * error)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_float64_gradients_are_rounded_too(dtype, x64):
    tx = precision.stochastic_rounding(optax.sgd(1.0))
    params = {"w": jnp.ones(3, dtype)}
    updates, _ = tx.update({"w": jnp.full(3, 0.5)}, tx.init(params), params)
    np.testing.assert_array_equal(optax.apply_updates(params, updates)["w"], 0.5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_what_is_not_finite_stays_so(dtype):
    bits = np.asarray([0x7F800001, 0xFF800001, 0x7F800000, 0xFF800000, 0x7FFFFFFF], np.uint32)
    got = precision._round_stochastically(
        jnp.asarray(bits.view(np.float32)), dtype, jax.random.key(0)
    )
    expected = [np.nan, np.nan, np.inf, -np.inf, np.nan]
    np.testing.assert_array_equal(np.asarray(got, np.float64), expected)


def test_masters_equal_a_float32_run_rounded():
    start = jnp.asarray(np.linspace(-1, 1, 50), jnp.bfloat16)
    inner = wdlab.optimizers.adamw(1e-3, weight_decay=0.1, coupling="lr")
    got = decayed(precision.float32_masters(inner), {"kernel": start}, 300)["kernel"]
    wide = decayed(inner, {"kernel": start.astype(jnp.float32)}, 300)["kernel"]
    np.testing.assert_array_equal(got, wide.astype(jnp.bfloat16))


def test_what_is_lost_is_said_before():
    params = {"kernel": jnp.ones(3, jnp.bfloat16), "head": {"kernel": jnp.ones(3)}}
    table = wdlab.inspect_decay(params, wdlab.rules.ALL, shrink_per_step=6e-5)
    assert [w for w in table.warnings if "rounding" in w][0].startswith("kernel: lost to rounding")
    assert len(table.warnings) == 1
    assert wdlab.inspect_decay(params, wdlab.rules.ALL, shrink_per_step=2**-7).warnings == ()
    assert "bfloat16" in wdlab.decay_profile(0.1, 6e-4, 50_000, dtype=jnp.bfloat16).verdict


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_threshold_is_where_weights_begin_to_move(dtype):
    """All mantissas between 1 and 2, rounded to nearest."""
    weights = jnp.arange(1.0, 2.0, float(jnp.finfo(dtype).eps), dtype=jnp.float32).astype(dtype)
    half = float(jnp.finfo(dtype).eps) / 2

    def moved(shrink):
        wide = weights.astype(jnp.float32)
        return float(((wide - shrink * wide).astype(dtype) != weights).mean())

    assert moved(half / 2) == 0
    assert 0 < moved(0.75 * half) < 1
    assert moved(half) == 1
    assert lost_to_rounding(half / 2, dtype).startswith("lost")
    assert lost_to_rounding(0.75 * half, dtype).startswith("partly")
    assert lost_to_rounding(half, dtype) == ""


ROUNDED = {
    "adamw": lambda: wdlab.optimizers.adamw(6e-4, weight_decay=0.1, coupling="lr"),
    "decay_weights": lambda: wdlab.decay_weights(6e-5),
}


@pytest.mark.parametrize("make", ROUNDED.values(), ids=ROUNDED)
def test_a_decay_that_16_bit_weights_round_away_is_warned_of_at_init(make):
    params = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
    with pytest.warns(wdlab.rules.RuleWarning, match=r"6e-05 a step is lost.*kahan.*\(kernel\)"):
        make().init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make().init({"kernel": params["kernel"].astype(jnp.float32)})
        for wrapper in WRAPPERS.values():
            wrapper(make()).init(params)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("replaced", [slice(None), slice(1, 3), slice(0, 0)])
def test_masters_take_weights_that_were_replaced_after_init(dtype, replaced):
    """And keep all others to the bit, below what 16 bits can hold."""
    tx = precision.float32_masters(optax.sgd(1.0))
    params = {"w": jnp.ones(4, dtype)}
    grads = {"w": jnp.full(4, 2.0**-13)}
    _, state = tx.update(grads, tx.init(params), params)
    expected = np.full(4, 1 - 2.0**-12)
    expected[replaced] = 3 - 2.0**-13
    params = {"w": params["w"].at[replaced].set(3)}
    updates, state = jax.jit(tx.update)(grads, state, params)
    np.testing.assert_array_equal(state.memory["w"], expected.astype(np.float32))
    landed = optax.apply_updates(params, updates)["w"]
    np.testing.assert_array_equal(landed, state.memory["w"].astype(dtype))


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float32, 0.0), (jnp.bfloat16, 2.0**-9)])
def test_masters_differ_from_a_float32_run_by_the_rounding_of_16_bit_steps_only(dtype, error):
    rng = np.random.default_rng(0)
    tx = precision.float32_masters(optax.sgd(1e-2))
    params = {"w": jnp.asarray(rng.normal(size=5000), jnp.bfloat16)}
    state, wide, largest = tx.init(params), params["w"].astype(jnp.float32), 0.0
    for _ in range(20):
        grads = {"w": jnp.asarray(rng.normal(size=5000), dtype)}
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        wide = wide - 1e-2 * grads["w"].astype(jnp.float32)
        largest += 1e-2 * float(jnp.abs(grads["w"]).max())
    assert float(jnp.abs(state.memory["w"] - wide).max()) <= error * largest + 1e-6


def test_a_number_crosses_only_where_the_noise_is_below_its_share():
    """From 0 with a gap of 2^-24, shares are exact in float32: an equal one is not below."""
    key, shape = jax.random.key(5), (4096,)
    noise = np.asarray(precision.uniform_noise(key, shape), np.float32)
    for share, crosses in ((noise, False), (np.nextafter(noise, np.float32(1)), True)):
        x = jnp.asarray(share * np.float32(2.0**-24))
        got = np.asarray(precision._round_stochastically(x, jnp.float16, key), np.float64)
        below_half = noise < 0.49  # Above it the nearest is the upper neighbour.
        np.testing.assert_array_equal((got > 0)[below_half], crosses)
