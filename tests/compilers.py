"""What only some versions of the compiler do."""

import jax
import pytest

fuses_norms = pytest.mark.skipif(
    jax.__version_info__ < (0, 10, 2),
    reason="before, XLA for CPUs copies what is read after its norm",
)


def after_norms(names, prefixes):
    """All the names as parameters; those that begin so only where norms are fused."""
    return [pytest.param(n, marks=fuses_norms) if n.startswith(prefixes) else n for n in names]
