"""Parameter groups: float64 twins, freezing, what the decay follows, presets, the contract."""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from flax.core import freeze
from flax.traverse_util import flatten_dict, unflatten_dict

from tests.oracles.run_wdlab import train
from tests.twins import adam as twins
from wdlab import optimizers, rules, schedules
from wdlab.groups import (
    Group,
    assign_groups,
    check_groups,
    deepspeed_chat,
    freeze_groups,
    grouped,
    layerwise,
    lora,
    scale_by_groups,
)
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import Rule, RuleWarning

STEPS = 50
BASE = schedules.warmup_cosine(0.05, warmup_steps=5, decay_steps=STEPS, end=0.01)
OWN = schedules.warmup_linear(0.2, warmup_steps=3, decay_steps=STEPS, end=0.02)
GROUPS = (
    Group("frozen/.*", frozen=True),
    Group("head/kernel", learning_rate_scale=0.5, decay_scale=3.0),
    Group("lora/.*", learning_rate=OWN, decay_scale=0.5),
    Group("bare/.*", learning_rate=0.01, decay_scale=0.0),
    Group(".*"),
)
RULES = (Rule(".*/bias", 0.0), Rule("lora/.*", 0.7), Rule(".*"))
SHAPES = {
    "frozen/kernel": (3, 2),
    "head/kernel": (4, 3),
    "head/bias": (3,),
    "lora/a": (4, 2),
    "bare/kernel": (2, 2),
    "body/kernel": (2, 2, 2, 3),
}
SCALE = {"head/kernel": 0.5}
DECAY = {
    "frozen/kernel": 0.0,
    "head/kernel": 3.0,
    "head/bias": 0.0,
    "lora/a": 0.35,
    "bare/kernel": 0.0,
    "body/kernel": 1.0,
}


nested = functools.partial(unflatten_dict, sep="/")
flat = functools.partial(flatten_dict, sep="/")


def make_params(seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape).astype(dtype) for path, shape in SHAPES.items()}


def make_grads(steps=STEPS, dtype=np.float64):
    rng = np.random.default_rng(1)
    draw = lambda shape: rng.normal(size=shape) * (rng.uniform(size=shape) > 0.1)  # noqa: E731
    return [
        {path: draw(shape).astype(dtype) for path, shape in SHAPES.items()} for _ in range(steps)
    ]


def twin(params, grads, *, coupling, follows, weight_decay):
    """The same from the equations: per leaf its rate, its kappa, Adam's direction."""
    after = {}
    for path, theta in params.items():
        seen = []
        for t, step in enumerate(grads):
            base, peak = float(BASE(t)), 0.05
            rate, top = base * SCALE.get(path, 1.0), peak * SCALE.get(path, 1.0)
            if path.startswith("lora"):
                rate, top = float(OWN(t)), 0.2
            if path.startswith("bare"):
                rate, top = 0.01, 0.01
            lr, unit = (rate, top) if follows == "group" else (base, peak)
            kappa = {"lr": lr, "lr2": lr**2, "schedule": lr / unit, "constant": 1.0, "l2": 0.0}
            kappa["lr2_over_peak"] = lr**2 / unit
            shrink = weight_decay * DECAY[path]
            seen.append(step[path] + shrink * theta * (coupling == "l2"))
            if not path.startswith("frozen"):
                theta = theta - rate * twins.adam(seen)[-1] - kappa[coupling] * shrink * theta
        after[path] = theta
    return after


def make(coupling="lr", follows="group", weight_decay=0.1):
    return grouped(
        scale_by_adam(), BASE, GROUPS, weight_decay=weight_decay, coupling=coupling,
        decay_follows=follows, rules=RULES,
    )  # fmt: skip


