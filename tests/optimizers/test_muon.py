"""muon against float64 loops; who trains what; numbers from AdamW, measured; meshes; plans."""

import collections
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import wdlab
from tests.twins import adam as adam_twins
from tests.twins import muon as twins
from wdlab import optimizers, preconditioners
from wdlab.instruments import angular_update
from wdlab.preconditioners import MatrixAxes
from wdlab.rules import Rule, leaves_with_paths

LR = wdlab.schedules.cosine(0.05, decay_steps=20, end=0.01)
SHAPES = {
    "h": {"fc": {"kernel": (4, 6), "bias": (6,)}, "ln": {"scale": (4,)}},
    "wte": {"embedding": (5, 4)},
    "lm_head": {"kernel": (4, 5)},
}


def tree(seed):
    rng = np.random.default_rng(seed)
    draw = lambda shape: rng.normal(size=shape)  # noqa: E731
    return jax.tree.map(draw, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def train(tx, params, grads):
    state = tx.init(params)
    for g in grads:
        updates, state = tx.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("cautious", [False, True])
def test_both_branches_equal_the_twins_with_their_own_rates(x64, cautious):
    grads = [tree(n + 1) for n in range(12)]
    tx = optimizers.muon(
        LR, weight_decay=0.3, coupling="lr2_over_peak", adam_learning_rate=0.02, cautious=cautious,
        adam_weight_decay=0.1, adam_b2=0.9, dtype=None, neuron_b2=0.9,
    )  # fmt: skip
    after = dict(leaves_with_paths(train(tx, tree(0), grads)))
    seen = [dict(leaves_with_paths(g)) for g in grads]
    for path, theta in leaves_with_paths(tree(0)):
        given = [g[path] for g in seen]
        if path == "h/fc/kernel":
            ahead = [twins.newton_schulz(n) for n in twins.momentum([g.T for g in given])]
            steps = [0.2 * 6**0.5 * u.T for u in twins.normuon(ahead, 0.9)]
            rates = [float(LR(t)) for t in range(12)]
            kappas = [rate**2 / 0.05 for rate in rates]
            decay = 0.3
        else:
            steps, rates, decay = adam_twins.adam(given, b2=0.9), [0.02] * 12, 0.1
            kappas = rates
        decay *= path.endswith(("kernel", "embedding"))
        for u, rate, kappa in zip(steps, rates, kappas, strict=True):
            agrees = u * theta >= 0 if cautious else 1.0
            theta = theta - rate * u - kappa * decay * theta * agrees
        np.testing.assert_allclose(after[path], theta, rtol=1e-10, atol=1e-13, err_msg=path)


def test_the_leaves_of_each_branch():
    params = {
        "params": {
            "wpe": jnp.ones((8, 4)), "pos_embedding": jnp.ones((1, 9, 4)),
            "cls": jnp.ones((1, 1, 4)),
            "patch_embed": {"kernel": jnp.ones((12, 4))}, "output": {"kernel": jnp.ones((4, 9))},
            "attn": {"qkv": {"kernel": jnp.ones((4, 12)), "bias": jnp.ones((3, 4))}},
            "attn_output": {"kernel": jnp.ones((4, 4))}, "logits": {"kernel": jnp.ones((4, 9))},
            "experts": {"w": jnp.ones((2, 4, 8))}, "mixer": {"A_log": jnp.ones((4, 4))},
        }
    }  # fmt: skip
    found = leaves_with_paths(optimizers.branches_of(params))
    trained = {path.removeprefix("params/") for path, branch in found if branch == "muon"}
    assert trained == {"attn/qkv/kernel", "attn_output/kernel", "experts/w"}
    chosen = optimizers.branches_of(params, (Rule(".*w(pe)?"), Rule(".*", 0.0)))
    assert [b for p, b in leaves_with_paths(chosen) if p.endswith("/w")] == ["muon"]
    bools = jax.tree.map(lambda p: p.shape == (4, 4), params)
    assert jax.tree.leaves(optimizers.branches_of(params, bools)).count("muon") == 2


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ({"weight_decay": 0.1}, "muon: coupling is missing"),
        ({"weight_decay": 0.1, "coupling": "l2", "cautious": True}, "muon: cautious"),
        ({"scaling": "spectral_norm"}, "muon: scaling must be"),
        ({"momentum": 1.0}, "muon: momentum must be"),
        ({"adam_learning_rate": -1.0}, "muon: adam_learning_rate must be"),
        ({"adam_b1": 1.0}, "muon: adam_b1 must be"),
        ({"neuron_b2": 1.0}, "muon: b2 must be"),
    ],
)
def test_wrong_arguments_are_refused_in_its_name(bad, says):
    with pytest.raises(ValueError, match=says):
        optimizers.muon(0.1, **bad)


def test_a_plan_and_a_table_name_both_branches():
    params = jax.tree.map(jnp.float32, tree(0))
    tx = optimizers.muon(0.1, weight_decay=0.5, coupling="lr", adam_learning_rate=0.01)
    plan = wdlab.decay_plan(tx, params)
    rows = [line.split()[:3] for line in str(plan).splitlines()[1:]]
    assert rows == [
        ["optimizer", "coupling", "decay"], ["adamw", "decoupled", "0.005"],
        ["muon", "decoupled", "0.05"], ["adamw", "none", "0"],
    ]  # fmt: skip
    table = wdlab.inspect_decay(
        params, wdlab.rules.NO_BIAS_OR_NORM, branches=optimizers.branches_of(params)
    )
    assert {row.path for row in table.rows if row.optimizer == "muon"} == {"h/fc/kernel"}
    with pytest.raises(ValueError, match="branches says nothing of"):
        wdlab.inspect_decay(params, wdlab.rules.ALL, branches={"h": "muon"})


