"""One path for each leaf, whatever containers and boxes it lies in; nnx models; hostile names."""

import dataclasses
import re
from typing import NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, struct, traverse_util
from flax.core import FrozenDict
from flax.core.meta import AxisMetadata
from hypothesis import given, settings
from hypothesis import strategies as st

import wdlab
from wdlab import groups, instruments, rules
from wdlab.from_torch import params_from_torch
from wdlab.rules import Rule, decay_scales, leaves_with_paths
from wdlab.training import opt_state_shardings


class Labelled(struct.PyTreeNode, AxisMetadata):
    """A user's own box, with another name for its array."""

    array: object
    label: str = struct.field(pytree_node=False, default="")

    def unbox(self):
        return self.array

    def replace_boxed(self, val):
        return self.replace(array=val)

    def add_axis(self, index, params):
        return self

    def remove_axis(self, index, params):
        return self


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass
class NamedArray:
    """As haliax's, which registers without key paths."""

    array: object
    axes: tuple = ()

    def tree_flatten(self):
        return (self.array,), self.axes

    @classmethod
    def tree_unflatten(cls, axes, children):
        return cls(*children, axes)


NamedArray.__module__ = "haliax.core"
BOXES = {
    "Partitioned": lambda x: nn.Partitioned(x, names=("a", None)),
    "LogicallyPartitioned": lambda x: nn.LogicallyPartitioned(x, names=("a",)),
    "AxisMetadata": Labelled,
    "NamedArray": NamedArray,
    "Param": nnx.Param,
    "BatchStat": nnx.BatchStat,
}


def decayed_paths(params, policy):
    return {path for path, scale in leaves_with_paths(decay_scales(params, policy)) if scale}


NAMES = ["kernel", "bias", "scale", "value", "0", "blocks", "ln_1", "array"]
leaves = st.sampled_from([np.ones(2), np.ones((2, 2)), np.float32(1.0)])
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(NAMES), inner, min_size=1, max_size=3),
        st.lists(inner, min_size=1, max_size=3),
        st.tuples(inner, inner),
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(
    trees, st.lists(st.lists(st.sampled_from(sorted(BOXES)), max_size=3), min_size=8, max_size=8)
)
def test_a_box_is_no_step_of_a_path(tree, boxes):
    """Every leaf in none to three boxes, one in the other, of every kind."""
    plain, treedef = jax.tree.flatten(tree)
    boxed = []
    for leaf, kinds in zip(plain, boxes, strict=False):
        for kind in kinds:
            leaf = BOXES[kind](leaf)
        boxed.append(leaf)
    boxed = treedef.unflatten(boxed)
    expected = [path for path, _ in leaves_with_paths(tree)]
    assert [path for path, _ in leaves_with_paths(boxed)] == expected
    for policy in (rules.NO_BIAS_OR_NORM, rules.KERNELS_ONLY):
        decided = [(d.path, d.scale) for d in rules.decisions(boxed, policy)]
        assert decided == [(d.path, d.scale) for d in rules.decisions(tree, policy)]


@settings(deadline=None, max_examples=30)
@given(trees, st.sampled_from(sorted(BOXES)))
def test_a_box_around_a_subtree_is_no_step_either(tree, kind):
    assert leaves_with_paths({"a": BOXES[kind](tree)}) == leaves_with_paths({"a": tree})


class Net(nn.Module):
    box: bool

    @nn.compact
    def __call__(self, x):
        part = nn.with_logical_partitioning if self.box else lambda init, names: init
        return nn.Dense(2, name="dense", kernel_init=part(nn.initializers.ones, ("in", "out")),
                        bias_init=part(nn.initializers.ones, ("out",)))(x)  # fmt: skip


class Pair(NamedTuple):
    kernel: jax.Array
    bias: jax.Array


class EqxDense(eqx.Module):
    kernel: jax.Array
    bias: jax.Array
    activation: str = eqx.field(static=True, default="relu")


class NnxModel(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 2, rngs=rngs)


