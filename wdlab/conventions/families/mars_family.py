"""MARS: one optimizer for leaves of rank 2, another for all others."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_choice, check_number
from wdlab.conventions.convention import CORRECTED, OUTSIDE, Convention, Request
from wdlab.conventions.parts import pair, product, rate_of, with_decay
from wdlab.optimizers import assemble
from wdlab.preconditioners import reduce_variance, scale_by_adam
from wdlab.schedules import peak_of, relative_to


def _mars(request: Request) -> optax.GradientTransformation:
    """Two optimizers: MARS for leaves of rank 2, AdamW with its own numbers for the others."""
    kinds = ("mars-adamw", "mars-lion")
    check_choice("mars_type", request["mars_type"], kinds, hint="mars-shampoo is not built.")
    rate, amsgrad = rate_of(request), "raw" if request["amsgrad"] else "off"
    b1, b2 = pair(request)
    corrected = reduce_variance(request["gamma"], b1)
    average = optax.chain(optax.ema(b1, debias=False), optax.scale_by_sign())
    if request["mars_type"] == "mars-adamw":
        average = scale_by_adam(b1, b2, request["eps"], amsgrad=amsgrad)
    matrices = with_decay(request, optax.chain(corrected, average))
    if request["optimize_1d"]:
        return matrices
    eta = relative_to(rate, peak_of(rate, request.peak_learning_rate))
    check_number("lr_1d", request["lr_1d"])
    check_number("weight_decay_1d", request["weight_decay_1d"])
    adam = scale_by_adam(*pair(request, "betas_1d"), request["eps"], amsgrad=amsgrad)
    others = assemble(
        *(request.name, adam, product(request["lr_1d"], eta), request["weight_decay_1d"]),
        *("lr", request.rules),
    )
    return optax.partition({True: matrices, False: others}, _are_matrices)


def _are_matrices(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.ndim(leaf) == 2, tree)


CONVENTIONS = (
    Convention(
        name="mars.MARS",
        version="AGI-Arena/MARS 4831e28",
        source="https://github.com/AGI-Arena/MARS/blob/4831e28/MARS/optimizers/mars.py",
        equation=(
            "rank 2: c = g + gamma b1 / (1 - b1) (g - last g), |c| <= 1, AdamW of c with lambda; "
            "other ranks: AdamW of g with weight_decay_1d, betas_1d and lr_t lr_1d / lr"
        ),
        coupling="lr",
        order="joint",
        epsilon=OUTSIDE,
        bias_correction=f"{CORRECTED}; none for mars-lion",
        learning_rate=3e-3,
        defaults={
            "betas": (0.95, 0.99),
            "eps": 1e-8,
            "weight_decay": 0.0,
            "amsgrad": False,
            "gamma": 0.025,
            "mars_type": "mars-adamw",
            "optimize_1d": False,
            "lr_1d": 3e-3,
            "betas_1d": (0.9, 0.95),
            "weight_decay_1d": 0.1,
        },
        refused={
            "is_approx": "The exact form takes both gradients of a batch; this is is_approx=True.",
        },
        traps=(
            "matrices have lambda 0 by default, all other leaves 0.1: norms and biases decay",
            "weight_decay_1d is the constructor's: a group without decay does not protect norms or "
            "biases. Here rules do",
            "other leaves are all that are not of rank 2: kernels of convolutions too",
            "lr_1d stays 3e-3 whatever lr is",
            "the last gradient is kept by reference: where gradients are zeroed in place it is "
            "always this step's, and the correction is 0",
        ),
        make=_mars,
    ),
)
