"""Published coefficients of the Newton-Schulz iteration, by name and step."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from wdlab._core.checks import check_whole
from wdlab._core.names import nearest

Triple = tuple[float, float, float]
Coefficients = str | Sequence[Triple]


class CoefficientSet(NamedTuple):
    """Coefficients (a, b, c) by step, and how they are meant to be used."""

    triples: tuple[Triple, ...]
    steps: int  # As its authors use it.
    cycled: bool = False  # Beyond the last triple: from the first again, or the last for ever.
    safety: float = 1.0  # What the norm is multiplied by.


_JORDAN = (3.4445, -4.7750, 2.0315)
# Numbers as published, none fitted here. Emerging-Optimizers is at fd77292, dion at 0a059a4.
COEFFICIENTS = {
    # Keller Jordan, KellerJordan/Muon@857d1ad: torch.optim.Muon, Optax, Moonlight.
    "jordan": CoefficientSet((_JORDAN,), 5),
    # You Jiacheng's, by step; "dion" in optax.contrib, "quintic" in Emerging-Optimizers.
    "jiacheng": CoefficientSet(
        (
            (4.0848, -6.8946, 2.9270),
            (3.9505, -6.3029, 2.6377),
            (3.7418, -5.5913, 2.3037),
            (2.8769, -3.1427, 1.2046),
            (2.8366, -3.0525, 1.2012),
        ),
        5,
        cycled=True,
    ),
    # Amsel et al., arXiv 2505.16932, for five steps, safety 2e-2, cushion 2: dion and
    # modded-nanogpt@f411b3d; nanochat@92d63d4 with a safety of 1.01.
    "polar_express": CoefficientSet(
        (
            (8.156554524902461, -22.48329292557795, 15.878769915207462),
            (4.042929935166739, -2.808917465908714, 0.5000178451051316),
            (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
            (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
            (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
        ),
        5,
        safety=1.02,
    ),
    # The paper's own list of eight with a safety of 1.01 inside, as in Emerging-Optimizers.
    "polar_express_8": CoefficientSet(
        (
            (8.2051, -22.9019, 16.4607),
            (4.0664, -2.8612, 0.5184),
            (3.9096, -2.8234, 0.5250),
            (3.2856, -2.4153, 0.4853),
            (2.2779, -1.6198, 0.3985),
            (1.8726, -1.2307, 0.3585),
            (1.8564, -1.2132, 0.3568),
            (1.8750, -1.2500, 0.3750),
        ),
        8,
    ),
    # Grishina et al., arXiv 2506.10935, as in Emerging-Optimizers.
    "cans": CoefficientSet(
        (
            (8.4703, -25.1081, 18.6293),
            (4.1828, -3.1087, 0.5806),
            (3.9619, -2.9541, 0.5630),
            (3.2866, -2.4647, 0.5074),
            (2.2737, -1.6447, 0.4162),
        ),
        5,
    ),
    # For normalization="aol": flash-newton-schulz, as in Emerging-Optimizers, which divides by the
    # Frobenius norm all the same. Their first step maps 1 to -0.59: a gradient of rank one is
    # turned round, and climbed. dion's four have no such fault.
    "aol": CoefficientSet(
        (
            (4.0098, -7.0585, 2.4635),
            (3.4585, -5.5479, 2.5959),
            (2.7573, -3.2939, 1.4254),
            (2.7215, -3.0494, 1.3169),
        ),
        4,
        cycled=True,
    ),
    "aol_dion": CoefficientSet(
        (
            (4.6051, -9.6552, 5.6769),
            (4.7505, -6.0861, 2.1790),
            (2.7763, -2.3190, 0.5523),
            (2.4231, -2.2861, 0.8193),
        ),
        4,
    ),
    # DeepSeek V4, as in Emerging-Optimizers: eight steps of Jordan's, two that converge.
    "deepseek_v4": CoefficientSet((*(_JORDAN,) * 8, *((2.0, -1.5, 0.5),) * 2), 10),
    # arXiv 2606.00371, as in Emerging-Optimizers: no second product, c = 0.
    "cubic5": CoefficientSet(
        (
            (3.3656576, -3.3420992, 0.0),
            (2.5744352, -1.4957376, 0.0),
            (2.5368962, -1.4312570, 0.0),
            (2.4418906, -1.2764040, 0.0),
            (2.2230472, -0.9630650, 0.0),
        ),
        5,
    ),
    # The textbook's two, which converge to 1 from (0, sqrt 3) and (0, 1.5].
    "cubic": CoefficientSet(((1.5, -0.5, 0.0),), 12),
    "quintic": CoefficientSet(((1.875, -1.25, 0.375),), 12),
}


def coefficients_by_step(
    coefficients: Coefficients, steps: int | None
) -> tuple[tuple[Triple, ...], float]:
    """Returns one triple a step, and the factor of the norm that they are made for.

    Raises:
      ValueError: If the name is unknown, or the triples are none or too few.

    >>> coefficients_by_step("jordan", 2)
    (((3.4445, -4.775, 2.0315), (3.4445, -4.775, 2.0315)), 1.0)
    """
    if steps is not None:
        check_whole("steps", steps)
    if isinstance(coefficients, str):
        if coefficients not in COEFFICIENTS:
            raise ValueError(
                f"coefficients={coefficients!r} is unknown; the nearest is "
                f"{nearest(coefficients, COEFFICIENTS)!r}. Choices: {', '.join(COEFFICIENTS)}; or "
                "triples (a, b, c), one a step."
            )
        known = COEFFICIENTS[coefficients]
    else:
        known = _own_set(coefficients, steps)
    count, triples = known.steps if steps is None else steps, known.triples
    last = len(triples) - 1
    chosen = (k % len(triples) if known.cycled else min(k, last) for k in range(count))
    return tuple(triples[k] for k in chosen), known.safety


def _own_set(coefficients: Sequence[Triple], steps: int | None) -> CoefficientSet:
    table = np.asarray(coefficients, np.float64)
    table = table[None] if table.shape == (3,) else table
    if table.ndim != 2 or table.shape[1:] != (3,) or not len(table) or not np.isfinite(table).all():
        raise ValueError(f"coefficients must be finite triples (a, b, c), got {coefficients!r}.")
    if steps is not None and 1 < len(table) < steps:
        raise ValueError(
            f"coefficients has {len(table)} triples for {steps} steps. Give one a step, or one for "
            "all."
        )
    triples = tuple((float(a), float(b), float(c)) for a, b, c in table)
    return CoefficientSet(triples, len(triples) if len(triples) > 1 else 5)
