"""Abstract values: what is known of an array in the traced loss without computing it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from fractions import Fraction

from wdlab.rules.traced_roles.degrees import INDEPENDENT, Degrees, of_sum

FEATURE, DATA = "feature", "data"  # What a dimension of an activation comes from.
Axes = frozenset[int]
NONE: Axes = frozenset()
Tags = frozenset[str]
NO_TAGS: Tags = frozenset()


class Kind(IntEnum):
    """What a value is made of; the larger wins where two are put together."""

    CONSTANT = 0
    WEIGHTS = 1
    ACTIVATION = 2


@dataclass(frozen=True)
class Carrier:
    """A leaf in a value that is made of weights alone."""

    leaf: int
    axes: tuple[Axes, ...]  # Per dimension of the value the leaf's axes that run along it.
    inner: Axes = NONE  # Axes that were summed over in a product with other weights.
    reduced: bool = False  # Summed up: a penalty, a norm.
    looked_up: bool = False  # Rows taken by constant indices: positions.

    @property
    def along(self) -> Axes:
        """All of the leaf's axes that the value still has."""
        return NONE.union(*self.axes)


@dataclass(frozen=True)
class Shift:
    """A value's degrees up to an added term that is constant along dimensions."""

    rest: Degrees
    along: frozenset[int]


@dataclass(frozen=True)
class Statistic:
    """That a value is a mean, or what a mean is made of, of another one."""

    kind: str  # "square", "sum", "sum of squares", "mean", "mean of squares", ...
    token: object  # Of the other value.
    shift: Shift | None  # Of the other value.
    axes: frozenset[int] = NONE
    count: int = 0


@dataclass(frozen=True)
class Value:
    """What is known of one array.

    ``marks`` are facts that hold for the whole array: ``normalized`` (divided by a root of a
    statistic), ``root``, ``of a product`` (nothing but sums and norms since a product with
    weights), ``one-hot``, ``iota``, ``noise``.
    """

    kind: Kind = Kind.CONSTANT
    tags: tuple[Tags, ...] = ()  # Per dimension: FEATURE, DATA.
    carriers: tuple[Carrier, ...] = ()
    degrees: Degrees = INDEPENDENT
    live: int = 0  # Leaves that a gradient reaches through it.
    products: int = 0  # Leaves in whose products it has its origin.
    scaled: int = 0  # Scales that nothing but sums with weights came after.
    gated: int = 0  # Weights that it was multiplied by just now.
    marks: frozenset[str] = field(default_factory=frozenset)
    number: float | None = None  # A constant whose entries are all this.
    constant_along: frozenset[int] = NONE  # Dimensions along which all entries are equal.
    shift: Shift | None = None
    statistic: Statistic | None = field(default=None, compare=False)
    token: object = field(default_factory=object, compare=False)  # Equal tokens, equal entries.


def constant(ndim: int, number: float | None = None, *marks: str) -> Value:
    """A constant of so many dimensions.

    >>> constant(1, 0.0).number
    0.0
    """
    return Value(tags=(NO_TAGS,) * ndim, number=number, marks=frozenset(marks))


def activation(ndim: int, *marks: str) -> Value:
    """An input of the loss that is no parameter.

    >>> activation(2).kind.name
    'ACTIVATION'
    """
    tags = (frozenset({DATA}),) * ndim
    return Value(kind=Kind.ACTIVATION, tags=tags, marks=frozenset(marks))


def weight(leaf: int, ndim: int) -> Value:
    """A leaf of the parameters.

    >>> weight(3, 2).carriers[0].axes
    (frozenset({0}), frozenset({1}))
    """
    carrier = Carrier(leaf, tuple(frozenset({axis}) for axis in range(ndim)))
    return Value(
        kind=Kind.WEIGHTS,
        tags=(frozenset({FEATURE}),) * ndim,
        carriers=(carrier,),
        degrees=Degrees({leaf: Fraction(1)}),
        live=1 << leaf,
    )


def merged(carriers: Sequence[Carrier]) -> tuple[Carrier, ...]:
    """One carrier per leaf.

    >>> len(merged(weight(0, 1).carriers * 2))
    1
    """
    found: dict[int, Carrier] = {}
    for carrier in carriers:
        other = found.get(carrier.leaf)
        if other is not None:
            carrier = Carrier(
                carrier.leaf,
                tuple(a | b for a, b in zip(carrier.axes, other.axes, strict=True)),
                carrier.inner | other.inner,
                carrier.reduced and other.reduced,
                carrier.looked_up or other.looked_up,
            )
        found[carrier.leaf] = carrier
    return tuple(found.values())


def joined(first: Value, second: Value) -> Value:
    """What is known of a value that is one or the other, as after a branch.

    >>> joined(constant(1, 0.0), activation(1)).kind.name
    'ACTIVATION'
    """
    if first == second:
        return replace(first, shift=None, statistic=None, token=object())
    kind = max(first.kind, second.kind)
    pairs = zip(first.tags, second.tags, strict=True)
    same = first.number is not None and first.number == second.number
    marks = first.marks & second.marks
    if Kind.CONSTANT in (first.kind, second.kind) and first.kind != second.kind:
        marks = max(first, second, key=lambda value: value.kind).marks & {"noise"}
    return Value(
        kind=kind,
        tags=tuple(a | b for a, b in pairs),
        carriers=merged([*first.carriers, *second.carriers]) if kind == Kind.WEIGHTS else (),
        degrees=of_sum([(first.degrees, first.number), (second.degrees, second.number)])[0],
        live=first.live | second.live,
        products=first.products | second.products,
        scaled=first.scaled & second.scaled,
        marks=marks,
        number=first.number if same else None,
    )


def without_first_dimension(value: Value) -> Value:
    """One of the slices along the first dimension.

    >>> without_first_dimension(weight(0, 2)).carriers[0].axes
    (frozenset({1}),)
    """
    carriers = tuple(replace(c, axes=c.axes[1:]) for c in value.carriers)
    return _reshaped(value, value.tags[1:], carriers)


def with_first_dimension(value: Value, tag: Tags) -> Value:
    """The slices put together along a new first dimension.

    >>> with_first_dimension(weight(0, 1), NO_TAGS).carriers[0].axes
    (frozenset(), frozenset({0}))
    """
    carriers = tuple(replace(c, axes=(NONE, *c.axes)) for c in value.carriers)
    return _reshaped(value, (tag, *value.tags), carriers)


def _reshaped(value: Value, tags: tuple[Tags, ...], carriers: tuple[Carrier, ...]) -> Value:
    """With other dimensions: what is known by dimension is lost."""
    return replace(
        value,
        tags=tags,
        carriers=carriers,
        constant_along=NONE,
        shift=None,
        statistic=None,
        token=object(),
    )
