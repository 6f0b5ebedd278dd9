"""One contract for every transformation and optimizer, alone and inside Optax's wrappers (R19).

The matrix is MEMBERS x the test functions below x their own parameters; pytest counts it.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import wdlab
from wdlab import optimizers, schedules
from wdlab.rules import Rule

LR = schedules.warmup_cosine(0.05, warmup_steps=2, decay_steps=20, end=0.01)
HALF = (
    Rule("(.*/)?bias", 0.0, optional=True),
    Rule("(.*/)?scale", 0.5, optional=True),
    Rule(".*"),
)


def _reference_tree(decay=0.1):
    """A decay toward a pytree cannot be built without the params; toward their initial values."""
    return wdlab.decay_weights(decay, toward="init", rules=HALF)


# Each takes the weight decay (number, schedule or traced scalar) and makes the transformation.
MEMBERS = {
    "add_l2_gradient": lambda decay: wdlab.add_l2_gradient(decay, rules=HALF),
    "decay_weights": lambda decay: wdlab.decay_weights(decay, rules=HALF),
    "decay_weights_schedule": lambda decay: wdlab.decay_weights(
        decay, multiplier=wdlab.schedule_multiplier(LR), rules=HALF
    ),
    "decay_weights_cautious": lambda decay: wdlab.decay_weights(decay, rules=HALF, cautious=True),
    "decay_weights_toward_init": _reference_tree,
    "sgd_l2": lambda decay: optimizers.sgd(
        LR, weight_decay=decay, coupling="l2", rules=HALF, momentum=0.9
    ),
    "sgdw_lr": lambda decay: optimizers.sgdw(LR, weight_decay=decay, coupling="lr", rules=HALF),
    "adam_l2": lambda decay: optimizers.adam(LR, weight_decay=decay, coupling="l2", rules=HALF),
    "adamw_schedule": lambda decay: optimizers.adamw(
        LR, weight_decay=decay, coupling="schedule", rules=HALF
    ),
    "adamw_lr2": lambda decay: optimizers.adamw(
        0.1, weight_decay=decay, coupling="lr2", rules=HALF
    ),
    "radamw_lr": lambda decay: optimizers.radamw(LR, weight_decay=decay, coupling="lr", rules=HALF),
    "adafactor_lr": lambda decay: optimizers.adafactor(
        LR, weight_decay=decay, coupling="lr", rules=HALF
    ),
    "lionw_constant": lambda decay: optimizers.lionw(
        LR, weight_decay=decay, coupling="constant", rules=HALF
    ),
}
every_member = pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS.keys())


def tree(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,), "scale": ()}
    shapes |= {"empty_kernel": (0, 2), "deep_kernel": (2, 1, 2, 1, 2)}
    return {"layer": {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in shapes.items()}}


def grads_like(params, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), params)


def run(tx, params, steps=3, jit=True):
    update = jax.jit(tx.update) if jit else tx.update
    state = tx.init(params)
    for step in range(steps):
        updates, state = update(grads_like(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


def traces_of(tx, params, steps):
    """How often jit traces the update while the parameters move."""
    traces = []

    @jax.jit
    def update(grads, state, params):
        traces.append(1)
        return tx.update(grads, state, params)

    state = tx.init(params)
    for _ in range(steps):
        updates, state = update(jax.tree.map(jnp.ones_like, params), state, params)
        params = optax.apply_updates(params, updates)
    return len(traces)


@every_member
def test_jit_equals_eager(make):
    chex.assert_trees_all_close(
        run(make(0.1), tree(), jit=True), run(make(0.1), tree(), jit=False), rtol=1e-6
    )


@every_member
def test_traced_once_over_three_steps(make):
    """R18."""
    tx = make(0.1)
    params = tree()
    assert traces_of(tx, params, steps=3) == 1


@every_member
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "decay", [0.1, lambda count: 0.1 / (count + 1)], ids=["number", "schedule"]
)
def test_dtypes_and_state_structure_are_stable(make, decay, dtype, x64):
    params = tree(dtype)
    tx = make(decay)
    state = tx.init(params)
    updates, new_state = jax.eval_shape(tx.update, grads_like(params), state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)


@every_member
def test_runs_under_scan_and_cond(make):
    """R18: the state's types are fixed points of update."""
    params, tx = tree(), make(0.1)

    def body(carry, _):
        params, state = carry
        updates, state = tx.update(grads_like(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    (scanned, _), _ = jax.lax.scan(body, (params, tx.init(params)), length=2)
    state = tx.init(params)
    _, skipped = jax.lax.cond(
        jnp.array(False),
        lambda: tx.update(grads_like(params), state, params),
        lambda: (grads_like(params), state),
    )
    chex.assert_trees_all_equal(skipped, state)
    assert np.isfinite(scanned["layer"]["kernel"]).all()


@every_member
def test_works_in_masked(make):
    params = tree()
    mask = {"layer": {k: k == "kernel" for k in params["layer"]}}
    inside = run(optax.masked(make(0.1), mask), params, steps=1)
    tx = make(0.1)
    only = {"layer": {"kernel": params["layer"]["kernel"]}}
    grads = {"layer": {"kernel": grads_like(params, 0)["layer"]["kernel"]}}
    updates, _ = tx.update(grads, tx.init(only), only)
    alone = optax.apply_updates(only, updates)
    chex.assert_trees_all_close(inside["layer"]["kernel"], alone["layer"]["kernel"], rtol=1e-6)


@every_member
def test_works_in_partition(make):
    params = tree()
    labels = {"layer": {k: "decayed" if k == "kernel" else "rest" for k in params["layer"]}}
    tx = optax.partition({"decayed": make(0.1), "rest": optax.set_to_zero()}, labels)
    got = run(tx, params, steps=2)
    assert (got["layer"]["kernel"] != params["layer"]["kernel"]).any()
    chex.assert_trees_all_equal(got["layer"]["scale"], params["layer"]["scale"])


@every_member
def test_multi_steps_decays_once_per_accumulated_step(make):
    params = tree()
    grads = grads_like(params)
    single = make(0.1)
    once, _ = jax.jit(single.update)(grads, single.init(params), params)
    tx = optax.MultiSteps(make(0.1), every_k_schedule=4)
    state, update = tx.init(params), jax.jit(tx.update)
    for _ in range(4):
        updates, state = update(grads, state, params)
    chex.assert_trees_all_close(updates, once, rtol=1e-5, atol=1e-7)


@every_member
def test_apply_if_finite_skips_the_decay_too(make):
    params = tree()
    tx = optax.apply_if_finite(make(0.1), max_consecutive_errors=2)
    state = tx.init(params)
    broken = jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params)
    updates, state = tx.update(broken, state, params)
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, params))
    updates, _ = tx.update(grads_like(params), state, params)
    assert np.isfinite(updates["layer"]["kernel"]).all()


