"""What weights are to the activation that they meet in a primitive."""

from collections.abc import Callable, Sequence
from typing import Any

from wdlab.rules.traced_roles.dimensions import Sources
from wdlab.rules.traced_roles.marks import IOTA, NORMALIZED, OF_PRODUCT, ONE_HOT, ROOT
from wdlab.rules.traced_roles.notes import Note, Notes
from wdlab.rules.traced_roles.values import DATA, NO_TAGS, NONE, Axes, Carrier, Kind, Value

DOTS = {"dot_general", "ragged_dot", "ragged_dot_general"}
PRODUCTS = DOTS | {"conv_general_dilated"}
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "is_finite", "sign", "stop_gradient"}
_PUT_IN = {
    "concatenate",
    "select_n",
    "dynamic_update_slice",
    "scatter",
    "scatter_add",
    "scatter-add",
}


def meet(
    notes: Notes, name: str, params: dict[str, Any], operands: Sequence[Value], where: Sources
) -> None:
    """Notes what each leaf among the operands is, where weights meet an activation.

    Args:
      notes: Written to.
      name: The primitive's.
      params: The primitive's.
      operands: One of them an activation, others weights.
      where: Where each dimension of the result comes from.

    >>> from wdlab.rules.traced_roles.values import activation, weight
    >>> notes = Notes()
    >>> meet(notes, "add", {}, [activation(1), weight(0, 1)], [((0, 0), (1, 0))])
    >>> notes.of(0)[0].role
    'bias'
    """
    if name in _COMPARISONS:
        return
    for n, operand in enumerate(operands):
        if operand.kind == Kind.WEIGHTS:
            note = _BY_NAME.get(name, _unknown)
            for carrier in operand.carriers:
                notes.add(carrier.leaf, note(name, params, operands, n, carrier, where))


def contracted(name: str, params: dict[str, Any], n: int) -> list[int]:
    """The dimensions of operand n that a product sums over, its stack of groups left out.

    >>> contracted("dot_general", {"dimension_numbers": (((1,), (0,)), ((), ()))}, 1)
    [0]
    """
    if name == "conv_general_dilated":
        spec = params["dimension_numbers"]
        return [*spec.rhs_spec[1:]] if n == 1 else [*spec.lhs_spec[1:]]
    if name == "dot_general":
        return [*params["dimension_numbers"][0][n]]
    numbers = params.get("ragged_dot_dimension_numbers")
    return [1] if numbers is None else [*numbers.dot_dimension_numbers[0][n]]


def _product(
    name: str, params: Any, operands: Sequence[Value], n: int, carrier: Carrier, where: Sources
) -> Note:
    other = operands[1 - n] if n < 2 else operands[0]
    summed = NONE.union(*(carrier.axes[d] for d in contracted(name, params, n)))
    free = NONE.union(*(carrier.axes[d] for s in where for m, d in s if m == n and len(s) == 1))
    inner = carrier.inner - summed - free
    # Of weights that were multiplied with each other, the one that meets the data takes it in.
    ins, outs = (summed, free | inner) if summed else (inner, free)
    if name == "conv_general_dilated":
        if n != 1:
            return Note("unknown", "is what a kernel from the data is moved over")
        grouped = params["feature_group_count"] > 1
        words = ("grouped",) if grouped else ()
        return Note("kernel", f"conv_general_dilated sums over its {_axes(ins)}", words, ins, outs)
    if ONE_HOT in other.marks:
        return Note("embedding", "product with a one-hot array", (), ins, outs)
    if carrier.looked_up:
        return Note("position", "rows at constant indices, in a product", (), ins, outs)
    return Note("matrix", f"{name} sums over its {_axes(ins)}", (), ins, outs)


def _axes(axes: Axes) -> str:
    return f"axis {', '.join(map(str, sorted(axes)))}" if axes else "last axis"


