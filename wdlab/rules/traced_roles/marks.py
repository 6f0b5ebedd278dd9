"""Facts about a whole value that decide what weights are to it: normalized, one-hot, an iota."""

from collections.abc import Sequence
from typing import Any

from wdlab.rules.traced_roles.values import Kind, Value

NORMALIZED = "normalized"  # Divided by the root of a statistic.
ROOT = "root"
OF_PRODUCT = "of a product"  # Nothing but sums and norms since a product with weights.
ONE_HOT = "one-hot"
IOTA = "iota"  # 0, 1, 2, ... along a dimension: positions.
NOISE = "noise"  # Of random numbers alone.

MOVED = {
    *("broadcast_in_dim", "reshape", "transpose", "squeeze", "slice", "rev", "copy", "neg"),
    *("convert_element_type", "reduce_precision", "dynamic_slice", "stop_gradient", "device_put"),
    *("optimization_barrier", "sharding_constraint", "reshard", "pvary", "mesh_cast", "copy_p"),
    *("psum", "psum_invariant", "all_gather", "ppermute", "all_to_all", "split", "expand_dims"),
}  # fmt: skip
_STATISTICS = {"reduce_sum", "reduce_max", "square", "abs", "integer_pow"}
_NONE: frozenset[str] = frozenset()


def is_noise(value: Value) -> bool:
    """Whether a value is made of random numbers alone.

    >>> is_noise(Value())
    False
    """
    return NOISE in value.marks


def signals(operands: Sequence[Value]) -> list[Value]:
    """The activations among the operands, without noise.

    >>> signals([Value()])
    []
    """
    return [o for o in operands if o.kind == Kind.ACTIVATION and not is_noise(o)]


def marks_of(name: str, params: dict[str, Any], operands: Sequence[Value]) -> frozenset[str]:
    """The marks of a primitive's result.

    >>> marks_of("iota", {}, [])
    frozenset({'iota'})
    """
    noise = _NONE
    if name.startswith(("random_", "threefry", "rng_")) or (
        any(map(is_noise, operands))
        and all(o.kind == Kind.CONSTANT or is_noise(o) for o in operands)
    ):
        noise = frozenset({NOISE})
    return (_marks(name, params, operands) - {NOISE}) | noise


def _marks(name: str, params: dict[str, Any], operands: Sequence[Value]) -> frozenset[str]:
    if name == "iota":
        return frozenset({IOTA})
    if name in MOVED:
        return operands[0].marks
    if not operands:
        return _NONE
    exponent = _root_exponent(name, params, operands)
    if exponent is not None and operands[0].number is None:
        kept = operands[0].marks & {OF_PRODUCT}
        return kept | {ROOT if exponent > 0 else NORMALIZED}
    if name == "integer_pow" and params["y"] < 0 and ROOT in operands[0].marks:
        return (operands[0].marks & {OF_PRODUCT}) | {NORMALIZED}
    if name in _STATISTICS:
        return operands[0].marks & {OF_PRODUCT}
    if name in ("eq", "select_n", "mul", "div"):
        return {"eq": _eq, "select_n": _select, "mul": _mul, "div": _div}[name](operands)
    if name in ("add", "sub", "add_any", "max", "min", "rem"):
        return _add(operands, name)
    return _NONE


def _root_exponent(name: str, params: dict[str, Any], operands: Sequence[Value]) -> float | None:
    if name in ("sqrt", "rsqrt"):
        return 0.5 if name == "sqrt" else -0.5
    number = operands[1].number if name == "pow" else None
    return number if number in (0.5, -0.5) else None


def _eq(operands: Sequence[Value]) -> frozenset[str]:
    counts = [IOTA in o.marks and o.kind == Kind.CONSTANT for o in operands]
    found = any(counts) and any(o.kind == Kind.ACTIVATION for o in operands)
    return frozenset({ONE_HOT}) if found else _NONE


def _select(operands: Sequence[Value]) -> frozenset[str]:
    cases = [o.marks for o in operands[1:] if o.number is None]
    return frozenset.intersection(*cases) if cases else _NONE


def _mul(operands: Sequence[Value]) -> frozenset[str]:
    found = set(_sole(operands)) - {NORMALIZED}
    if any(NORMALIZED in o.marks for o in operands):
        found.add(NORMALIZED)
        others = [o for o in signals(operands) if NORMALIZED not in o.marks] or signals(operands)
        if others and all(OF_PRODUCT in o.marks for o in others):
            found.add(OF_PRODUCT)
    elif len(signals(operands)) > 1 and all(OF_PRODUCT in o.marks for o in signals(operands)):
        found.add(OF_PRODUCT)  # A square.
    return frozenset(found)


def _div(operands: Sequence[Value]) -> frozenset[str]:
    above, below = operands
    if ROOT in below.marks:
        return (above.marks & {OF_PRODUCT}) | {NORMALIZED}
    return (_sole(operands) if below.kind == Kind.CONSTANT else _NONE) | (
        above.marks & {NORMALIZED}
    )


def _add(operands: Sequence[Value], name: str) -> frozenset[str]:
    if all(o.kind == Kind.CONSTANT for o in operands):
        return frozenset({IOTA}) if any(IOTA in o.marks for o in operands) else _NONE
    several = signals(operands)
    if len(several) > 1:
        # A difference from the mean stays the product it was; a residual sum does not.
        alike = frozenset.intersection(*(o.marks for o in several)) & {NORMALIZED}
        return alike | (operands[0].marks & {OF_PRODUCT} if name == "sub" else _NONE)
    if several and not any(several[0].tags) and any(IOTA in o.marks for o in operands):
        return frozenset({IOTA})  # A first position, and those after it.
    return _sole(operands) - {NORMALIZED}


def _sole(operands: Sequence[Value]) -> frozenset[str]:
    """Marks of the only operand that is no constant, or of an activation with weights or noise."""
    main = signals(operands) or [o for o in operands if o.kind != Kind.CONSTANT]
    if len(main) != 1:
        return _NONE
    beside = any(o.kind == Kind.WEIGHTS for o in operands) and main[0].kind == Kind.ACTIVATION
    return main[0].marks & ({OF_PRODUCT} if beside else {OF_PRODUCT, ROOT, NORMALIZED})
