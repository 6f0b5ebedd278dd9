"""One equation of a jaxpr, without control flow, on abstract values."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from wdlab.rules.traced_roles.centering import centered
from wdlab.rules.traced_roles.degrees import bits
from wdlab.rules.traced_roles.dimensions import Sources, sources
from wdlab.rules.traced_roles.marks import (
    MOVED,
    NORMALIZED,
    OF_PRODUCT,
    marks_of,
    signals,
)
from wdlab.rules.traced_roles.meetings import PRODUCTS, contracted, meet
from wdlab.rules.traced_roles.notes import Note, Notes
from wdlab.rules.traced_roles.scaling import degrees_of
from wdlab.rules.traced_roles.values import NO_TAGS, NONE, Axes, Carrier, Kind, Tags, Value, merged

# Through these a value stays what it is to the weights after it, if weights or constants join it.
_AFFINE = MOVED | {"add", "sub", "add_any", "mul", "div", "select_n", "concatenate", "gather"}
_REDUCED = {"reduce_sum", "reduce_max", "reduce_min", "reduce_prod"}


def results(notes: Notes, eqn: Any, operands: Sequence[Value]) -> list[Value]:
    """What is known of an equation's results.

    >>> import jax
    >>> from wdlab.rules.traced_roles.values import activation, weight
    >>> x = jnp.ones((2, 3))
    >>> [eqn] = jax.make_jaxpr(lambda w: x @ w)(jnp.ones((3, 4))).eqns
    >>> notes = Notes()
    >>> [y] = results(notes, eqn, [activation(2), weight(0, 2)])
    >>> notes.of(0)[0].role, [sorted(tags) for tags in y.tags]
    ('matrix', [['data'], ['feature']])
    """
    if not eqn.outvars:  # A print.
        return []
    name, params = eqn.primitive.name, eqn.params
    shapes = [getattr(atom.aval, "shape", ()) for atom in eqn.invars]
    outs = [getattr(atom.aval, "shape", ()) for atom in eqn.outvars]
    to_float = jnp.issubdtype(getattr(eqn.outvars[0].aval, "dtype", float), jnp.inexact)
    degrees, epsilon = degrees_of(name, params, operands, to_float)
    notes.left_out(epsilon)
    found = []
    for n, out in enumerate(outs):
        where = sources(name, params, shapes, out)
        value = _result(notes, name, params, operands, where, first=n == 0)
        value = replace(value, degrees=degrees[min(n, len(degrees) - 1)])
        value = centered(name, params, operands, shapes, out, value)
        found.append(value if to_float else replace(value, live=0))
    if len(outs) == len(operands) > 1 and name in MOVED:  # One result for each operand.
        return list(operands)
    return found


def _result(
    notes: Notes, name: str, params: Any, operands: Sequence[Value], where: Sources, first: bool
) -> Value:
    kind = max((o.kind for o in operands), default=Kind.CONSTANT)
    has_weights = any(o.kind == Kind.WEIGHTS for o in operands)
    if has_weights and kind == Kind.ACTIVATION and not signals(operands) and name in _AFFINE:
        kind = Kind.WEIGHTS  # Noise on weights leaves them weights.
    if has_weights and kind == Kind.ACTIVATION and first:
        meet(notes, name, params, operands, where)
    products, scaled = _followed(notes, name, operands, kind, first)
    gated = operands[0].gated if name in MOVED and operands else 0
    if name == "mul" and kind == Kind.ACTIVATION:
        gated = _leaves(operands)
        scaled |= _normalized_after(notes, operands)
    marks = marks_of(name, params, operands)
    if has_weights and kind == Kind.ACTIVATION and name in PRODUCTS:
        marks = marks | {OF_PRODUCT}
    live = 0
    for operand in operands if name != "stop_gradient" else ():
        live |= operand.live
    moved = name in MOVED and bool(operands)
    return Value(
        kind=kind,
        tags=tuple(_tags(operands, s) for s in where),
        carriers=_carriers(notes, name, params, operands, where) if kind == Kind.WEIGHTS else (),
        live=live,
        products=products,
        scaled=scaled,
        gated=gated,
        marks=marks,
        number=operands[0].number if moved and name != "neg" else None,
    )


def _tags(operands: Sequence[Value], from_: tuple) -> Tags:
    """An activation says what its dimensions are; weights do where it has none."""
    for kind in (Kind.ACTIVATION, Kind.WEIGHTS):
        found = NO_TAGS.union(*(operands[m].tags[d] for m, d in from_ if operands[m].kind == kind))
        if found:
            return found
    return NO_TAGS


def _followed(
    notes: Notes, name: str, operands: Sequence[Value], kind: Kind, first: bool
) -> tuple[int, int]:
    """The products that the result has its origin in, and the scales right before it."""
    leaves = _leaves(operands)
    if kind != Kind.ACTIVATION:
        return 0, 0
    products = scaled = 0
    for operand in operands:
        products |= operand.products
        scaled |= operand.scaled
    if leaves and name in PRODUCTS:
        if first:
            notes.product_after(products, scaled)
        return leaves, 0
    main = signals(operands)
    if name in ("mul", "div") and any(NORMALIZED in o.marks for o in operands):
        return products, scaled | leaves
    return products, scaled if name in _AFFINE and len(main) == 1 else 0


def _leaves(operands: Sequence[Value]) -> int:
    """The leaves in operands of weights alone."""
    leaves = 0
    for operand in operands:
        for carrier in operand.carriers:
            leaves |= 1 << carrier.leaf
    return leaves


def _normalized_after(notes: Notes, operands: Sequence[Value]) -> int:
    """Scales in x * scale * factor, where the factor normalizes x: Haiku's RMSNorm."""
    found = 0
    for value, factor in (operands, operands[::-1]):
        if NORMALIZED in factor.marks:
            found |= value.gated & ~factor.degrees.leaves
    for leaf in bits(found):
        notes.add(leaf, Note("scale", "multiplies an activation that is then normalized"))
    return found


