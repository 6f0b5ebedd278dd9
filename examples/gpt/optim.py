"""The optimizer, written out so that the place of the decay term is visible."""

import optax

import wdlab
from examples.runs import conventions, optimizers
from wdlab.instruments import monitor
from wdlab.preconditioners import MatrixAxes, MatrixRule, momentum
from wdlab.schedules import ScalarOrSchedule, Schedule, multiplier_of, value_at
from wdlab.training import skip_nonfinite

from .config import SUBSTRINGS, Config


def learning_rate(config: Config) -> Schedule:
    """Warm-up from 0, then a cosine to ``min_lr``; or a constant. A function of the step."""
    if not config.decay_lr:
        return wdlab.schedules.constant(config.learning_rate)
    short = config.warmup_iters >= config.lr_decay_steps  # A trial: it ends in the warm-up.
    if short or config.opt_type == "schedule_free":
        return wdlab.schedules.warmup_constant(
            config.learning_rate, warmup_steps=config.warmup_iters
        )
    return wdlab.schedules.warmup_cosine(
        config.learning_rate,
        warmup_steps=config.warmup_iters,
        decay_steps=config.lr_decay_steps,
        end=config.min_lr_value,
    )


def decay_rules(config: Config) -> tuple[wdlab.Rule, ...]:
    """Which parameters decay: a preset, or those whose path contains one of the words.

    With adapters, only they: the weights beside them are frozen.
    """
    frozen = (wdlab.Rule(r"(?!.*/lora_[ab]/).*", 0.0),) if config.lora_rank else ()
    if config.rules == SUBSTRINGS:
        return frozen + wdlab.rules.containing(config.wd_substrings_include)
    if config.rules == conventions.OWN_RULES:
        return frozen + wdlab.conventions.get(config.convention).rules
    return frozen + getattr(wdlab.rules, config.rules)


def is_decoupled(config: Config) -> bool:
    """Whether the decay is subtracted from the finished step (otherwise: L2, in the gradient)."""
    l2 = config.coupling == "l2" or config.opt_type in ("gd", "gdm")
    return not config.convention and not l2


def decay_multiplier(config: Config) -> ScalarOrSchedule:
    """What ``weight_decay`` is multiplied by at each step: the meaning of the coupling."""
    return multiplier_of(config.coupling, learning_rate(config))


def l2_penalty(config: Config) -> optax.GradientTransformation:
    """Adds the gradient of ``l2_reg * ||w||^2``."""
    return wdlab.add_l2_gradient(2 * config.l2_reg, rules=decay_rules(config))


def shrink(config: Config) -> ScalarOrSchedule:
    """The share of a weight that a step's decay takes; 0 where it depends on the gradients."""
    plain = config.opt_type in ("gd", "gdm")
    if config.convention or not (plain or is_decoupled(config)):
        return 0.0
    kept = config.beta1 if config.opt_type == "gdm" else 0.0  # L2 comes back through momentum.
    kappa = decay_multiplier(config) if is_decoupled(config) else learning_rate(config)
    return lambda count: value_at(kappa, count) * config.weight_decay / (1 - kept)


def described(config: Config) -> list[str]:
    """What the decay will amount to, for people."""
    lines, decay = [], config.weight_decay
    if config.l2_reg:
        lines.append(f"l2_reg {config.l2_reg}: 2 * l2_reg * w is added to the gradient")
    if config.convention:
        return [*lines, conventions.described(config.convention, decay)]
    if not is_decoupled(config):
        return [*lines, f"weight decay {decay} is L2, added to the gradient before the optimizer"]
    profile = wdlab.decay_profile(decay, decay_multiplier(config), config.max_iters)
    return [*lines, f"weight decay {decay}, coupling {config.coupling!r}:\n{profile}"]


def _watched(config: Config) -> tuple[optax.GradientTransformation, ...]:
    """What looks at the finished step every so often and changes nothing (``--doctor``)."""
    if not config.doctor:
        return ()
    every = min(config.log_interval, 100)
    kept = 0.0 if config.opt_type == "gd" else config.beta1
    return (monitor(shrink(config), every=every, rules=decay_rules(config), momentum=kept),)


def make_optimizer(config: Config) -> optax.GradientTransformationExtraArgs:
    """L2 regularization, clipping, L2 as SGD's weight decay, the optimizer, decoupled decay.

    Terms of strength zero cost nothing and keep their place, so that the state of a run fits a
    fine-tuning of it with other strengths. A step that is not finite is left out as a whole.
    """
    lr, rules = learning_rate(config), decay_rules(config)
    clip = optax.identity()
    if config.grad_clip:  # As torch.nn.utils.clip_grad_norm_ does, with its 1e-6.
        clip = wdlab.clip_by_global_norm(config.grad_clip, eps=1e-6)
    if config.convention or config.opt_type in optimizers.NAMES:
        chain = l2_penalty(config), clip, _with_own_decay(config), *_watched(config)
        return skip_nonfinite(optax.chain(*chain))
    decoupled = config.weight_decay if is_decoupled(config) else 0.0
    if config.opt_type == "adam":
        optimizer = optax.adam(lr, b1=config.beta1, b2=config.beta2)
    elif config.opt_type == "gdm":
        direction = momentum(config.beta1, dampening=config.dampening)
        optimizer = optax.chain(direction, optax.scale_by_learning_rate(lr))
    else:
        optimizer = optax.sgd(lr)
    return skip_nonfinite(
        optax.chain(
            l2_penalty(config),
            clip,
            wdlab.add_l2_gradient(config.weight_decay - decoupled, rules=rules),
            optimizer,
            wdlab.decay_weights(decoupled, multiplier=decay_multiplier(config), rules=rules),
            *_watched(config),
        )
    )


def _with_own_decay(config: Config) -> optax.GradientTransformation:
    """Muon, SOAP, schedule-free AdamW or another system's optimizer, the decay included."""
    lr, decay, peak = learning_rate(config), config.weight_decay, config.learning_rate
    rules = decay_rules(config)
    if config.convention:
        words = config.convention_args
        return conventions.build(config.convention, words, lr, decay, rules, peak)
    return optimizers.build(
        config.opt_type, lr, weight_decay=decay, coupling=config.coupling, rules=rules,
        peak_learning_rate=peak, b1=config.beta1, b2=config.beta2, axes=matrix_axes(config),
    )  # fmt: skip


def matrix_axes(config: Config) -> MatrixAxes:
    """Kernels are (in, out); queries, keys and values are a matrix each, stacked layers a batch."""
    heads = config.n_embd // config.n_head
    parts = (config.n_embd, config.kv_heads * heads, config.kv_heads * heads)
    return MatrixAxes(rules=(MatrixRule(".*/qkv/kernel", rows=-1, columns=-2, split=parts),))
