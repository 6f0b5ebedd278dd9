"""The doctor's report: a verdict, findings, and what each group of leaves does over the run."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from wdlab._core.names import first_few
from wdlab._core.tables import print_table
from wdlab.instruments.diagnosis.examination import Examination, LeafFacts, by_size
from wdlab.instruments.diagnosis.finding import SEVERITIES, Finding
from wdlab.instruments.diagnosis.nearest_convention import nearest_convention, why_untried
from wdlab.instruments.diagnosis.page import page
from wdlab.instruments.rotation import predicted_rotation

_TOO_LONG = 30  # Of a timescale, in runs.
_POINTS = 120  # Of a curve.
_COLORS = {"error": "red", "warning": "yellow", "note": "dim"}


@dataclass(frozen=True)
class Group:
    """Leaves that are treated alike."""

    leaves: tuple[str, ...]
    entries: int
    roles: tuple[str, ...]
    coupling: str
    convention: str  # Of the registry, or the nearest; empty if unknown.
    known_by: str  # "proved", "tested on N steps"; empty where it is the nearest alone.
    differs: str  # The term in which the nearest is another; why there is none, if that is known.
    same_steps: tuple[str, ...]  # Other conventions that take the same steps, as far as tested.
    learning_rate: float | None  # At its largest, as that convention counts it.
    weight_decay: float | None  # As torch.AdamW counts it: shrink / learning rate.
    follows: str  # What the decay is in proportion to: "learning rate", its square, "nothing".
    peak_shrink: float  # Share of a weight that a step takes.
    timescale_steps: float | None
    timescale_tokens: float | None
    timescale_of_run: float | None
    total_shrink: float  # Share of an undriven weight that the run takes.
    rotation: float | None  # Radians per step at equilibrium, of scale-invariant leaves.
    equilibrium_rms: float | None  # Of their entries there.
    steps: tuple[int, ...]
    shrink: tuple[float, ...]
    response: tuple[float, ...]


@dataclass(frozen=True)
class Report:
    """What the doctor found; ``str`` is the text, ``print`` of it the same in colors."""

    findings: tuple[Finding, ...]  # The most important first.
    groups: tuple[Group, ...]
    steps: int
    roles_known: bool

    @property
    def verdict(self) -> str:
        """One line in plain words."""
        counts = {s: sum(f.severity == s for f in self.findings) for s in SEVERITIES}
        counted = [f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts.items() if n]
        if counts["error"] or counts["warning"]:
            return f"{', '.join(counted)}; first of all: {self.findings[0].fault.replace('_', ' ')}"
        if not self.groups:
            return "nothing is measured"
        decaying = [g for g in self.groups if g.peak_shrink]
        if not decaying and any(g.coupling == "unknown" for g in self.groups):
            return "sound as far as it can be measured"
        if not decaying:
            return "sound, and nothing decays"
        share = max(decaying, key=lambda g: g.entries).timescale_of_run
        if share and share > _TOO_LONG:
            return (
                f"sound, but the decay does next to nothing: it looks back over {share:,.0f} runs"
            )
        return f"sound: the decay looks back over {share:.2g} of the run" if share else "sound"

    def __str__(self) -> str:
        """The report as text."""
        console = Console(width=140, no_color=True, force_terminal=False)
        with console.capture() as found:
            self.print(console)
        return found.get().rstrip()

    def print(self, console: Console | None = None) -> None:
        """Prints verdict, findings and the table of groups.

        Args:
          console: Where to; standard output if None.
        """
        out = console or Console()
        out.print(f"verdict: {self.verdict}", markup=False, highlight=False, style="bold")
        for finding in self.findings:
            out.print(str(finding), markup=False, highlight=False, style=_COLORS[finding.severity])
        headings = (
            "leaves", "decays like", "weight decay ", "shrink per step ", "timescale ",
            "of the run ", "rotation ", "rms ",
        )  # fmt: skip
        print_table(headings, [_row(group) for group in self.groups], console=console)
        for group in self.groups:
            out.print(_told(group), markup=False, highlight=False)
        if not self.roles_known:
            out.print(
                "roles are guessed from names: pass loss_fn and batch to know them", style="dim"
            )

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values; what is unknown is None."""
        found = {
            "verdict": self.verdict,
            "steps": self.steps,
            "roles_known": self.roles_known,
            "findings": [asdict(finding) for finding in self.findings],
            "groups": [asdict(group) for group in self.groups],
        }
        return json.loads(json.dumps(found), parse_constant=lambda name: None)

    def html(self) -> str:
        """One page that needs no other file: findings, groups, their decay over the steps."""
        return page(self.as_json())


def _told(group: Group) -> str:
    """Which convention a group's steps are, and how that is known."""
    leaves = first_few(group.leaves, 2)
    if group.known_by:
        how = {"proved": "proved from the traced program"}.get(group.known_by, group.known_by)
        also = f"; the same steps: {first_few(group.same_steps, 4)}" if group.same_steps else ""
        return f"{leaves}: equals {group.convention} ({how}){also}"
    if group.convention:
        return f"{leaves}: nearest {group.convention}; what differs: {group.differs}"
    if group.differs:
        return (
            f"{leaves}: compared with no convention, since it does not run alone: {group.differs}"
        )
    return f"{leaves}: near no convention of the registry"


