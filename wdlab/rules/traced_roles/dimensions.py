"""Where each dimension of a primitive's result comes from."""

from collections.abc import Sequence
from typing import Any

# (number of the operand, dimension of it)
Source = tuple[int, int]
Sources = list[tuple[Source, ...]]

_REDUCTIONS = {"argmax", "argmin", "reduce_precision"} | {
    f"reduce_{name}" for name in ("sum", "max", "min", "prod", "and", "or", "xor")
}
# The result has the dimensions of the first operand.
SHAPED_LIKE_FIRST = {
    *("slice", "rev", "pad", "dynamic_slice", "dynamic_update_slice", "sort", "top_k", "split"),
    *("cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp", "reduce_window", "approx_top_k"),
    *("reduce_window_max", "reduce_window_min", "reduce_window_sum", "scatter", "scatter-add"),
    *("scatter_mul", "scatter_min", "scatter_max", "all_gather", "ppermute", "all_to_all"),
}  # fmt: skip


def sources(name: str, params: dict[str, Any], shapes: Sequence[tuple], out: tuple) -> Sources:
    """Per dimension of the result the dimensions of the operands that run along it.

    Of a primitive that is not known every dimension comes from all.

    Args:
      name: The primitive's.
      params: Its parameters.
      shapes: The operands' shapes.
      out: The result's shape.

    >>> sources("transpose", {"permutation": (1, 0)}, [(2, 3)], (3, 2))
    [((0, 1),), ((0, 0),)]
    """
    find = _KNOWN.get(name)
    if find is not None:
        return find(params, shapes, out)
    if name in _REDUCTIONS and "axes" in params:
        kept = [d for d in range(len(shapes[0])) if d not in params["axes"]]
        return [((0, d),) for d in kept]
    if name in SHAPED_LIKE_FIRST and len(shapes[0]) == len(out):
        return [((0, d),) for d in range(len(out))]
    if all(shape in ((), out) or _fits(shape, out) for shape in shapes):
        return _aligned(params, shapes, out)
    every = tuple((n, d) for n, shape in enumerate(shapes) for d in range(len(shape)))
    return [every] * len(out)


def _fits(shape: tuple, out: tuple) -> bool:
    pairs = zip(shape, out, strict=False)
    return len(shape) == len(out) and all(a in (1, b) for a, b in pairs)


def _aligned(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    """Of an elementwise primitive; a dimension of size 1 is repeated."""
    return [
        tuple(
            (n, d) for n, shape in enumerate(shapes) if len(shape) == len(out) and shape[d] == size
        )
        for d, size in enumerate(out)
    ]


def _broadcast(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    found: Sources = [()] * len(out)
    for d, target in enumerate(params["broadcast_dimensions"]):
        if shapes[0][d] == out[target]:
            found[target] = ((0, d),)
    return found


def _reshape(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    """Dimensions in the order of memory, in the smallest groups of equal size on both sides."""
    found: Sources = [()] * len(out)
    left = [d for d, size in enumerate(shapes[0]) if size != 1]
    right = [d for d, size in enumerate(out) if size != 1]
    while left and right:
        ins, outs = [left.pop(0)], [right.pop(0)]
        a, b = shapes[0][ins[0]], out[outs[0]]
        while a != b and (left if a < b else right):
            if a < b:
                ins.append(left.pop(0))
                a *= shapes[0][ins[-1]]
            else:
                outs.append(right.pop(0))
                b *= out[outs[-1]]
        for d in outs:
            found[d] = tuple((0, i) for i in ins)
    return found


def _transpose(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    return [((0, d),) for d in params["permutation"]]


def _squeeze(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    return [((0, d),) for d in range(len(shapes[0])) if d not in params["dimensions"]]


def _concatenate(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    return [tuple((n, d) for n in range(len(shapes))) for d in range(len(out))]


def _gather(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    numbers = params["dimension_numbers"]
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    windows = iter(d for d in range(len(shapes[0])) if d not in gone)
    found: Sources = []
    index = 0
    for d in range(len(out)):
        if d in numbers.offset_dims:
            found.append(((0, next(windows)),))
            continue
        batching = numbers.start_indices_batching_dims
        also = (
            ((0, numbers.operand_batching_dims[batching.index(index)]),)
            if index in batching
            else ()
        )
        found.append(((1, index), *also))
        index += 1
    return found


def _dot(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    (left, right), (left_batch, right_batch) = params["dimension_numbers"]
    found: Sources = [((0, a), (1, b)) for a, b in zip(left_batch, right_batch, strict=True)]
    for n, (summed, batch) in enumerate(((left, left_batch), (right, right_batch))):
        free = [d for d in range(len(shapes[n])) if d not in (*summed, *batch)]
        found += [((n, d),) for d in free]
    return found


def _ragged_dot(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    """A row's group says which matrix of the stack it meets."""
    numbers = params.get("ragged_dot_dimension_numbers")
    if numbers is None:  # An older form: (rows, in) times (groups, in, out).
        return [((0, 0),), ((1, 2),)]
    (left, right), (left_batch, right_batch) = numbers.dot_dimension_numbers
    found: Sources = [((0, a), (1, b)) for a, b in zip(left_batch, right_batch, strict=True)]
    found += [((0, d),) for d in range(len(shapes[0])) if d not in (*left, *left_batch)]
    gone = (*right, *right_batch, *numbers.rhs_group_dimensions)
    found += [((1, d),) for d in range(len(shapes[1])) if d not in gone]
    return found if len(found) == len(out) else [()] * len(out)


def _convolution(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    numbers = params["dimension_numbers"]
    found: Sources = [()] * len(out)
    for n, (target, source) in enumerate(zip(numbers.out_spec, numbers.lhs_spec, strict=True)):
        found[target] = ((1, numbers.rhs_spec[0]),) if n == 1 else ((0, source),)
    return found


def _none(params: Any, shapes: Sequence[tuple], out: tuple) -> Sources:
    return [()] * len(out)


_KNOWN = {
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "concatenate": _concatenate,
    "gather": _gather,
    "dot_general": _dot,
    "ragged_dot": _ragged_dot,
    "ragged_dot_general": _ragged_dot,
    "conv_general_dilated": _convolution,
    "iota": _none,
    "random_bits": _none,
    "random_seed": _none,
    "random_wrap": _none,
    "threefry2x32": _none,
}
