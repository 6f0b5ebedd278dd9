"""The conventions of Keras 3, TensorFlow Addons and the original BERT."""

import optax

from wdlab.conventions.convention import (
    ADDED,
    CORRECTED,
    FACTORED_START,
    HAT,
    REQUIRED,
    Convention,
    Request,
)
from wdlab.conventions.families.keras_arguments import BEFORE, REFUSED, with_keras_arguments
from wdlab.conventions.parts import rate_of, with_decay
from wdlab.decay import decay_weights
from wdlab.optimizers import adafactor, complete, scale_by_learning_rate
from wdlab.preconditioners import (
    momentum,
    scale_by_adam,
    scale_by_lion,
)
from wdlab.rules import BERT
from wdlab.schedules import multiplier_of

_KERAS = "https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/{}.py"
_TFA = (
    "https://github.com/tensorflow/addons/blob/d208d752/tensorflow_addons/optimizers/"
    "weight_decay_optimizers.py"
)
_KERAS_VERSION = "keras 3.15.1"
_TFA_VERSION = "tensorflow-addons d208d752"
_HAT_STEP = "theta <- theta - lr_t sqrt(c2) / c1 m / (sqrt(v) + eps)"
_DECAY_FIRST = "theta <- (1 - lr_t lambda s) theta; "
_KERAS_TRAPS = (
    "weight_decay is decoupled in every optimizer of Keras: SGD(weight_decay=) is SGDW, "
    "Adam(weight_decay=) AdamW",
    "everything decays unless exclude_from_weight_decay is called before build",
)
_TFA_TRAPS = (
    "the decay is multiplied by neither the learning rate nor its schedule: 0.1 takes a tenth of "
    "every weight in every step; give a schedule as weight_decay, as the docstring there says",
)