def linen(box=False):
    return Net(box).init(jax.random.key(0), jnp.ones((1, 3)))["params"]


def nnx_state():
    return nnx.state(NnxModel(nnx.Rngs(0)), nnx.Param)


KERNEL, BIAS = jnp.ones((3, 2)), jnp.ones(2)
CONTAINERS = {
    "linen": linen,
    "boxed": lambda: linen(box=True),
    "frozen_dict": lambda: FrozenDict(linen()),
    "flat": lambda: traverse_util.flatten_dict(linen()),
    "flat, joined": lambda: traverse_util.flatten_dict(linen(), sep="/"),
    "nnx_state": nnx_state,
    "nnx_pure_dict": lambda: nnx.to_pure_dict(nnx_state()),
    "equinox": lambda: {"dense": EqxDense(KERNEL, BIAS)},
    "named_tuple": lambda: {"dense": Pair(KERNEL, BIAS)},
}
if hasattr(nnx, "as_pure"):  # Flax 0.12.0 has none.
    CONTAINERS["nnx_pure"] = lambda: nnx.as_pure(nnx_state())
NO_BIAS = {"weight_decay": 1.0, "coupling": "lr", "rules": rules.NO_BIAS_OR_NORM}
HALVED = {
    "decay_weights": lambda: wdlab.decay_weights(0.5, rules=rules.NO_BIAS_OR_NORM),
    "toward": lambda: wdlab.decay_weights(
        0.5, rules=rules.NO_BIAS_OR_NORM, toward={"dense": {"kernel": KERNEL * 0, "bias": BIAS}}
    ),
    "adamw": lambda: wdlab.optimizers.adamw(0.5, **NO_BIAS),
    "grouped": lambda: groups.grouped(
        optax.trace(0.9), 0.5, (groups.Group(".*/bias", frozen=True), groups.Group(".*")), **NO_BIAS
    ),
}


@pytest.mark.parametrize("name", CONTAINERS)
@pytest.mark.parametrize("make", HALVED.values(), ids=HALVED)
def test_same_names_give_the_same_step(name, make):
    tree, tx = CONTAINERS[name](), make()
    assert [p for p, _ in sorted(leaves_with_paths(tree))] == ["dense/bias", "dense/kernel"]
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, tree), tx.init(tree), tree)
    assert jax.tree.structure(updates) == jax.tree.structure(tree)
    got, before = dict(leaves_with_paths(updates)), dict(leaves_with_paths(tree))
    np.testing.assert_allclose(got["dense/kernel"], -0.5 * before["dense/kernel"])
    np.testing.assert_array_equal(got["dense/bias"], 0.0)


@pytest.mark.parametrize("make", HALVED.values(), ids=HALVED)
def test_nnx_optimizer_sees_one_plan_at_init_and_update(make):
    """Optax's path masks differ between the two: 'kernel/value' at init, 'kernel' at update."""
    model = NnxModel(nnx.Rngs(0))
    model.dense.bias[...] = jnp.ones(2)
    before = np.asarray(model.dense.kernel[...])
    optimizer = nnx.Optimizer(model, make(), wrt=nnx.Param)
    optimizer.update(model, jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param)))
    np.testing.assert_allclose(model.dense.kernel[...], 0.5 * before, rtol=1e-6)
    np.testing.assert_array_equal(model.dense.bias[...], 1.0)


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_plain_dict_of_scales_serves_every_container(name):
    scales = decay_scales(CONTAINERS[name](), {"dense": {"kernel": 0.5, "bias": False}})
    assert dict(leaves_with_paths(scales)) == {"dense/kernel": 0.5, "dense/bias": 0.0}


