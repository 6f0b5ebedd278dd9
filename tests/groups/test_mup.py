"""muP: which axes grow, multipliers by layout, groups, shrink that does not depend on width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.oracles.run_wdlab import train
from tests.twins import adam as twins
from wdlab import rules
from wdlab.groups import Width, assign_groups, mu_adam, mu_adamw, mu_sgd, mup_groups, widths

STEPS = 50


class Net(nn.Module):
    width: int
    vocabulary: int = 11

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(self.vocabulary, self.width, name="wte")(tokens)
        x = nn.SelfAttention(num_heads=self.width // 4, name="attn")(x)
        x = nn.Conv(2 * self.width, (3,), name="conv")(x)
        x = nn.Dense(self.width, name="down")(nn.LayerNorm(name="ln")(x))
        return nn.Dense(5, name="head")(x) * self.param("gain", nn.initializers.ones, ())


def shapes(width, vocabulary=11):
    model = Net(width, vocabulary)
    tokens = jax.ShapeDtypeStruct((1, 7), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]


def test_kinds_and_multipliers_of_a_flax_model():
    found = {w.path: w for w in widths(shapes(8), shapes(32), layout="in_out")}
    kinds = {path: w.kind for path, w in found.items()}
    assert kinds["wte/embedding"] == kinds["head/kernel"] == kinds["ln/scale"] == "vector"
    assert kinds["attn/query/kernel"] == kinds["attn/out/kernel"] == "matrix"  # (d, heads, 4)
    assert kinds["conv/kernel"] == kinds["down/kernel"] == "matrix"
    assert kinds["attn/query/bias"] == kinds["down/bias"] == "vector"
    assert kinds["head/bias"] == kinds["gain"] == "scalar"
    assert {w.width_multiplier for w in found.values() if w.kind != "scalar"} == {4.0}
    assert found["gain"].width_multiplier == 1.0
    assert all(w.fan_ratio == 1.0 for w in found.values() if w.kind == "matrix")


def test_a_delta_model_tells_width_from_a_changed_vocabulary():
    base, target = shapes(8), shapes(32, vocabulary=99)
    plain = {w.path: w.kind for w in widths(base, target, layout="in_out")}
    told = {w.path: w for w in widths(base, target, delta=shapes(12), layout="in_out")}
    assert plain["wte/embedding"] == "matrix"  # The trap.
    assert told["wte/embedding"].kind == "vector"
    assert told["wte/embedding"].width_multiplier == 4.0


def test_with_a_delta_model_a_target_as_wide_as_the_base_still_has_its_kinds():
    same = {w.path: w for w in widths(shapes(8), shapes(8), delta=shapes(12), layout="in_out")}
    assert (same["wte/embedding"].kind, same["wte/embedding"].width_multiplier) == ("vector", 1.0)
    assert {w.kind for w in widths(shapes(8), shapes(8), layout="in_out")} == {"scalar"}


def test_the_layout_decides_which_axis_is_fan_in():
    small, large = {"w": jnp.ones((2, 3))}, {"w": jnp.ones((4, 12))}
    for layout, fan_in, ratio in (("in_out", 2.0, 0.5), ("out_in", 4.0, 2.0)):
        (width,) = widths(small, large, layout=layout)
        assert (width.width_multiplier, width.fan_ratio) == (fan_in, ratio)


def test_a_convolution_is_the_same_in_both_layouts():
    torch_like = widths({"w": np.ones((4, 2, 3, 3))}, {"w": np.ones((8, 8, 3, 3))}, layout="out_in")
    flax_like = widths({"w": np.ones((3, 3, 2, 4))}, {"w": np.ones((3, 3, 8, 8))}, layout="in_out")
    for name in ("kind", "width_multiplier", "fan_ratio"):
        assert getattr(torch_like[0], name) == getattr(flax_like[0], name)


def test_groups_have_the_multipliers_of_the_table():
    leaves = (
        Width("matrix", (2.0, 8.0), "in_out"),
        Width("vector", (4.0, None), "in_out"),
        Width("scalar", (None,), "in_out"),
    )
    params = {"matrix": jnp.ones((2, 8)), "vector": jnp.ones((4, 1)), "scalar": jnp.ones(1)}
    expected = {"adam": {"matrix": 2.0}, "sgd": {"matrix": 0.25, "vector": 0.25}}
    for optimizer, divisors in expected.items():
        for scale_decay in (True, False):
            groups = mup_groups(leaves, optimizer, scale_decay=scale_decay)
            for path, _, group in assign_groups(params, groups):
                divisor = divisors.get(path, 1.0)
                assert group.learning_rate_scale == 1.0 / divisor
                assert group.decay_scale == (divisor if scale_decay else 1.0)


def shrink(make, coupling, width, **arguments):
    """The shrink of a hidden matrix in one step without gradient."""
    params = {"kernel": jnp.ones((width, width))}
    found = widths({"kernel": jnp.ones((8, 8))}, params, layout="in_out")
    tx = make(0.1, found, weight_decay=0.1, coupling=coupling, rules=rules.ALL, **arguments)
    zeros = jax.tree.map(jnp.zeros_like, params)
    return -float(tx.update(zeros, tx.init(params), params)[0]["kernel"][0, 0])


@pytest.mark.parametrize("make", [mu_sgd, mu_adam, mu_adamw])
@pytest.mark.parametrize("coupling", ["lr", "schedule", "constant"])
def test_the_shrink_is_the_same_at_every_width(make, coupling):
    np.testing.assert_allclose(
        shrink(make, coupling, 64), shrink(make, coupling, 8), rtol=1e-6
    )  # fmt: skip


def test_traps_of_the_decay():
    # mup's decoupled_wd=True under AdamW, and nanoGPT-mup: weaker with width.
    np.testing.assert_allclose(
        shrink(mu_adam, "lr", 32, scale_decay=False), shrink(mu_adam, "lr", 8) / 4, rtol=1e-6
    )
    # mup's default where the decay is not multiplied by the rate: stronger with width.
    np.testing.assert_allclose(
        shrink(mu_adam, "schedule", 32, scale_decay=True),
        shrink(mu_adam, "schedule", 8) * 4,
        rtol=1e-6,
    )
    with pytest.raises(ValueError, match="scale_decay.*'lr2'"):
        shrink(mu_adam, "lr2", 32)


@pytest.mark.parametrize("scale_decay", [True, False])
@pytest.mark.parametrize("make", [mu_sgd, mu_adam])
def test_fifty_steps_are_those_of_the_float64_twin(x64, make, scale_decay):
    rng = np.random.default_rng(0)
    small = {"matrix": (4, 2), "vector": (2, 3), "bias": (3,)}
    large = {"matrix": (8, 8), "vector": (8, 3), "bias": (3,)}
    params = {name: rng.normal(size=shape) for name, shape in large.items()}
    base = {name: np.zeros(shape) for name, shape in small.items()}
    grads = [{n: rng.normal(size=s) for n, s in large.items()} for _ in range(STEPS)]
    divisors = {"matrix": 2 / 4, "vector": 1 / 4} if make is mu_sgd else {"matrix": 2}
    coupling = "l2" if make is mu_sgd else "lr"
    tx = make(
        0.05,
        widths(base, params, layout="in_out"),
        weight_decay=0.1,
        coupling=coupling,
        scale_decay=scale_decay,
        rules=rules.ALL,
    )
    ours = train(tx, params, grads)
    for name, theta in params.items():
        r, seen = divisors.get(name, 1.0), []
        lr, decay = 0.05 / r, 0.1 * (r if scale_decay else 1.0)
        for step in grads:
            seen.append(step[name] + decay * theta * (make is mu_sgd))
            u = step[name] if make is mu_sgd else twins.adam(seen)[-1]
            theta = theta - lr * (u + decay * theta)
        assert np.abs(ours[name] - theta).max() <= 1e-12 * np.abs(theta).max()


def test_errors_name_both_models():
    a, b = {"w": jnp.ones((2, 2)), "v": jnp.ones(2)}, {"w": jnp.ones((2, 2)), "u": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"'u' is in target alone; the nearest.*'v'"):
        widths(a, b, layout="in_out")
    with pytest.raises(ValueError, match=r"'w' has shape \(2, 2\) in base and \(2,\) in target"):
        widths({"w": jnp.ones((2, 2))}, {"w": jnp.ones(2)}, layout="in_out")
    with pytest.raises(ValueError, match="more than two axes"):
        widths({"w": jnp.ones((2, 2, 2))}, {"w": jnp.ones((4, 4, 4))}, layout="in_out")
    with pytest.raises(ValueError, match=r"layout must be 'in_out'.*'torch'"):
        widths(a, a, layout="torch")
    with pytest.raises(ValueError, match="optimizer must be"):
        mup_groups((), "lion", scale_decay=True)
    with pytest.raises(ValueError, match="none of the"):
        mu_sgd(0.1, (Width("v", (1.0,), "in_out"),)).init(a)