def groups_of(run: Examination) -> tuple[Group, ...]:
    """The leaves that are treated alike, the largest groups first.

    >>> import jax, optax
    >>> from wdlab.instruments.diagnosis.examination import examine
    >>> run = examine(optax.sgd(0.5), {"w": jax.ShapeDtypeStruct((2,), "float32")}, steps=10)
    >>> groups_of(run)[0].leaves, groups_of(run)[0].convention
    (('w',), 'torch.SGD')
    """
    found: dict[Any, list[LeafFacts]] = {}
    for leaf in run.leaves:
        key = (leaf.coupling, *(_digits(x) for x in (leaf.shrink, leaf.response)))
        found.setdefault(key, []).append(leaf)
    groups = [_group(run, by_size(leaves)) for leaves in found.values()]
    return tuple(sorted(groups, key=lambda group: -group.entries))


def _group(run: Examination, leaves: list[LeafFacts]) -> Group:
    leaf = leaves[0]
    match = nearest_convention(run, leaf)
    exact = match is not None and match.exact
    rates = match.rates if match is not None and exact else None
    decoupled = leaf.coupling == "decoupled" and leaf.peak > 0
    rate = float(np.nanmax(rates)) if rates is not None else None
    strength = None
    if decoupled and match is not None and exact and match.learning_rate:
        strength = leaf.shrink_at(run.busiest_step(leaf)) / match.learning_rate
    rotation = float(predicted_rotation(leaf.peak, match.momentum if match else 0.0))
    normalized = decoupled and rate is not None and run.is_normalized(leaf)
    timescale = leaf.timescale if decoupled else None
    tokens = run.tokens_per_step
    drawn = np.linspace(0, run.steps - 1, _POINTS)
    some = np.unique([*range(2), *np.searchsorted(leaf.steps, drawn)])
    some = some[some < len(leaf.steps)]
    return Group(
        leaves=tuple(x.path for x in leaves),
        entries=sum(x.size for x in leaves),
        roles=tuple(dict.fromkeys(x.role for x in leaves)),
        coupling=leaf.coupling,
        convention=str(match) if match is not None else "",
        known_by=match.how if match is not None else "",
        differs=match.term if match is not None else why_untried(run, leaf),
        same_steps=match.same if match is not None else (),
        learning_rate=rate,
        weight_decay=strength,
        follows=_follows(leaf.shrink, rates) if decoupled and rates is not None else "",
        peak_shrink=leaf.peak,
        timescale_steps=timescale,
        timescale_tokens=timescale * tokens if timescale and tokens else None,
        timescale_of_run=timescale / run.steps if timescale else None,
        total_shrink=leaf.total_shrink,
        rotation=rotation if decoupled else None,
        # Steps of one size: |u| = lr sqrt(n), and |u| / |w| = sqrt(2 shrink).
        equilibrium_rms=rate / math.sqrt(2 * leaf.peak) if normalized and rate else None,
        steps=tuple(map(int, leaf.steps[some])),
        shrink=tuple(map(float, leaf.shrink[some])),
        response=tuple(map(float, leaf.response[some])),
    )


def _digits(values: np.ndarray) -> bytes:
    """Equal for values that differ by rounding alone."""
    largest = np.max(np.abs(np.nan_to_num(values)), initial=0.0) or 1.0
    return (np.round(values / largest, 7) + 0.0).tobytes()


def _follows(shrink: np.ndarray, rates: np.ndarray) -> str:
    """What the decay is in proportion to over the run."""
    # A float32 schedule has no digits left near its end at 0.
    peak = np.max(rates, initial=0.0, where=np.isfinite(rates))
    some = np.isfinite(shrink + rates) & (shrink > 0) & (rates > 1e-4 * peak)
    shrink, rates = shrink[some], rates[some]
    if not some.any() or np.ptp(rates) < 1e-3 * rates.max():
        return "nothing that changes"
    for words, power in (("the learning rate", 1), ("nothing", 0), ("its square", 2)):
        ratio = shrink / rates**power
        if np.ptp(ratio) < 1e-2 * ratio.max():
            return words
    return "a schedule of its own"


def _row(group: Group) -> tuple[str, ...]:
    def number(value: float | None, form: str = ".3g") -> str:
        return "-" if value is None else format(value, form)

    kind = group.convention.split("(")[0] or group.coupling
    kind = kind if group.known_by or not group.convention else f"nearest {kind}"
    if group.coupling == "none":
        kind = f"{kind}, no decay" if group.convention else "no decay"
    return (
        f"{len(group.leaves)} ({group.entries:,}): {first_few(group.leaves, 2)}",
        kind,
        number(group.weight_decay),
        number(group.peak_shrink),
        number(group.timescale_steps, ",.0f"),
        number(group.timescale_of_run),
        number(group.rotation),
        number(group.equilibrium_rms),
    )
