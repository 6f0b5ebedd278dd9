"""What only some versions of the compiler do."""

import jaxlib
import pytest

VERSION = tuple(map(int, jaxlib.__version__.split(".")[:3]))
fuses_norms = pytest.mark.skipif(
    VERSION < (0, 10, 2),
    reason="before, XLA for CPUs copies what is read after its norm",
)
