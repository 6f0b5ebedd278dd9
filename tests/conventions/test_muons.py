"""Muon's family: every variant against its twin, over matrices of each shape, in one program."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

from tests.conventions.lists import MATRIX_VARIANTS
from tests.oracles import run_wdlab
from tests.oracles.trajectories import (
    MATRIX_SHAPES,
    PEAK_LEARNING_RATE,
    gradients,
    initial_params,
    learning_rates,
    relative_error,
)
from tests.twins import conventions as twins
from wdlab import conventions
from wdlab.conventions.families.dion_parts import initial_basis, rank_of
from wdlab.rules import Rule

DECAY = 0.02
SCALES = {"wide": 0.5, "square": 0.0, "matrix": 1.0, "vector": 1.0, "kernel": 0.5}
RULES = tuple(Rule(name, scale) for name, scale in SCALES.items())
CASES = {f"{n} {i}": (n, v) for n, vs in MATRIX_VARIANTS.items() for i, v in enumerate(vs)}
ALONE = (
    *("torch.Muon", "keller_jordan.Muon", "modded_nanogpt.NorMuon", "nanochat.Muon"),
    *("emerging_optimizers.Muon", "emerging_optimizers.Scion"),
)


def arguments_of(name, variant, exact=True):
    """All arguments of the original, and what is given to ours beside them."""
    known = conventions.get(name)
    given = known.complete(variant)
    if known.decay_argument:
        given[known.decay_argument] = DECAY
    if name in ALONE:
        given["rest"] = "torch.AdamW"
    if exact:
        for argument in ("fp32_matmul_prec", "muon_fp32_matmul_prec"):
            given |= {argument: "highest"} if argument in given else {}
        given |= {"iteration_dtype": None} if "iteration_dtype" in given else {}
    return given


def run_all(cases, params, grads, rates, dtype, exact=True):
    """Case -> the parameters after every step."""

    def make(rate):
        return {
            key: conventions.build(name, rate, rules=RULES, **arguments_of(name, variant, exact))
            for key, (name, variant) in cases.items()
        }

    return run_wdlab.run_each(make, cases, params, grads, rates, dtype)


def twin_of(name, variant, params, grads, rates, **more):
    """The twin's trajectory: a run for each scale of the decay."""
    given, argument = arguments_of(name, variant), conventions.get(name).decay_argument
    steps = [{} for _ in grads]
    for leaf, scale in SCALES.items():
        scaled = {**given, "leaf_scale": scale, **more, "bases": bases(given)}
        if argument:
            scaled[argument] = scale * DECAY
        one = lambda tree, leaf=leaf: {leaf: tree[leaf]}  # noqa: E731
        after = twins.run(name, scaled, one(params), map(one, grads), rates, PEAK_LEARNING_RATE)
        for step, tree in zip(steps, after, strict=True):
            step |= tree
    return steps


def bases(given):
    """Dion's random start, which the twin gets from ours."""
    if "rank_fraction" not in given:
        return {}
    rank = {n: rank_of(MATRIX_SHAPES[n], given["rank_fraction"], given["rank_multiple_of"])
            for n in ("matrix", "wide", "square")}  # fmt: skip
    made = {n: initial_basis(n, MATRIX_SHAPES[n], rank[n]) for n in rank}
    return {MATRIX_SHAPES[n]: np.asarray(basis, np.float64) for n, basis in made.items()}


@functools.cache
def trajectory(steps=200):
    shapes = {"shapes": MATRIX_SHAPES}
    return initial_params(**shapes), gradients(steps, **shapes), learning_rates(steps)


@pytest.fixture(scope="module")
def ours():
    return run_all(CASES, *trajectory(), np.float64)


@pytest.mark.parametrize("case", CASES)
def test_equals_its_twin_in_float64(case, ours, record_property):
    error = relative_error(ours[case], twin_of(*CASES[case], *trajectory()))
    record_property("error", f"{error:.1e}")
    assert error <= 1e-10


def rounded(x):
    return np.asarray(x, ml_dtypes.bfloat16).astype(np.float64)


