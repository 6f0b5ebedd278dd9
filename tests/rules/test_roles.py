"""Roles read off the traced loss: every leaf of many models, single traps, rules by role."""

import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import wdlab
from wdlab import rules
from wdlab.rules import Rule, by_role, leaf_roles, leaves_with_paths, print_roles, roles

from .primitives import PRIMITIVES
from .role_models import CASES, floats, ints


def wanted(path, patterns):
    return next((role for pattern, role in patterns if re.fullmatch(pattern, path)), None)


@pytest.mark.parametrize("name", CASES)
def test_every_leaf_of_a_model(name):
    loss, params, batch, patterns = CASES[name]()
    found = roles(loss, params, *batch)
    expected = [path for path, leaf in leaves_with_paths(params) if hasattr(leaf, "dtype")]
    expected = [path for path in expected if wanted(path, patterns)]
    assert found == {path: wanted(path, patterns) for path in expected}
    assert len(found) == len(expected) > 3


@pytest.mark.parametrize("name", ["GPT, biases, dropout, scan", "Linen ViT", "ResNet, plain"])
def test_names_play_no_part(name):
    loss, params, batch, _ = CASES[name]()
    before = roles(loss, params, *batch)
    leaves, treedef = jax.tree.flatten(params)
    words = ["bias", "scale", "kernel", "embedding", "norm", "w", "pos", "head", "b", "gate"]
    for seed in range(2):
        draw = random.Random(seed)
        names = [f"{draw.choice(words)}/{n:03}/{draw.choice(words)}" for n in range(len(leaves))]
        draw.shuffle(names)

        def renamed(flat, *batch, names=names):
            return loss(jax.tree.unflatten(treedef, [flat[name] for name in names]), *batch)

        flat = dict(zip(names, leaves, strict=True))
        after = roles(renamed, flat, *batch)
        assert [after[name] for name in names] == list(before.values())


def test_axes_of_a_product_through_heads_and_a_stack_of_layers():
    loss, params, batch, _ = CASES["Linen, scan"]()
    found = {leaf.path: leaf for leaf in leaf_roles(loss, params, *batch)}
    query, out = (found[f"params/blocks/attn/{name}/kernel"] for name in ("query", "out"))
    assert query.axes == ((1,), (2, 3), (0,))
    assert out.axes == ((1, 2), (3,), (0,))
    assert found["params/blocks/attn/query/bias"].axes == ((), (1, 2), (0,))
    assert found["params/embed/embedding"].axes == ((0,), (1,), ())


X = floats(4, 6)
W, B = floats(6, 6), floats(6)


def norm(x):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)


