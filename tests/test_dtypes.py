"""Every member of the contract on pairs of dtypes, on complex leaves, and on integers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.contract import DECAY, MEMBERS, OF_MATRICES

pytestmark = [
    pytest.mark.filterwarnings("ignore::wdlab.rules.RuleWarning"),
    pytest.mark.filterwarnings("ignore::wdlab.schedules.ScheduleWarning"),
]
# Of a parameter and its gradient: the wider one, the narrower, as wide in another way, and alike.
PAIRS = {
    f"{p}_{g}": (p, g)
    for p, g in (
        *(("float32", "bfloat16"), ("float32", "float16"), ("float64", "float32")),
        *(("bfloat16", "float32"), ("float16", "bfloat16")),
        *(("bfloat16", "bfloat16"), ("float16", "float16")),
    )
}


def leaf(dtype, seed, size=8.0):
    """Eighths and sixteenths: the same numbers in every dtype."""
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(1, 9, (4, 3)) * rng.choice([-1, 1], (4, 3)) / size, dtype)


def second_update(name, params, grads):
    tx = MEMBERS[name].make(DECAY)
    state = tx.init(params)
    _, new = tx.update(grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(new, state)
    return tx.update(grads, new, params)[0]


def trees(params=None, grads=None):
    """All the pairs in one tree, a leaf each; or the same numbers in the given dtypes."""
    p = {n: {"kernel": leaf(params or own, 1)} for n, (own, _) in PAIRS.items()}
    g = {n: {"kernel": leaf(grads or own, 2, 16.0)} for n, (_, own) in PAIRS.items()}
    return p, g


# A direction has its gradient's dtype; frozen and watched leaves keep theirs; muP names others.
OTHERS = ("scale_by", "clip_by", "freeze", "monitor", "mu", "momentum")
OTHERS += ("orthogonalize", "reduce_variance")
# Optax's part of the member, or rounding to 16 bits on purpose, gives other numbers.
ROUNDED = ("keep_initial_norm", "decay_then_step", "step_then_decay", "stochastic_rounding")
ROUNDED += ("kahan", "float32_masters")
# The gradient leaves their bases free, or projections are drawn anew in each dtype.
FREE = ("soap, lr", "soap.SOAP", "apollo.APOLLOAdamW", "kron.Kron")
ENLARGED = {"dion.Dion2": 3.0}  # The iteration makes rounding larger.
UPDATES = [n for n in MEMBERS if not n.startswith(OTHERS) or n == "scale_by_parameter_scale"]


@pytest.mark.parametrize("name", UPDATES)
def test_the_update_has_the_wider_dtype_and_loses_no_decay(name, x64):
    """Beside the same tree in float64: a 16-bit gradient rounds away nothing of a wider weight."""
    got, wanted = second_update(name, *trees()), second_update(name, *trees("float64", "float64"))
    for pair, (p, g) in PAIRS.items():
        update, exact = got[pair]["kernel"], np.asarray(wanted[pair]["kernel"])
        assert update.dtype == jnp.promote_types(p, g), pair
        size = np.abs(exact).max() + (name == "hyperball")  # It subtracts the weight, up to 1.
        info = jnp.finfo(update.dtype)
        bound = 2 * max(float(info.eps), 4e-6) * size * ENLARGED.get(name, 1.0)
        bound += float(info.smallest_subnormal)  # First steps of an estimated rate are as small.
        if name not in (*ROUNDED, *FREE):
            assert np.abs(np.asarray(update, np.float64) - exact).max() <= bound, pair


# Right with |g|^2 or linear. The others refuse complex leaves, torch's Adams among them: torch
# takes the two parts of a complex number for two real ones.
REAL_ALONE = (
    *("lionw", "adafactor", "adams", "decay_l1", "decay_huber", "constrain_norms", "hyperball"),
    *("keep_initial_norm", "scale_by_lion", "scale_by_factored", "scale_by_adafactor", "caution"),
    *("decay_weights, cautious", "muon", "orthogonalize", "scale_by_neuron", "shampoo", "soap"),
    *(f"scale_by_{name}" for name in ("adan", "ademamix", "adopt", "galore", "apollo", "sophia")),
    *(
        f"scale_by_{name}"
        for name in ("shampoo", "soap", "kron", "stable_adam", "leaf_norms", "lars")
    ),
    *("prodigy", "dadapt_", "ademamix", "adan", "adopt", "lamb", "mars", "signum"),
    "reduce_variance",
)
RIGHT = (
    "torch.SGD",
    "torch.ASGD",
    "optax.adamw",
    "optax.lamb",
    "nanodo.",
    "axlearn.",
    "big_vision.adam",
)


def is_right(name):
    if "." in name:
        return name.startswith((*RIGHT, "mup.MuSGD")) and name != "big_vision.adafactor"
    return not name.startswith(REAL_ALONE)


@pytest.mark.parametrize("name", MEMBERS)
def test_complex_leaves_are_right_or_refused_by_name(name, x64):
    """Turned by an angle, a weight and its gradient have the turned step; on the axis, the real."""
    whole = lambda x: {"layer": {"kernel": x}}  # noqa: E731
    p, g = leaf("float64", 1), leaf("float64", 2) + 1j * leaf("float64", 3)
    params = p + 1j * leaf("float64", 4)
    if not is_right(name):
        with pytest.raises(TypeError, match="'layer/kernel' is complex128; .* needs real numbers"):
            MEMBERS[name].make(DECAY).init(whole(params))
        return
    step = lambda p, g: second_update(name, whole(p), whole(g))["layer"]["kernel"]  # noqa: E731
    turn = np.exp(0.7j)
    np.testing.assert_allclose(step(params * turn, g * turn), step(params, g) * turn, rtol=1e-9)
    np.testing.assert_allclose(step(p + 0j, g.real + 0j), step(p, g.real), rtol=1e-9)


# Optax cannot compute with the float0 of an integer: none of its parts outside of an optimizer.
DECAYING = [
    n for n in MEMBERS if MEMBERS[n].rule is not None and not n.endswith(("_step", "n_decay"))
]


@pytest.mark.parametrize("name", DECAYING)
def test_integers_stay_where_rules_exempt_them_and_are_refused_elsewhere(name):
    """The rules of the contract exempt the bias and decay the scale.

    What trains the leaves that are no matrices beside Muon decays nothing in the contract.
    """
    ids = jnp.array([3, 4])
    params = {"layer": {"kernel": leaf("float32", 1), "bias": ids}}
    loss = lambda params: jnp.sum(params["layer"]["kernel"] ** 2)  # noqa: E731
    grads = jax.grad(loss, allow_int=True)(params)  # float0 where there is nothing to train.
    new = optax.apply_updates(params, second_update(name, params, grads))
    chex.assert_trees_all_equal(new["layer"]["bias"], ids)
    assert (new["layer"]["kernel"] != params["layer"]["kernel"]).any()
    if name in OF_MATRICES:
        return
    with pytest.raises(TypeError, match=r"'layer/scale' is int32; .*Rule\('layer/scale', 0"):
        MEMBERS[name].make(DECAY).init({"layer": {"kernel": leaf("float32", 1), "scale": ids[0]}})
