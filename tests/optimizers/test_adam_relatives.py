"""The chains beside the conventions of their authors, which have twins and live comparisons."""

import chex
import jax
import pytest

from tests import contract
from wdlab import conventions, optimizers

DECAY = {"weight_decay": contract.DECAY, "rules": contract.RULES}
# Chain, its arguments, the convention that is the same, its arguments.
SAME = {
    "adan": ({"coupling": "lr"}, "adan.Adan", {}),
    "adan, additive": (
        {"coupling": "lr", "proximal": False},
        "adan.Adan",
        {"no_prox": True},
    ),
    "ademamix": (
        {"coupling": "lr", "warmup": 3, "alpha": 2.0},
        "bitsandbytes.AdEMAMix",
        {"alpha": 2.0, "t_alpha": 3, "t_beta3": 3},
    ),
    "adopt": ({"coupling": "l2"}, "adopt.ADOPT", {}),
    "lamb": ({"coupling": "trust_ratio"}, "optax.lamb", {}),
    "mars": ({"coupling": "lr"}, "mars.MARS", {"optimize_1d": True}),
    "signum": ({"coupling": "lr"}, "lion_pytorch.Lion", {"betas": (0.9, 0.9)}),
}


@pytest.mark.parametrize("case", SAME)
def test_a_chain_is_its_authors_optimizer(case):
    ours, name, theirs = SAME[case]
    chain = getattr(optimizers, case.split(",")[0])(contract.LR, **DECAY, **ours)
    peak = {"peak_learning_rate": contract.PEAK}
    other = conventions.build(name, contract.LR, **DECAY, **peak, **theirs)
    given = [contract.gradients(t) for t in range(4)]
    both = (contract.updates_of(tx, given) for tx in (chain, other))
    chex.assert_trees_all_close(*both, rtol=1e-5, atol=1e-7)


def test_a_decay_inside_the_trust_ratio_follows_no_number():
    params = {"kernel": contract.tree(0, ("kernel",))["layer"]["kernel"]}
    zeros = jax.tree.map(lambda x: 0 * x, params)
    for strength in (0.1, 0.3):
        tx = optimizers.lamb(0.5, weight_decay=strength, coupling="trust_ratio")
        step, _ = tx.update(zeros, tx.init(params), params)
        chex.assert_trees_all_close(step, jax.tree.map(lambda x: -0.5 * x, params), rtol=1e-6)
