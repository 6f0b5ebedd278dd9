"""The decay terms: their formulas on random trees, cautious, toward, freeze."""

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from wdlab.decay import transforms
from wdlab.rules import Rule, leaves_with_paths

NAMES = st.sampled_from(["kernel", "bias", "scale", "a b", "value", "w/~/x", "", "0", "ö", "(.*"])
SHAPES = st.sampled_from([(), (1,), (3,), (2, 3), (0, 2), (2, 1, 2), (1, 2, 1, 2, 1)])
DTYPES = st.sampled_from(["float16", "bfloat16", "float32", "float64"])


@st.composite
def leaves(draw):
    shape, dtype, seed = draw(SHAPES), draw(DTYPES), draw(st.integers(0, 2**16))
    return np.random.default_rng(seed).normal(size=shape).astype(jnp.dtype(dtype))


def trees():
    return st.recursive(
        leaves(),
        lambda children: (
            st.dictionaries(NAMES, children, max_size=3)
            | st.lists(children, max_size=3)
            | st.tuples(children, children)
        ),
        max_leaves=6,
    )


@st.composite
def policies(draw):
    patterns = st.sampled_from(["(.*/)?kernel", "(.*/)?bias", ".*0.*", ".*/.*", "", "[^/]*"])
    scales = st.sampled_from([0.0, 0.25, 1.0, 3.0])
    ranks = st.sampled_from([None, 1, (2, None), (0, 2)])
    made = draw(st.lists(st.builds(Rule, patterns, scales, ndim=ranks), max_size=3))
    return (*made, Rule("(?s).*", draw(scales)))


def twin_scale(path, ndim, policy):
    """First full match, written once more."""
    import re

    for rule in policy:
        low, high = {None: (0, 99), 1: (1, 1), (2, None): (2, 99), (0, 2): (0, 2)}[rule.ndim]
        if re.fullmatch(rule.pattern, path) and low <= ndim <= high:
            return rule.scale
    raise AssertionError(path)