def test_lists_tuples_and_haiku():
    assert [p for p, _ in leaves_with_paths([{"w": 1.0}, (2.0, 3.0)])] == ["0/w", "1/0", "1/1"]
    net = hk.transform(lambda x: hk.nets.MLP([2, 2])(x))
    params = net.init(jax.random.key(0), jnp.ones((1, 2)))
    assert leaves_with_paths(params)[0][0] == "mlp/~/linear_0/b"
    model = hk.transform(lambda x: hk.Sequential([hk.Linear(2), hk.LayerNorm(-1, True, True)])(x))
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))
    assert decayed_paths(params, rules.NO_BIAS_OR_NORM) == {"linear/w"}
    assert decayed_paths(params, rules.KERNELS_ONLY) == {"linear/w"}


def test_equinox_layers():
    keys = jax.random.split(jax.random.key(0))
    model = {
        "embed": eqx.nn.Embedding(4, 3, key=keys[0]),
        "layers": [eqx.nn.Linear(3, 2, key=keys[1]), eqx.nn.LayerNorm(2)],
    }
    params = eqx.filter(model, eqx.is_inexact_array)
    assert decayed_paths(params, rules.NO_BIAS_OR_NORM) == {"embed/weight", "layers/0/weight"}
    assert decayed_paths(params, rules.KERNELS_ONLY) == {"layers/0/weight"}


def test_scanned_and_vmapped_stacks():
    """Under nn.scan and nnx.vmap a norm's scale has rank 2: paths decide, ranks would not."""

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(3, name="dense")(nn.LayerNorm(name="ln_1")(x)), None

    stack = nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=2)
    params = stack(name="blocks").init(jax.random.key(0), jnp.ones((1, 3)), None)["params"]
    assert params["ln_1"]["scale"].ndim == 2
    assert decayed_paths(params, rules.NO_BIAS_OR_NORM) == {"dense/kernel"}

    @nnx.split_rngs(splits=2)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return NnxModel(rngs)

    state = nnx.state(make(nnx.Rngs(0)), nnx.Param)
    assert decayed_paths(state, rules.NO_BIAS_OR_NORM) == {"dense/kernel"}


def test_everything_that_goes_by_paths_sees_through_boxes():
    plain, boxed = linen(), linen(box=True)
    tx = optax.adam(0.1)
    for look in (
        lambda p: wdlab.inspect_decay(p, rules.NO_BIAS_OR_NORM),
        lambda p: wdlab.decay_plan(tx, p).as_json()["leaves"].keys(),
        lambda p: list(instruments.leaf_norms(p)),
        lambda p: [a.path for a in groups.assign_groups(p, (groups.Group(".*"),))],
        lambda p: groups.widths(p, p, layout="in_out"),
        lambda p: [path for path, _ in leaves_with_paths(tx.init(p))],
        lambda p: rules.masked_paths(optax.masked(tx, {"dense": False}).init(p)),
    ):
        assert look(boxed) == look(plain)
    names = {"w": "dense/kernel", "b": "dense/bias"}
    taken = params_from_torch({"w": KERNEL, "b": BIAS}, boxed, names)
    assert jax.tree.structure(taken) == jax.tree.structure(boxed)


def test_the_optimizer_state_of_boxes_is_sharded_like_them():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("d"))
    params = jax.tree.map(lambda x: jax.device_put(x, spec), linen(box=True))
    shardings = opt_state_shardings(optax.adam(0.1), params)
    assert {s.spec for path, s in leaves_with_paths(shardings) if "/mu/" in path} == {spec.spec}