# What one leaf "w" is in a small loss.
SMALL = {
    "einsum": (W, lambda w, x: jnp.einsum("bi,oi->bo", x, w), "head"),
    "vmap over examples": (W, lambda w, x: jax.vmap(lambda row: w @ row)(x), "head"),
    "vmap over an ensemble": (
        floats(3, 6, 2),
        lambda w, x: jax.vmap(jnp.dot, (None, 0))(x, w),
        "head",
    ),
    "one-hot rows": (W, lambda w, x: jax.nn.one_hot(x[:, 0].astype(int), 6) @ w, "embedding"),
    "vmapped lookup": (W, lambda w, x: jax.vmap(lambda i: w[i])(x[:, 0].astype(int)), "embedding"),
    "product as mul and sum": (W, lambda w, x: (x[:, :, None] * w).sum(1), "matrix"),
    "a loop": (
        W,
        lambda w, x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y @ w), x),
        "matrix",
    ),
    "either branch": (
        W,
        lambda w, x: jax.lax.cond(x[0, 0] > 0, lambda: norm(x @ w) @ x.T, lambda: x @ x.T),
        "head, scale-invariant",
    ),
    "norm of the weight": (W, lambda w, x: x @ (w / jnp.linalg.norm(w)), "head, scale-invariant"),
    "norm after it": (W, lambda w, x: norm(x @ w), "head, scale-invariant"),
    "relu and norm after it": (W, lambda w, x: norm(jax.nn.relu(x @ w)), "head, scale-invariant"),
    "norm after it and a sum": (W, lambda w, x: norm(x + x @ w), "head"),
    "twice, and a norm": (W, lambda w, x: norm((x @ w) @ w.T), "matrix, scale-invariant"),
    "a bias of rank 2": (floats(2, 3), lambda w, x: (x @ jnp.ones((6, 6))) + w.reshape(6), "bias"),
    "a subtracted bias": (B, lambda w, x: x - w, "bias"),
    "1 + scale": (B, lambda w, x: norm(x) * (1 + w), "scale"),
    "a scale after division by a deviation": (
        B,
        lambda w, x: (x - x.mean(0)) / (x.std(0) + 1e-5) * w,
        "scale",
    ),
    "a scale before the norm's factor": (
        B,
        lambda w, x: x * w * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True)),
        "scale",
    ),
    "layer scale": (B, lambda w, x: x + jnp.tanh(x) * w, "gate"),
    "temperature": (floats(), lambda w, x: x * jnp.exp(w), "gate"),
    "one gate for all": (floats(1), lambda w, x: jnp.tanh(w) * x, "gate"),
    "never used": (W, lambda w, x: x, "unused"),
    "used by its shape alone": (W, lambda w, x: x * w.shape[0], "unused"),
    "held": (W, lambda w, x: x @ jax.lax.stop_gradient(w), "head, no gradient"),
    "eigenvalues": (W, lambda w, x: x.sum() + jnp.linalg.eigvalsh(w).sum(), "unknown, penalty"),
    "the exponent": (B, lambda w, x: jnp.abs(x) ** w, "unknown"),
    "in a penalty too": (W, lambda w, x: x @ w + jnp.sum(w**2), "head, penalty"),
    "a noisy matrix": (
        W,
        lambda w, x: x @ (w + jax.random.normal(jax.random.key(0), (6, 6))),
        "head",
    ),
    "positions of a looked-up table": (
        floats(9, 6),
        lambda w, x: x[:, None] + w[jnp.arange(4)],
        "position",
    ),
    "relative positions": (
        floats(7, 2),
        lambda w, x: x @ x.T + w[jnp.arange(4)[:, None] - jnp.arange(4) + 3].transpose(2, 0, 1)[0],
        "position",
    ),
    "a mask token": (B, lambda w, x: jnp.where(x[:, :1] > 0, w, x), "embedding, token"),
    "first state of a loop": (
        B,
        lambda w, x: jax.lax.scan(lambda h, row: (jnp.tanh(h + row), None), w, x)[0],
        "embedding, state",
    ),
    "ragged groups": (
        floats(3, 6, 2),
        lambda w, x: jax.lax.ragged_dot(x, w, jnp.array([1, 2, 1], jnp.int32)),
        "head",
    ),
    "depthwise": (
        floats(3, 1, 6),
        lambda w, x: jax.lax.conv_general_dilated(
            x[None], w, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=6
        ),
        "head, grouped, kernel",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_one_leaf(name):
    shape, output, role = SMALL[name]
    found = roles(lambda p, x: (output(p["w"], x) ** 2).mean(), {"w": shape}, X)
    assert found == {"w": role}


def test_no_primitive_is_an_exception():
    for name, output in PRIMITIVES.items():
        found = roles(lambda p, x, f=output: jnp.abs(f(p["w"], x)).mean(), {"w": W}, X)
        assert found["w"].split(", ")[0] in rules.ROLES, name
        assert found["w"] != "unused", name


def test_two_leaves_that_meet_first():
    def loss(p, x):
        merged = p["w"] + p["a"] @ p["b"]
        direction = p["v"] / jnp.linalg.norm(p["v"], axis=0)
        return jnp.mean(jnp.tanh(x @ merged) @ (direction * p["g"]))

    params = {"w": W, "a": floats(6, 2), "b": floats(2, 6), "v": W, "g": B}
    found = {leaf.path: leaf for leaf in leaf_roles(loss, params, X)}
    assert {path: str(leaf) for path, leaf in found.items()} == {
        "w": "matrix",
        "a": "matrix",
        "b": "matrix",
        "v": "head, scale-invariant",
        "g": "scale, of a weight",
    }
    assert found["a"].axes == found["b"].axes == ((0,), (1,), ())


def test_data_that_the_loss_closes_over():
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    assert roles(lambda p: jnp.mean(x @ p["w"] + p["b"]), {"w": W, "b": B}) == {
        "w": "head",
        "b": "bias",
    }
    # A generator's only data is noise.
    noise = lambda p, key: jnp.mean(jax.random.normal(key, (4, 6)) @ p["w"])  # noqa: E731
    assert roles(noise, {"w": W}, jax.random.key(0)) == {"w": "head"}


def test_invariance_is_measured():
    def loss(p, x):
        # The loss is invariant; its gradient, which takes the norm for a constant, is not.
        held = p["held"] / jax.lax.stop_gradient(jnp.linalg.norm(p["held"]))
        return jnp.mean(jnp.tanh(norm(x @ p["a"]) @ held) @ p["b"])

    rng = np.random.default_rng(0)
    params = {"a": (6, 6), "held": (6, 6), "b": (6, 2)}
    params = {k: jnp.asarray(rng.normal(size=shape), jnp.float32) for k, shape in params.items()}
    found = {leaf.path: leaf for leaf in leaf_roles(loss, params, jnp.ones((32, 6)) * 0.1)}
    assert found["a"].scale_invariant
    assert abs(found["a"].cosine.value) <= 10 * found["a"].cosine.error < 1e-4
    assert "gradient orthogonal" in found["a"].evidence[-1]
    assert found["held"].scale_invariant is None
    assert abs(found["held"].cosine.value) > 0.05
    assert "gradient not orthogonal" in found["held"].evidence[-1]
    assert found["b"].scale_invariant is False
    assert found["b"].cosine is None


@pytest.mark.parametrize("name", ["Haiku", "Linen"])
def test_the_loss_stays_where_the_trace_says_invariant_and_moves_elsewhere(name):
    loss, params, batch, _ = CASES[name]()
    rng = np.random.default_rng(0)

    def drawn(leaf):
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return rng.integers(0, 5, leaf.shape).astype(leaf.dtype)
        return rng.normal(size=leaf.shape).astype(leaf.dtype)

    params, batch = jax.tree.map(drawn, params), jax.tree.map(drawn, batch)
    found = leaf_roles(loss, params, *batch, measure=False)
    leaves, treedef = jax.tree.flatten(params)

    @jax.jit
    def losses(scales):
        scaled = [leaf * scale for leaf, scale in zip(leaves, scales, strict=True)]
        value = loss(jax.tree.unflatten(treedef, scaled), *batch)
        return value[0] if isinstance(value, tuple) else value

    first = losses(np.ones(len(leaves)))
    moved = {
        leaf.path: abs(losses(np.where(np.arange(len(leaves)) == n, 3.0, 1.0)) - first) / first
        for n, leaf in enumerate(found)
    }
    invariant = {leaf.path for leaf in found if leaf.scale_invariant}
    assert invariant
    assert {path for path, change in moved.items() if change < 1e-5} == invariant


def test_a_mean_removes_a_constant_only_along_its_own_dimensions():
    def of(normalize):
        def loss(p, x):
            return jnp.mean(jnp.tanh(normalize(x @ p["w"] + p["b"])))

        return roles(loss, {"w": W, "b": B}, X)["w"]

    def standardized(x, axis, center=None):
        center = x if center is None else center
        x = x - center.mean(axis, keepdims=True)
        return x / jnp.sqrt((x**2).mean(axis, keepdims=True) + 1e-5)

    assert of(lambda x: standardized(x, 0)) == "head, scale-invariant"
    assert of(lambda x: standardized(x, 1)) == "head"  # The bias differs along this one.
    assert of(lambda x: standardized(x, (0, 1))) == "head"
    assert of(lambda x: standardized(x, 0, center=jnp.tanh(x))) == "head"
    fast = lambda x: (x - x.mean(0)) / jnp.sqrt((x**2).mean(0) - x.mean(0) ** 2 + 1e-5)  # noqa: E731
    assert of(fast) == "head, scale-invariant"
    wrong = lambda x: (x - x.mean(0)) / jnp.sqrt((x**2).mean(0) - x.mean() ** 2)  # noqa: E731
    assert of(wrong) == "head"


def test_a_loss_that_is_no_scalar_is_refused():
    with pytest.raises(TypeError, match=r"must return a scalar.*shape \(4, 6\)"):
        roles(lambda p, x: x @ p["w"], {"w": W}, X)


def test_the_table_says_where_a_name_is_wrong(capsys):
    def loss(p, x):
        return jnp.mean(jnp.tanh(x @ p["mlp"]["bias"]) @ p["out"]["kernel"] + p["kernel"])

    params = {"mlp": {"bias": W}, "out": {"kernel": W}, "kernel": B, "left": B}
    print_roles(loss, params, X, console=Console(width=160))
    text = capsys.readouterr().out
    assert "warning: mlp/bias: named like a bias or norm scale, is a matrix" in text
    assert "warning: kernel: named like a weight matrix, is a bias" in text
    assert "warning: left: does not reach the loss" in text
    assert "out/kernel: named" not in text


def test_rules_by_role_on_a_gpt():
    loss, params, batch, _ = CASES["GPT, biases, dropout, scan"]()
    found = leaf_roles(loss, params, *batch)
    scales = by_role(rules.ROLE_MATRICES, found, params)
    decayed = {path for path, scale in leaves_with_paths(scales) if scale}
    assert decayed == {leaf.path for leaf in found if leaf.path.endswith("kernel")}
    scales = by_role(rules.ROLE_MATRICES_AND_EMBEDDINGS, found, params)
    assert {p for p, s in leaves_with_paths(scales) if s} == decayed | {"wte/embedding"}
    # What comes out goes wherever rules go.
    assert wdlab.decay_scales(params, scales) == scales
    mixed = (Rule("blocks/attn/.*", 0.5, role="matrix"), Rule(role="head"), Rule(".*", 0.0))
    scales = by_role(mixed, roles(loss, params, *batch), params)
    assert scales["blocks"]["attn"]["qkv"] == {"bias": 0.0, "kernel": 0.5}
    assert scales["wte"]["embedding"] == 1.0


def test_mistakes_with_roles():
    found = {"w": "matrix", "b": "bias", "u": "unknown"}
    params = {"w": np.ones((2, 2)), "b": np.ones(2), "u": np.ones(2)}
    with pytest.raises(ValueError, match="by_role"):
        wdlab.decay_scales(params, (Rule(role="matrix"), Rule(".*", 0.0)))
    with pytest.raises(ValueError, match=r"role must be .*'bias'.*got 'biass'"):
        Rule(role="biass")
    with pytest.raises(TypeError, match="pattern or a role"):
        Rule()
    with pytest.raises(ValueError, match=r"Rule\(role='gate'\) decides no parameter; found bias"):
        by_role((Rule(role="gate"), Rule("u", 0.0), Rule(".*")), found, params)
    with pytest.raises(ValueError, match="u .unknown. matches none"):
        by_role((Rule(role="matrix"), Rule(role="bias", scale=0.0)), found, params)
    with pytest.raises(ValueError, match="say nothing of extra"):
        by_role((Rule(".*"),), found, params | {"extra": np.ones(2)})
    with pytest.warns(rules.RuleWarning, match="role of u is unknown"):
        by_role((Rule(role="bias", scale=0.0), Rule(".*")), found, params)


def test_integers_and_functions_in_the_tree_are_no_leaves():
    params = {"w": W, "steps": ints(), "act": jax.nn.relu}
    found = roles(lambda p, x: p["act"](x @ p["w"] * p["steps"]).mean(), params, X)
    assert found == {"w": "head"}
