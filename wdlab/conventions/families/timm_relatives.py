"""The conventions of timm's Adan, Adopt and Mars, beside those of the authors."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_number
from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.decay_places import with_late_decay, with_proximal_decay
from wdlab.conventions.families.adam_relatives import ADAN, ADOPT_TRAPS, PROXIMAL_TRAP, three
from wdlab.conventions.parts import caution, pair, product, rate_of, with_decay
from wdlab.optimizers import assemble
from wdlab.preconditioners import reduce_variance, scale_by_adam, scale_by_adan, scale_by_adopt

_SOURCE = "https://github.com/huggingface/pytorch-image-models/blob/v1.0.31/timm/optim/{}.py"
_VERSION = "timm 1.0.31"


def _adan(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adan(*three(request), request["eps"])
    return (with_decay if request["no_prox"] else with_proximal_decay)(request, direction)


def _adopt(request: Request) -> optax.GradientTransformation:
    exponent = request["clip_exp"]
    direction = scale_by_adopt(*pair(request), request["eps"], clip_exponent=exponent)
    return with_late_decay(request, caution(direction) if request["caution"] else direction)


def _mars(request: Request) -> optax.GradientTransformation:
    check_choice("mars_type", request["mars_type"], ("adamw", "lion"))
    check_number("lr_1d_factor", request["lr_1d_factor"])
    cautious = caution if request["caution"] else (lambda direction: direction)
    b1, b2 = pair(request)
    corrected = reduce_variance(request["gamma"], b1, first="plain")
    if request["mars_type"] == "lion":
        averaged = optax.chain(corrected, optax.ema(b1, debias=False))
        direction = optax.chain(cautious(averaged), optax.scale_by_sign())
    else:
        direction = cautious(optax.chain(corrected, scale_by_adam(b1, b2, request["eps"])))
    matrices = with_decay(request, direction)
    if request["optimize_1d"]:
        return matrices
    b1, b2 = (b1, b2) if request["betas_1d"] is None else pair(request, "betas_1d")
    others = assemble(
        *(request.name, cautious(scale_by_adam(b1, b2, request["eps"]))),
        *(product(request["lr_1d_factor"], rate_of(request)), request.weight_decay),
        *("lr", request.rules),
    )
    return optax.partition({True: matrices, False: others}, _are_matrices)


def _are_matrices(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) >= 2, tree)


def _switched(arguments: Mapping[str, Any]) -> str:
    if not arguments["decoupled"]:
        return "l2"
    return "lr2_over_peak" if arguments["corrected_weight_decay"] else "lr"


CONVENTIONS = (
    Convention(
        name="timm.Adan",
        version=_VERSION,
        source=_SOURCE.format("adan"),
        equation=f"{ADAN}theta <- (theta - lr_t u) / (1 + lr_t lambda s); no_prox as adan.Adan's",
        coupling="proximal",
        order="after",
        epsilon="outside: sqrt(n / c3) + eps",
        bias_correction="all three averages, 1 - b**t",
        learning_rate=1e-3,
        defaults={
            "betas": (0.98, 0.92, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "no_prox": False,
        },
        refused={
            "caution": "It masks the average of the gradients and not that of the differences."
        },
        traps=(PROXIMAL_TRAP,),
        make=_adan,
        coupling_of=lambda arguments: "lr" if arguments["no_prox"] else "proximal",
    ),
    Convention(
        name="timm.Adopt",
        version=_VERSION,
        source=_SOURCE.format("adopt"),
        equation=(
            "as adopt.ADOPT, with (t - 1)**clip_exp; with decoupled "
            "theta <- (1 - w_t lambda s) theta, w_t = lr_t, or lr_t**2 / peak if corrected"
        ),
        coupling="l2",
        order="in the gradient",
        epsilon="clamped: the root at least eps",
        bias_correction="none: v is that of before the step and starts at g**2",
        learning_rate=1e-3,
        defaults={
            "betas": (0.9, 0.9999),
            "eps": 1e-6,
            "clip_exp": 0.333,
            "weight_decay": 0.0,
            "decoupled": False,
            "corrected_weight_decay": False,
            "caution": False,
            "maximize": False,
        },
        traps=(*ADOPT_TRAPS, "clips at (t - 1)**0.333, the authors' code at (t - 1)**0.25"),
        make=_adopt,
        coupling_of=_switched,
    ),
    Convention(
        name="timm.Mars",
        version=_VERSION,
        source=_SOURCE.format("mars"),
        equation=(
            "rank 2 and more: c = g + gamma b1 / (1 - b1) (g - last g), |c| <= 1, AdamW of c; "
            "lower ranks: AdamW of g with betas_1d and lr_t lr_1d_factor; first c = g"
        ),
        coupling="lr",
        order="joint",
        epsilon=OUTSIDE,
        bias_correction=f"{CORRECTED}; none for lion",
        learning_rate=3e-3,
        defaults={
            "betas": (0.9, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "gamma": 0.025,
            "mars_type": "adamw",
            "optimize_1d": False,
            "lr_1d_factor": 1.0,
            "betas_1d": None,
            "caution": False,
        },
        traps=(
            "one lambda for all leaves, 0 by default; in the authors' code 0.1 for those of other "
            "ranks than 2",
            "kernels of convolutions are corrected as matrices are; in the authors' code not",
            "betas are (0.9, 0.99), the authors' (0.95, 0.99); the first gradient is not enlarged",
        ),
        make=_mars,
    ),
)