def _gather(
    name: str, params: Any, operands: Sequence[Value], n: int, carrier: Carrier, where: Sources
) -> Note:
    if n != 0:
        return _unknown(name, params, operands, n, carrier, where)
    kept = NONE.union(*(carrier.axes[d] for s in where for m, d in s if m == 0))
    if name == "dynamic_slice":
        kept = NONE
    taken = carrier.along - kept
    if any(IOTA in o.marks for o in operands[1:]):
        return Note("position", "looked up by positions", (), taken, kept)
    return Note("embedding", f"looked up by the data ({name})", (), taken, kept)


def _along(operands: Sequence[Value], n: int, carrier: Carrier, where: Sources) -> list[tuple]:
    """Per dimension of the result the leaf's axes, and the tags of the activation there."""
    found = []
    for s in where:
        axes = NONE.union(*(carrier.axes[d] for m, d in s if m == n))
        tags = [operands[m].tags[d] for m, d in s if m != n and operands[m].kind == Kind.ACTIVATION]
        found.append((axes, NO_TAGS.union(*tags), bool(tags) and any(tags)))
    return found


def _added(
    name: str, params: Any, operands: Sequence[Value], n: int, carrier: Carrier, where: Sources
) -> Note:
    along = _along(operands, n, carrier, where)
    aligned = [d for d, (axes, _, _) in enumerate(along) if axes]
    if carrier.reduced and not aligned:
        return Note("penalty", "summed up and added to the loss")
    others = [o for m, o in enumerate(operands) if m != n and o.kind == Kind.ACTIVATION]
    if any(NORMALIZED in o.marks for o in others):
        return Note("bias", "added to a normalized activation", (), NONE, carrier.along)
    places = [d for d in aligned if along[d][1] == {DATA}]
    if carrier.looked_up or (places and (len(aligned) > 1 or aligned[0] < len(along) - 1)):
        at = NONE.union(*(along[d][0] for d in places))
        return Note("position", "added, along a dimension of the data", (), at, carrier.along - at)
    return Note("bias", "added to an activation", (), NONE, carrier.along)


def _multiplied(
    name: str, params: Any, operands: Sequence[Value], n: int, carrier: Carrier, where: Sources
) -> Note:
    others = [o for m, o in enumerate(operands) if m != n]
    divided = name == "div" and n == 0 and ROOT in operands[1].marks
    if divided or any(NORMALIZED in o.marks for o in operands):
        after = any(OF_PRODUCT in o.marks for o in others)
        words = ("after a matrix",) if after else ()
        return Note("scale", "multiplies a normalized activation", words, NONE, carrier.along)
    along = _along(operands, n, carrier, where)
    outs = NONE.union(*(axes for axes, _, met in along if not met))
    ins = carrier.along - outs
    if outs and not (carrier.reduced or len(along) == 1):
        if any(ONE_HOT in o.marks for o in others):
            return Note("embedding", "multiplies a one-hot array", (), ins, outs)
        return Note("matrix", "a product written as mul", (), ins, outs)
    return Note("gate", "multiplies an activation that is not normalized", (), NONE, carrier.along)


def _put_in(
    name: str, params: Any, operands: Sequence[Value], n: int, carrier: Carrier, where: Sources
) -> Note:
    if name == "select_n" and n == 0:
        return _unknown(name, params, operands, n, carrier, where)
    return Note("embedding", f"put beside the data ({name})", ("token",), NONE, carrier.along)


def _unknown(
    name: str, params: Any, operands: Sequence[Value], n: int, carrier: Carrier, where: Sources
) -> Note:
    return Note("unknown", f"meets the data in {name}")


_BY_NAME: dict[str, Callable[..., Note]] = {
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(("gather", "dynamic_slice"), _gather),
    **dict.fromkeys(("add", "sub", "add_any"), _added),
    **dict.fromkeys(("mul", "div"), _multiplied),
    **dict.fromkeys(_PUT_IN, _put_in),
}