class Model(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Linear(3, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.lora = nnx.LoRA(2, 1, 2, rngs=rngs)


TRAINED = {"conv/bias", "conv/kernel", "norm/bias", "norm/scale", "lora/lora_a", "lora/lora_b"}
DECAY = {"conv/kernel", "lora/lora_a", "lora/lora_b"}


@pytest.mark.parametrize(
    "take", [lambda m: m, nnx.state, lambda m: {"net": m}], ids=["model", "state", "dict"]
)
def test_of_an_nnx_model_only_what_is_trained_counts(take, capsys):
    whole = take(Model(nnx.Rngs(0)))
    above = "net/" if isinstance(whole, dict) else ""
    policy = rules.NO_BIAS_OR_NORM
    table = wdlab.print_decay(whole, policy)
    trained, decay = ({above + path for path in paths} for paths in (TRAINED, DECAY))
    assert {row.path for row in table.rows} == trained
    assert "mean" not in capsys.readouterr().out
    assert {row.path for row in table.rows if row.scale} == decay
    scales = decay_scales(whole, policy)
    assert {path for path, scale in leaves_with_paths(scales) if scale} == decay
    assert jax.tree.structure(scales) == jax.tree.structure(whole)
    wdlab.check_rules(whole, policy)
    with pytest.raises(ValueError, match="norm/mean|decides no parameter"):
        wdlab.check_rules(whole, (Rule(".*norm/mean", 0.0), *policy))
    for tx in (policy, wdlab.optimizers.adamw(0.1, weight_decay=0.1, coupling="lr")):
        plan = wdlab.decay_plan(tx, whole)
        assert {leaf.path for leaf in plan.leaves} == trained
        assert {leaf.path for leaf in plan.leaves if leaf.coefficient} == decay


def test_wrt_says_what_is_trained():
    model, policy = Model(nnx.Rngs(0)), rules.NO_BIAS_OR_NORM
    found = wdlab.inspect_decay(model, policy, wrt=nnx.LoRAParam)
    assert {row.path for row in found.rows} == {"lora/lora_a", "lora/lora_b"}
    with_stats = wdlab.inspect_decay(nnx.state(model), policy, wrt=(nnx.Param, nnx.BatchStat))
    assert {row.path for row in with_stats.rows} == TRAINED | {"norm/mean", "norm/var"}

    class Weight(nnx.Variable):
        pass

    own = nnx.State({"kernel": Weight(jnp.ones((2, 2)))})
    with pytest.raises(ValueError, match=r"Weight.*none is a parameter.*wrt="):
        wdlab.inspect_decay(own, policy)
    assert wdlab.inspect_decay(own, policy, wrt=Weight).decayed_tensors == 1
    tx = wdlab.decay_weights(0.5, rules=policy)  # What an optimizer is given, it is to train.
    updates, _ = tx.update(own, tx.init(own), own)
    assert float(jax.tree.leaves(updates)[0][0, 0]) == 0.5


@pytest.mark.parametrize(
    "tree",
    [{"a/b": 1.0, "a": {"b": 2.0}}, {"x": {"a/b": 1.0, "a": [1.0], "a/0": 2.0}},
     {"a": {"/b": 1.0}, "a/": {"b": 1.0}}],
)  # fmt: skip
def test_two_leaves_of_one_path_are_refused_and_named(tree):
    tx = wdlab.decay_weights(0.1)
    for use in (lambda: decay_scales(tree, rules.ALL), lambda: tx.init(tree)):
        with pytest.raises(ValueError, match=r"two leaves have the path.*tree\[.*and tree\["):
            use()


@settings(deadline=None, max_examples=100)
@given(st.text(min_size=1, max_size=8).filter(lambda name: "/" not in name))
def test_any_name_is_matched_by_its_pattern_and_printed_on_one_line(name):
    params = {name: {"kernel": np.ones((2, 2))}}
    assert decay_scales(params, (Rule(".*"),)) == {name: {"kernel": 1.0}}
    own = (Rule(f"{re.escape(name)}/kernel", 0.5),)
    assert decay_scales(params, own) == {name: {"kernel": 0.5}}
    (group,) = groups.assign_groups(params, (groups.Group(".*"),))
    assert group.path == f"{name}/kernel"
    with pytest.raises(ValueError, match="match none") as error:
        decay_scales(params, (Rule("nothing"),))
    assert str(error.value).isprintable()
    assert all(w.isprintable() for w in wdlab.inspect_decay(params, NONE).warnings)


NONE = (Rule(".*", 0.0),)


def test_a_table_prints_control_characters_escaped(capsys):
    wdlab.print_decay({"a\n\x1b[31mb": np.ones((2, 2))}, rules.ALL)
    assert "a\\n\\x1b[31mb" in capsys.readouterr().out
