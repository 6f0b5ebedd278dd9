"""The doctor names the convention that a leaf's optimizer equals, or the nearest."""

import jax
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import wdlab
from wdlab.conventions import build
from wdlab.instruments.diagnosis.examination import examine
from wdlab.instruments.diagnosis.nearest_convention import nearest_convention
from wdlab.rules import ALL

PARAMS = {
    "kernel": jax.ShapeDtypeStruct((8, 24), jnp.float32),
    "bias": jax.ShapeDtypeStruct((24,), jnp.float32),
}
MASK = {"kernel": True, "bias": False}
LR = wdlab.schedules.warmup_cosine(1e-3, warmup_steps=100, decay_steps=1000)
L2 = optax.add_decayed_weights(5e-4)
ADAMW = "torch.AdamW"
DECAYS = {"weight_decay": 0.1, "rules": ALL}


def found(tx, path):
    run = examine(tx, PARAMS, steps=1000)
    return nearest_convention(run, next(leaf for leaf in run.leaves if leaf.path == path))


# Chain, the leaf that is looked at, the convention's name, and some of its arguments.
EQUAL = {
    "Adam": (optax.adam(1e-3, b2=0.98), "kernel", "torch.Adam", "betas=(0.9, 0.98)"),
    "AdamW": (optax.adamw(3e-4, 0.85, 0.97, 1e-6, weight_decay=0.03), "kernel", ADAMW,
              "betas=(0.85, 0.97), eps=1e-06, weight_decay=0.03"),
    "AdamW, a schedule and a mask": (optax.adamw(LR, weight_decay=0.1, mask=MASK), "kernel", ADAMW,
                                     "weight_decay=0.1"),
    "the same, exempt": (optax.adamw(LR, weight_decay=0.1, mask=MASK), "bias", "torch.Adam", ""),
    "ours": (wdlab.optimizers.adamw(LR, coupling="lr", b2=0.95, **DECAYS), "kernel", ADAMW,
             "betas=(0.9, 0.95), weight_decay=0.1"),
    "behind a clip": (optax.chain(optax.clip_by_global_norm(0.7), optax.adamw(LR, b2=0.95)),
                      "kernel", ADAMW, "behind a clip to 0.7"),
    "a step that is not finite is left out": (
        wdlab.skip_nonfinite(wdlab.optimizers.adamw(LR, coupling="lr", **DECAYS)), "kernel", ADAMW,
        "weight_decay=0.1"),
    "more than 1 times its learning rate": (
        wdlab.optimizers.adamw(LR, coupling="schedule", **DECAYS), "kernel", ADAMW,
        "weight_decay="),
    "injected": (optax.inject_hyperparams(optax.adamw)(LR, b2=0.95, weight_decay=0.2), "kernel",
                 ADAMW, "betas=(0.9, 0.95), weight_decay=0.2"),
    "ours, injected": (wdlab.inject_hyperparams(wdlab.optimizers.adamw)(1e-3, coupling="lr",
                                                                        **DECAYS),
                       "kernel", ADAMW, "weight_decay=0.1"),
    "accumulated": (optax.MultiSteps(optax.adamw(1e-3, weight_decay=0.1), 3)
                    .gradient_transformation(), "kernel", ADAMW, "weight_decay=0.1"),
    "two optimizers": (optax.multi_transform({True: optax.lion(1e-4, weight_decay=0.1),
                                              False: optax.sgd(0.1, 0.9)}, MASK),
                       "kernel", "optax.lion", "weight_decay=0.1"),
    "the other of them": (optax.multi_transform({True: optax.lion(1e-4),
                                                 False: optax.sgd(0.1, 0.9)}, MASK),
                          "bias", "torch.SGD", "momentum=0.9"),
    "BERT": (build("bert.AdamWeightDecayOptimizer", LR, weight_decay_rate=0.02, rules=ALL),
             "kernel", "bert.AdamWeightDecayOptimizer", "weight_decay_rate=0.02"),
    "L2 under Adam": (optax.chain(L2, optax.adam(LR)), "kernel", "torch.Adam",
                      "weight_decay=0.0005"),
    "SGD, L2, Nesterov": (optax.chain(L2, optax.sgd(0.1, 0.8, nesterov=True)), "kernel",
                          "torch.SGD", "weight_decay=0.0005"),
    "SGD": (optax.sgd(LR), "kernel", "torch.SGD", ""),
    "Lion": (wdlab.optimizers.lionw(LR, coupling="lr", b2=0.98, **DECAYS), "bias", "optax.lion",
             "b2=0.98, weight_decay=0.1"),
    "RMSprop": (build("torch.RMSprop", 1e-3, alpha=0.95), "kernel", "torch.RMSprop", "alpha=0.95"),
    "Adagrad": (build("torch.Adagrad", 1e-2), "kernel", "torch.Adagrad", ""),
    "Adafactor": (optax.adafactor(LR), "kernel", "optax.adafactor", ""),
    "LAMB": (optax.lamb(LR, weight_decay=0.1), "kernel", "optax.lamb", "weight_decay=0.1"),
    "NAdamW": (optax.nadamw(LR, weight_decay=0.1), "kernel", "optax.adamw", "nesterov=True"),
    "StableAdamW": (build("optimi.StableAdamW", 1e-3, weight_decay=0.1), "kernel",
                    "optimi.StableAdamW", "weight_decay=0.1"),
    "schedule-free": (build("schedulefree.AdamWScheduleFree", 1e-3, weight_decay=0.1, rules=ALL),
                      "bias", "schedulefree.AdamWScheduleFree", "weight_decay=0.1"),
    "SOAP": (build("soap.SOAP", LR, weight_decay=0.1, rules=ALL), "kernel", "soap.SOAP",
             "weight_decay=0.1"),
    "Muon": (build("torch.Muon", LR, momentum=0.9, weight_decay=0.03, rest="torch.AdamW"), "kernel",
             "torch.Muon", "momentum=0.9, weight_decay=0.03"),
    "optax's Muon": (contrib.muon(LR, beta=0.9, weight_decay=0.1), "kernel", "optax.contrib.muon",
                     "weight_decay=0.1"),
    "its other half": (contrib.muon(LR, adam_weight_decay=0.1), "bias", "optax.adamw",
                       "nesterov=True"),
    "our Muon": (wdlab.optimizers.muon(LR, coupling="lr", **DECAYS), "kernel", "torch.Muon",
                 "adjust_lr_fn=match_rms_adamw, weight_decay=0.1"),
    "Moonlight": (build("moonlight.Muon", LR, momentum=0.9, wd=0.03), "kernel", "moonlight.Muon",
                  "wd=0.03"),
    "Keller Jordan's": (build("keller_jordan.Muon", 0.02, weight_decay=0.01, rest="torch.AdamW"),
                        "kernel", "keller_jordan.Muon", "weight_decay=0.01"),
    "Adan": (build("adan.Adan", LR, weight_decay=0.02), "kernel", "adan.Adan", "weight_decay=0.02"),
}  # fmt: skip


