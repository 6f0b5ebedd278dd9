"""Every transformation of the package in one table: a new one gets a line here, and its decay.

``tests/test_contract.py`` asks the same of all of them. A member is made of a weight decay; its
``rule`` is what that does to one leaf, from the step without decay.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.twins import variants as twins
from wdlab import (
    conventions,
    decay,
    groups,
    instruments,
    optimizers,
    preconditioners,
    schedules,
    training,
)
from wdlab.conventions.parts import caution
from wdlab.groups import Group
from wdlab.rules import Rule

DECAY = 0.1
PEAK = 0.05
LR = schedules.cosine(PEAK, decay_steps=6, end=0.01)
SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}
SCALES = {"kernel": 1.0, "bias": 0.0, "scale": 0.5}
RULES = (
    *(Rule(f"(.*/)?{name}", scale, optional=True) for name, scale in SCALES.items()),
    Rule(".*"),
)
ALL_LEAVES = tuple(SHAPES)


def tree(seed, names=ALL_LEAVES, dtype=jnp.float32):
    """Random leaves; each is the same whichever others are asked for."""
    draw = lambda name: np.random.default_rng([seed, len(name)]).normal(size=SHAPES[name])  # noqa: E731
    return {"layer": {name: jnp.asarray(draw(name), dtype) for name in names}}


def weights(t, names=ALL_LEAVES):
    """Those before step t: given, not trained, so that no error is fed back."""
    return tree(2 * t, names)


def gradients(t, names=ALL_LEAVES):
    return jax.tree.map(lambda g: 0.3 * g, tree(2 * t + 1, names))


IN_GRADIENT = "in the gradient"  # The step without decay, of g + lambda s w.
KAPPAS = {
    "schedule": lambda t: LR(t) / PEAK,
    "lr": LR,
    "lr2": lambda t: LR(t) ** 2,
    "lr2_over_peak": lambda t: LR(t) ** 2 / PEAK,
    "proximal": LR,
    "parameter_scale": LR,
    "constant": lambda t: 1.0,
    "l2": lambda t: 1.0,
    "lr2_by_shape": lambda t: LR(t) ** 2,
}


class Member(NamedTuple):
    """A transformation, what its decay does, and what it needs."""

    make: Callable[[Any], optax.GradientTransformation]  # Of the decay: number, schedule, traced.
    rule: Any = None  # None: its formula has a memory, and a twin elsewhere; or nothing decays.
    kappa: Callable[[int], Any] = KAPPAS["constant"]
    factors: dict[str, float] = {}  # Of kappa, by leaf.
    reads_params: bool = False  # Without any decay too.


def optimizer(factory, coupling, rule=twins.decoupled, **arguments):
    def make(weight_decay):
        return factory(LR, weight_decay=weight_decay, coupling=coupling, rules=RULES, **arguments)

    rule = IN_GRADIENT if coupling == "l2" else rule
    return Member(
        make, rule, KAPPAS.get(coupling, LR), reads_params=factory is optimizers.adafactor
    )


def around(wrapper, **facts):
    """A wrapper of a whole optimizer: the decay is the optimizer's."""
    inner = optimizer(optimizers.adamw, "lr")
    return inner._replace(make=lambda weight_decay: wrapper(inner.make(weight_decay)), **facts)


def convention(name):
    """A convention with its defaults: its ``coupling`` and ``order`` say what the decay is."""
    known = conventions.get(name)
    arguments = REQUIRED.get(name, {})

    def make(weight_decay):
        given = {"weight_decay": weight_decay} if known.decay_argument else {}
        return conventions.build(
            name, LR, rules=RULES, peak_learning_rate=PEAK, **{**arguments, **given}
        )

    defaults = {**known.defaults, **arguments}
    coupling, rule = known.coupling_for(defaults), twins.decoupled
    for key in (known.order, coupling, name):
        rule = UNLIKE.get(key, rule)
    reads = name in ("optax.lamb", "torch.ASGD", "optax.contrib.sophia")
    reads = reads or coupling == "fixed" or name in ("bitsandbytes.LAMB", "bitsandbytes.LARS")
    reads = reads or ("dafactor" in name and name not in ABSOLUTE)
    reads = reads or coupling in ("averaged", "d_lr") or name.startswith("dadaptation.")
    factors = {"scale": 0.0} if name in OF_MATRICES else {}
    factors |= {"kernel": (4 / 3) ** 0.5} if coupling.endswith("_by_shape") else {}
    return Member(make, rule, KAPPAS.get(coupling, KAPPAS["lr"]), factors, reads)


