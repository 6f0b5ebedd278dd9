"""One contract for every transformation, optimizer, convention and wrapper of the package."""

import functools
import inspect
import warnings

import chex
import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import wdlab
from tests import contract
from tests.contract import ALL_LEAVES, CONVENTIONS, DECAY, MEMBERS, OWN, gradients, weights
from wdlab import conventions, schedules
from wdlab._core.dtypes import in_float32
from wdlab.conventions.parts import caution
from wdlab.optimizers import assemble

pytestmark = pytest.mark.filterwarnings("ignore::wdlab.rules.RuleWarning")
every_member = pytest.mark.parametrize("name", MEMBERS)
STEPS = 3
GIVEN = [gradients(t) for t in range(STEPS)]


def scanned(tx, given):
    """The updates of given gradients for the weights of each step, in one compiled scan."""
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    several = len(given) // STEPS

    @jax.jit
    def run(state):
        step = lambda state, both: tx.update(both[0], state, both[1])[::-1]  # noqa: E731
        at = stack([weights(t // several) for t in range(len(given))])
        return jax.lax.scan(step, state, (stack(given), at))[1]

    together = jax.tree.map(np.asarray, run(tx.init(weights(0))))
    return [jax.tree.map(lambda leaf, t=t: leaf[t], together) for t in range(len(given))]


def moves_not(updates):
    assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


def in_cond(tx):
    """Of no gradients nothing is made, by a branch."""

    def update(grads, state, params):
        idle = jax.tree.map(jnp.zeros_like, grads), state
        step = lambda: tx.update(grads, state, params)  # noqa: E731
        return jax.lax.cond(jnp.any(grads["layer"]["bias"] != 0), step, lambda: idle)

    return optax.GradientTransformation(tx.init, update)


def in_several(make):
    """Injected into a part of a partition, once for each accumulated step, where all is finite.

    Each step's gradient comes as two that have it for their mean; among them are gradients that
    are not finite, and none.
    """
    injected = optax.inject_hyperparams(lambda weight_decay: make(weight_decay))
    tx = optax.partition({True: injected(DECAY), False: optax.set_to_zero()}, PART)
    tx = in_cond(optax.apply_if_finite(optax.MultiSteps(tx, 2), 2))
    times = lambda grads, f: jax.tree.map(lambda g: f * g, grads)  # noqa: E731
    parts = [times(grads, f) for grads in GIVEN for f in (0.5, jnp.nan, 0.0, 1.5)]
    updates = scanned(tx, parts)
    moves_not([step for place, step in enumerate(updates) if place % 4 != 3])
    moves_not([step["layer"].pop("bias") for step in updates])
    return updates[3::4]


def in_vmap(make):
    """Several decays at once, injected."""
    injected = wdlab.inject_hyperparams(lambda weight_decay: make(weight_decay))
    several = jax.vmap(lambda decay: contract.updates_of(injected(decay), GIVEN))
    return jax.tree.map(lambda leaf: leaf[1], several(jnp.array([0.03, DECAY])))


def in_nnx(make):
    model = nnx.Dict(layer=nnx.Dict({n: nnx.Param(x) for n, x in weights(0)["layer"].items()}))
    optimizer, updates = nnx.Optimizer(model, make(DECAY), wrt=nnx.Param), []
    state_of = lambda tree: nnx.State(jax.tree.map(nnx.Param, tree))  # noqa: E731
    for t, grads in enumerate(GIVEN):
        nnx.update(model, state_of(weights(t)))
        optimizer.update(model, state_of(grads))
        after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
        updates.append(jax.tree.map(lambda new, old: new - old, after, weights(t)))
    return updates


PART = {"layer": {"kernel": True, "bias": False, "scale": True}}
CONTEXTS = {"several": in_several, "vmap": in_vmap, "nnx.Optimizer": in_nnx}
# SOAP's and Shampoo's programs are large, and the same inside as outside of their chains.
LARGE = ("shampoo, lr", "soap, lr")
# The conventions are made of the same parts: one of each system.
OF_SYSTEMS = {name.split(".")[0]: name for name in CONVENTIONS}.values()
CASES = [
    *(("several", name) for name in (*OWN, *OF_SYSTEMS)),
    *(("vmap", name) for name in OWN if MEMBERS[name].rule and name not in LARGE),
    *(("nnx.Optimizer", name) for name in OWN if name not in LARGE),
]


@pytest.mark.parametrize(("context", "name"), CASES)
def test_decays_by_its_own_number_in(context, name):
    got = CONTEXTS[context](MEMBERS[name].make)
    want = contract.expected(name, part=context == "several")
    for ours, step in zip(got, want, strict=True):
        size = max(np.abs(update).max() for update in step["layer"].values())
        # A difference of weights of 2 is exact to 1e-7.
        close = {"rtol": 1e-5, "atol": 3e-6 * size + 2e-7 * (context == "nnx.Optimizer")}
        chex.assert_trees_all_close(ours, step, **close)


def types(tree):
    describe = lambda x: (jnp.shape(x), jnp.result_type(x), getattr(x, "weak_type", False))  # noqa: E731
    return jax.tree.map(describe, tree)


@every_member
def test_dtypes_and_the_types_of_the_state_are_kept(name, x64):
    """Of leaves of four dtypes together: so one trace, one scan and one checkpoint fit all.

    Without a gradient too nothing becomes NaN: in float16 an epsilon of 1e-8 is 0. Of conventions,
    made of the same parts, the types are asked alone.
    """
    dtypes = dict(zip(ALL_LEAVES, ("bfloat16", "float16", "float64"), strict=True))
    leaves = {k: x.astype(dtypes[k]) for k, x in contract.tree(0)["layer"].items()}
    # Their widths are those of three leaves; Scion has no norm for rank 5.
    if not name.startswith(("mu_", "mup.")):
        leaves |= {"empty": jnp.zeros((0, 2), "float32"), "single": jnp.ones(3, "float32")}
        leaves |= {} if name.startswith("scion.") else {"deep": jnp.ones((2, 1, 2, 1, 2), "f2")}
    params, tx = {"layer": leaves}, MEMBERS[name].make(DECAY)
    before = tx.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    run = jax.jit(tx.update) if name in OWN else functools.partial(jax.eval_shape, tx.update)
    updates, after = run(zeros, before, params)
    chex.assert_trees_all_equal_dtypes(updates, params)
    assert types(after) == types(before)
    if name in OWN:
        chex.assert_tree_all_finite(updates)
        tx = MEMBERS[name].make(lambda count: DECAY / (count + 1))
        before = tx.init(params)
        updates, after = jax.eval_shape(tx.update, params, before, params)
        chex.assert_trees_all_equal_dtypes(updates, params)
        assert types(after) == types(before)


@every_member
def test_weakly_typed_parameters_are_traced_twice_at_most(name):
    """optax.apply_updates makes them strongly typed at the first step."""
    params = {"layer": {leaf: jnp.full(shape, 2.0) for leaf, shape in contract.SHAPES.items()}}
    tx, kept = MEMBERS[name].make(DECAY), []
    state = tx.init(params)
    while len(kept) < 3 and (len(kept) < 2 or kept[-2] != kept[-1]):
        updates, state = jax.eval_shape(tx.update, params, state, params)
        params = jax.eval_shape(optax.apply_updates, params, updates)
        kept.append(types(state))
    assert kept[-2] == kept[-1]


@functools.cache
def first(name):
    """A member, the parameters, its state of them, and its first updates."""
    tx, params = MEMBERS[name].make(DECAY), weights(0)
    state = tx.init(params)
    return tx, params, state, tx.update(gradients(0), state, params)[0]


@every_member
def test_no_buffer_is_there_twice(name):
    """One that is cannot be donated."""
    _, params, state, _ = first(name)
    leaves = jax.tree.leaves((params, state))
    buffers = [leaf.unsafe_buffer_pointer() for leaf in leaves if leaf.size]
    assert len(set(buffers)) == len(buffers)


@every_member
def test_a_tree_without_leaves(name):
    tx = MEMBERS[name].make(DECAY)
    for empty in ({}, [], {"layer": {}}):
        assert tx.update(empty, tx.init(empty), empty)[0] == empty


@every_member
def test_params_are_asked_for_where_they_are_read(name):
    """With a decay; without one only where the formula has them for another reason."""
    member = MEMBERS[name]
    reads = [(member.make(0.0), member.reads_params)]
    reads += [(member.make(DECAY), True)] if member.rule else []
    for tx, needed in reads:
        state = tx.init(weights(0))
        if needed:
            with pytest.raises(ValueError, match=r"needs the current params. Write tx.update\("):
                tx.update(gradients(0), state)
        else:
            with_params, _ = tx.update(gradients(0), state, weights(0))
            chex.assert_trees_all_equal(tx.update(gradients(0), state)[0], with_params)


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if member.rule])
def test_a_gradient_that_would_be_stretched_over_its_parameter_is_refused(name):
    """In some by Optax, which parts the leaves by their rank."""
    tx, params, state, _ = first(name)
    short = {"layer": {**gradients(0)["layer"], "kernel": jnp.ones(3)}}
    with pytest.raises(ValueError, match=r"\(3,\)|tree|Expected named tuple"):
        jax.eval_shape(tx.update, short, state, params)


@pytest.mark.parametrize("name", [name for name, member in MEMBERS.items() if member.rule])
def test_integers_that_would_decay_are_refused_at_init(name):
    with pytest.raises(TypeError, match="parameter 'layer/kernel' is int32"):
        MEMBERS[name].make(DECAY).init({"layer": {"kernel": jnp.zeros((4, 3), jnp.int32)}})


@every_member
def test_keyword_arguments_of_update_are_taken(name):
    tx, params, state, updates = first(name)
    assert isinstance(tx, optax.GradientTransformationExtraArgs)
    given, _ = tx.update(gradients(0), state, params, value=jnp.float32(3.0), unknown="x")
    chex.assert_trees_all_equal(given, updates)


HANDS_ON = {
    "in_float32": in_float32,
    "assemble": lambda tx: assemble("mine", tx, 0.1, DECAY, "lr", contract.RULES),
    "caution": caution,
    "decay_then_step": lambda tx: wdlab.decay.decay_then_step(wdlab.decay_weights(DECAY), tx),
    "decay_then_step, of the decay": lambda tx: wdlab.decay.decay_then_step(tx, optax.sgd(0.1)),
    "step_then_decay": lambda tx: wdlab.decay.step_then_decay(tx, wdlab.decay_weights(DECAY)),
    "grouped": lambda tx: wdlab.groups.grouped(tx, 0.1, contract.GROUPS),
    "freeze_groups": lambda tx: wdlab.groups.freeze_groups(tx, contract.GROUPS),
    "inject_hyperparams": lambda tx: wdlab.inject_hyperparams(lambda x: tx)(0.1),
    "stochastic_rounding": wdlab.training.stochastic_rounding,
    "kahan": wdlab.training.kahan,
    "float32_masters": wdlab.training.float32_masters,
    "skip_nonfinite": wdlab.skip_nonfinite,
}


@pytest.mark.parametrize("name", HANDS_ON)
def test_keyword_arguments_reach_what_is_inside(name):
    seen = []

    def update(updates, state, params=None, *, value):
        seen.append(value)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = HANDS_ON[name](inner)
    tx.update(gradients(0), tx.init(weights(0)), weights(0), value=3.0)
    assert seen == [3.0]


KEEPS_VALUES = {
    *("decay_weights, toward init", "decay_toward_ema", "constrain_norms, dependent"),
    *("hyperball", "keep_initial_norm"),
    *("schedule_free", "schedule_free_sgd", "schedule_free_adamw", "prodigy, d_lr", "prodigy, l2"),
    *("dadapt_sgd, l2", "dadapt_adagrad, l2"),
    *("dadaptation.DAdaptSGD", "dadaptation.DAdaptAdaGrad"),
    *("prodigyopt.Prodigy", "optax.contrib.prodigy"),
    *(name for name in CONVENTIONS if conventions.get(name).coupling == "averaged"),
}


@every_member
def test_init_takes_shapes(name):
    """The state is that of any parameters; what is made of their values is a shape as well."""
    tx, params, real, _ = first(name)
    of_shapes = tx.init(jax.eval_shape(lambda: params))
    assert types(of_shapes) == types(real)
    pairs = list(zip(*map(jax.tree.leaves, (of_shapes, real)), strict=True))
    unknown = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf, _ in pairs]
    assert any(unknown) == (name in KEEPS_VALUES)
    assert all(u or np.array_equal(*pair) for u, pair in zip(unknown, pairs, strict=True))


