"""A buffer that is given twice is named, wherever the two are; states have buffers of their own."""

import jax
import jax.numpy as jnp
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

import wdlab
from tests.optimizers.test_step_memory import STEPS
from wdlab import training
from wdlab.rules import leaves_with_paths
from wdlab.training.donation import shared_buffer

TX = optax.adam(0.1)
UPDATE = wdlab.make_update(TX)
PRECISION = {f.__name__: f for f in (training.float32_masters, training.kahan)}
ARGUMENTS = ("params", "opt_state", "grads")


def make_params():
    return {name: jnp.full((8, 2), float(i)) for i, name in enumerate("abc")}


def replaced(arguments, path, leaf):
    """The arguments with another array at a path."""
    at = [p for p, _ in leaves_with_paths(arguments)].index(path)
    leaves, treedef = jax.tree.flatten(arguments)
    return treedef.unflatten([*leaves[:at], leaf, *leaves[at + 1 :]])


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_the_two_paths_are_named(data):
    arguments = {
        "grads": make_params(),
        "opt_state": wdlab.init_opt_state(TX, make_params()),
        "params": make_params(),
    }
    leaves = {path: leaf for path, leaf in leaves_with_paths(arguments) if leaf.ndim}
    first, second = data.draw(st.lists(st.sampled_from(sorted(leaves)), min_size=2, max_size=2))
    arguments = replaced(arguments, second, leaves[first])
    given = [arguments[name] for name in ARGUMENTS]
    if first == second or first.startswith("grads") and second.startswith("grads"):
        UPDATE(*given)  # Gradients are not given up: two may be one array.
        return
    with pytest.raises(ValueError, match="are one array. A step writes") as error:
        UPDATE(*given)
    assert first in str(error.value)
    assert second in str(error.value)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(given))


def test_train_step_names_tied_weights_and_batches():
    step = wdlab.make_train_step(lambda p, x: jnp.sum(p["a"] * p["b"] * x), optax.sgd(0.1))
    w, x = jnp.ones(4), jnp.ones(4)
    with pytest.raises(ValueError, match="params/a and params/b are one array.* Tied weights"):
        step({"a": w, "b": w}, optax.sgd(0.1).init({}), x)
    with pytest.raises(ValueError, match="params/b and batch are one array.*batch = jax.tree"):
        step({"a": w, "b": x}, optax.sgd(0.1).init({}), x)


def test_views_and_shards_are_found():
    """Another array object over the same memory, on several devices."""
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    w = jax.device_put(jnp.ones((8, 2)), NamedSharding(mesh, PartitionSpec("data")))
    view = jax.make_array_from_single_device_arrays(
        w.shape, w.sharding, [shard.data for shard in w.addressable_shards]
    )
    assert view is not w
    params = {"a": w, "b": view}
    with pytest.raises(ValueError, match="params/a and params/b are one array"):
        wdlab.make_update(optax.sgd(0.1))(params, optax.sgd(0.1).init(w), {"a": w + 1, "b": w + 2})


@pytest.mark.parametrize(
    "make",
    [
        optax.contrib.dog,
        optax.contrib.prodigy,
        optax.contrib.cocob,
        lambda: optax.contrib.mechanize(optax.sgd(0.1)),
        lambda: optax.lbfgs(0.1, linesearch=None),
    ],
    ids=["dog", "prodigy", "cocob", "mechanize", "lbfgs"],
)
def test_states_that_begin_as_the_parameters(make):
    tx = make()
    update, params = wdlab.make_update(tx), make_params()
    with pytest.raises(ValueError, match=r"opt_state = wdlab.init_opt_state\(tx, params\)"):
        update(params, tx.init(params), make_params())
    state = wdlab.init_opt_state(tx, params)
    for _ in range(2):
        params, state = update(params, state, make_params())


@pytest.mark.parametrize("name", [*STEPS, *PRECISION])
def test_no_state_of_ours_shares_a_buffer(name):
    params = make_params() | {"d": jnp.ones((8, 2), jnp.bfloat16)}
    tx = PRECISION[name](TX) if name in PRECISION else STEPS[name][0]()
    assert shared_buffer({"params": params, "opt_state": tx.init(params)}, {}) == ""


def test_other_errors_stay_what_they_are():
    with pytest.raises(TypeError):
        UPDATE(make_params(), wdlab.init_opt_state(TX, make_params()), {"a": "text"})