BASE = {"layer": {"kernel": jnp.ones((2, 1)), "bias": jnp.ones(1), "scale": jnp.ones(())}}
WIDTHS = groups.widths(BASE, tree(0), layout="in_out")
OF_MATRICES = [n for n in conventions.names() if "muon" in conventions.get(n).defaults]


def _of_matrices(name):
    """In bfloat16 jit rounds otherwise; one step each; the rest is without a decay."""
    known = conventions.get(name).defaults
    less = {"iteration_dtype": None, "fp32_matmul_prec": "highest", "ns_steps": 1}
    less |= {"num_ns_steps": 1}
    less |= {f"muon_{argument}": value for argument, value in less.items()}
    less |= {"eps": 0.1} if name == "emerging_optimizers.SOAP" else {}  # Less enlarges rounding.
    small = {argument: value for argument, value in less.items() if argument in known}
    return {"rest": optimizers.adamw(LR), **small}


def squared(tree):
    """In place of an estimate of the Hessian's diagonal."""
    return jax.tree.map(jnp.square, tree)


# What has no default; arguments as small as makes sense.
REQUIRED = {
    "big_vision.adafactor": {"dtype_momentum": None},  # In bfloat16 jit rounds otherwise.
    "axlearn.adamw": {"b1": 0.9, "b2": 0.95, "eps": 1e-8},
    "axlearn.adamw_decoupled": {"b1": 0.9, "b2": 0.95, "eps": 1e-8},
    "praxis.sharded_adafactor": {"decay_method": "pow", "decay_pow": 0.8},
    **{f"bitsandbytes.{name}": {"momentum": 0.9} for name in ("SGD", "LARS")},
    "mars.MARS": {"optimize_1d": True},  # One decay for all leaves.
    "paper.AdamWR": {"first_steps": 10},
    # Of the few gradients a factor has a null space: a small epsilon enlarges its rounding.
    "distributed_shampoo.DistributedShampoo": {"epsilon": 1e-2},
    "galore.GaLoreAdamW": {"rank": 2, "update_proj_gap": 2},
    "apollo.APOLLOAdamW": {"rank": 2, "update_proj_gap": 2},
    "optax.contrib.sophia": {"hessian_diagonal_fn": optax.stateless(lambda g, _: squared(g))},
    "tfa.AdamW": {"weight_decay": 1e-4},
    "tfa.SGDW": {"weight_decay": 1e-4},
    **{f"mup.{name}": {"widths": WIDTHS} for name in ("MuSGD", "MuAdam", "MuAdamW")},
    **{name: _of_matrices(name) for name in OF_MATRICES},
    "scion.Scion": {"iteration_dtype": None, "norm_kwargs": {"steps": 1}},
}
# By coupling, order or name: where a convention's decay is not the decoupled one.
UNLIKE = {
    "l2": IN_GRADIENT,
    "parameter_scale": twins.by_size,
    "after": twins.after_the_step,
    "none": None,
    "fixed": None,
    "averaged": None,  # The decay reaches the weights through their average.
    "d_lr": None,  # Times an estimate that only the optimizer knows.
    **{f"dadaptation.DAdapt{name}": None for name in ("Adam", "SGD", "AdaGrad")},
    "in the trust ratio": None,
    "in the momentum": None,
    "keras.Adafactor": None,  # Its step measures the decayed weights.
    "modded_nanogpt.Adam": functools.partial(twins.cautious, ties="keep"),
    "lr_by_shape": twins.cautious,
    "lr2_by_shape": twins.cautious,
    "proximal": twins.proximal,
    "bitsandbytes.LARS": None,  # Bounded by a norm without the decay.
    "optimi.StableAdamW": None,  # Divided by the gradients' size.
    "mup.MuSGD": None,  # By widths, which mu_sgd and mu_adam below test.
    "mup.MuAdam": None,
    "mup.MuAdamW": None,
    "paper.AdamWR": None,  # Normalized by the length of a restart.
    "soap.SOAP": None,  # Its first step does not decay.
}
ABSOLUTE = ("big_vision.adafactor", "praxis.sharded_adafactor")  # No parameter scale.
GROUPS = (
    Group("(.*/)?bias", frozen=True, optional=True),
    Group("(.*/)?kernel", learning_rate_scale=0.5, decay_scale=3.0, optional=True),
    Group(".*"),
)
SOME = {"multiplier": LR, "rules": RULES}
STACKS = {"axes": preconditioners.MatrixAxes(kernels="batch"), "dtype": "float32"}


