"""Update steps that donate their buffers in the right order, and state that is born sharded.

XLA pairs donated inputs with outputs by shape and dtype, in order, first come first served. A
jitted function with arguments ``(opt_state, params)`` and results ``(params, opt_state)`` pairs
moments with parameters and copies every buffer: 3 to 6 times slower for GPT-2 124M under Adam on
a CPU. The functions here take and return ``(params, opt_state)`` in this one order, so that the
slow way cannot be written with them. Gradients are not donated: they would take the parameters'
place.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import (
    AbstractMesh,
    AxisType,
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
)

from wdlab._core.transformation import with_extra_args
from wdlab.rules import leaves_with_paths
from wdlab.training.donation import DonatingStep
from wdlab.training.gradients import check_gradients, one_number
from wdlab.training.nonfinite import check_skips_outside

PyTree = Any
Update = Callable[..., tuple[PyTree, PyTree]]
# Fields of states with a matrix for one axis of a leaf: SOAP's, Shampoo's, GaLore's.
_OF_AXES = frozenset({"factors", "bases", "roots", "projections"})


def make_update(tx: optax.GradientTransformation) -> DonatingStep:
    """Makes the jitted step: updates = tx(grads, state, params), params + updates.

    Args:
      tx: Any Optax transformation.

    Returns:
      ``(params, opt_state, grads, **extra_args) -> (params, opt_state)``. The first two arguments
      are donated: their buffers hold the results, so use only the returned ones afterwards. Extra
      arguments, such as ``value=loss``, reach the transformations that take some; ``value_fn`` must
      be the same function at each step, or it is compiled again.

    Raises:
      ValueError: From a step, if two arrays share a buffer, the gradients are not those of the
        parameters, or ``tx`` is ``MultiSteps(skip_nonfinite(...))``.

    >>> import jax.numpy as jnp
    >>> update = make_update(optax.sgd(0.5))
    >>> params = {"kernel": jnp.array(4.0)}
    >>> params, opt_state = update(params, optax.sgd(0.5).init(params), {"kernel": jnp.array(2.0)})
    >>> float(params["kernel"])
    3.0
    """
    return DonatingStep(_update(tx), "grads", functions=("value_fn", "grad_fn"))


def _update(tx: optax.GradientTransformation) -> Update:
    tx = with_extra_args(tx)

    def update(
        params: PyTree, opt_state: PyTree, grads: PyTree, **extra_args: Any
    ) -> tuple[PyTree, PyTree]:
        check_skips_outside(opt_state)
        check_gradients(grads, params)
        updates, opt_state = tx.update(grads, opt_state, params, **extra_args)
        return optax.apply_updates(params, updates), opt_state

    return update


def make_train_step(
    loss_fn: Callable[..., Any], tx: optax.GradientTransformation, *, has_aux: bool = False
) -> DonatingStep:
    """Makes the jitted step from a batch: gradient of ``loss_fn``, update, loss.

    Args:
      loss_fn: ``(params, *batch) -> loss``, or ``-> (loss, aux)`` with ``has_aux``.
      tx: Any Optax transformation. Those that take extra arguments are given ``value`` (the loss),
        ``grad`` and ``value_fn`` (params -> loss of this batch), which is what line searches,
        ``optax.lbfgs``, ``optax.polyak_sgd`` and ``optax.contrib.reduce_on_plateau`` need.
      has_aux: Whether ``loss_fn`` returns a pair.

    Returns:
      ``(params, opt_state, *batch) -> (params, opt_state, loss)``, the last one ``(loss, aux)``
      with ``has_aux``; the first two arguments are donated.

    Raises:
      ValueError: As from :func:`make_update`; or if the loss is not one number, or not what
        ``has_aux`` says.

    >>> import jax.numpy as jnp
    >>> step = make_train_step(lambda w, x: (w * x) ** 2, optax.sgd(0.25))
    >>> w, state, loss = step(jnp.array(2.0), optax.sgd(0.25).init(jnp.array(2.0)), jnp.array(1.0))
    >>> float(w), float(loss)
    (1.0, 4.0)
    """
    if not callable(loss_fn):
        found = type(loss_fn).__name__
        raise TypeError(f"loss_fn is a {found}: write make_train_step(loss_fn, tx).")
    loss_fn, update = one_number(loss_fn, has_aux), _update(tx)

    def train_step(params: PyTree, opt_state: PyTree, *batch: Any) -> tuple[PyTree, PyTree, Any]:
        def value_fn(params: PyTree) -> jax.Array:
            return value_of(loss_fn(params, *batch))

        loss, grads = jax.value_and_grad(loss_fn, has_aux=has_aux)(params, *batch)
        search = {"value": value_of(loss), "grad": grads, "value_fn": value_fn}
        return *update(params, opt_state, grads, **search), loss

    value_of = (lambda loss: loss[0]) if has_aux else (lambda loss: loss)
    return DonatingStep(train_step, "batch")


def init_opt_state(tx: optax.GradientTransformation, params: PyTree) -> PyTree:
    """Makes the optimizer state, every leaf sharded like the parameter it belongs to.

    Under an automatic mesh ``jax.jit(tx.init)(params)`` puts every leaf on one device or replicates
    it (jax 0.10.2), which costs memory, and a second compilation at the second step. Here a leaf
    whose path ends in a parameter's path and that has its shape gets its sharding; one that lacks
    an axis of it (Adafactor's row and column statistics) is split along those it has; the others
    (step counts) are replicated.

    Args:
      tx: Any Optax transformation.
      params: Pytree of arrays that are on their devices, or of ``jax.ShapeDtypeStruct``.

    Returns:
      The state of ``tx.init(params)``, each array in a buffer of its own; of shapes its shapes,
      dtypes and shardings.

    Raises:
      ValueError: If ``tx`` is ``MultiSteps(skip_nonfinite(...))``.

    >>> import jax.numpy as jnp
    >>> state = init_opt_state(optax.adam(0.1), {"kernel": jnp.ones(2)})
    >>> state[0].mu["kernel"].tolist()
    [0.0, 0.0]
    """
    shardings = opt_state_shardings(tx, params)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(params)):
        state = jax.eval_shape(tx.init, params)
        state = state if shardings is None else jax.tree.map(_placed, state, shardings)
    else:  # On one device jit follows the parameters, committed to it or not.
        state = jax.jit(tx.init, out_shardings=shardings)(params)
    check_skips_outside(state)
    return state


def opt_state_shardings(tx: optax.GradientTransformation, params: PyTree) -> PyTree | None:
    """The shardings of :func:`init_opt_state`; None where no parameter is on a mesh.

    Args:
      tx: Any Optax transformation.
      params: Pytree of arrays, or of ``jax.ShapeDtypeStruct`` with shardings.

    >>> opt_state_shardings(optax.adam(0.1), {"kernel": jax.numpy.ones(2)}) is None
    True
    """
    by_path = {p: x for p, x in leaves_with_paths(params) if _is_on_a_mesh(x)}
    if not by_path:
        return None
    shapes = jax.eval_shape(tx.init, params)
    mesh = next(iter(by_path.values())).sharding.mesh
    shardings = [
        _sharding_of_twin(path, leaf, by_path) or _spelled(mesh, [None] * len(leaf.shape))
        for path, leaf in leaves_with_paths(shapes)
    ]
    return jax.tree.unflatten(jax.tree.structure(shapes), shardings)


def _placed(leaf: Any, sharding: Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _is_on_a_mesh(leaf: Any) -> bool:
    return isinstance(getattr(leaf, "sharding", None), NamedSharding)


def _sharding_of_twin(path: str, leaf: Any, by_path: dict[str, Any]) -> Sharding | None:
    """That of the parameter whose path ends the state leaf's, if the leaf has its axes, or most."""
    own = getattr(leaf, "sharding", None)
    if isinstance(own, NamedSharding) and any(own.spec):  # ``init`` says it on an explicit mesh.
        mesh = next(iter(by_path.values())).sharding.mesh
        return NamedSharding(mesh, own.spec)
    parts = path.split("/")
    for start in range(len(parts) + 1):
        twin = by_path.get("/".join(parts[start:]))
        if twin is None:
            continue
        if _OF_AXES.intersection(parts[:start]):
            return None  # Of a square leaf they have its shape, not its axes.
        if twin.shape == leaf.shape:
            return twin.sharding
        missing = [
            axis
            for axis, _ in enumerate(twin.shape)
            if twin.shape[:axis] + twin.shape[axis + 1 :] == leaf.shape
        ]
        if missing:  # A factored second moment. Of equal axes its rows lack the last.
            columns = len(missing) > 1 and "v_col" in parts[:start]
            return _without_axis(twin, missing[-2 if columns else -1])
    return None


def _without_axis(twin: Any, axis: int) -> Sharding:
    """Each axis that is kept stays split as it is."""
    spec = [*twin.sharding.spec, *[None] * (len(twin.shape) - len(twin.sharding.spec))]
    return _spelled(twin.sharding.mesh, spec[:axis] + spec[axis + 1 :])


def _spelled(mesh: Mesh | AbstractMesh, spec: list[Any]) -> NamedSharding:
    """The sharding as jit returns it: it would compile again for another spelling."""
    while spec and spec[-1] is None and AxisType.Explicit not in mesh.axis_types:
        spec = spec[:-1]
    return NamedSharding(mesh, PartitionSpec(*spec))
