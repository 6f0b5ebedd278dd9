"""What a compiled program sends between devices, and what it multiplies."""

import math
import re
from typing import Any

_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|ragged-all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf"= (.*?) ({_KINDS})(-start)?\(.*channel_id=(\d+)")
_SHAPE = re.compile(r"\b(pred|[a-z]+?(\d+)[a-z0-9]*)\[([\d,]*)\]")
_HEAD = re.compile(r"^(?:ENTRY )?%([\w.-]+) \(.*\{$")
_WHILE = re.compile(r" while\(.*condition=%([\w.-]+), body=%([\w.-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|branch_computations|called_computations)=\{?((?:%[\w.-]+(?:, )?)+)"
)


def collectives(text: str) -> dict[str, tuple[int, float]]:
    """What each device sends while an XLA program runs once.

    Args:
      text: Of the compiled program, ``compiled.as_text()``.

    Returns:
      Kind -> (how many of them run, bytes that one device sends), those in loops counted as often
      as they run. Of n devices, with s the bytes of the result, each sends (n - 1)/n s in a gather
      or an exchange, 2 (n - 1)/n s in a sum that all get, (n - 1) s in one that is scattered, s in
      a permutation: the ring algorithms.

    Example:
      >>> collectives('''ENTRY %main (p: f32[4]) -> f32[16] {
      ...   ROOT %g = f32[16]{0} all-gather(%p), channel_id=1, replica_groups={{0,1,2,3}}
      ... }''')
      {'all-gather': (1, 48.0)}
    """
    bodies = _computations(text)
    times = _times(bodies)
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for name, lines in bodies.items():
        for line in lines:
            match = _COLLECTIVE.search(line)
            if match:  # One that overlaps with others appears in several of their computations.
                result, kind, started, channel = match.groups()
                size = _result_bytes(result, bool(started))
                before = found.get((kind, channel), (0, 0.0))[0]
                n = max(before, times.get(name, 1))
                found[kind, channel] = (n, n * _share(kind, _group_size(line)) * size)
    return {
        kind: (sum(n for (k, _), (n, _) in found.items() if k == kind),
               sum(b for (k, _), (_, b) in found.items() if k == kind))
        for kind in sorted({kind for kind, _ in found})
    }  # fmt: skip


def _computations(text: str) -> dict[str, list[str]]:
    bodies, lines = {}, []
    for line in text.splitlines():
        if head := _HEAD.match(line):
            lines = bodies.setdefault("ENTRY" if line.startswith("ENTRY") else head[1], [])
        else:
            lines.append(line)
    return bodies


def _times(bodies: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs, with the trip counts of the loops around it."""
    times: dict[str, int] = {}

    def visit(name: str, n: int) -> None:
        if times.get(name, 0) >= n:
            return
        times[name] = n
        for line in bodies.get(name, ()):
            if loop := _WHILE.search(line):
                visit(loop[2], n * _trip_count(bodies.get(loop[1], [])))
            for called in _CALLED.findall(line):
                for other in re.findall(r"%([\w.-]+)", called):
                    visit(other, n)

    visit("ENTRY", 1)
    return times


def _trip_count(condition: list[str]) -> int:
    """The constant that the counter is compared with; 1 where there is none."""
    constants = [int(n) for line in condition for n in re.findall(r" constant\((\d+)\)", line)]
    return max(constants, default=1)


def _result_bytes(result: str, started: bool) -> float:
    sizes = []
    for name, bits, dims in _SHAPE.findall(re.sub(r"\{[^{}]*\}", "", result)):
        width = 1 if name == "pred" else int(bits) / 8
        sizes.append(width * math.prod(int(d) for d in dims.split(",") if d))
    return max(sizes) if started else sum(sizes)  # A start has operand and result.


def _group_size(line: str) -> int:
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", mesh[2]))
    if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(iota[1])
    if groups := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return groups[1].count(",") + 1
    return 2


def _share(kind: str, n: int) -> float:
    part = (n - 1) / n
    shares = {"all-reduce": 2 * part, "reduce-scatter": n - 1.0, "collective-permute": 1.0}
    return shares.get(kind, part)


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