def grouped(weight_decay, coupling="lr"):
    direction = preconditioners.scale_by_adam()
    return groups.grouped(
        direction, LR, GROUPS, weight_decay=weight_decay, coupling=coupling,
        decay_follows="group", rules=RULES,
    )  # fmt: skip


def directed(direction):
    """A preconditioner: nothing decays."""
    return Member(lambda weight_decay: direction)


def of_matrices(direction):
    """A direction of matrices alone, beside leaves that are none."""
    part = lambda params: jax.tree.map(lambda p: jnp.ndim(p) == 2, params)  # noqa: E731
    return directed(optax.masked(direction, part))


OWN = {
    "add_l2_gradient": Member(lambda x: decay.add_l2_gradient(x, rules=RULES), IN_GRADIENT),
    "decay_weights": Member(lambda x: decay.decay_weights(x, rules=RULES), twins.decoupled),
    "decay_weights, schedule": Member(
        lambda x: decay.decay_weights(x, multiplier=schedules.schedule_multiplier(LR), rules=RULES),
        twins.decoupled,
        KAPPAS["schedule"],
    ),
    "decay_weights, cautious": Member(
        lambda x: decay.decay_weights(x, cautious=True, **SOME), twins.cautious, LR
    ),
    "decay_weights, cautious, signbit": Member(
        lambda x: decay.decay_weights(x, cautious=True, ties="signbit", **SOME), twins.cautious, LR
    ),
    "decay_weights, toward init": Member(
        lambda x: decay.decay_weights(x, toward="init", rules=RULES)
    ),
    "decay_corrected": Member(
        lambda x: decay.decay_corrected(x, learning_rate=LR, normalized=1.0, rules=RULES),
        twins.decoupled,
        KAPPAS["lr2_over_peak"],
    ),
    "decay_toward_ema": Member(
        lambda x: decay.decay_toward_ema(x, ema_rate=0.5, **SOME), reads_params=True
    ),
    "decay_proximal": Member(lambda x: decay.decay_proximal(x, **SOME), twins.proximal, LR),
    "decay_proximal, previous": Member(
        lambda x: decay.decay_proximal(x, of="previous", **SOME), twins.proximal_of_the_previous, LR
    ),
    "decay_l1": Member(lambda x: decay.decay_l1(x, **SOME), twins.soft_threshold, LR),
    "decay_huber": Member(lambda x: decay.decay_huber(x, delta=0.5, **SOME), twins.huber, LR),
    "decay_weights_by_parameter_scale": Member(
        lambda x: preconditioners.decay_weights_by_parameter_scale(x, **SOME), twins.by_size, LR
    ),
    "constrain_norms, uniform": Member(
        lambda x: decay.constrain_norms("uniform", 0.1, multiplier=x, rules=RULES),
        reads_params=True,
    ),
    "constrain_norms, dependent": Member(
        lambda x: decay.constrain_norms("dependent", 0.5, multiplier=x, rules=RULES),
        reads_params=True,
    ),
    "constrain_norms, inflection": Member(
        lambda x: decay.constrain_norms(multiplier=x, sample_steps=1, rules=RULES),
        reads_params=True,
    ),
    "hyperball": Member(lambda x: decay.hyperball(x, rules=RULES), reads_params=True),
    "keep_initial_norm": Member(
        lambda x: optax.chain(
            optax.scale_by_learning_rate(x), decay.keep_initial_norm(rules=RULES)
        ),
        reads_params=True,
    ),
    "freeze": Member(lambda x: decay.freeze(RULES), reads_params=True),
    "decay_then_step": Member(
        lambda x: decay.decay_then_step(decay.decay_weights(x, **SOME), optax.sgd(LR)),
        twins.decoupled,
        LR,
    ),
    "step_then_decay": Member(
        lambda x: decay.step_then_decay(optax.sgd(LR), decay.decay_weights(x, **SOME)),
        twins.after_the_step,
        LR,
    ),
    "sgd, l2": optimizer(optimizers.sgd, "l2", momentum=0.9),
    "sgdw, lr": optimizer(optimizers.sgdw, "lr", momentum=0.9, nesterov=True),
    "adam, l2": optimizer(optimizers.adam, "l2"),
    "adamw, schedule": optimizer(optimizers.adamw, "schedule"),
    "adamw, lr2": optimizer(optimizers.adamw, "lr2"),
    "adamw, lr2_over_peak": optimizer(optimizers.adamw, "lr2_over_peak"),
    "muon, lr": optimizer(optimizers.muon, "lr", **STACKS),
    "muon, lr2, neurons": optimizer(
        optimizers.muon, "lr2", twins.cautious, neuron_b2=0.9, cautious=True, **STACKS
    ),
    "radamw, lr": optimizer(optimizers.radamw, "lr"),
    "lionw, constant": optimizer(optimizers.lionw, "constant"),
    "adafactor, lr": optimizer(optimizers.adafactor, "lr"),
    "adafactor, l2": optimizer(optimizers.adafactor, "l2", parameter_scale=None)._replace(
        reads_params=False
    ),
    "adafactor, parameter_scale": optimizer(optimizers.adafactor, "parameter_scale", twins.by_size),
    "shampoo, lr": optimizer(optimizers.shampoo, "lr", eps=1e-2, refresh_every=2),
    "soap, lr": optimizer(optimizers.soap, "lr", refresh_every=2),
    "schedule_free": around(
        lambda tx: optimizers.schedule_free(tx, LR, r=0.5), rule=None, reads_params=True
    ),
    "schedule_free_sgd": optimizer(optimizers.schedule_free_sgd, "lr", None, decay_at="x")._replace(
        reads_params=True
    ),
    "schedule_free_adamw": optimizer(optimizers.schedule_free_adamw, "lr", None)._replace(
        reads_params=True
    ),
    "prodigy, d_lr": optimizer(optimizers.prodigy, "d_lr", None)._replace(reads_params=True),
    "prodigy, l2": optimizer(optimizers.prodigy, "l2", slice_every=2)._replace(
        reads_params=True, rule=None
    ),
    **{
        f"{name}, {coupling}": optimizer(getattr(optimizers, name), coupling)._replace(
            rule=None, reads_params=True
        )
        for name, coupling in (
            *(("dadapt_adam", "d_lr"), ("dadapt_lion", "d_lr"), ("dadapt_adan", "proximal")),
            *(("dadapt_sgd", "l2"), ("dadapt_adagrad", "l2")),
        )
    },
    "ademamix, lr2": optimizer(optimizers.ademamix, "lr2", warmup=5),
    "adan, lr": optimizer(optimizers.adan, "lr", twins.proximal),
    "adopt, schedule": optimizer(optimizers.adopt, "schedule"),
    "lamb, lr": optimizer(optimizers.lamb, "lr")._replace(reads_params=True),
    "mars, l2": optimizer(optimizers.mars, "l2"),
    "signum, constant": optimizer(optimizers.signum, "constant"),
    "adams": Member(lambda x: optimizers.adams(LR, weight_decay=x, rules=RULES)),
    "grouped, lr": Member(grouped, twins.decoupled, LR, {"kernel": 0.5 * 3.0}),
    "grouped, l2": Member(lambda x: grouped(x, "l2"), IN_GRADIENT, factors={"kernel": 3.0}),
    "mu_adam": optimizer(groups.mu_adam, "lr", widths=WIDTHS),
    "mu_adamw": optimizer(groups.mu_adamw, "constant", widths=WIDTHS),
    "mu_sgd": optimizer(groups.mu_sgd, "lr", widths=WIDTHS),
    "freeze_groups": around(lambda tx: groups.freeze_groups(tx, GROUPS)),
    "scale_by_groups": directed(groups.scale_by_groups(LR, GROUPS)),
    "stochastic_rounding": around(training.stochastic_rounding, reads_params=True),
    "kahan": around(training.kahan, reads_params=True),
    "float32_masters": around(training.float32_masters, reads_params=True),
    "skip_nonfinite": around(training.skip_nonfinite),
    "caution": around(caution, rule=None),
    "inject_hyperparams": optimizer(
        optimizers.inject_hyperparams(optimizers.adamw), "schedule"
    )._replace(reads_params=True),  # A decay of 0 may be set to another.
    "scale_by_adam": directed(preconditioners.scale_by_adam(amsgrad="raw", first_moment="nadam")),
    "reduce_variance": directed(preconditioners.reduce_variance(0.5, first="plain")),
    "scale_by_adan": directed(preconditioners.scale_by_adan()),
    "scale_by_ademamix": directed(preconditioners.scale_by_ademamix(b3_warmup=9, alpha_warmup=5)),
    "scale_by_adopt": directed(preconditioners.scale_by_adopt(clip_exponent=None)),
    "scale_by_nesterov_adam": directed(preconditioners.scale_by_nesterov_adam(0.9, 0.99, 1e-8)),
    "scale_by_lion": directed(preconditioners.scale_by_lion()),
    "orthogonalize": of_matrices(preconditioners.orthogonalize(dtype="float32")),
    "scale_by_neuron_rms": of_matrices(preconditioners.scale_by_neuron_rms()),
    "scale_by_matrix_shape": of_matrices(preconditioners.scale_by_matrix_shape("rms")),
    "scale_by_factored_rms": directed(preconditioners.scale_by_factored_rms(axes="last")),
    "scale_by_adafactor": directed(optimizers.scale_by_adafactor()),
    "scale_by_galore": directed(preconditioners.scale_by_galore(2, refresh_every=2)),
    "scale_by_apollo": directed(preconditioners.scale_by_apollo(2, refresh_every=2)),
    "scale_by_sophia": directed(preconditioners.scale_by_sophia()),
    "scale_by_shampoo": directed(preconditioners.scale_by_shampoo(b2=0.9, eps=1e-2, block_size=3)),
    "scale_by_soap": directed(preconditioners.scale_by_soap(refresh_every=2)),
    "scale_by_soap_basis_first": directed(
        preconditioners.scale_by_soap_basis_first(eps=0.1)  # A smaller one enlarges rounding.
    ),
    "scale_by_kron": directed(preconditioners.scale_by_kron(update_share=0.5)),
    "scale_by_stable_adam": directed(preconditioners.scale_by_stable_adam(0.9, 0.5)),
    "scale_by_leaf_norms": directed(preconditioners.scale_by_leaf_norms(amsgrad=True)),
    "scale_by_lars": Member(lambda x: preconditioners.scale_by_lars(x, rules=RULES)),
    "scale_by_trust_ratio": Member(
        lambda x: preconditioners.scale_by_trust_ratio(), reads_params=True
    ),
    "clip_by_weight_norm": Member(
        lambda x: preconditioners.clip_by_weight_norm(0.1), reads_params=True
    ),
    "scale_by_parameter_scale": Member(
        lambda x: preconditioners.scale_by_parameter_scale(), reads_params=True
    ),
    "clip_by_global_norm": directed(preconditioners.clip_by_global_norm(0.1)),
    "clip_by_leaf_norm": directed(preconditioners.clip_by_leaf_norm(0.1)),
    "momentum": directed(preconditioners.momentum(0.9, dampening=0.5)),
    "in_float32": around(optimizers.in_float32),
    "complete": around(lambda tx: optimizers.complete("mine", tx, RULES, complex_ok=True)),
    "clip_by_block_rms": directed(preconditioners.clip_by_block_rms(0.1)),
    "monitor": Member(lambda x: instruments.monitor(0.1, every=2, rules=RULES), reads_params=True),
}