@pytest.mark.parametrize("coupling", ["schedule", "lr", "lr2", "lr2_over_peak", "constant", "l2"])
@pytest.mark.parametrize("follows", ["group", "base"])
def test_fifty_steps_are_those_of_the_float64_twin(x64, coupling, follows):
    decay = 0.02 if coupling in ("constant", "schedule") else 0.3
    params, grads = make_params(), make_grads()
    ours = train(make(coupling, follows, decay), nested(params), [nested(g) for g in grads])
    theirs = twin(params, grads, coupling=coupling, follows=follows, weight_decay=decay)
    for path, mine in flat(ours).items():
        error = np.abs(np.asarray(mine) - theirs[path]).max() / np.abs(theirs[path]).max()
        assert error <= 1e-12, (path, error)


def test_one_group_is_the_optimizer_without_groups():
    params, grads = make_params(dtype=np.float32), make_grads(dtype=np.float32)
    tx = grouped(
        scale_by_adam(), BASE, (Group(".*"),), weight_decay=0.1, coupling="lr", rules=RULES
    )
    plain = optimizers.adamw(BASE, weight_decay=0.1, coupling="lr", rules=RULES)
    given = nested(params), [nested(g) for g in grads], np.float32
    chex.assert_trees_all_equal(train(tx, *given), train(plain, *given))


@pytest.mark.parametrize("special", [-0.0, 0.0, 1e-42, np.inf])
def test_frozen_leaves_keep_every_bit_even_with_gradients_of_nan(special):
    params = make_params(dtype=np.float32)
    params["frozen/kernel"][0, 0] = special
    grads = make_grads(3, np.float32)
    for g in grads:
        g["frozen/kernel"][...] = np.nan
    ours = train(make(), nested(params), [nested(g) for g in grads], np.float32)
    assert ours["frozen"]["kernel"].tobytes() == params["frozen/kernel"].tobytes()
    # Eagerly as well, where nothing folds the sum away: -0.0 + 0.0 would be 0.0. The sum itself
    # flushes subnormal numbers on the CPU.
    if special == 1e-42:
        return
    frozen = {"frozen": {"kernel": jnp.asarray(params["frozen/kernel"])}}
    tx = freeze_groups(optax.sgd(0.1), GROUPS[:1])
    updates, _ = tx.update(frozen, tx.init(frozen), frozen)
    moved = optax.apply_updates(frozen, updates)
    assert np.asarray(moved["frozen"]["kernel"]).tobytes() == params["frozen/kernel"].tobytes()
    assert all(np.isfinite(x).all() for path, x in flat(ours).items() if path[:6] != "frozen")


def test_frozen_leaves_have_no_optimizer_state():
    params = nested(make_params(dtype=np.float32))
    frozen = params["frozen"]["kernel"].size
    total = sum(p.size for p in jax.tree.leaves(params))
    sizes = [x.size for x in jax.tree.leaves(make().init(params)) if x.ndim]
    assert sum(sizes) == 2 * (total - frozen)


def test_a_frozen_leaf_may_be_an_integer_and_is_out_of_the_global_norm():
    groups = (Group("steps", frozen=True), Group("old", frozen=True), Group(".*"))
    params = {"steps": jnp.arange(2), "old": jnp.ones(2), "new": jnp.array([3.0])}
    grads = {"steps": jnp.arange(2), "old": jnp.full(2, 1e6), "new": jnp.array([0.5])}
    tx = grouped(optax.clip_by_global_norm(1.0), 1.0, groups)
    updates, _ = tx.update(grads, tx.init(params), params)
    assert float(updates["new"][0]) == -0.5
    assert updates["steps"].dtype == params["steps"].dtype
    assert not updates["steps"].any()


def test_decay_stays_alive_in_bfloat16_directions():
    """In float32 inside: lr * decay of 1e-4 is not lost before the update is rounded."""
    params = {"w": jnp.ones(4, jnp.bfloat16)}
    tx = grouped(
        optax.identity(), 1e-3, (Group(".*"),), weight_decay=0.1, coupling="lr", rules=rules.ALL
    )
    updates, _ = tx.update({"w": jnp.zeros(4, jnp.bfloat16)}, tx.init(params), params)
    np.testing.assert_allclose(np.asarray(updates["w"], np.float32), -1e-4, rtol=1e-2)


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1, name="head")(nn.relu(nn.Dense(3, name="body")(x)))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.body = nnx.Linear(2, 3, rngs=rngs)
        self.head = nnx.Linear(3, 1, rngs=rngs)


