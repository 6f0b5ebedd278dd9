"""The pieces that the conventions are built of, beyond the package's own transformations."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from wdlab._core.checks import is_zero
from wdlab._core.dtypes import check_real
from wdlab._core.probing import trusted
from wdlab._core.transformation import with_extra_args
from wdlab.conventions.convention import Request
from wdlab.optimizers import assemble
from wdlab.preconditioners import momentum, scale_by_adam, scale_by_lion
from wdlab.schedules import (
    ScalarOrSchedule,
    Schedule,
    peak_of,
    peak_value,
    relative_step,
    relative_to,
    value_at,
)

PyTree = Any


def rate_of(request: Request) -> ScalarOrSchedule:
    """Returns the learning rate, or says that it is missing.

    >>> from wdlab import conventions
    >>> rate_of(conventions.get("torch.SGD").request(0.5, {}))
    0.5
    """
    if request.learning_rate is None:
        raise TypeError(
            f"{request.name}: learning_rate is required, a number or a schedule: "
            f"build({request.name!r}, 1e-3)."
        )
    return request.learning_rate


def relative_or_given(request: Request) -> ScalarOrSchedule:
    """Returns Adafactor's relative step where no learning rate is given, else the learning rate.

    An explicit ``relative_step=True`` next to a learning rate is refused, as by the originals.

    >>> from wdlab import conventions
    >>> rate = relative_or_given(conventions.get("transformers.Adafactor").request(None, {}))
    >>> round(float(rate(0)), 6)
    0.01
    """
    relative, warmup = request["relative_step"], request["warmup_init"]
    if request.learning_rate is not None:
        if (relative and "relative_step" in request.given) or warmup:
            raise ValueError(
                f"{request.name}: a learning rate and relative_step=True exclude each other. "
                "Pass learning_rate=None, or leave relative_step and warmup_init out."
            )
        return request.learning_rate
    if not relative:
        raise ValueError(f"{request.name}: relative_step=False needs a learning rate.")
    return relative_step(1e-2, warmup_slope=1e-6 if warmup else None)


def pair(request: Request, argument: str = "betas") -> tuple[Any, Any]:
    """Returns an argument that is a pair, such as ``betas``.

    >>> from wdlab import conventions
    >>> pair(conventions.get("torch.AdamW").request(0.1, {}))
    (0.9, 0.999)
    """
    value = request[argument]
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{request.name}: {argument} must be a pair of numbers, got {value!r}.")
    return value[0], value[1]


def adam_direction(request: Request, **conventions: Any) -> optax.GradientTransformation:
    """Returns Adam's direction from torch's arguments ``betas``, ``eps``, ``amsgrad``.

    >>> from wdlab import conventions
    >>> direction = adam_direction(conventions.get("torch.AdamW").request(0.1, {}), epsilon="hat")
    """
    b1, b2 = pair(request)
    if request.arguments.get("amsgrad", False):
        conventions["amsgrad"] = "raw"
    return scale_by_adam(b1, b2, request["eps"], **conventions)


def optax_adam(request: Request) -> optax.GradientTransformation:
    """Adam's direction from arguments that are called as in Optax: b1, b2, eps, eps_root.

    >>> from wdlab import conventions
    >>> tx = optax_adam(conventions.get("optax.adamw").request(0.1, {}))
    """
    nesterov = request.arguments.get("nesterov", False)
    return scale_by_adam(
        request["b1"],
        request["b2"],
        request["eps"],
        request.arguments.get("eps_root", 0.0),
        first_moment="nesterov" if nesterov else "ema",
        mu_dtype=request.arguments.get("mu_dtype"),
    )


def with_decay(
    request: Request,
    direction: optax.GradientTransformation | None,
    *,
    complex_ok: bool = False,
) -> optax.GradientTransformation:
    """Puts the learning rate and the decay of the request's coupling around a direction.

    >>> from wdlab import conventions
    >>> tx = with_decay(conventions.get("torch.SGD").request(0.1, {}), None)
    """
    rate, decay, coupling = rate_of(request), request.weight_decay, request.coupling
    if coupling in ("schedule", "lr2_over_peak"):  # lambda eta_t, eta_t = lr_t / the given peak.
        eta = relative_to(rate, peak_of(rate, request.peak_learning_rate))
        decay, coupling = product(decay, eta), "lr" if coupling == "lr2_over_peak" else "constant"
    tx = assemble(
        request.name, direction, rate, decay, coupling, request.rules, complex_ok=complex_ok
    )
    return maximized(request, tx)


def adam_with_decay(request: Request) -> optax.GradientTransformation:
    """Torch's Adam, with or without ``bias_correction``, and the decay of the coupling.

    >>> from wdlab import conventions
    >>> tx = adam_with_decay(conventions.get("bitsandbytes.AdamW").request(0.1, {}))
    """
    correction = request.arguments.get("bias_correction", True)
    return with_decay(request, adam_direction(request, bias_correction=correction))


def lion_with_decay(request: Request) -> optax.GradientTransformation:
    """Lion, and the decay of the coupling.

    >>> from wdlab import conventions
    >>> tx = lion_with_decay(conventions.get("lion_pytorch.Lion").request(0.1, {}))
    """
    return with_decay(request, scale_by_lion(*pair(request)))


def maximized(request: Request, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """Reverses the gradient for ``maximize=True``; the decay stays a decay.

    >>> from wdlab import conventions
    >>> request = conventions.get("torch.SGD").request(0.1, {"maximize": True})
    >>> tx = maximized(request, optax.sgd(0.5))
    >>> float(tx.update(jnp.array(1.0), tx.init(jnp.array(1.0)))[0])
    0.5
    """
    return optax.chain(optax.scale(-1.0), tx) if request.arguments.get("maximize", False) else tx


def product(a: ScalarOrSchedule, b: ScalarOrSchedule) -> ScalarOrSchedule:
    """Returns the product of two numbers or schedules; its peak where both are known.

    >>> product(0.5, lambda count: 4.0)(0), product(0.0, lambda count: 4.0)
    (2.0, 0.0)
    """
    if is_zero(a) or is_zero(b):
        return 0.0
    if not callable(a) and not callable(b):
        return a * b

    def at(count: Any) -> Any:
        return value_at(a, count) * value_at(b, count)

    first, second = peak_value(a), peak_value(b)
    known = at if first is None or second is None else Schedule(at, first * second)
    return trusted(known, a, b)


def torch_momentum(request: Request) -> optax.GradientTransformation | None:
    """Returns torch's momentum from its arguments; None where it is 0: the gradient itself.

    >>> from wdlab import conventions
    >>> torch_momentum(conventions.get("torch.SGD").request(0.1, {})) is None
    True
    """
    decay = request["momentum"]
    tx = momentum(decay, dampening=request["dampening"], nesterov=request["nesterov"])
    return None if decay == 0 else tx


class CautionState(NamedTuple):
    """State of :func:`caution`."""

    inner: PyTree


def caution(direction: optax.GradientTransformation) -> optax.GradientTransformation:
    r"""Keeps the entries of a direction that agree with the gradient, and enlarges the rest.

    With the mask :math:`\phi = [u g > 0]`, a leaf's direction becomes
    :math:`u \phi / \max(\operatorname{mean} \phi, 10^{-3})`. timm's ``caution=True``: it masks the
    step, not the decay.

    Args:
      direction: Transformation of the gradient without learning rate or sign.

    >>> tx = caution(optax.trace(0.5))
    >>> state = tx.init(jnp.zeros(2))
    >>> _, state = tx.update(jnp.array([4.0, 4.0]), state)
    >>> tx.update(jnp.array([1.0, -1.0]), state)[0].tolist()
    [6.0, 0.0]

    Source: Liang et al. 2024, https://arxiv.org/abs/2411.16085; timm aa4b5850, timm/optim/adamw.py.
    """
    direction = with_extra_args(direction)

    def init_fn(params: PyTree) -> CautionState:
        check_real("caution", params)
        return CautionState(direction.init(params))

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, CautionState]:
        def masked(u: jax.Array, g: jax.Array) -> jax.Array:
            mask = (jnp.sign(u) * jnp.sign(g) > 0).astype(u.dtype)
            return u * (mask / jnp.maximum(jnp.mean(mask), 1e-3))

        steps, inner = direction.update(updates, state.inner, params, **extra_args)
        return jax.tree.map(masked, steps, updates), CautionState(inner)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
