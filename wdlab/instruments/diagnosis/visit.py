"""The doctor: looks at an optimizer and its parameters, and says what decays and what is wrong."""

from collections.abc import Callable
from typing import Any

from wdlab._core.checks import check_whole
from wdlab.instruments.diagnosis import faults_of_order, faults_of_selection, faults_of_strength
from wdlab.instruments.diagnosis.examination import Examination, examine
from wdlab.instruments.diagnosis.finding import SEVERITIES, Finding
from wdlab.instruments.diagnosis.report import Report, groups_of
from wdlab.rules import decisions, parameters
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
      ValueError: If ``steps`` is below 1, or ``rules`` decide a leaf not at all.

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
    check_whole("steps", steps)
    if loss_fn is not None and roles is None:
        roles = _roles(loss_fn, params, batch, wrt)
    params = parameters(params, wrt)
    intended = None
    if rules is not None:
        intended = {decision.path: decision.scale for decision in decisions(params, rules)}
    told = {"tokens_per_step": tokens_per_step, "learning_rate": lr}
    run = examine(tx, params, steps=steps, roles=roles, intended=intended, **told)
    found = [finding for check in CHECKS for finding in check(run)]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Report(tuple(found), groups_of(run), steps, run.roles_known)


def _roles(loss_fn: Callable[..., Any], params: PyTree, batch: Any, wrt: Any) -> dict[str, str]:
    given = batch if isinstance(batch, tuple) else () if batch is None else (batch,)
    return roles_of(loss_fn, params, *given, wrt=wrt)