NET_GROUPS = (
    Group("body/.*", frozen=True),
    Group("head/bias", learning_rate_scale=2.0),
    Group(".*"),
)


@pytest.mark.parametrize("container", ["dict", "FrozenDict", "nnx.State", "nnx.State, pure"])
def test_containers(container):
    if container.startswith("nnx"):
        params = nnx.state(NnxNet(nnx.Rngs(0)), nnx.Param)
        params = params if container == "nnx.State" else nnx.pure(params)
    else:
        params = Net().init(jax.random.key(0), jnp.ones((1, 2)))["params"]
        params = freeze(params) if container == "FrozenDict" else params
    tx = grouped(scale_by_adam(), 0.1, NET_GROUPS)
    state = tx.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    updates, state = jax.jit(tx.update)(grads, state, params)
    moved = optax.apply_updates(params, updates)
    for a in assign_groups(jax.tree.map(lambda new, old: new - old, moved, params), NET_GROUPS):
        expected = {"body": 0.0, "head/bias": -0.2, "head/kernel": -0.1}
        size = next(value for name, value in expected.items() if a.path.startswith(name))
        np.testing.assert_allclose(np.asarray(a.leaf), size, atol=1e-6)


def test_layerwise_rates_are_beits():
    groups = layerwise(0.75, num_layers=12)
    params = {
        "patch_embed": {"kernel": 0.0},
        "blocks": {str(i): {"kernel": 0.0} for i in range(12)},
        "norm": {"scale": 0.0},
        "head": {"kernel": 0.0},
    }
    check_groups(params, groups)
    scale = {a.path: a.group.learning_rate_scale for a in assign_groups(params, groups)}
    assert scale["patch_embed/kernel"] == 0.75**13
    assert scale["head/kernel"] == scale["norm/scale"] == 1.0
    # BEiT: scales[layer_id] = decay ** (num_layers + 1 - layer_id), block i has layer_id i + 1.
    assert all(scale[f"blocks/{i}/kernel"] == 0.75 ** (13 - (i + 1)) for i in range(12))


def test_layerwise_tells_block_1_from_block_11():
    groups = layerwise(0.5, 12, layers="enc/encoderblock_{layer}/.*")
    params = {"enc": {f"encoderblock_{i}": {"w": 0.0} for i in range(12)}}
    scales = [a.group.learning_rate_scale for a in assign_groups(params, groups)]
    assert sorted(scales) == [0.5**i for i in range(12, 0, -1)]


