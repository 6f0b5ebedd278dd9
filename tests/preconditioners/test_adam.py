"""The Adam family against its float64 twins, special cases, and the contract of a transform."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.oracles import trajectories
from tests.twins import adam as twins
from wdlab.preconditioners import one_minus_power, scale_by_adam
from wdlab.preconditioners.moments import rectification

STEPS = 120
CASES = {
    "outside": ({}, twins.adam, {}),
    "hat": ({"epsilon": "hat"}, twins.adam, {"place": "hat"}),
    "inside": ({"epsilon": "inside"}, twins.adam, {"place": "inside"}),
    "large epsilon, hat": (
        {"epsilon": "hat", "eps": 0.1},
        twins.adam,
        {"place": "hat", "eps": 0.1},
    ),
    "eps_root": ({"eps_root": 1e-3}, twins.adam, {"eps_root": 1e-3}),
    "bert": ({"bias_correction": False, "eps": 1e-6}, twins.adam, {"correct": False, "eps": 1e-6}),
    "praxis": ({"eps": 1e-6}, twins.praxis_adam, {}),
    "amsgrad raw": ({"amsgrad": "raw", "b2": 0.9}, twins.amsgrad, {"b2": 0.9}),
    "amsgrad corrected": (
        {"amsgrad": "corrected", "b2": 0.9},
        twins.amsgrad,
        {"of": "corrected", "b2": 0.9},
    ),
    "amsgrad hat": ({"amsgrad": "raw", "epsilon": "hat"}, twins.amsgrad, {"place": "hat"}),
    "nesterov": ({"first_moment": "nesterov"}, twins.nesterov_adam, {}),
    "nadam": ({"first_moment": "nadam"}, twins.nadam, {}),
    "nadam, keras": ({"first_moment": "nadam", "momentum_decay": 1.0}, twins.nadam, {"psi": 1.0}),
    "radam, torch": ({"epsilon": "hat", "rectification_threshold": 5.0}, twins.radam, {}),
    "radam, optax": ({"rectification_threshold": 5.0}, twins.radam, {"place": "outside"}),
    "radam, paper": (
        {"rectification_threshold": 4.0, "eps": 1e-12},
        twins.radam,
        {"threshold": 4.0, "place": "outside", "eps": 1e-12},
    ),
    "radam, short memory": (
        {"rectification_threshold": 5.0, "b2": 0.5, "epsilon": "hat"},
        twins.radam,
        {"b2": 0.5},
    ),
    "adamax": ({"second_moment": "max", "epsilon": "inside"}, twins.adamax, {}),
    "adamax, keras": ({"second_moment": "max"}, twins.adamax, {"place": "outside"}),
    "adagrad": ({"b1": None, "second_moment": "sum", "eps": 1e-10}, twins.adagrad, {}),
    "adagrad, optax": (
        {
            "b1": None,
            "second_moment": "sum",
            "eps": 1e-7,
            "epsilon": "inside",
            "initial_second_moment": 0.1,
        },
        twins.adagrad,
        {"eps": 1e-7, "place": "inside", "initial": 0.1},
    ),
    "rmsprop": ({"b1": None, "b2": 0.99, "bias_correction": False}, twins.rmsprop, {}),
    "rmsprop, optax": (
        {"b1": None, "b2": 0.9, "bias_correction": False, "epsilon": "inside"},
        twins.rmsprop,
        {"b2": 0.9, "place": "inside"},
    ),
}


def gradients(steps):
    """Returns the gradients as one leaf: the family is elementwise, and one compiles fast."""
    return [
        {"all": np.concatenate([leaf.ravel() for leaf in tree.values()])}
        for tree in trajectories.gradients(steps)
    ]


def directions(tx, grads, dtype=None):
    """Runs a transformation over gradient trees; returns the directions as float64 arrays."""
    grads = [jax.tree.map(lambda g: jnp.asarray(g, dtype), tree) for tree in grads]
    state = tx.init(grads[0])
    update = jax.jit(tx.update)
    out = []
    for tree in grads:
        direction, state = update(tree, state)
        out.append(jax.tree.map(lambda u: np.asarray(u, np.float64), direction))
    return out


def error(ours, theirs):
    """Returns the largest deviation relative to the largest entry of the leaf and step."""
    scale = max(np.abs(theirs).max(), 1e-30)
    return np.abs(ours - theirs).max() / scale


OPTAX = {
    "outside": optax.scale_by_adam(),
    "eps_root": optax.scale_by_adam(eps_root=1e-3),
    "nesterov": optax.scale_by_adam(nesterov=True),
    "amsgrad corrected": optax.scale_by_amsgrad(b2=0.9),
    "radam, optax": optax.scale_by_radam(),
    "adamax": optax.scale_by_adamax(),
    "adagrad, optax": optax.scale_by_rss(),
    "rmsprop, optax": optax.scale_by_rms(),
}


@pytest.mark.parametrize(("dtype", "bound"), [(np.float64, 1e-12), (np.float32, 5e-6)])
@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin(case, dtype, bound):
    """And Optax's where that has it; in float32 to rounding."""
    arguments, twin, twin_arguments = CASES[case]
    grads = [jax.tree.map(dtype, tree) for tree in gradients(STEPS)]
    with jax.enable_x64(dtype is np.float64):
        ours = directions(scale_by_adam(**arguments), grads)
        if case in OPTAX and dtype is np.float64:
            for mine, other in zip(ours, directions(OPTAX[case], grads), strict=True):
                assert error(mine["all"], other["all"]) <= 1e-10
    theirs = twin([np.float64(tree["all"]) for tree in grads], **twin_arguments)
    assert max(error(m["all"], t) for m, t in zip(ours, theirs, strict=True)) <= bound


