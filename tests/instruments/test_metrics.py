"""Metrics against float64 NumPy on the same arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from tests.compilers import fuses_norms
from tests.twins.metrics import angle, flat, mean_rate
from wdlab import instruments
from wdlab.rules import NO_BIAS_OR_NORM, Rule


def random_like(tree, seed=1, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.normal(size=np.shape(x)) * scale, tree)


def test_norms_of_all_leaves_layers_and_groups(params, x64):
    got = jax.jit(
        lambda p: (
            instruments.norm(p),
            instruments.rms(p),
            instruments.largest_entry(p),
            instruments.leaf_norms(p),
            instruments.leaf_norms(p, depth=1),
            instruments.group_norms(p, "wte ln dense wpe"),
            instruments.group_norms(p, {"kernels": "(.*/)?kernel", "block": "block/.*"}),
            instruments.decayed_norms(p, NO_BIAS_OR_NORM),
        )
    )(params)
    block = params["block"]
    dense, conv, ln = block["dense"], block["conv"], block["ln_1"]
    leaves = {
        "block/conv/kernel": conv,
        "block/dense/bias": dense["bias"],
        "block/dense/kernel": dense["kernel"],
        "block/ln_1/scale": ln,
        "wte/embedding": params["wte"],
    }
    size = np.linalg.norm
    everything = flat(params)
    expected = (
        size(everything),
        np.sqrt(np.mean(everything**2)),
        np.abs(everything).max(),
        {path: size(flat(leaf)) for path, leaf in leaves.items()},
        {"block": size(flat(block)), "wte": size(flat(params["wte"]))},
        {"wte": size(flat(params["wte"])), "ln": size(flat(ln)), "dense": size(flat(dense))},
        {
            "kernels": size(flat([conv["kernel"], dense["kernel"]])),
            "block": size(flat(block)),
        },
        {
            "decayed": size(flat([conv["kernel"], dense["kernel"], params["wte"]])),
            "exempt": size(flat([dense["bias"], ln])),
        },
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), got, expected)
    assert instruments.leaf_norms(params).keys() == leaves.keys()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sixteen_bits_are_summed_in_float32(dtype):
    tree = {"a": jnp.full(1000, 300.0, dtype)}  # 300**2 overflows float16.
    got = instruments.norm(tree)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 300 * 1000**0.5, rtol=1e-6)
    np.testing.assert_allclose(instruments.rms(tree), 300, rtol=1e-6)
    assert instruments.angular_update(tree, tree).dtype == jnp.float32


def test_nan_is_not_hidden():
    tree = {"a": jnp.array([1.0, jnp.nan]), "b": jnp.array(7.0)}
    assert np.isnan(instruments.norm(tree))
    assert np.isnan(instruments.largest_entry(tree))


def test_a_group_pattern_that_matches_nothing_is_refused_with_the_nearest(params):
    with pytest.raises(ValueError, match=r"'block/dens/\.\*' of group 'dense'.*'block/dense/"):
        instruments.group_norms(params, {"dense": "block/dens/.*"})


ADAM_STATES = {
    "optax.adamw": lambda: optax.adamw(0.1, b2=0.99),
    "optax.amsgrad": lambda: optax.amsgrad(0.1, b2=0.99),
    "wdlab.adamw": lambda: wdlab.optimizers.adamw(0.1, b2=0.99),
    "inject": lambda: optax.inject_hyperparams(optax.adam)(0.1, b2=0.99),
    "MultiSteps": lambda: optax.MultiSteps(optax.adam(0.1, b2=0.99), 1).gradient_transformation(),
    "partition": lambda: optax.partition(
        {"a": optax.adam(0.1, b2=0.99), "b": optax.adam(0.2, b2=0.99)}, {"block": "a", "wte": "b"}
    ),
}


@pytest.mark.parametrize("name", ADAM_STATES)
def test_effective_learning_rate_of_any_chain_with_adam(name, x64):
    tx = ADAM_STATES[name]()
    params = {"block": {"kernel": jnp.ones((3, 2))}, "wte": jnp.ones(4)}
    state, update = tx.init(params), jax.jit(tx.update)
    history = [random_like(params, seed) for seed in range(3)]
    for grads in history:
        _, state = update(grads, state, params)
    for b2 in (None, 0.99):
        expected = mean_rate(history, 0.1, b2=0.99, eps=1e-3, corrected=b2 is not None)
        got = instruments.effective_learning_rate(state, 0.1, 1e-3, b2)
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_effective_learning_rate_before_the_first_update_and_without_adam():
    params = {"w": jnp.ones(3)}
    state = optax.adam(0.1).init(params)
    np.testing.assert_allclose(instruments.effective_learning_rate(state, 0.5, 0.25, 0.9), 2.0)
    with pytest.raises(ValueError, match="found no Adam"):
        instruments.effective_learning_rate(optax.sgd(0.1, momentum=0.9).init(params), 0.1)


@pytest.mark.parametrize("size", [1e-12, 1e-6, 1e-2, 1.0, 100.0])
def test_angles_keep_their_digits_at_any_size(size, params):
    """Float32 against float64: the dot product's arc cosine would give 0 for all below 3e-4."""
    params = jax.tree.map(np.float32, params)
    updates = jax.tree.map(np.float32, random_like(params, 1, size))
    np.testing.assert_allclose(
        jax.jit(instruments.angular_update)(params, updates),
        angle(flat(params), flat(updates)),
        rtol=3e-6,
    )
    got = instruments.angular_updates(params, updates)
    assert got.keys() == instruments.leaf_norms(params).keys()
    pairs = zip(got.values(), jax.tree.leaves(params), jax.tree.leaves(updates), strict=True)
    for value, p, u in pairs:
        np.testing.assert_allclose(value, angle(flat(p), flat(u)), rtol=3e-6)


