"""Originals that train matrices only, on a whole tree: which leaves, and what trains the rest.

Users of Muon put matrices into one parameter group and everything else into another, or into
another optimizer. Each convention of that family takes four arguments beside its original's own,
:data:`OF_A_TREE`:

``muon``
    The leaves that are matrices: rules (a scale of 0: not one), a pytree of bools, or a pattern
    that they alone match. None: by rank, as the original accepts them. No original knows an
    embedding or a head from a hidden matrix.
``rest``
    The optimizer of the other leaves: a transformation, or the name of a convention, which is then
    built with its defaults at the same learning rate. None: the original's own, where it has one;
    else such a leaf is an error at ``init``.
``axes``
    "out_in": leaves are torch's, rows (fan-out) first. "in_out": kernels of Flax, rows last. Or
    :class:`wdlab.preconditioners.MatrixAxes`. None: as the original reads them, torch's.
``iteration_dtype``
    Of the products in the iteration; None: that of the leaf, at least float32.
"""

from typing import Any

import jax
import numpy as np
import optax

from wdlab._core.names import first_few
from wdlab.conventions.convention import Request
from wdlab.decay import add_l2_gradient, decay_weights
from wdlab.optimizers import complete, scale_by_learning_rate
from wdlab.preconditioners import MatrixAxes, MatrixRule
from wdlab.rules import Rule, decisions, leaves_with_paths, normalize_rules
from wdlab.schedules import ScalarOrSchedule, multiplier_of

PyTree = Any
OF_A_TREE = {"muon": None, "rest": None, "axes": None, "iteration_dtype": "bfloat16"}
BY_RANK = (
    "muon=None takes every leaf by its rank, embeddings, the head and stacked biases too; the "
    "original's users keep those out: muon=(Rule('.*(embed|head).*', 0.0), Rule('.*kernel'), "
    "Rule('.*', 0.0))"
)
LAYOUT = (
    "rows are the first axis, as in torch; kernels of Flax are (in, out), and unless axes='in_out' "
    "says so, tall is taken for wide and the factor of the shape is another"
)
ALONE = (
    "the original takes matrices alone: rest= is the optimizer of the other leaves, rest="
    "'torch.AdamW' or a transformation; without it they are an error at init"
)


def by_matrices(
    request: Request,
    matrices: optax.GradientTransformation,
    own_rest: optax.GradientTransformation | None,
    *,
    most: int = 2,
) -> optax.GradientTransformation:
    """Gives the matrices to one optimizer and the other leaves to ``rest``, or to the original's.

    Args:
      request: With the arguments of :data:`OF_A_TREE`.
      matrices: The whole optimizer of the matrices.
      own_rest: The original's own for the rest; None where it has none.
      most: The highest rank that the original takes as a matrix.

    Raises:
      ValueError: From ``init`` for a leaf that nothing trains, or one of ``muon`` of a wrong rank.

    >>> from wdlab import conventions
    >>> import jax.numpy as jnp
    >>> conventions.build("torch.Muon", 0.1).init({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(2)})
    Traceback (most recent call last):
    ValueError: torch.Muon: 1 parameter(s) are no matrices of rank 2: bias. ...
    """
    rest = _rest_of(request, own_rest)
    chosen = request["muon"]
    if isinstance(chosen, str):
        chosen = (Rule(chosen), Rule(".*", 0.0))
    chosen = None if chosen is None else normalize_rules(chosen)

    def labels(tree: PyTree) -> PyTree:
        are_matrices = _matrices_of(request.name, tree, chosen, most)
        if rest is None:
            _refuse_others(request.name, tree, are_matrices, most)
        named = ["muon" if each else "rest" for each in are_matrices]
        return jax.tree.unflatten(jax.tree.structure(tree), named)

    return optax.partition({"muon": matrices, "rest": rest or optax.set_to_zero()}, labels)


def _matrices_of(name: str, tree: PyTree, chosen: PyTree, most: int) -> list[bool]:
    """Whether each leaf is a matrix, by its rank or by what the user chose."""
    made = decisions(tree, 1.0 if chosen is None else chosen)
    fits = [2 <= np.ndim(decision.leaf) <= most for decision in made]
    if chosen is None:
        return fits
    wrong = [d.path for d, fit in zip(made, fits, strict=True) if d.scale and not fit]
    if wrong:
        raise ValueError(
            f"{name}: muon names {first_few(wrong)}, of another rank than {_ranks(most)}, which "
            f"the original refuses. Exempt it: muon=(Rule({wrong[0]!r}, 0.0), ...)."
        )
    return [decision.scale > 0 for decision in made]