@pytest.mark.parametrize("name", EQUAL)
def test_the_convention_is_named(name):
    tx, leaf, convention, arguments = EQUAL[name]
    match = found(tx, leaf)
    assert match.exact, (str(match), match.term)
    assert convention in {match.name, *match.same}, (str(match), match.same)
    assert match.name != convention or arguments in str(match)


def corrected(first, second):
    """Adam that corrects one moment alone."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return zeros, zeros, jnp.zeros((), jnp.int32)

    def update(updates, state, params=None):
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], updates)
        v = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, state[1], updates)
        count = state[2] + 1
        c1 = 1 - 0.9**count if first else 1.0
        c2 = 1 - 0.99**count if second else 1.0
        step = jax.tree.map(lambda m, v: -1e-3 * (m / c1) / (jnp.sqrt(v / c2) + 1e-8), m, v)
        return step, (m, v, count)

    return optax.GradientTransformation(init, update)


# Chain, the nearest convention, the term that differs.
NEAR = {
    "Lion with a constant decay": (
        optax.chain(optax.lion(LR, weight_decay=0.0), wdlab.decay_weights(1e-4, rules=ALL)),
        "optax.lion",
        "decay: here multiplied by nothing, there multiplied by the learning rate",
    ),
    "Adam with a constant decay": (
        optax.chain(optax.adam(LR), wdlab.decay_weights(1e-4, rules=ALL)),
        "Adam",
        "decay: here multiplied by nothing",
    ),
    "the wrong sign": (
        optax.chain(optax.lion(LR, weight_decay=0.0), optax.add_decayed_weights(1e-4)),
        "optax.lion",
        "with the wrong sign",
    ),
    "a decay with a schedule of its own": (
        optax.chain(
            optax.lion(1e-3, weight_decay=0.0),
            wdlab.decay_weights(1e-4, multiplier=optax.linear_schedule(1.0, 0.0, 9), rules=ALL),
        ),
        "optax.lion",
        "decay: here a schedule of its own",
    ),
    "one moment is corrected": (
        corrected(True, False),
        "Adam",
        "bias correction: here of the first moment alone",
    ),
    "the other moment is corrected": (
        corrected(False, True),
        "Adam",
        "bias correction: here of the second moment alone",
    ),
    "a larger epsilon than any number": (
        optax.chain(optax.scale(0.5), optax.adam(1e-3, eps=1e-8)),
        "Adam",
        "epsilon: the steps differ at tiny gradients alone",
    ),
    "a clip of the step": (
        optax.chain(optax.sgd(0.1, 0.9), optax.clip_by_global_norm(0.05)),
        "SGD",
        "size of the step: in proportion to no learning rate",
    ),
    "a clip that no tried step reaches": (
        optax.chain(optax.adamw(LR), optax.clip_by_global_norm(1e3)),
        "torch.AdamW",
        "a branch that no tried step takes",
    ),
    "RAdam, its epsilon elsewhere": (optax.radam(1e-3), "torch.RAdam", "tiny gradients"),
}


@pytest.mark.parametrize("name", NEAR)
def test_the_nearest_is_named_with_what_differs(name):
    tx, convention, term = NEAR[name]
    match = found(tx, "kernel")
    assert not match.exact, str(match)
    assert convention in match.name
    assert term in match.term, match.term


def test_of_a_step_like_no_other_nothing_is_claimed():
    noise = optax.stateless(lambda g, p: jax.tree.map(lambda x: jnp.sin(1e3 * x), g))
    assert found(noise, "kernel") is None


def test_the_report_says_how_it_is_known():
    report = wdlab.doctor(optax.adamw(1e-3, weight_decay=0.1), PARAMS, steps=1000)
    (group,) = report.groups
    assert (group.known_by, group.differs) == ("proved", "")
    told = " ".join(str(report).split())
    assert "equals torch.AdamW(weight_decay=0.1) (proved from the traced program)" in told
    assert "the same steps: optax.adamw" in told


def test_a_leaf_whose_optimizer_does_not_run_alone_is_told_from_one_near_nothing():
    """One that asks for the shapes of its leaves: the leaf that is tried is made smaller."""

    def update(updates, state, params):
        jnp.dot(params["bias"], params["kernel"].T)
        return optax.sgd(0.1).update(updates, state, params)

    report = wdlab.doctor(
        optax.GradientTransformation(optax.sgd(0.1).init, update), PARAMS, steps=10
    )
    for group in report.groups:
        assert group.convention == ""
        assert group.differs.startswith("TypeError: ")
    told = " ".join(str(report).split())
    assert "compared with no convention, since it does not run alone: TypeError: " in told
    assert "near no convention" not in told
