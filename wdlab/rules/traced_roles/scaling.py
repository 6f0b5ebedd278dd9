"""The degrees of a primitive's results from those of its operands."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from wdlab.rules.traced_roles.degrees import Degrees, of_any, of_product, of_sum
from wdlab.rules.traced_roles.values import Value

LINEAR = {
    *("neg", "real", "imag", "abs", "copy", "copy_p", "reduce_precision", "broadcast_in_dim"),
    *("reshape", "transpose", "squeeze", "rev", "slice", "reduce_sum", "reduce_max", "reduce_min"),
    *("cumsum", "cummax", "cummin", "reduce_window_sum", "reduce_window_max", "reduce_window_min"),
    *("psum", "psum_invariant", "pmax", "pmin", "all_gather", "ppermute", "all_to_all"),
    *("sharding_constraint", "reshard", "pvary", "device_put", "optimization_barrier"),
    *("reduce_scatter", "expand_dims", "split", "stop_gradient", "mesh_cast", "conj"),
}  # fmt: skip
_SUMS = {"add", "sub", "add_any", "max", "min", "concatenate", "pad", "clamp", "stack"}
_POWERS = {
    "square": Fraction(2),
    "sqrt": Fraction(1, 2),
    "rsqrt": Fraction(-1, 2),
    "cbrt": Fraction(1, 3),
    "sign": Fraction(0),
    "is_finite": Fraction(0),
    "argmax": Fraction(0),
    "argmin": Fraction(0),
}
_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge", "atan2"}
# Linear in the first operands, so many; the others are indices.
_INDEXED = {
    "gather": 1,
    "dynamic_slice": 1,
    "dynamic_update_slice": 2,
    "scatter": (0, 2),
    "scatter_add": (0, 2),
    "scatter-add": (0, 2),
}
_PRODUCTS = {"mul", "dot_general", "conv_general_dilated", "ragged_dot", "ragged_dot_general"}


def degrees_of(
    name: str, params: dict[str, Any], operands: Sequence[Value], to_float: bool
) -> tuple[list[Degrees], float]:
    """Degrees per result (the last one serves for all that follow) and the epsilon left out.

    >>> from wdlab.rules.traced_roles.values import weight
    >>> degrees_of("square", {}, [weight(0, 1)], True)[0][0].powers[0]
    Fraction(2, 1)
    """
    degrees = [operand.degrees for operand in operands]
    if name in _PRODUCTS:
        found = of_product(degrees[0], degrees[1])
        return [of_product(found, of_any(degrees[2:]))], 0.0
    if name == "div":
        return [of_product(degrees[0], degrees[1].power(-1))], 0.0
    if name in LINEAR or (name == "convert_element_type" and to_float):
        return degrees, 0.0
    if name in _SUMS:
        found, epsilon = of_sum([(o.degrees, o.number) for o in operands])
        return [found], epsilon
    if name == "select_n":
        which, *cases = operands
        found, epsilon = of_sum([(o.degrees, o.number) for o in cases])
        return [of_product(found, of_any([which.degrees]))], epsilon
    if name in _COMPARISONS:
        found, epsilon = of_sum([(o.degrees, o.number) for o in operands])
        return [found.power(0)], epsilon
    if name in _INDEXED:
        return _indexed(_INDEXED[name], operands)
    exponent = _exponent(name, params, operands)
    if exponent is not None:
        return [degrees[0].power(exponent)], 0.0
    if name in ("top_k", "sort") and len(operands) == 1:
        return [degrees[0], degrees[0].power(0)], 0.0
    return [of_any(degrees)], 0.0


def _indexed(which: Any, operands: Sequence[Value]) -> tuple[list[Degrees], float]:
    linear = range(which) if isinstance(which, int) else which
    values = [operands[n] for n in linear if n < len(operands)]
    others = [o.degrees for n, o in enumerate(operands) if n not in linear]
    found, epsilon = of_sum([(o.degrees, o.number) for o in values])
    return [of_product(found, of_any(others))], epsilon


def _exponent(name: str, params: dict[str, Any], operands: Sequence[Value]) -> Fraction | None:
    if name in _POWERS:
        return _POWERS[name]
    if name == "integer_pow":
        return Fraction(params["y"])
    if name == "pow" and operands[1].number is not None and math.isfinite(operands[1].number):
        return Fraction(operands[1].number).limit_denominator(64)
    return None