def test_layerwise_decay_shrinks_with_the_rate_in_torch_groups_and_not_in_big_visions():
    params = {"blocks": [{"w": jnp.ones(1)}, {"w": jnp.ones(1)}], "head": {"w": jnp.ones(1)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    shrink = {}
    for follows in ("group", "base"):
        tx = grouped(
            optax.identity(), 0.1, layerwise(0.5, 2), weight_decay=0.1, coupling="lr",
            decay_follows=follows, rules=rules.ALL,
        )  # fmt: skip
        updates, _ = tx.update(zeros, tx.init(params), params)
        shrink[follows] = [float(x[0]) for x in jax.tree.leaves(updates)]
    np.testing.assert_allclose(shrink["group"], [-0.0025, -0.005, -0.01], rtol=1e-6)
    np.testing.assert_allclose(shrink["base"], [-0.01, -0.01, -0.01], rtol=1e-6)


LORA = {
    "attn": {"weight": 1.0, "bias": 1.0, "lora_right_weight": 1.0, "lora_left_weight": 1.0},
    "bias_gate": {"lora_left_weight": 1.0},
}


def rates_and_scales(groups):
    return {
        a.path: (a.group.rate(1.0, 0), a.group.decay_scale) for a in assign_groups(LORA, groups)
    }


def test_deepspeed_chats_trap_a_lora_without_decay_loses_its_rate():
    found = rates_and_scales(deepspeed_chat(5e-4))
    assert found["attn/lora_left_weight"] == (5e-4, 1.0)
    assert found["attn/bias"] == (1.0, 0.0)
    assert found["bias_gate/lora_left_weight"] == (1.0, 0.0)  # The base rate: theirs.


def test_lora_groups_keep_the_rate_without_decay():
    found = rates_and_scales(lora(5e-4, decay_scale=0.0, freeze_base=False))
    assert found["bias_gate/lora_left_weight"] == found["attn/lora_right_weight"] == (5e-4, 0.0)
    assert found["attn/weight"] == (1.0, 1.0)
    frozen = [a.path for a in assign_groups(LORA, lora(5e-4)) if a.group.frozen]
    assert frozen == ["attn/bias", "attn/weight"]


ERRORS = {
    "one group": (lambda: grouped(optax.identity(), 0.1, Group(".*")), TypeError, "one Group"),
    "a rule": (lambda: grouped(optax.identity(), 0.1, (Rule(".*"),)), TypeError, "tuple of Group"),
    "a function": (lambda: grouped(optax.identity(), 0.1, len), TypeError, "tuple of Group"),
    "both rates": (
        lambda: Group("a", learning_rate=0.1, learning_rate_scale=2.0), ValueError, "one of the",
    ),
    "frozen with a rate": (lambda: Group("a", frozen=True, decay_scale=0.5), ValueError, "frozen"),
    "bad pattern": (lambda: Group("("), ValueError, "Group: pattern"),
    "bad scale": (lambda: Group("a", learning_rate_scale=-1.0), ValueError, "learning_rate_scale"),
    "nan rate": (lambda: Group("a", learning_rate=float("nan")), ValueError, "learning_rate"),
    "follows missing": (
        lambda: make(follows=None), ValueError, "decay_follows is missing.*'group'.*'base'",
    ),
    "follows unknown": (lambda: make(follows="torch"), ValueError, "'torch' is unknown"),
    "coupling missing": (lambda: make(coupling=None), ValueError, "coupling is missing"),
    "own schedule without a peak": (
        lambda: grouped(
            optax.identity(), 0.1, (Group(".*", learning_rate=lambda t: 0.1),), weight_decay=0.1,
            coupling="schedule", decay_follows="group",
        ), ValueError, "peak",
    ),
    "no place for the number": (lambda: layerwise(0.9, 2, layers="b/.*"), ValueError, "{layer}"),
    "no layers": (lambda: layerwise(0.9, 0), ValueError, "num_layers"),
}  # fmt: skip


@pytest.mark.parametrize(("wrong", "kind", "match"), ERRORS.values(), ids=ERRORS.keys())
def test_errors_at_construction(wrong, kind, match):
    with pytest.raises(kind, match=match):
        wrong()


def test_errors_from_init_and_update():
    params = {"kernel": jnp.ones(2), "ids": jnp.arange(2)}
    with pytest.raises(ValueError, match=r"1 parameter.*none of the 1 groups: ids.*Group"):
        scale_by_groups(0.1, (Group("kernel"),)).init(params)
    with pytest.raises(TypeError, match="'ids' is int32"):
        scale_by_groups(0.1, (Group(".*"),)).init(params)
    params, tx = jax.tree.map(jnp.asarray, nested(make_params())), make()
    with pytest.raises(ValueError, match="current params"):
        tx.update(params, tx.init(params))


def test_a_misspelt_group_is_an_error_of_check_groups_and_a_warning_of_init():
    groups = (Group("haed/.*", frozen=True), Group(".*"))
    params = {"head": {"w": jnp.ones(2)}}
    with pytest.raises(ValueError, match="nearest path is 'head/w'"):
        check_groups(params, groups)
    with pytest.warns(RuleWarning, match="haed"):
        grouped(optax.identity(), 0.1, groups).init(params)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_groups(params, (Group("haed/.*", optional=True), Group(".*")))
