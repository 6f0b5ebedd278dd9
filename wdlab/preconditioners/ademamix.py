"""AdEMAMix: Adam with a second, slow average of the gradients beside the fast one."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from wdlab._core.checks import check_number, concrete
from wdlab._core.dtypes import check_real, step_number
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import AdamFormulas, like
from wdlab.preconditioners.leaf_states import as_before, widened, zeros_for
from wdlab.preconditioners.moments import one_minus_power
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


class ScaleByAdemamixState(NamedTuple):
    """State of :func:`scale_by_ademamix`; the averages are float32 or wider."""

    count: jax.Array  # int32, shape (): updates made.
    fast: PyTree  # Like params: first moment, decay rate b1.
    slow: PyTree  # Like params: first moment, decay rate b3, never corrected.
    nu: PyTree  # Like params: second moment.


def scale_by_ademamix(
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    b3: ScalarOrSchedule = 0.9999,
    alpha: ScalarOrSchedule = 5.0,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    *,
    b3_warmup: ArrayLike | None = None,
    alpha_warmup: ArrayLike | None = None,
    warmup_eps: float = 0.0,
) -> optax.GradientTransformation:
    r"""Turns gradients into AdEMAMix' direction: no learning rate, no sign, no decay.

    With the fast average :math:`m_t`, the slow one :math:`s_t = b_3 s_{t-1} + (1-b_3) g_t` and
    Adam's :math:`v_t`, one step is
    :math:`u_t = (m_t/c_1 + \alpha s_t) / (\sqrt{v_t/c_2 + \epsilon_{root}} + \epsilon)`.
    The slow average is not corrected for its start at zero. The warm-ups count from 1: with
    :math:`a = t/T`, :math:`\alpha_t = a\,\alpha`, and :math:`\log b_{3,t}` has the reciprocal
    :math:`(1-a)/\log b_1 + a/\log b_3`: the half-life grows linearly.

    ``optax.contrib.scale_by_ademamix`` (0.2.8) is the same formula with corrections and ``1 - b3``
    subtracted in float32: off by 1.3e-5 in the first step and by 1.7e-4 for a scheduled b3.

    Args:
      b1: Decay rate of the fast average, in [0, 1).
      b2: Decay rate of the second moment, in [0, 1).
      b3: Decay rate of the slow average, in [0, 1); or a schedule of the number of updates before.
      alpha: Weight of the slow average, at least 0, or a schedule.
      eps: At least 0, in units of the gradient.
      eps_root: At least 0, in units of the gradient squared.
      b3_warmup: ``T`` for b3, above 0: the number of updates from b1 to b3. None: no warm-up.
      alpha_warmup: ``T`` for alpha.
      warmup_eps: Added to both rates inside the logarithms; 1e-8 in the authors' PyTorch code.

    Raises:
      TypeError, ValueError: If a number is out of range, or a schedule is given with its warm-up.

    >>> tx = scale_by_ademamix(eps=0.0, alpha=5.0, b3=0.99)
    >>> gradient = jnp.array([0.5, -3.0])
    >>> [round(x, 4) for x in tx.update(gradient, tx.init(gradient))[0].tolist()]  # 1 + 5 * 0.01
    [1.05, -1.05]

    Source: Pagliardini et al. 2024, arXiv 2409.03137; apple/ml-ademamix c3d73c0.
    """
    formulas = AdamFormulas(b1=b1, b2=b2, eps=eps, eps_root=eps_root)
    check_number("b3", b3, high=1.0, high_open=True, schedule=True)
    check_number("alpha", alpha, schedule=True)
    for name, steps, value in (("b3", b3_warmup, b3), ("alpha", alpha_warmup, alpha)):
        if steps is not None:
            check_number(f"{name}_warmup", steps, low_open=True)
            if callable(value):
                raise ValueError(f"{name}_warmup needs a number for {name}, got a schedule.")

    def init_fn(params: PyTree) -> ScaleByAdemamixState:
        check_real("scale_by_ademamix", params)
        zeros = [zeros_for(params) for _ in range(3)]
        return ScaleByAdemamixState(jnp.zeros([], jnp.int32), *zeros)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ScaleByAdemamixState]:
        del params
        wide = widened(updates, state.nu)
        t = step_number(state.count)
        kept, weight = value_at(b3, state.count), value_at(alpha, state.count)
        added = 1.0 - kept
        if alpha_warmup is not None:
            weight = jnp.minimum(t / alpha_warmup, 1.0) * weight
        if b3_warmup is not None:
            kept, added = _warmed_up(b1, b3, t, b3_warmup, warmup_eps)
        scalars, _ = formulas.scalars(t, None)
        of_mean = 1.0 / one_minus_power(b1, t)
        fast = jax.tree.map(formulas.next_first, wide, state.fast)
        slow = jax.tree.map(lambda g, s: like(kept, g) * s + like(added, g) * g, wide, state.slow)
        nu = jax.tree.map(formulas.next_second, wide, state.nu)

        def direction(m: jax.Array, s: jax.Array, v: jax.Array) -> jax.Array:
            mixed = like(of_mean, m) * m + like(weight, s) * s
            return mixed / formulas.denominator(v, scalars.correction)

        new = ScaleByAdemamixState(next_count(state.count), fast, slow, nu)
        directions = jax.tree.map(direction, fast, slow, nu)
        return as_before(directions, updates), as_before(new, state)

    return transformation(init_fn, update_fn)


def _warmed_up(
    b1: Any, b3: Any, t: jax.Array, warmup: ArrayLike, eps: float
) -> tuple[jax.Array, jax.Array]:
    """Returns the slow average's rate on its way from b1 to b3, and 1 - it."""
    a = t / warmup
    log = 1.0 / ((1.0 - a) * _inverse_log(b1, eps) + a * _inverse_log(b3, eps))
    over = t >= warmup
    return jnp.where(over, b3, jnp.exp(log)), jnp.where(over, 1.0 - b3, -jnp.expm1(log))


def _inverse_log(rate: Any, eps: float) -> ArrayLike:
    """Returns 1 / log(rate + eps), in double precision where the rate is a number; 0 for 0."""
    value = concrete(rate)
    if value is None:
        return 1.0 / jnp.log(rate + eps)
    return 1.0 / math.log(value + eps) if value + eps > 0 else 0.0