def test_decaying_rates_of_praxis_are_bias_correction():
    grads = [tree["all"] for tree in gradients(STEPS)]
    pairs = zip(twins.praxis_adam(grads, eps=1e-8), twins.adam(grads), strict=True)
    assert max(error(decaying, corrected) for decaying, corrected in pairs) <= 1e-12


def test_adagrad_is_adam_that_never_forgets():
    """Kingma & Ba, section 5: b1 = 0, b2 -> 1 and a rate of 1/sqrt(t) make AdaGrad."""
    grads = gradients(40)
    with jax.enable_x64(True):
        adam = directions(scale_by_adam(b1=None, b2=1 - 1e-9, eps=1e-20), grads)
        adagrad = directions(scale_by_adam(b1=None, second_moment="sum", eps=1e-20), grads)
    for t, (mine, other) in enumerate(zip(adam, adagrad, strict=True), start=1):
        assert error(mine["all"] / np.sqrt(t), other["all"]) <= 1e-7


def test_a_first_rate_of_zero_is_no_first_moment():
    grads = gradients(5)
    with_buffer = directions(scale_by_adam(b1=0.0), grads)
    without = directions(scale_by_adam(b1=None), grads)
    np.testing.assert_array_equal(with_buffer[-1]["all"], without[-1]["all"])
    assert scale_by_adam(b1=None).init(grads[0]).mu is None


def test_the_same_epsilon_is_another_step():
    """ "hat" is an outside epsilon of eps / sqrt(c_2), and at step 1 that is 31.6 times eps."""
    gradient = jnp.array([1e-3])

    def first(**arguments):
        tx = scale_by_adam(eps=1e-3, **arguments)
        return float(tx.update(gradient, tx.init(gradient))[0][0])

    assert first() == pytest.approx(1 / 2, rel=1e-5)
    assert first(epsilon="hat") == pytest.approx(1 / (1 + 1 / np.sqrt(1e-3)), rel=1e-5)
    assert first(epsilon="inside") == pytest.approx(1e-3 / np.sqrt(1e-6 + 1e-3), rel=1e-5)
    assert first(bias_correction=False) == pytest.approx(1e-4 / (1e-3 * np.sqrt(1e-3) + 1e-3))


def test_nadam_of_torch_is_not_nadam_of_optax():
    grads = gradients(3)
    torch_like = directions(scale_by_adam(first_moment="nadam"), grads)
    optax_like = directions(scale_by_adam(first_moment="nesterov"), grads)
    assert error(torch_like[0]["all"], optax_like[0]["all"]) > 0.05


