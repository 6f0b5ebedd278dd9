"""The conventions of torch.optim 2.13.0 without a second moment: SGD, ASGD, Rprop."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import check_number
from wdlab._core.probing import trusted
from wdlab._core.transformation import transformation
from wdlab.conventions.convention import Convention, Request
from wdlab.conventions.parts import maximized, pair, rate_of, torch_momentum, with_decay
from wdlab.decay import add_l2_gradient, decay_weights
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.rules import ALL
from wdlab.schedules import value_at

PyTree = Any
_SOURCE = "https://github.com/pytorch/pytorch/blob/v2.13.0/torch/optim/{}.py"
_VERSION = "torch 2.13.0"
_L2 = "g <- g + lambda s theta; "


def _sgd(request: Request) -> optax.GradientTransformation:
    return with_decay(request, torch_momentum(request), complex_ok=True)


def _asgd(request: Request) -> optax.GradientTransformation:
    """The rate of a step is made of the learning rate of the step before."""
    rate, lambd, alpha = rate_of(request), request["lambd"], request["alpha"]
    check_number("lambd", lambd)
    check_number("alpha", alpha, low=-math.inf)

    def eta(count: Any) -> jax.Array:
        steps = jnp.asarray(count, jnp.result_type(float))
        before = jnp.asarray(value_at(rate, jnp.maximum(count - 1, 0)))
        return before / (1.0 + lambd * before * steps) ** alpha

    eta = trusted(eta, rate)
    parts = (
        add_l2_gradient(request.weight_decay, rules=request.rules),
        scale_by_learning_rate(eta),
        decay_weights(lambd, multiplier=eta, rules=request.rules),
    )
    limits = request.weight_decay, rate
    tx = complete(request.name, optax.chain(*parts), request.rules, *limits, complex_ok=True)
    return maximized(request, tx)


class RpropState(NamedTuple):
    """State of torch.Rprop."""

    step_sizes: PyTree  # Like params: the step of each entry.
    gradients: PyTree  # Like params: the last ones, 0 where the sign had changed.


def _rprop(request: Request) -> optax.GradientTransformation:
    """Not ``optax.rprop`` (0.2.8), which takes each step one update later."""
    rate, (least, most) = rate_of(request), pair(request, "step_sizes")
    down, up = pair(request, "etas")
    check_number("etas[0]", down, low_open=True, high=1.0, high_open=True)
    check_number("etas[1]", up, low=1.0, low_open=True)

    def init_fn(params: PyTree) -> RpropState:
        start = value_at(rate, jnp.zeros([], jnp.int32))
        sizes = jax.tree.map(lambda p: jnp.full_like(p, start), params)
        return RpropState(sizes, jax.tree.map(jnp.zeros_like, params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, RpropState]:
        del params

        def size(g: jax.Array, last: jax.Array, old: jax.Array) -> jax.Array:
            factor = jnp.where(g * last > 0, up, jnp.where(g * last < 0, down, 1.0))
            return jnp.clip(old * factor.astype(old.dtype), least, most)

        sizes = jax.tree.map(size, updates, state.gradients, state.step_sizes)
        kept = jax.tree.map(lambda g, last: jnp.where(g * last < 0, 0, g), updates, state.gradients)
        steps = jax.tree.map(lambda g, s: -jnp.sign(g) * s, kept, sizes)
        return steps, RpropState(sizes, kept)

    return maximized(request, complete(request.name, transformation(init_fn, update_fn), ALL))


CONVENTIONS = (
    Convention(
        name="torch.SGD",
        version=_VERSION,
        source=_SOURCE.format("sgd"),
        equation=_L2 + "b <- mu b + (1 - tau) g, first b = g; theta <- theta - lr_t b",
        coupling="l2",
        order="in the gradient",
        learning_rate=1e-3,
        defaults={
            "momentum": 0.0,
            "dampening": 0.0,
            "weight_decay": 0.0,
            "nesterov": False,
            "maximize": False,
        },
        traps=(
            "momentum amplifies the decay by about 1 / (1 - mu); without it, it is lr_t lambda",
            "torch has no SGDW: fairseq's NAG and Keras' SGD are decoupled, this is not",
        ),
        make=_sgd,
        l2_shrinks=lambda arguments: arguments["momentum"] == 0,
    ),
    Convention(
        name="torch.ASGD",
        version=_VERSION,
        source=_SOURCE.format("asgd"),
        equation=(
            _L2 + "theta <- (1 - lambd eta_t s) theta - eta_t g, eta_t = lr / (1 + lambd lr "
            "(t - 1))**alpha of the step before's lr"
        ),
        coupling="l2",
        order="in the gradient",
        learning_rate=1e-2,
        defaults={
            "lambd": 1e-4,
            "alpha": 0.75,
            "t0": 1e6,
            "weight_decay": 0.0,
            "maximize": False,
        },
        traps=(
            "lambd is a second, decoupled decay, on by default: 1e-4 eta_t a step",
            "a new learning rate acts one step later",
            "the average of the weights from step t0 on is in torch's state alone and changes no "
            "step: keep it with optax.incremental_update",
        ),
        make=_asgd,
        l2_shrinks=lambda arguments: arguments["lambd"] == 0,
    ),
    Convention(
        name="torch.Rprop",
        version=_VERSION,
        source=_SOURCE.format("rprop"),
        equation=(
            "d <- clip(d etas[1] if g agrees in sign with the last, d etas[0] if not); "
            "theta <- theta - d sign(g), no step where the sign changed"
        ),
        coupling="none",
        order="none",
        decay_argument=None,
        learning_rate=1e-2,
        defaults={"etas": (0.5, 1.2), "step_sizes": (1e-6, 50), "maximize": False},
        traps=(
            "Rprop has no weight decay: put wdlab.decay_weights after it",
            "the learning rate is the size of the first step alone; a schedule has no effect",
            "optax.rprop (0.2.8) takes each step one update later",
        ),
        make=_rprop,
    ),
)
