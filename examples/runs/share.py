"""How much of a run's arrays a process holds: the line that tells it, and what reads the line."""

import re
from typing import Any

import jax

from .errors import UserError

_LINE = "weights, their average and the optimizer's state: {} bytes in a process"


def bytes_here(tree: Any) -> int:
    """What the arrays take on the devices of this process.

    Example:
      >>> bytes_here({"kernel": jax.numpy.zeros((2, 3))})
      24
    """
    leaves = jax.tree.leaves(tree)
    return sum(shard.data.nbytes for leaf in leaves for shard in leaf.addressable_shards)


def share_line(params: Any, opt_state: Any, ema: Any) -> str:
    """What the user reads of it when a run begins.

    Example:
      >>> share_line(jax.numpy.zeros(512), jax.numpy.zeros(512), None)
      "weights, their average and the optimizer's state: 4,096 bytes in a process"
    """
    return _LINE.format(f"{bytes_here((params, opt_state, ema)):,}")


def bytes_told(output: str) -> int:
    """The bytes in what a run has printed.

    Raises:
      UserError: If the line is not there.

    Example:
      >>> bytes_told(share_line(jax.numpy.zeros(512), jax.numpy.zeros(512), None))
      4096
    """
    found = re.search(_LINE.format("([0-9,]+)"), output)
    if found is None:
        raise UserError(f"no line {_LINE.format('...')!r} in what the run printed")
    return int(found[1].replace(",", ""))