@pytest.mark.parametrize(
    ("update", "expected"),
    [([0.0, 0.0], 0.0), ([1.0, 0.0], 0.0), ([-2.0, 0.0], np.pi), ([-1.0, 0.0], 0.0)],
)
def test_angles_of_steps_along_the_weights(update, expected):
    got = instruments.angular_update({"w": jnp.array([1.0, 0.0])}, {"w": jnp.array(update)})
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_the_angle_from_a_zero_vector_is_zero():
    assert instruments.angular_update({"w": jnp.zeros(2)}, {"w": jnp.ones(2)}) == 0.0


def test_decay_share_of_a_step(params, x64):
    """AdamW with and without decay, against the decay term of the definition."""
    params = jax.tree.map(jnp.asarray, params)
    grads = random_like(params)

    def step(weight_decay):
        tx = wdlab.optimizers.adamw(
            0.1, weight_decay=weight_decay, coupling="lr", rules=wdlab.rules.ALL
        )
        return tx.update(grads, tx.init(params), params)[0]

    whole, without = jax.jit(lambda: (step(0.5), step(0.0)))()
    expected = np.linalg.norm(0.1 * 0.5 * flat(params)) / np.linalg.norm(flat(whole))
    np.testing.assert_allclose(instruments.decay_share(whole, without), expected, rtol=1e-12)
    zeros = jax.tree.map(jnp.zeros_like, params)
    assert instruments.decay_share(zeros, zeros) == 0.0


def test_clip_rate_counts_in_a_scan():
    norms = jnp.array([0.5, 2.0, 1.0, 3.0])
    counts = jax.jit(
        lambda: jax.lax.scan(
            lambda c, n: (c.add(n, 1.0), None), instruments.ClipCounts.zero(), norms
        )[0]
    )()
    assert (int(counts.steps), int(counts.clipped), float(counts.rate())) == (4, 2, 0.5)
    assert float(instruments.ClipCounts.zero().rate()) == 0.0


@fuses_norms
def test_measuring_a_step_makes_no_copy_of_the_parameters():
    """Nothing grows with the number of leaves.

    XLA for CPU (jax 0.10.2) writes a scalar out once where leaves of equal shape share it.
    """

    def measure(params, updates, state):
        return (
            instruments.norm(params),
            instruments.largest_entry(updates),
            instruments.group_norms(params, "w"),
            instruments.angular_update(params, updates),
            instruments.effective_learning_rate(state, 0.1),
            instruments.decay_share(params, updates),
        )

    leaf = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    params = {f"w{n}": leaf for n in range(20)}
    state = jax.eval_shape(optax.adam(0.1).init, params)
    compiled = jax.jit(measure).lower(params, params, state).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 256 * 256 * 4


def test_rules_of_decayed_norms_may_be_scales():
    params = {"a": jnp.array(3.0), "b": jnp.array(4.0)}
    by_rule = instruments.decayed_norms(params, (Rule("a", 0.5), Rule(".*", 0.0)))
    by_scale = instruments.decayed_norms(params, {"a": True, "b": False})
    assert by_rule == by_scale == {"decayed": 3.0, "exempt": 4.0}


def test_complex_leaves_count_as_their_two_parts(x64):
    rng = np.random.default_rng(0)
    pairs = [{"w": jnp.asarray(rng.normal(size=(3, 4)))} for _ in range(4)]
    real = [{"re": a["w"], "im": b["w"]} for a, b in (pairs[:2], pairs[2:])]
    both = [{"w": tree["re"] + 1j * tree["im"]} for tree in real]
    for measure in (instruments.norm, instruments.decay_share, instruments.angular_update):
        args = slice(0, 1 if measure is instruments.norm else 2)
        np.testing.assert_allclose(measure(*both[args]), measure(*real[args]), rtol=1e-12)
    tx = optax.adam(0.1)
    _, state = tx.update(both[0], tx.init(both[0]))
    rate = instruments.effective_learning_rate(state, 0.1)
    assert rate.dtype == jnp.float64
    mean = np.mean(0.1 / (np.sqrt(1e-3) * np.abs(both[0]["w"]) + 1e-8))
    np.testing.assert_allclose(rate, mean, rtol=1e-6)
