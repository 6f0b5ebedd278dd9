"""The doctor: looks at an optimizer and its parameters, and says what decays and what is wrong."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from wdlab._core.checks import check_number, check_whole
from wdlab._core.transformation import check_transformation
from wdlab.instruments.diagnosis import faults_of_order, faults_of_selection, faults_of_strength
from wdlab.instruments.diagnosis.examination import Examination, examine
from wdlab.instruments.diagnosis.finding import SEVERITIES, Finding
from wdlab.instruments.diagnosis.report import Report, groups_of
from wdlab.instruments.inputs import check_arrays
from wdlab.rules import ROLES, decisions, leaves_with_paths, nearest_path, parameters
from wdlab.rules import roles as roles_of

PyTree = Any
# Every check, in the order of importance among findings of one severity.
CHECKS: tuple[Callable[[Examination], list[Finding]], ...] = (
    *faults_of_order.CHECKS,
    *faults_of_strength.CHECKS,
    *faults_of_selection.CHECKS,
)


def doctor(
    tx: Any,
    params: PyTree,
    *,
    steps: int,
    loss_fn: Callable[..., Any] | None = None,
    batch: Any = None,
    tokens_per_step: int | None = None,
    lr: Any = None,
    roles: dict[str, str] | None = None,
    rules: PyTree = None,
    wrt: Any = None,
) -> Report:
    r"""Says what decays in a run, how strongly, and what is wrong with it.

    The update is traced and measured at steps over the whole run, as in :func:`wdlab.decay_plan`:
    the share :math:`\kappa_t\lambda` that a step takes of each weight, and what a gradient adds.
    From these follow the timescale :math:`1/\kappa\lambda` and, for leaves that a normalization
    makes scale-invariant, the rotation :math:`\sqrt{2\kappa\lambda}` and the norm at equilibrium
    (:mod:`wdlab.instruments.rotation`).

    An error is certain to be no one's intention; a warning contradicts itself, such as some norms
    decaying and others not; a note is a choice worth knowing. The doctor sees the optimizer and the
    parameters' shapes. It cannot know: which leaves you mean (say it with ``rules``), decay inside
    the loss, the order in which your own step donates its buffers (``wdlab.make_update`` has it
    right), and what gradients do to the weights.

    Args:
      tx: An Optax transformation, the whole chain of the run.
      params: Pytree of arrays or of ``jax.ShapeDtypeStruct`` in the dtypes of the run, or a model
        of Flax nnx or Equinox. No array of their size is made.
      steps: Updates in the run, >= 1.
      loss_fn: ``loss_fn(params, *batch)``: roles are read off it; without it they are guessed from
        names.
      batch: A tuple of what ``loss_fn`` takes beside; anything else is its one argument.
      tokens_per_step: For timescales in tokens.
      lr: The learning rate that you believe it has, number or schedule: compared.
      roles: Path -> role, instead of ``loss_fn``.
      rules: What should decay, as in :func:`wdlab.decay_scales`: each leaf is compared.
      wrt: What is trained of an nnx model, as there.

    Raises:
      TypeError: If ``tx`` is no transformation, or a leaf of ``params`` no array.
      ValueError: If a number is out of range, ``loss_fn`` fails on ``batch``, ``roles`` are of no
        parameter, or ``rules`` decide a leaf not at all.

    >>> import jax, optax, wdlab
    >>> params = {"dense": {"kernel": jax.ShapeDtypeStruct((8, 4), "float32"),
    ...                     "bias": jax.ShapeDtypeStruct((4,), "float32")}}
    >>> mask = {"dense": {"kernel": False, "bias": True}}
    >>> report = wdlab.doctor(optax.adamw(1e-3, weight_decay=0.1, mask=mask), params, steps=10_000)
    >>> print(report.findings[0])
    error: dense/bias decay and no matrix does: is the mask the wrong way round?
      in Optax True means decay; rules=wdlab.rules.NO_BIAS_OR_NORM decays matrices ...
    >>> tx = wdlab.optimizers.adamw(1e-3, weight_decay=0.1, coupling="lr")
    >>> wdlab.doctor(tx, params, steps=10_000).verdict
    'sound: the decay looks back over 1 of the run'
    """
    check_transformation(tx, "doctor")
    check_whole("steps", steps)
    if tokens_per_step is not None:
        check_number("tokens_per_step", tokens_per_step, low_open=True)
    if lr is not None:
        check_number("lr", lr, schedule=True)
    whole, params = params, parameters(params, wrt)
    check_arrays("doctor", params)
    _check_init(tx, params)
    if roles is not None:
        _check_roles(roles, params)
    elif loss_fn is not None:
        roles = _roles(loss_fn, whole, batch, wrt)
    intended = None
    if rules is not None:
        intended = {decision.path: decision.scale for decision in decisions(params, rules)}
    more = {"tokens_per_step": tokens_per_step, "learning_rate": lr}
    run = examine(tx, params, steps=steps, roles=roles, intended=intended, **more)
    found = [finding for check in CHECKS for finding in check(run)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(tuple(found), groups_of(run), steps, run.roles_known)


def _roles(loss_fn: Callable[..., Any], params: PyTree, batch: Any, wrt: Any) -> dict[str, str]:
    given = batch if isinstance(batch, tuple) else () if batch is None else (batch,)
    try:
        return roles_of(loss_fn, params, *given, wrt=wrt)
    except Exception as error:
        if str(error).startswith("roles: "):
            raise
        raise ValueError(
            f"doctor: loss_fn(params, *batch) cannot be traced: {_in_a_line(error)}. It was given "
            f"{len(given)} argument(s) beside params: a tuple as batch is several, anything else "
            "is one."
        ) from error


def _check_init(tx: Any, params: PyTree) -> None:
    """Refuses an optimizer that was made for other parameters."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), params)
    try:
        jax.eval_shape(tx.init, shapes)
    except Exception as error:
        raise ValueError(
            f"doctor: tx.init fails on these parameters: {_in_a_line(error)}. Are its masks or "
            "labels those of other parameters?"
        ) from error


def _in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}"


def _check_roles(roles: Any, params: PyTree) -> None:
    """Refuses roles that say nothing: of no leaf, or of a name that is no role."""
    if not isinstance(roles, Mapping):
        raise TypeError(f"doctor: roles must be a dict, path -> role, got {roles!r}")
    paths = [path for path, _ in leaves_with_paths(params)]
    for path, role in roles.items():
        if path not in paths:
            raise ValueError(
                f"doctor: roles has {path!r}, which is no parameter; the nearest is "
                f"{nearest_path(str(path), paths)!r}"
            )
        if str(role).split(",")[0] not in ROLES:
            raise ValueError(f"doctor: {role!r} of {path!r} is no role: {', '.join(ROLES)}")