@hypothesis.given(
    trees(), policies(), st.sampled_from([0.0, 0.125, 0.3]), st.booleans(), DTYPES | st.none()
)
@pytest.mark.filterwarnings("ignore::wdlab.rules.RuleWarning")
def test_random_trees_and_dtypes_equal_the_twin(tree, policy, decay, l2, dtype):
    """Within 2 eps of the wider dtype of the update and its weight; exempt leaves bit for bit."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, tree)
        updates = jax.tree.map(lambda p: (p * 0.5 + 0.25).astype(dtype or p.dtype), params)
        make = wdlab.add_l2_gradient if l2 else wdlab.decay_weights
        tx = make(decay, rules=policy)
        got, _ = tx.update(updates, tx.init(params), params)
        wanted = jax.tree.map(lambda p, u: jnp.promote_types(p.dtype, u.dtype), params, updates)
        types = jax.tree.map(lambda leaf: leaf.dtype, got)
    if decay:  # A plain 0 leaves all as it is.
        assert types == wanted
    chex.assert_trees_all_equal_shapes(got, params)
    rows = zip(
        leaves_with_paths(params),
        jax.tree.leaves(updates),
        jax.tree.leaves(got),
        strict=True,
    )
    for (path, p), u, new in rows:
        scale = twin_scale(path, p.ndim, policy)
        p64, u64 = np.asarray(p, np.float64), np.asarray(u, np.float64)
        expected = u64 + (decay if l2 else -decay) * scale * p64
        eps = float(jnp.finfo(new.dtype).eps)
        size = np.maximum(np.abs(u64), np.abs(decay * scale * p64))
        assert (np.abs(np.asarray(new, np.float64) - expected) <= 2 * eps * size).all()
        if scale == 0 or decay == 0:
            np.testing.assert_array_equal(new, u)


def test_update_and_decay_are_rounded_once():
    """Each alone is below half a unit in the last place of 1.0 in bfloat16; their sum is not."""
    ulp = 2.0**-7  # Spacing of bfloat16 above 1.
    params = {"kernel": jnp.ones(1, jnp.bfloat16)}
    grads = {"kernel": jnp.full(1, 0.3 * ulp, jnp.bfloat16)}
    tx = wdlab.optimizers.sgdw(1.0, weight_decay=0.3 * ulp, coupling="constant")
    updates, _ = tx.update(grads, tx.init(params), params)
    np.testing.assert_allclose(np.asarray(updates["kernel"], np.float64), -0.6 * ulp, rtol=2**-8)


@pytest.mark.parametrize("toward", [None, "init"])
def test_cautious_decays_only_where_the_step_agrees_and_in_ties(toward):
    """u (theta - ref) <= 0, the reference moved away from the weights for 'init'."""
    start = jnp.array([2.0, -2.0, 2.0, -2.0, 0.0, 2.0, 1e-30])
    step = jnp.array([-1.0, -1.0, 1.0, 1.0, 1.0, 0.0, 1e-30])
    tx = wdlab.decay_weights(0.5, cautious=True, toward=toward)
    state = tx.init({"w": jnp.zeros_like(start)})
    updates, _ = tx.update({"w": step}, state, {"w": start})
    decays = np.array([True, False, False, True, True, True, False])
    expected = np.where(decays, step - 0.5 * start, step)
    np.testing.assert_array_equal(updates["w"], expected)


def test_toward_init_and_toward_a_tree(x64):
    start = {"w": jnp.array([4.0, 2.0])}
    zeros = {"w": jnp.zeros(2)}
    for toward, reference in [("init", start), ({"w": np.array([1.0, 1.0])}, None)]:
        tx = wdlab.decay_weights(0.25, toward=toward)
        state = tx.init(start)
        reference = toward if reference is None else reference
        params = {"w": start["w"] + 8.0}
        updates, state = tx.update(zeros, state, params)
        chex.assert_trees_all_close(
            updates["w"], -0.25 * (params["w"] - reference["w"]), rtol=1e-15
        )


def test_toward_init_holds_a_copy_that_donation_leaves_alone():
    params = {"kernel": jnp.full((4, 4), 4.0)}
    tx = optax.chain(optax.sgd(0.1), wdlab.decay_weights(0.1, toward="init"))
    state = tx.init(params)
    update = wdlab.make_update(tx)
    for _ in range(3):
        params, state = update(params, state, {"kernel": jnp.ones((4, 4))})
    np.testing.assert_array_equal(state[1].reference["kernel"], 4.0)


def test_toward_another_tree_is_refused():
    tx = wdlab.decay_weights(0.1, toward={"w": np.ones(3)})
    with pytest.raises(ValueError, match=r"'w' has shape \(2,\), found shape \(3,\)"):
        tx.init({"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="found nothing"):
        tx.init({"v": jnp.ones(2)})
    with pytest.raises(ValueError, match="toward"):
        wdlab.decay_weights(0.1, toward="zero")


def test_zero_gradients_do_not_freeze_but_freeze_and_scale_zero_do():
    params = {"backbone": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
    backbone = (Rule("backbone/.*"), Rule(".*", 0.0))
    zeros = jax.tree.map(jnp.zeros_like, params)

    def step(tx):
        updates, _ = tx.update(zeros, tx.init(params), params)
        return optax.apply_updates(params, updates)

    decaying = wdlab.optimizers.adamw(0.1, weight_decay=0.5, coupling="lr")
    assert (step(decaying)["backbone"]["kernel"] < 1).all()
    frozen = step(optax.chain(decaying, wdlab.freeze(backbone)))
    exempt = step(
        wdlab.optimizers.adamw(
            0.1, weight_decay=0.5, coupling="lr", rules=(Rule("backbone/.*", 0.0), Rule(".*"))
        )
    )
    for got in (frozen, exempt):
        np.testing.assert_array_equal(got["backbone"]["kernel"], 1.0)
        assert (got["head"]["kernel"] < 1).all()


def test_decay_on_top_of_any_optimizer():
    """The example of the design: an optimizer that has no weight decay of its own."""
    lr = wdlab.schedules.cosine(0.1, decay_steps=10)
    rules = wdlab.rules.NO_BIAS_OR_NORM
    params = {"kernel": jnp.full((2,), 4.0), "bias": jnp.full((2,), 4.0)}
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adabelief(lr),
        wdlab.decay_weights(0.01, multiplier=wdlab.schedule_multiplier(lr), rules=rules),
    )
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adabelief(lr))
    grads = jax.tree.map(jnp.ones_like, params)
    got, _ = tx.update(grads, tx.init(params), params)
    base, _ = plain.update(grads, plain.init(params), params)
    np.testing.assert_allclose(got["kernel"], base["kernel"] - 0.04, rtol=1e-6)
    np.testing.assert_array_equal(got["bias"], base["bias"])


def test_updates_of_another_structure_are_refused():
    tx = wdlab.decay_weights(0.1)
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    with pytest.raises(ValueError, match="1 updates for 2 parameters"):
        tx.update({"a": jnp.ones(2)}, tx.init(params), params)


def test_too_strong_a_decay_is_refused():
    with pytest.raises(ValueError, match="flips their sign"):
        wdlab.decay_weights(20.0, multiplier=0.1)
    wdlab.decay_weights(20.0, multiplier=0.01)


@pytest.mark.parametrize("leaf", [np.float32(1.5), 1.5, np.ones(2, np.float32)])
def test_numpy_and_python_float_leaves_work(leaf):
    params = {"w": leaf}
    tx = transforms.decay_weights(0.5)
    updates, _ = tx.update({"w": jnp.zeros(np.shape(leaf))}, tx.init(params), params)
    np.testing.assert_allclose(updates["w"], -0.5 * np.asarray(leaf))


@pytest.mark.parametrize(
    "tx",
    [
        wdlab.decay_weights(0.5),
        wdlab.add_l2_gradient(0.5),
        wdlab.optimizers.adamw(0.1, weight_decay=0.5, coupling="lr"),
    ],
)
def test_a_gradient_of_another_shape_is_refused(tx):
    params = {"block": {"kernel": jnp.ones((2, 3))}}
    of_another = {"block": {"kernel": jnp.ones(3)}}
    message = r"gradient of block/kernel has shape \(3,\), the parameter \(2, 3\)"
    with pytest.raises(ValueError, match=message):
        tx.update(of_another, tx.init(params), params)


def test_a_shrink_of_exactly_one_is_the_most_and_a_scale_of_zero_changes_no_bit():
    zero = jnp.zeros(1)
    tx = wdlab.decay_weights(1.0, rules=(Rule("a"), Rule("b", 0.0)))
    params = {"a": jnp.array([3.0]), "b": jnp.array([jnp.nan])}
    updates, _ = tx.update({"a": zero, "b": zero}, tx.init(params), params)
    assert (updates["a"].item(), updates["b"].item()) == (-3.0, 0.0)
    with pytest.raises(ValueError, match="flips their sign"):
        wdlab.decay_weights(1.001)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda **k: wdlab.decay.decay_l1(0.5, **k), [0.0, 0.25]),  # 0.5 is k; 0.75 lies beside it.
        (lambda **k: wdlab.decay.decay_huber(0.5, delta=1.0, **k), [0.0, 0.25]),
        (lambda **k: wdlab.decay.decay_proximal(0.25, **k), [0.4, 0.6]),
    ],
    ids=["l1", "huber", "proximal"],
)
def test_a_penalty_without_a_multiplier_has_one_of_1(make, expected):
    params, steps = jnp.ones(2), jnp.array([-0.5, -0.25])
    for tx in (make(), make(multiplier=1.0)):
        new = params + tx.update(steps, tx.init(params), params)[0]
        np.testing.assert_allclose(new, expected, rtol=1e-6, atol=0)