def _refuse_others(name: str, tree: PyTree, are_matrices: list[bool], most: int) -> None:
    """Of an original without an optimizer for them."""
    pairs = zip(leaves_with_paths(tree), are_matrices, strict=True)
    others = [path for (path, _), each in pairs if not each]
    if others:
        raise ValueError(
            f"{name}: {len(others)} parameter(s) are no matrices of rank {_ranks(most)}: "
            f"{first_few(others)}. The original trains none of them. Name their optimizer: "
            "rest='torch.AdamW', or rest=wdlab.conventions.build('torch.AdamW', 3e-4, ...)."
        )


def _ranks(most: int) -> str:
    return "2" if most == 2 else f"2 to {most}"


def _rest_of(
    request: Request, own: optax.GradientTransformation | None
) -> optax.GradientTransformation | None:
    given = request["rest"]
    if given is None:
        return own
    if isinstance(given, str):
        from wdlab.conventions.registry import build  # It is made of the families, which ask here.

        peak = request.peak_learning_rate
        return build(given, request.learning_rate, rules=request.rules, peak_learning_rate=peak)
    if not isinstance(given, optax.GradientTransformation):
        raise TypeError(
            f"{request.name}: rest must be a transformation or the name of a convention, got "
            f"{given!r}. Write rest='torch.AdamW' or rest=optax.adamw(3e-4)."
        )
    return given


def axes_of(request: Request, own: MatrixAxes) -> MatrixAxes:
    """Returns the axes that the user gives, or the original's own.

    >>> from wdlab import conventions
    >>> axes_of(conventions.get("torch.Muon").request(0.1, {}), MatrixAxes("out_in")).layout
    'out_in'
    """
    given = request["axes"]
    if given is None or isinstance(given, MatrixAxes):
        return own if given is None else given
    if given == own.layout:
        return own
    ranks: list[Any] = [rule.ndim for rule in own.rules]
    return MatrixAxes(given, kernels=own.kernels, rules=flattened(*ranks, layout=given))


def flattened(*ranks: int, layout: str = "out_in") -> tuple[MatrixRule, ...]:
    """Returns rules for kernels of these ranks: channels out by all the other axes together.

    >>> flattened(4)[0].columns, flattened(4, layout="in_out")[0].rows
    ((1, 2, 3), (-1,))
    """
    rows = 0 if layout == "out_in" else -1
    others = [tuple(range(1, n) if rows == 0 else range(n - 1)) for n in ranks]
    pairs = zip(ranks, others, strict=True)
    return tuple(MatrixRule(".*", rows=rows, columns=columns, ndim=n) for n, columns in pairs)


def with_matrix_decay(
    request: Request,
    direction: optax.GradientTransformation,
    rate: ScalarOrSchedule,
    *last: optax.GradientTransformation,
    multiplier: ScalarOrSchedule | None = None,
    weight_decay: ScalarOrSchedule | None = None,
    cautious: bool = False,
) -> optax.GradientTransformation:
    """Puts the learning rate and the decay around a direction of matrices.

    Args:
      request: Its coupling places the decay.
      direction: Without learning rate or sign.
      rate: Number or schedule.
      *last: What acts on step and decay together, such as a factor of the shape.
      multiplier: Of the decay; None: that of the coupling.
      weight_decay: None: the request's.
      cautious: Whether only entries decay that the step moves toward zero, or not at all.

    >>> from wdlab import conventions
    >>> request = conventions.get("torch.Muon").request(0.5, {"weight_decay": 0.5})
    >>> tx = with_matrix_decay(request, optax.identity(), 0.5)
    >>> float(tx.update(1.0, tx.init(np.ones(())), np.ones(()))[0])
    -0.75
    """
    strength = request.weight_decay if weight_decay is None else weight_decay
    step = scale_by_learning_rate(rate)
    if request.coupling == "l2":
        first = add_l2_gradient(strength, rules=request.rules)
        return complete(request.name, optax.chain(first, direction, step, *last), request.rules)
    if multiplier is None:
        multiplier = multiplier_of(request.coupling, rate, request.peak_learning_rate)
    decay = decay_weights(strength, multiplier=multiplier, rules=request.rules, cautious=cautious)
    return complete(request.name, optax.chain(direction, step, decay, *last), request.rules)
