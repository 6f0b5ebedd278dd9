"""The conventions of Optax, read in and run against optax 0.2.8."""

import optax

from wdlab.conventions.convention import (
    ADDED,
    CORRECTED,
    FACTORED_START,
    OUTSIDE_ROOT,
    Convention,
    Request,
)
from wdlab.conventions.parts import optax_adam, rate_of, with_decay
from wdlab.decay import add_l2_gradient
from wdlab.optimizers import adafactor, complete, scale_by_learning_rate
from wdlab.preconditioners import scale_by_lion, scale_by_trust_ratio

_OPTAX = "https://github.com/google-deepmind/optax/blob/v0.2.8/optax/_src/alias.py"
_ADAM = "m^ / (sqrt(v^) + eps)"
_NO_MASK = {
    "mask": "Write rules=(Rule(pattern, scale), ...); a callable mask gets updates, not params.",
    "weight_decay_mask": "Write rules=(Rule(pattern, scale), ...).",
}


def _adamw(request: Request) -> optax.GradientTransformation:
    return with_decay(request, optax_adam(request), complex_ok=True)


def _lion(request: Request) -> optax.GradientTransformation:
    b1, b2, dtype = request["b1"], request["b2"], request["mu_dtype"]
    direction = optax.scale_by_lion(b1, b2, mu_dtype=dtype) if dtype else scale_by_lion(b1, b2)
    return with_decay(request, direction)


def _lamb(request: Request) -> optax.GradientTransformation:
    tx = optax.chain(
        optax_adam(request),
        add_l2_gradient(request.weight_decay, rules=request.rules),
        scale_by_trust_ratio(),
        scale_by_learning_rate(rate_of(request)),
    )
    return complete(request.name, tx, request.rules, complex_ok=True)


def _adafactor(request: Request) -> optax.GradientTransformation:
    rate = 1.0 if request.learning_rate is None else request.learning_rate
    return adafactor(
        rate,
        weight_decay=request.weight_decay,
        coupling="constant",
        rules=request.rules,
        beta2_exponent=request["decay_rate"],
        beta2_offset=request["decay_offset"],
        axes="largest" if request["factored"] else "never",
        min_dim_size_to_factor=request["min_dim_size_to_factor"],
        eps1=request["eps"],
        clipping_threshold=request["clipping_threshold"],
        parameter_scale=1e-3 if request["multiply_by_parameter_scale"] else None,
        momentum=request["momentum"],
        momentum_dtype=request["dtype_momentum"],
    )


CONVENTIONS = (
    Convention(
        name="optax.adamw",
        version="optax 0.2.8",
        source=_OPTAX,
        equation=f"theta <- theta - lr_t ({_ADAM} + lambda s theta)",
        coupling="lr",
        order="joint",
        epsilon=OUTSIDE_ROOT,
        bias_correction=CORRECTED,
        defaults={
            "b1": 0.9,
            "b2": 0.999,
            "eps": 1e-8,
            "eps_root": 0.0,
            "mu_dtype": None,
            "weight_decay": 1e-4,
            "nesterov": False,
        },
        refused=_NO_MASK,
        traps=(
            "the default decay is 1e-4: 100 times weaker than torch.AdamW's 1e-2",
            "everything decays without a mask, and inject_hyperparams takes a callable mask for a "
            "schedule: no decay at all, without a word",
        ),
        make=_adamw,
    ),
    Convention(
        name="optax.adafactor",
        version="optax 0.2.8",
        source=_OPTAX,
        equation=("theta <- theta - lr_t max(1e-3, RMS theta) clip(g / sqrt(V)) - lambda s theta"),
        coupling="constant",
        order="joint",
        epsilon=ADDED,
        bias_correction=FACTORED_START,
        decay_argument="weight_decay_rate",
        defaults={
            "min_dim_size_to_factor": 128,
            "decay_rate": 0.8,
            "decay_offset": 0,
            "multiply_by_parameter_scale": True,
            "clipping_threshold": 1.0,
            "momentum": None,
            "dtype_momentum": "float32",
            "weight_decay_rate": None,
            "eps": 1e-30,
            "factored": True,
        },
        refused=_NO_MASK,
        traps=(
            "the decay is not multiplied by the learning rate, nor scheduled: 0.1 takes a tenth of "
            "every weight in every step",
        ),
        make=_adafactor,
    ),
    Convention(
        name="optax.lion",
        version="optax 0.2.8",
        source=_OPTAX,
        equation="theta <- theta - lr_t (sign(b1 m + (1 - b1) g) + lambda s theta)",
        coupling="lr",
        order="joint",
        defaults={"b1": 0.9, "b2": 0.99, "mu_dtype": None, "weight_decay": 1e-3},
        refused=_NO_MASK,
        traps=("the default decay is 1e-3; 0 in lion-pytorch and in Google's own code",),
        make=_lion,
    ),
    Convention(
        name="optax.lamb",
        version="optax 0.2.8",
        source=_OPTAX,
        equation=f"r = {_ADAM} + lambda s theta; theta <- theta - lr_t |theta| / |r| r",
        coupling="trust_ratio",
        order="in the trust ratio",
        epsilon=OUTSIDE_ROOT,
        bias_correction=CORRECTED,
        defaults={"b1": 0.9, "b2": 0.999, "eps": 1e-6, "eps_root": 0.0, "weight_decay": 0.0},
        refused=_NO_MASK,
        traps=(
            "without a gradient a leaf shrinks by lr_t whatever lambda is: the trust ratio "
            "divides it out",
        ),
        make=_lamb,
    ),
)