def _carriers(
    notes: Notes, name: str, params: Any, operands: Sequence[Value], where: Sources
) -> tuple[Carrier, ...]:
    """The leaves in a value of weights alone."""
    found = []
    for n, operand in enumerate(operands):
        for carrier in operand.carriers:
            axes = [NONE.union(*(carrier.axes[d] for m, d in s if m == n)) for s in where]
            carrier = replace(
                carrier, axes=tuple(axes), reduced=carrier.reduced or name in _REDUCED
            )
            if name in PRODUCTS:
                summed = contracted(name, params, n) if n < 2 else []
                gone = NONE.union(*(_leaf(operand, carrier.leaf).axes[d] for d in summed))
                carrier = _multiplied(carrier, gone, operands, n, where)
            if name == "gather" and n == 0 and _looks_up(operands):
                taken = _leaf(operand, carrier.leaf).along - carrier.along
                axes = [
                    a | (taken if any(m == 1 for m, _ in s) else NONE)
                    for a, s in zip(carrier.axes, where, strict=True)
                ]
                carrier = replace(carrier, axes=tuple(axes), looked_up=True)
            found.append(carrier)
    if name in ("mul", "div"):
        found = _without_scales(notes, found, operands)
    return merged(found)


def _leaf(operand: Value, leaf: int) -> Carrier:
    return next(c for c in operand.carriers if c.leaf == leaf)


def _multiplied(
    carrier: Carrier, gone: Axes, operands: Sequence[Value], n: int, where: Sources
) -> Carrier:
    """A product with other weights sums axes away; one with a constant mixes them."""
    if n < 2 and operands[1 - n].kind == Kind.CONSTANT:
        axes = tuple(
            a | (gone if any(m == 1 - n for m, _ in s) and len(s) == 1 else NONE)
            for a, s in zip(carrier.axes, where, strict=True)
        )
        return replace(carrier, axes=axes)
    return replace(carrier, inner=carrier.inner | gone)


def _looks_up(operands: Sequence[Value]) -> bool:
    """Whether rows are taken at several constant indices, and not one layer of a stack."""
    return operands[1].kind == Kind.CONSTANT and len(operands[1].tags) > 1


def _without_scales(
    notes: Notes, carriers: list[Carrier], operands: Sequence[Value]
) -> list[Carrier]:
    """Weights that multiply wider weights are their scale: weight normalization's g."""
    if sum(o.kind == Kind.WEIGHTS for o in operands) < 2:
        return carriers
    widest = max(sum(map(bool, c.axes)) for c in carriers)
    kept = []
    for carrier in carriers:
        if sum(map(bool, carrier.axes)) < widest and not carrier.reduced:
            evidence = "multiplies other weights"
            notes.add(carrier.leaf, Note("scale", evidence, ("of a weight",), NONE, carrier.along))
        else:
            kept.append(carrier)
    return kept