def test_iterations_in_bfloat16_are_near_exact_ones_and_near_those_that_round_more(record_property):
    """After 20 steps, relative to how far the weights moved.

    Ours keep sums and products in float32 and are 0.2 to 2 % away from float64; the twins round
    every result, as torch does, and are up to 3.3 % away from ours.
    """
    params, grads, rates = trajectory(20)
    names = ("torch.Muon", "nanochat.Muon")
    cases = {name: (name, {}) for name in names}
    after = run_all(cases, params, grads, rates, np.float32, exact=False)
    for name in names:
        both = twin_of(name, {}, params, grads, rates, rounded=rounded)[-1]
        exact = twin_of(name, {}, params, grads, rates)[-1]
        for leaf in ("matrix", "wide", "square"):
            moved = np.linalg.norm(exact[leaf] - params[leaf])
            for kind, other, bound in (("twin", both, 0.05), ("exact", exact, 0.025)):
                distance = np.linalg.norm(after[name][-1][leaf] - other[leaf]) / moved
                record_property(f"{name}, {leaf}, to {kind}", f"{distance:.4f}")
                assert 1e-5 < distance < bound, (name, leaf, kind, distance)


PARAMS = {"embed": jnp.ones((5, 3)), "kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}


def test_what_nothing_trains_is_an_error_that_says_what_to_write():
    for name in ALONE:
        with pytest.raises(ValueError, match=f"{name}: 1 .* bias. .*rest='torch.AdamW'"):
            conventions.build(name, 0.1).init(PARAMS)
        conventions.build(name, 0.1, rest="torch.AdamW").init(PARAMS)
    with pytest.raises(ValueError, match="muon names bias, of another rank than 2"):
        conventions.build("moonlight.Muon", 0.1, muon=(Rule(".*"),)).init(PARAMS)
    with pytest.raises(TypeError, match="rest must be a transformation or the name"):
        conventions.build("torch.Muon", 0.1, rest=0.1)
    with pytest.raises(ValueError, match="nearest"):
        conventions.build("torch.Muon", 0.1, rest="torch.Adamw")
    with pytest.raises(ValueError, match="norm='Auto' is for ranks 0 to 4; parameter 'deep'"):
        conventions.build("scion.Scion", 0.1).init({"deep": jnp.ones((1, 1, 1, 1, 2))})


def test_rules_or_bools_say_which_leaves_are_matrices():
    for muon in ("ker.*", (Rule("embed", 0.0), Rule("kernel"), Rule(".*", 0.0)),
                 {"embed": False, "kernel": True, "bias": False}):  # fmt: skip
        tx = conventions.build("torch.Muon", 0.1, muon=muon, rest=optax.sgd(3.0), weight_decay=0.0)
        updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        assert float(updates["embed"][0, 0]) == float(updates["bias"][0]) == -3.0
        assert float(updates["kernel"][0, 0]) > -0.1


def test_the_layout_decides_which_matrices_are_tall():
    """A Flax kernel from 3 to 12: tall in torch's (out, in), and so by axes='in_out'."""
    kernel = {"kernel": jnp.ones((3, 12))}
    steps = []
    for axes, params in (
        (None, {"kernel": kernel["kernel"].T}),
        ("in_out", kernel),
        (None, kernel),
    ):
        tx = conventions.build("keller_jordan.Muon", 1.0, axes=axes, iteration_dtype=None)
        updates, _ = tx.update(params, tx.init(params), params)
        steps.append(float(updates["kernel"][0, 0]))
    np.testing.assert_allclose(steps[0], steps[1], rtol=1e-5)
    np.testing.assert_allclose(steps[0] / steps[2], 2.0, rtol=1e-5)


def test_scions_other_norms_equal_their_twins():
    """Norms of matrices alone: of the last layer (Sign) and of embeddings."""
    g = np.random.default_rng(0).normal(size=(4, 6))
    for norm, more in (
        ("Sign", {"normalized": False}),
        ("ColNorm", {"normalized": True, "transpose": True}),
        ("RowNorm", {}),
        ("Spectral", {"max": True}),
        ("Spectral", {"normalized": False, "steps": 3}),
    ):
        given = {"norm": norm, "norm_kwargs": more, "iteration_dtype": None, "scale": 2.0}
        given |= {"unconstrained": True}
        tx = conventions.build("scion.Scion", 1.0, **given)
        with jax.enable_x64():
            params = jnp.asarray(g)
            update, _ = tx.update(params, tx.init(params), params)
        h = {**conventions.get("scion.Scion").defaults, **given}
        twin = twins.TWINS["scion.Scion"](0 * g, g, {}, 1, 1.0, h)
        np.testing.assert_allclose(update, twin, rtol=1e-12)