@every_member
def test_inject_hyperparams_reaches_the_same_update(make):
    def factory(weight_decay):
        return make(weight_decay)

    params = tree()
    injected = optax.inject_hyperparams(factory)(0.1)
    chex.assert_trees_all_close(run(injected, params), run(make(0.1), params), rtol=1e-5, atol=1e-7)


@every_member
def test_vmap_over_weight_decay(make):
    params = tree()
    decays = jnp.array([0.0, 0.1])
    batch = jax.jit(jax.vmap(lambda decay: run(make(decay), params, steps=2, jit=False)))(decays)
    for row, decay in enumerate(decays.tolist()):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, row=row: leaf[row], batch),
            run(make(decay), params, steps=2),
            rtol=1e-5,
            atol=1e-6,
        )


@every_member
@pytest.mark.parametrize("empty", [{}, [], {"layer": {}}], ids=["dict", "list", "nested"])
def test_empty_tree(make, empty):
    tx = make(0.1)
    updates, _ = tx.update(empty, tx.init(empty), empty)
    assert updates == empty


@every_member
def test_missing_params_are_said(make):
    tx = make(0.1)
    params = tree()
    with pytest.raises(ValueError, match=r"tx.update\(grads, opt_state, params\)"):
        tx.update(grads_like(params), tx.init(params))


@every_member
def test_a_leaf_without_a_rule_is_an_error_at_init(make):
    rules = (Rule("nothing_like_this"),)
    for factory in (
        lambda: wdlab.decay_weights(0.1, rules=rules),
        lambda: wdlab.add_l2_gradient(0.1, rules=rules),
        lambda: optimizers.adamw(0.1, weight_decay=0.1, coupling="lr", rules=rules),
    ):
        with pytest.raises(ValueError, match="layer/bias"):
            factory().init(tree())


@every_member
def test_weakly_typed_parameters_retrace_once_at_most(make):
    """optax.apply_updates makes them strongly typed at the first step, whatever the optimizer."""
    assert traces_of(make(0.1), {"kernel": jnp.full((3,), 2.0)}, steps=4) <= 2


@every_member
def test_composes_after_clipping(make):
    params = tree()
    got = run(optax.chain(optax.clip_by_global_norm(1.0), make(0.1)), params)
    assert np.isfinite(got["layer"]["kernel"]).all()