def _adam(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adam(
        request["beta_1"],
        request["beta_2"],
        request["epsilon"],
        epsilon="hat",
        amsgrad="raw" if request["amsgrad"] else "off",
    )
    return with_decay(request, direction)


def _sgd(request: Request) -> optax.GradientTransformation:
    """The learning rate comes before the momentum: a velocity, not an averaged gradient."""
    rate, decayed = rate_of(request), request["momentum"]
    nesterov = request["nesterov"] and decayed != 0
    decay = decay_weights(
        request.weight_decay, multiplier=multiplier_of(request.coupling, rate), rules=request.rules
    )
    velocity = momentum(decayed, nesterov=nesterov)
    tx = optax.chain(scale_by_learning_rate(rate), velocity, decay)
    return complete(request.name, tx, request.rules)


def _adafactor(request: Request) -> optax.GradientTransformation:
    return adafactor(
        rate_of(request),
        weight_decay=request.weight_decay,
        coupling="lr",
        rules=request.rules,
        inverse_sqrt_cap=True,
        beta2_exponent=-request["beta_2_decay"],
        axes="last",
        min_dim_size_to_factor=1,
        eps1=request["epsilon_1"],
        parameter_scale=request["epsilon_2"],
        clipping_threshold=request["clip_threshold"],
        decay_first=True,
    )


def _lion(request: Request) -> optax.GradientTransformation:
    return with_decay(request, scale_by_lion(request["beta_1"], request["beta_2"]))


def _bert(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adam(
        request["beta_1"], request["beta_2"], request["epsilon"], bias_correction=False
    )
    return with_decay(request, direction)


CONVENTIONS = (
    Convention(
        name="keras.AdamW",
        version=_KERAS_VERSION,
        source=_KERAS.format("adamw"),
        equation=_DECAY_FIRST + _HAT_STEP,
        coupling="lr",
        order="before",
        epsilon=HAT,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={
            "weight_decay": 4e-3,
            "beta_1": 0.9,
            "beta_2": 0.999,
            "epsilon": 1e-7,
            "amsgrad": False,
            **BEFORE,
        },
        refused=REFUSED,
        traps=(
            *_KERAS_TRAPS,
            "epsilon 1e-7 acts as 1e-7 / sqrt(c2): 31.6 times larger in the first step",
        ),
        make=with_keras_arguments(_adam),
    ),
    Convention(
        name="keras.SGD",
        version=_KERAS_VERSION,
        source=_KERAS.format("sgd"),
        equation=_DECAY_FIRST + "b <- mu b - lr_t g; theta <- theta + b",
        coupling="lr",
        order="before",
        learning_rate=1e-2,
        defaults={"momentum": 0.0, "nesterov": False, "weight_decay": None, **BEFORE},
        refused=REFUSED,
        traps=(
            *_KERAS_TRAPS,
            "the learning rate is inside the momentum: a change of it is felt 1 / (1 - mu) steps "
            "later than in torch",
        ),
        make=with_keras_arguments(_sgd),
    ),
    Convention(
        name="keras.Adafactor",
        version=_KERAS_VERSION,
        source=_KERAS.format("adafactor"),
        equation=(
            _DECAY_FIRST + "alpha_t = max(eps2, RMS theta) min(lr_t, 1 / sqrt t) of the decayed "
            "theta; theta <- theta - alpha_t clip(g / sqrt(V))"
        ),
        coupling="lr",
        order="before",
        epsilon=ADDED,
        bias_correction=FACTORED_START,
        learning_rate=1e-3,
        defaults={
            "beta_2_decay": -0.8,
            "epsilon_1": 1e-30,
            "epsilon_2": 1e-3,
            "clip_threshold": 1.0,
            "relative_step": True,
            "weight_decay": None,
            **BEFORE,
        },
        refused=REFUSED,
        traps=(
            *_KERAS_TRAPS,
            "relative_step makes no difference: the rate is capped by 1 / sqrt t in any case, "
            "while the decay follows lr_t",
        ),
        make=with_keras_arguments(_adafactor),
    ),
    Convention(
        name="keras.Lion",
        version=_KERAS_VERSION,
        source=_KERAS.format("lion"),
        equation=_DECAY_FIRST + "theta <- theta - lr_t sign(b1 m + (1 - b1) g)",
        coupling="lr",
        order="before",
        learning_rate=1e-3,
        defaults={"beta_1": 0.9, "beta_2": 0.99, "weight_decay": None, **BEFORE},
        refused=REFUSED,
        traps=(*_KERAS_TRAPS, "the default learning rate is 1e-3, 1e-4 in lion-pytorch"),
        make=with_keras_arguments(_lion),
    ),
    Convention(
        name="tfa.AdamW",
        version=_TFA_VERSION,
        source=_TFA,
        equation="theta <- (1 - lambda s) theta; " + _HAT_STEP,
        coupling="constant",
        order="before",
        epsilon=HAT,
        bias_correction=CORRECTED,
        learning_rate=1e-3,
        defaults={
            "weight_decay": REQUIRED,
            "beta_1": 0.9,
            "beta_2": 0.999,
            "epsilon": 1e-7,
            "amsgrad": False,
        },
        refused={"decay_var_list": "Write rules=(Rule(pattern, scale), ...)."},
        traps=_TFA_TRAPS,
        make=_adam,
    ),
    Convention(
        name="tfa.SGDW",
        version=_TFA_VERSION,
        source=_TFA,
        equation="theta <- (1 - lambda s) theta; b <- mu b - lr_t g; theta <- theta + b",
        coupling="constant",
        order="before",
        learning_rate=1e-3,
        defaults={"weight_decay": REQUIRED, "momentum": 0.0, "nesterov": False},
        refused={"decay_var_list": "Write rules=(Rule(pattern, scale), ...)."},
        traps=_TFA_TRAPS,
        make=_sgd,
    ),
    Convention(
        name="bert.AdamWeightDecayOptimizer",
        version="google-research/bert eedf571",
        source="https://github.com/google-research/bert/blob/eedf571/optimization.py",
        equation="theta <- theta - lr_t (m / (sqrt(v) + eps) + lambda s theta)",
        coupling="lr",
        order="joint",
        epsilon="outside: sqrt(v) + eps",
        learning_rate=None,
        decay_argument="weight_decay_rate",
        defaults={"weight_decay_rate": 0.01, "beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6},
        rules=BERT,
        traps=(
            "no bias correction: the first steps are (1 - b1) / sqrt(1 - b2) = 3.2 times larger",
            "defaults and exclusions are those that create_optimizer passes; the class itself has "
            "0.0 and none, and create_optimizer clips to a global norm of 1 before it",
            "embeddings decay; LayerNorm, layer_norm and bias do not",
        ),
        make=_bert,
    ),
)