def test_numbers_from_adamw_give_equal_steps_rotations_and_weights():
    """On gradients of noise; orthogonalized steps are a little less alike than their momentum."""
    numbers = optimizers.muon_from_adamw(1e-2, 0.1)
    shape, steps = (16, 24), 3000

    def measured(tx):
        def body(carry, key):
            params, state = carry
            grads = {"fc": {"kernel": jax.random.normal(key, shape)}}
            updates, state = tx.update(grads, state, params)
            w, u = params["fc"]["kernel"], updates["fc"]["kernel"]
            sizes = [jnp.sqrt(jnp.mean(x * x)) for x in (u, w)]
            return (optax.apply_updates(params, updates), state), (*sizes, angular_update(w, u))

        start = numbers.weight_rms * jax.random.normal(jax.random.key(0), shape)
        params = {"fc": {"kernel": start}}
        keys = jax.random.split(jax.random.key(1), steps)
        run = jax.jit(lambda carry: jax.lax.scan(body, carry, keys)[1])
        return [float(jnp.mean(x[steps // 3 :])) for x in run((params, tx.init(params)))]

    adamw = measured(optimizers.adamw(1e-2, weight_decay=0.1, coupling="lr"))
    muon = measured(
        optimizers.muon(
            numbers.learning_rate, weight_decay=numbers.weight_decay, coupling="lr",
            coefficients="polar_express_8", dtype="float32",
        )
    )  # fmt: skip
    expected = numbers.step_rms, numbers.weight_rms, numbers.rotation
    np.testing.assert_allclose(adamw, expected, rtol=0.02)
    for found, wanted, share in zip(muon, expected, (0.02, 0.12, 0.12), strict=True):
        assert abs(found / wanted - 1) < share


def test_a_shape_is_needed_where_the_answer_depends_on_it():
    with pytest.raises(ValueError, match="pass shape="):
        optimizers.muon_from_adamw(1e-3, 0.1, scaling="spectral")
    tall = optimizers.muon_from_adamw(1e-3, 0.1, scaling="original", shape=(64, 16))
    np.testing.assert_allclose(tall.learning_rate, 1e-3 * (0.1 / 1.9) ** 0.5 * 4, rtol=1e-12)


def collectives(text):
    """Kind and shapes of each transfer between devices in a compiled program."""
    kinds = "all-gather|all-reduce|all-to-all|reduce-scatter|collective-permute"
    found = re.findall(rf"= (\([^)]*\)|\S+) ({kinds})(?:-start)?\(", text)
    return collections.Counter((kind, tuple(re.findall(r"\[[\d,]*\]", s))) for s, kind in found)


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_on_eight_devices_no_matrix_is_gathered(axis_type):
    """A leaf sharded along its shorter side goes to the longer by one exchange, and back."""
    types = (getattr(AxisType, axis_type),)
    mesh = jax.make_mesh((8,), ("data",), axis_types=types, devices=jax.devices()[:8])
    tx = preconditioners.orthogonalize(sharded_over="data" if axis_type == "Auto" else None)
    cases = {
        "long": ((16, 64), (None, "data")),
        "short": ((16, 64), ("data", None)),
        "stack": ((8, 16, 24), ("data", None, None)),
    }
    with jax.set_mesh(mesh):
        for name, (shape, spec) in cases.items():
            place = NamedSharding(mesh, PartitionSpec(*spec))
            grads = {"w": jax.device_put(np.eye(*shape[-2:]) + np.zeros(shape, np.float32), place)}
            state = tx.init(grads)
            assert state.mu["w"].addressable_shards[0].data.nbytes * 8 == state.mu["w"].nbytes
            compiled = jax.jit(tx.update, out_shardings=({"w": place}, None)).lower(grads, state)
            program = compiled.compile()
            moved = collectives(program.as_text())
            sizes = [shape for kind, shapes in moved for shape in shapes if kind != "all-to-all"]
            assert set(sizes) <= {"[16,16]", "[]"}, (name, moved)
            exchanges = sum(n for (kind, _), n in moved.items() if kind == "all-to-all")
            assert exchanges == {"long": 0, "short": 2, "stack": 0}[name], moved
            updates, _ = program(grads, state)
            alone = preconditioners.orthogonalize()
            plain = {"w": jnp.asarray(np.asarray(grads["w"]))}
            expected = alone.update(plain, alone.init(plain))[0]["w"]
            np.testing.assert_allclose(np.asarray(updates["w"]), expected, atol=0.02)


def test_a_mesh_axis_that_is_not_there_is_refused():
    tx = preconditioners.orthogonalize(sharded_over="model")
    with pytest.raises(ValueError, match="set_mesh"):
        tx.update({"w": jnp.ones((2, 2))}, tx.init({"w": jnp.ones((2, 2))}))


def test_batch_of_kernels_by_rule():
    params = {"conv": {"kernel": jnp.ones((3, 3, 4, 8))}}
    tx = optimizers.muon(0.1, axes=MatrixAxes(kernels="flatten"))
    assert tx.update(params, tx.init(params), params)[0]["conv"]["kernel"].shape == (3, 3, 4, 8)
    with pytest.raises(ValueError, match="kernels='flatten'"):
        optimizers.muon(0.1).init(params)
