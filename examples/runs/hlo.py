"""What a compiled program sends between devices, and what it multiplies."""

import math
import re
from typing import Any

from .program import Program
from .traffic import Collective, collectives_of


def collectives(program: Program) -> dict[str, tuple[int, float]]:
    """What each device sends while an XLA program runs once.

    Args:
      program: The compiled one.

    Returns:
      Kind -> (how many of them run, bytes that one device sends), those in loops counted as often
      as they run. Of n devices, with s the bytes of the whole array, each sends (n - 1)/n s in a
      gather, an exchange or a sum that is scattered, twice that in a sum that all get, s in a
      permutation: the ring algorithms.

    Example:
      >>> collectives(Program('''ENTRY %main (p: f32[4]) -> f32[16] {
      ...   ROOT %g = f32[16]{0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}
      ... }'''))
      {'all-gather': (1, 48.0)}
    """
    found: dict[str, tuple[int, float]] = {}
    for sent in collectives_of(program):
        count, size = found.get(sent.kind, (0, 0.0))
        found[sent.kind] = count + sent.times, size + sent.times * sent_bytes(sent)
    return dict(sorted(found.items()))


def sent_bytes(collective: Collective) -> float:
    """Bytes that one device sends in it, by the ring algorithms."""
    opcode, n = collective.instruction.opcode, _group_size(collective.instruction.rest)
    sizes = [array.plain_bytes for array in collective.instruction.arrays]
    size = max(sizes) if opcode.endswith("-start") else sum(sizes)  # A start has its operand too.
    whole = n * size if opcode == "reduce-scatter" else size
    if collective.kind == "collective-permute":
        return whole
    return (2 if collective.kind == "all-reduce" else 1) * (n - 1) / n * whole


def _group_size(rest: str) -> int:
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(iota[1])
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
        return groups[1].count(",") + 1
    return 2


def matmul_flops(jaxpr: Any) -> int:
    """Floating-point operations of the matrix products in a traced program, loops included.

    Args:
      jaxpr: ``jax.jit(f).trace(...).jaxpr`` or ``jax.make_jaxpr(f)(...)``; on a mesh the whole of
        it, not one device's part.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> f = lambda a, xs: jax.lax.scan(lambda c, x: (a @ c, None), xs[0], xs)[0]
      >>> loop = jax.make_jaxpr(f)(jnp.ones((2, 2)), jnp.ones((5, 2, 3)))
      >>> matmul_flops(loop) == 5 * (2 * 2 * 3) * 2
      True
    """
    total = 0
    for eqn in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            size = math.prod(shape[axis] for axis in contracted)
            total += 2 * size * eqn.outvars[0].aval.size
        inner = [
            matmul_flops(part)
            for value in eqn.params.values()
            for part in (value if isinstance(value, (tuple, list)) else (value,))
            if hasattr(getattr(part, "jaxpr", part), "eqns")
        ]
        branches = eqn.primitive.name == "cond"
        total += (max if branches else sum)(inner or [0]) * eqn.params.get("length", 1)
    return total
