"""The Adam family as one preconditioner, its conventions arguments with names.

Every system's Adam is ``first moment / (root of second moment + epsilon)``, and no two agree on
where epsilon goes, what is corrected for bias, and which moment is taken. Decay is no part of it:
L2 goes before it in a chain (:func:`wdlab.add_l2_gradient`), decoupled decay after the learning
rate (:func:`wdlab.decay_weights`).

=========================================  =========================================================
system                                     arguments of :func:`scale_by_adam` (rates apart)
=========================================  =========================================================
torch Adam/AdamW, optax adam, apex         the defaults
Keras, TensorFlow, fairseq, HF < 5         ``epsilon="hat"``
BERT                                       ``bias_correction=False, eps=1e-6``
torch ``amsgrad=True`` (Keras: and "hat")  ``amsgrad="raw"``
optax amsgrad                              ``amsgrad="corrected"``
optax nadam                                ``first_moment="nesterov"``
NAdamW of timm and MLCommons               ``first_moment="nesterov_plain"``
torch NAdam (Keras: ``momentum_decay=1``)  ``first_moment="nadam"``
torch RAdam                                ``epsilon="hat", rectification_threshold=5.0``
optax radam / the RAdam paper              ``rectification_threshold=5.0`` / ``4.0``
torch and optax Adamax / Keras Adamax      ``second_moment="max"``, ``epsilon="inside"`` / "outside"
torch Adagrad / optax, Keras Adagrad       ``b1=None, second_moment="sum"``, "outside" / "inside"
torch RMSprop / optax rmsprop              ``b1=None, bias_correction=False``, "outside" / "inside"
praxis sharded_adam                        the defaults: its decaying rates are bias correction
=========================================  =========================================================
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike, DTypeLike

from wdlab._core.dtypes import step_number, working_dtype
from wdlab._core.transformation import transformation
from wdlab.decay import next_count
from wdlab.preconditioners.adam_formulas import (
    AdamFormulas,
    Amsgrad,
    Epsilon,
    FirstMoment,
    SecondMoment,
)
from wdlab.preconditioners.leaf_states import as_before, widened
from wdlab.rules import leaves_with_paths

PyTree = Any


class ScaleByAdamState(NamedTuple):
    """State of :func:`scale_by_adam`; what a convention does not use is None.

    Its structure depends on the conventions' names only, never on the type of a number.
    """

    count: jax.Array  # int32, shape (): updates made.
    mu: PyTree  # Like params, float32 or wider: first moment; None with b1=None.
    nu: PyTree  # Like params, real, float32 or wider: second moment.
    nu_max: PyTree  # Like nu: its running maximum; None without AMSGrad.
    mu_product: jax.Array | None  # float, shape (): product of NAdam's rates; else None.


def scale_by_adam(
    b1: ArrayLike | None = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    eps_root: ArrayLike = 0.0,
    *,
    epsilon: Epsilon = "outside",
    bias_correction: bool = True,
    first_moment: FirstMoment = "ema",
    momentum_decay: ArrayLike = 4e-3,
    second_moment: SecondMoment = "ema",
    initial_second_moment: ArrayLike = 0.0,
    amsgrad: Amsgrad = "off",
    rectification_threshold: ArrayLike | None = None,
    mu_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Turns gradients into Adam's direction: no learning rate, no sign, no decay.

    With :math:`m_t = b_1 m_{t-1} + (1-b_1) g_t`, :math:`v_t = b_2 v_{t-1} + (1-b_2) g_t^2` and
    the corrections :math:`c_i = 1 - b_i^t` (1 without ``bias_correction``), one step is

    - ``epsilon="outside"``: :math:`u_t = (m_t/c_1) / (\sqrt{v_t/c_2} + \epsilon)`,
    - ``"hat"``: :math:`u_t = (\sqrt{c_2}/c_1)\, m_t / (\sqrt{v_t} + \epsilon)`,
    - ``"inside"``: :math:`u_t = (m_t/c_1) / \sqrt{v_t/c_2 + \epsilon}`.

    The same ``eps`` is not the same optimizer: "hat" acts as an outside epsilon of
    :math:`\epsilon/\sqrt{c_2}`, at b2 = 0.999 31.6 times larger in the first step, and "inside"
    as one of up to :math:`\sqrt\epsilon`, 1e-4 for 1e-8. Moments are float32 for bfloat16 and
    float16 leaves; the direction has the gradient's dtype. The chains of :mod:`wdlab.optimizers`
    compute in float32 for such parameters and round once, at the end. The square of a complex
    gradient is :math:`|g|^2`, as in Optax; torch squares its two parts by themselves.

    Args:
      b1: Decay rate of the first moment, in [0, 1). None keeps no first moment at all (RMSProp,
        AdaGrad); 0.0 is the same step with an idle buffer.
      b2: Decay rate of the second moment, in [0, 1), above 0 for ``rectification_threshold``;
        unused by ``second_moment="sum"``. Give Python floats where the last digits count: in a
        float32 array ``1 - 0.999`` is off by 1.3e-5, and ``inject_hyperparams`` makes one. (With
        bfloat16 parameters it even rounds b2 to 1.0.)
      eps: Epsilon, at least 0, in units of the gradient (squared for "inside").
      eps_root: Added inside the root besides ``eps``; at least 0, in units of the gradient
        squared. Next to :math:`v_t/c_2`, or to :math:`v_t` with "hat".
      epsilon: Where ``eps`` goes, as above. With ``second_moment="max"``: "inside" is the maximum
        (torch, Optax), "outside" the denominator (Keras).
      bias_correction: Whether both moments are corrected for their start at zero.
      first_moment: "ema" as above. "nesterov": Dozat's look-ahead with a constant rate (Optax),
        :math:`b_1 m_t/(1-b_1^{t+1}) + (1-b_1) g_t/(1-b_1^t)` in place of :math:`m_t/c_1`.
        "nesterov_plain": both over :math:`c_1` (timm, MLCommons). "nadam": as "nesterov" with rates
        :math:`\mu_t = b_1(1 - 0.96^{t\psi}/2)` and their running products (torch, Keras), so
        torch's NAdam is not ``optax.nadam``.
      momentum_decay: :math:`\psi` of "nadam", at least 0; 4e-3 in torch, 1 in Keras.
      second_moment: "ema" as above; "sum": :math:`v_t = v_{t-1} + g_t^2`, no correction (AdaGrad);
        "max": :math:`v_t = \max(b_2 v_{t-1}, |g_t|)`, no correction and no root (Adamax).
      initial_second_moment: :math:`v_0`, at least 0. AdaGrad: 0 in torch, 0.1 in Optax and Keras.
      amsgrad: "raw": the maximum over :math:`v_t` (the paper, torch, Keras); "corrected": over
        :math:`v_t/c_2` (Optax), larger by up to the first step's correction, for ever.
      rectification_threshold: RAdam: the step is :math:`m_t/c_1` until the moving average is
        longer than this, then :math:`r_t u_t`. At least 4. None: not rectified.
      mu_dtype: dtype that keeps the first moment; None: that of the statistics.

    Raises:
      TypeError: If a rate is not a number.
      ValueError: If a number is out of range, or if a convention is unknown or impossible together
        with another.

    Example:
      >>> gradient = jnp.array([0.5, -3.0])
      >>> tx = scale_by_adam(eps=0.0)
      >>> direction, state = tx.update(gradient, tx.init(gradient))
      >>> [round(x, 5) for x in direction.tolist()]
      [1.0, -1.0]

    Source: Kingma & Ba, https://arxiv.org/abs/1412.6980, Algorithms 1 and 2 and section 2's
    efficient form ("hat"); Reddi et al., https://arxiv.org/abs/1904.09237 (AMSGrad); Dozat, ICLR
    2016 workshop (NAdam); Liu et al., https://arxiv.org/abs/1908.03265 (RAdam). torch 2.13.0,
    optax 0.2.8 and Keras 3.15 are compared live in tests/oracles.
    """
    formulas = AdamFormulas(
        b1=b1,
        b2=b2,
        eps=eps,
        eps_root=eps_root,
        epsilon=epsilon,
        bias_correction=bias_correction,
        first_moment=first_moment,
        momentum_decay=momentum_decay,
        second_moment=second_moment,
        initial_second_moment=initial_second_moment,
        amsgrad=amsgrad,
        rectification_threshold=rectification_threshold,
        mu_dtype=mu_dtype,
    )

    def init_fn(params: PyTree) -> PyTree:
        return _init(formulas, params)

    def update_fn(
        updates: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        del params
        return _update(formulas, updates, state)

    return transformation(init_fn, update_fn)


def _init(formulas: AdamFormulas, params: PyTree) -> ScaleByAdamState:
    for path, leaf in leaves_with_paths(params):
        if formulas.mu_dtype is not None and jnp.iscomplexobj(leaf):
            raise TypeError(
                f"parameter {path!r} is complex, and mu_dtype={formulas.mu_dtype} would drop its "
                "imaginary part. Leave mu_dtype out."
            )

    def zeros(p: jax.Array) -> jax.Array:
        return jnp.zeros_like(p, dtype=formulas.mu_dtype or working_dtype(p))

    def initial(p: jax.Array) -> jax.Array:
        ones = jnp.ones_like(p, dtype=jnp.finfo(working_dtype(p)).dtype)  # Real.
        return ones * jnp.asarray(formulas.initial_second_moment, ones.dtype)

    nadam = formulas.first_moment == "nadam"
    return ScaleByAdamState(
        count=jnp.zeros([], jnp.int32),
        mu=None if formulas.b1 is None else jax.tree.map(zeros, params),
        nu=jax.tree.map(initial, params),
        nu_max=None if formulas.amsgrad == "off" else jax.tree.map(initial, params),
        mu_product=jnp.ones([], jnp.result_type(float)) if nadam else None,
    )


def _update(
    formulas: AdamFormulas, updates: PyTree, state: ScaleByAdamState
) -> tuple[PyTree, ScaleByAdamState]:
    t = step_number(state.count)
    wide = widened(updates, state.nu)
    mu = None if formulas.b1 is None else jax.tree.map(formulas.next_first, wide, state.mu)
    nu = jax.tree.map(formulas.next_second, wide, state.nu)
    scalars, mu_product = formulas.scalars(t, state.mu_product)
    nu_max = None
    if formulas.amsgrad != "off":
        maximum = lambda v, top: formulas.next_maximum(v, top, scalars.correction)  # noqa: E731
        nu_max = jax.tree.map(maximum, nu, state.nu_max)
    # Without a first moment the gradient takes its place, at no cost: its weight is zero.
    direction = jax.tree.map(
        lambda g, m, v: formulas.direction(g, m, v, scalars),
        wide,
        wide if mu is None else mu,
        nu if nu_max is None else nu_max,
    )
    new = ScaleByAdamState(next_count(state.count), mu, nu, nu_max, mu_product)
    return as_before(direction, updates), as_before(new, state)
