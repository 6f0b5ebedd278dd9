"""The conventions of muP and modded-nanogpt, whose decay is scaled once more."""

from typing import Any

import optax

from wdlab._core.checks import check_number
from wdlab.conventions.convention import CORRECTED, HAT, OUTSIDE, REQUIRED, Convention, Request
from wdlab.conventions.parts import (
    adam_direction,
    maximized,
    pair,
    product,
    rate_of,
    torch_momentum,
)
from wdlab.decay import decay_weights
from wdlab.groups import grouped, mup_groups
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import Rule
from wdlab.schedules import squared


def _mup_sgd(request: Request) -> optax.GradientTransformation:
    return _mup(request, torch_momentum(request) or optax.identity(), "sgd", scale_decay=True)


def _mup_adam(request: Request) -> optax.GradientTransformation:
    scale_decay = not request["decoupled_wd"]
    return _mup(request, adam_direction(request), "adam", scale_decay=scale_decay)


def _mup(
    request: Request, direction: optax.GradientTransformation, kind: Any, *, scale_decay: bool
) -> optax.GradientTransformation:
    groups = mup_groups(request["widths"], kind, scale_decay=scale_decay)
    tx = grouped(
        direction,
        rate_of(request),
        groups,
        weight_decay=request.weight_decay,
        coupling=request.coupling,
        decay_follows="group",
        rules=request.rules,
    )
    tx = complete(request.name, tx, request.rules, complex_ok=kind == "sgd")
    return maximized(request, tx)


def _modded(request: Request) -> optax.GradientTransformation:
    b1, b2 = pair(request, "adam_betas")
    check_number("lr_mul", request["lr_mul"])
    check_number("wd_mul", request["wd_mul"])
    rate = product(rate_of(request), request["lr_mul"])
    decay = decay_weights(
        product(request.weight_decay, request["wd_mul"]),
        multiplier=squared(rate),
        rules=request.rules,
        cautious=True,
        ties="keep",
    )
    direction = scale_by_adam(b1, b2, request["eps"], epsilon="hat")
    tx = optax.chain(direction, scale_by_learning_rate(rate), decay)
    return complete(request.name, tx, request.rules)


_MUP = {
    "version": "mup 1.0.0",
    "source": "https://github.com/microsoft/mup/blob/main/mup/optim.py",
    "order": "in the gradient",
    "refused": {"impl": "Choose MuSGD, MuAdam or MuAdamW by name."},
    "required": {
        "widths": "Write widths=wdlab.groups.widths(base_params, params, layout='in_out')."
    },
}
_MUP_ADAM_DEFAULTS = {
    "widths": REQUIRED,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
    "decoupled_wd": False,
}
_MUP_TRAPS = (
    "decoupled_wd=True leaves the decay unscaled; it does not mean AdamW. The release 1.0.0 does "
    "not have it, the repository does",
    "widths stands for set_base_shapes; the readout's multiplier and the initialization belong to "
    "the model",
)

CONVENTIONS = (
    Convention(
        name="mup.MuSGD",
        equation=(
            "g <- g + lambda r s theta; b <- mu b + g; theta <- theta - (lr_t / r) b, r = m_in / "
            "m_out of a matrix, 1 / m of a vector"
        ),
        coupling="l2",
        defaults={
            "widths": REQUIRED,
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            "maximize": False,
        },
        traps=(_MUP_TRAPS[1], "L2, amplified by the momentum"),
        make=_mup_sgd,
        l2_shrinks=lambda arguments: arguments["momentum"] == 0,
        **_MUP,
    ),
    Convention(
        name="mup.MuAdam",
        equation=(
            "g <- g + lambda m s theta; theta <- theta - (lr_t / m) m^ / (sqrt(v^) + eps), m the "
            "fan-in multiplier of a matrix, else 1"
        ),
        coupling="l2",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        defaults=_MUP_ADAM_DEFAULTS,
        traps=(*_MUP_TRAPS, "L2 under Adam, scaled by the width all the same"),
        make=_mup_adam,
        **_MUP,
    ),
    Convention(
        name="mup.MuAdamW",
        equation=(
            "theta <- (1 - (lr_t / m) lambda m s) theta; "
            "theta <- theta - (lr_t / m) m^ / (sqrt(v^) + eps), m the fan-in multiplier of a "
            "matrix, else 1"
        ),
        coupling="lr",
        epsilon=OUTSIDE,
        bias_correction=CORRECTED,
        defaults=_MUP_ADAM_DEFAULTS,
        traps=(
            *_MUP_TRAPS,
            "the default decay is 0: mup writes it into every group, over torch.AdamW's 1e-2",
        ),
        make=_mup_adam,
        **{**_MUP, "order": "before"},
    ),
    Convention(
        name="modded_nanogpt.Adam",
        version="modded-nanogpt f411b3d3",
        source="https://github.com/KellerJordan/modded-nanogpt/blob/master/train_gpt.py",
        equation=(
            "u = lr_t sqrt(c2) / c1 m / (sqrt(v) + eps); "
            "theta <- theta - u - lr_t**2 lambda s [u theta > 0] theta"
        ),
        coupling="lr2",
        order="joint",
        epsilon=HAT,
        bias_correction=CORRECTED,
        learning_rate=8e-3,
        defaults={
            "adam_betas": (0.5, 0.95),
            "eps": 1e-10,
            "weight_decay": 0.005,
            "lr_mul": 1.0,
            "wd_mul": 1.0,
        },
        rules=(
            Rule(".*(scalars|smear_gate|post_lambdas|resid_lambdas|mudd_b2).*", 0.0, optional=True),
            Rule("(.*/)?(lm_head|embed)(/[^/]*)?", 150.0, optional=True),
            Rule("(.*/)?(bigram_embed|value_embeds)(/[^/]*)?", 5.0, optional=True),
            Rule(".*", optional=True),
        ),
        traps=(
            "the decay is lr_t**2, not divided by the peak: 0.005 means nothing elsewhere",
            "cautious, and where the step is zero nothing decays",
            "lr_t includes lr_mul, so that the decay follows its square",
            "rules are the wd_mul of its table of parameters, lm_head and embed 150",
        ),
        make=_modded,
        factor_of=lambda a: a["wd_mul"] * a["lr_mul"] ** 2,
    ),
)