@pytest.mark.parametrize(
    ("case", "dtype"), [(case, jnp.bfloat16) for case in CASES] + [("outside", jnp.float16)]
)
def test_moments_are_float32_and_directions_keep_their_dtype(case, dtype):
    params = {"kernel": jnp.ones((3, 2), dtype), "bias": jnp.zeros(2, dtype)}
    tx = scale_by_adam(**CASES[case][0])
    state = tx.init(params)
    direction, new_state = tx.update(params, state)
    assert {u.dtype for u in jax.tree.leaves(direction)} == {jnp.dtype(dtype)}
    assert {m.dtype for m in jax.tree.leaves((state.mu, state.nu))} == {jnp.dtype(jnp.float32)}
    described = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)  # noqa: E731
    assert described(new_state) == described(state)
    assert all(bool(jnp.isfinite(u).all()) for u in jax.tree.leaves(direction))


def test_first_moment_may_be_kept_in_bfloat16():
    params = jnp.linspace(-1.0, 1.0, 7)
    tx = scale_by_adam(mu_dtype=jnp.bfloat16)
    direction, state = tx.update(params, tx.init(params))
    assert (state.mu.dtype, state.nu.dtype, direction.dtype) == ("bfloat16", "float32", "float32")


def test_traces_once_and_keeps_its_state_structure_for_traced_numbers():
    params = {"kernel": jnp.full((2, 2), 3.0)}
    traces = []

    @jax.jit
    def first(b1, b2, eps):
        traces.append(1)
        tx = scale_by_adam(b1, b2, eps, rectification_threshold=5.0)
        return tx.update(params, tx.init(params))

    _, traced = first(0.9, 0.999, 1e-8)
    first(0.8, 0.99, 1e-6)
    assert len(traces) == 1
    tx = scale_by_adam(0.9, 0.999, 1e-8, rectification_threshold=5.0)
    assert jax.tree.structure(traced) == jax.tree.structure(tx.init(params))


def test_vmap_over_rates_and_injected_hyperparameters():
    gradient = jnp.array([2.0, -0.5])

    def second(b2):
        tx = scale_by_adam(b2=b2)
        _, state = tx.update(gradient, tx.init(gradient))
        return tx.update(3 * gradient, state)[0]

    swept = jax.vmap(second)(jnp.array([0.9, 0.99]))
    np.testing.assert_allclose(swept[1], second(0.99), rtol=1e-5)
    tx = optax.inject_hyperparams(scale_by_adam)(b1=lambda count: 0.9, b2=0.99)
    direction, _ = jax.jit(tx.update)(gradient, tx.init(gradient))
    np.testing.assert_allclose(direction, [1.0, -1.0], rtol=1e-5)


def test_scalars_keep_their_digits_in_float32():
    for t in (1, 2, 50, 5000):
        exact = 1 - 0.999**t
        assert float(one_minus_power(0.999, jnp.float32(t))) == pytest.approx(exact, rel=3e-7)
        tractable, factor = rectification(0.999, jnp.float32(t), 5.0)
        length, limit = twins.average_length(0.999, t), twins.average_length(0.999)
        assert bool(tractable) == (length > 5)
        if length > 5:
            square = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
            assert float(factor) == pytest.approx(np.sqrt(square), rel=2e-6)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ({"b1": 1.0}, "b1"),
        ({"b2": -0.1}, "b2"),
        ({"eps": -1e-8}, "eps"),
        ({"epsilon": "within"}, "'outside', 'hat' or 'inside'"),
        ({"amsgrad": "yes"}, "'off', 'raw' or 'corrected'"),
        ({"rectification_threshold": 3.0}, "rectification_threshold"),
        ({"b1": None, "first_moment": "nadam"}, "give b1 a number"),
        ({"first_moment": "nadam", "bias_correction": False}, "bias_correction=True"),
        ({"second_moment": "max", "epsilon": "hat"}, "second_moment='max'"),
        ({"amsgrad": "corrected", "epsilon": "hat"}, "amsgrad='raw'"),
        ({"rectification_threshold": 5.0, "b2": 0.0}, "b2 above 0"),
    ],
)
def test_refuses_with_the_line_to_write(arguments, found):
    with pytest.raises(ValueError, match=found):
        scale_by_adam(**arguments)
    with pytest.raises(TypeError, match="bias_correction"):
        scale_by_adam(bias_correction="no")