@every_member
def test_map_params_finds_the_parameters_in_the_state(name):
    tx, _, state, _ = first(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Optax asks for the state of no parameters.
        marked = optax.tree.map_params(
            tx, lambda _: True, state, transform_non_params=lambda _: False
        )
    for path, mark in jax.tree_util.tree_leaves_with_path(marked):
        last = jax.tree_util.keystr(path[-1:], simple=True)
        assert mark == (last in ALL_LEAVES), path


@every_member
def test_it_can_be_pickled(name):
    tx, params, state, updates = first(name)
    again = cloudpickle.loads(cloudpickle.dumps(tx))
    chex.assert_trees_all_equal(again.init(params), state)
    chex.assert_trees_all_equal(again.update(gradients(0), state, params)[0], updates)


SCHEDULES = [
    schedules.constant(0.1),
    schedules.warmup_cosine(0.1, warmup_steps=2, decay_steps=9),
    schedules.warmup_linear(0.1, warmup_steps=2, decay_steps=9),
    schedules.warmup_constant(0.1, warmup_steps=2),
    schedules.warmup_inverse_sqrt(0.1, warmup_steps=2),
    schedules.with_peak(optax.linear_schedule(0.1, 0.0, 9), peak=0.1),
    schedules.cosine_between(0.1, 0.4, steps=5),
    schedules.cosine_restarts(0.1, first_steps=3, factor=2),
    schedules.restarts_weight_decay(0.1, first_steps=3, factor=2),
    schedules.weight_decay_from_timescale(9.0, learning_rate=contract.LR, hold="step"),
    schedules.schedule_multiplier(contract.LR),
    schedules.squared(contract.LR),
    schedules.relative_step(),
    schedules.beta2_power(0.8),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_can_be_pickled(schedule):
    again = cloudpickle.loads(cloudpickle.dumps(schedule))
    assert [float(again(t)) for t in (0, 3, 7)] == [float(schedule(t)) for t in (0, 3, 7)]
    assert getattr(again, "peak", None) == getattr(schedule, "peak", None)


@pytest.mark.parametrize("inject", [optax.inject_hyperparams, wdlab.inject_hyperparams])
@pytest.mark.parametrize("name", CONVENTIONS)
def test_conventions_are_injected(inject, name):
    """Both inject the learning rate, wdlab's the original's numbers that may be traced as well."""
    arguments = {"rules": contract.RULES, **contract.REQUIRED.get(name, {})}
    if inject is optax.inject_hyperparams:
        arguments["peak_learning_rate"] = 0.1
    if conventions.get(name).decay_argument:
        arguments["weight_decay"] = DECAY
    build = functools.partial(conventions.build, name)
    tx, plain = inject(build)(0.1, **arguments), build(0.1, **arguments)
    state = tx.init(weights(0))
    ours, _ = tx.update(gradients(0), state, weights(0))
    theirs, _ = plain.update(gradients(0), plain.init(weights(0)), weights(0))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4)
    assert "learning_rate" in state.hyperparams
    if inject is wdlab.inject_hyperparams and "weight_decay" in arguments:
        assert "weight_decay" in state.hyperparams


def test_every_public_transformation_is_a_member():
    rooms = (wdlab.decay, wdlab.preconditioners, wdlab.optimizers, wdlab.groups, wdlab.training)
    functions = {name: getattr(room, name) for room in rooms for name in room.__all__}
    made = {
        name
        for name, function in functions.items()
        if inspect.isfunction(function)
        and "GradientTransformation" in str(inspect.signature(function).return_annotation)
    }
    # Parts of each optimizer; and clip_qk needs the logits of a model.
    parts = {"assemble", "scale_by_learning_rate", "clip_qk"}
    assert made - parts == made & {name.split(", ")[0] for name in OWN}


def test_a_leaf_without_a_rule_is_an_error_at_init():
    nothing = (wdlab.Rule("nothing_like_this"),)
    for make in (
        lambda: wdlab.decay_weights(0.1, rules=nothing),
        lambda: wdlab.add_l2_gradient(0.1, rules=nothing),
        lambda: wdlab.optimizers.adamw(0.1, weight_decay=0.1, coupling="lr", rules=nothing),
    ):
        with pytest.raises(ValueError, match="layer/bias"):
            make().init(weights(0))