def builder(name):
    """What is asked of a convention is asked of what builds it, once for each decay."""
    known = conventions.get(name)
    return known.make, known.coupling_for({**known.defaults, **REQUIRED.get(name, {})}), known.order


CONVENTIONS = {
    name: convention(name) for name in {builder(n): n for n in conventions.names()}.values()
}
MEMBERS = OWN | CONVENTIONS


def updates_of(tx, given):
    """The updates of given gradients, one tree a step, without jit."""
    names, state, out = tuple(given[0]["layer"]), None, []
    for t, grads in enumerate(given):
        state = tx.init(weights(t, names)) if state is None else state
        updates, state = tx.update(grads, state, weights(t, names))
        out.append(updates)
    return out


@functools.cache
def expected(name, *, part=False, steps=3):
    """The member's updates: its rule upon those without decay, or its own outside of wrappers.

    Args:
      name: Key of ``MEMBERS``.
      part: Of the kernel and the scale alone, as if there were no bias.
      steps: How many.
    """
    member, names = MEMBERS[name], ("kernel", "scale") if part else ALL_LEAVES
    given = [gradients(t, names) for t in range(steps)]
    if member.rule is None:
        return updates_of(member.make(DECAY), given)

    def decayed(rule, trees):
        def leaf(name, t):
            k = DECAY * SCALES[name] * float(member.kappa(t)) * member.factors.get(name, 1.0)
            pair = trees[t]["layer"][name], weights(t)["layer"][name]
            return rule(*(np.asarray(x, np.float64) for x in pair), k)

        return [{"layer": {name: leaf(name, t) for name in names}} for t in range(steps)]

    if member.rule == IN_GRADIENT:
        fed = decayed(lambda g, w, k: g + k * w, given)
        return updates_of(member.make(0.0), jax.tree.map(jnp.float32, fed))
    return decayed(member.rule, updates_of(member.make(0.0), given))
