"""One parameter group, as data, and which group each leaf is in."""

import functools
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import numpy as np

from wdlab._core.checks import check_number
from wdlab._core.names import first_few
from wdlab.rules import (
    Ndim,
    Rule,
    compile_pattern,
    leaves_with_paths,
    nearest_path,
    parameters,
    scale_value,
)
from wdlab.schedules import ScalarOrSchedule, value_at

PyTree = Any


@dataclass(frozen=True)
class Group:
    r"""One parameter group: the leaves whose path matches, and what is different for them.

    Args:
      pattern: A regular expression that must match the whole path (``re.fullmatch``).
      learning_rate_scale: Float >= 0 that multiplies the base learning rate, schedule included:
        what a torch scheduler does to a group with its own ``lr``.
      learning_rate: The group's own number or schedule instead; the base schedule then does not
        reach it. A schedule needs its ``.peak`` under the coupling "schedule".
      decay_scale: Float >= 0 that multiplies the scale that the rules give.
      frozen: Whether the leaves stay as they are, to the bit, and have no optimizer state.
      ndim: A rank, or a (low, high) pair of ranks, that the leaf must have as well.
      optional: Whether :func:`check_groups` lets the group match nothing.
      name: For tables and messages; the pattern if empty.
      layers_beyond: Makes a leaf of the group an error: the model has more than this many layers.
        The pattern has ``(?P<layer>\d+)`` where a layer's number is (:func:`layerwise` ends so).

    Raises:
      TypeError, ValueError: If an argument is not as above, or two of them contradict.

    >>> Group("(.*/)?lora_.*", learning_rate=5e-4, decay_scale=0.0).decay_scale
    0.0
    """

    pattern: str
    _: KW_ONLY
    learning_rate_scale: float = 1.0
    learning_rate: ScalarOrSchedule | None = None
    decay_scale: float = 1.0
    frozen: bool = False
    ndim: Ndim = None
    optional: bool = False
    name: str = ""
    layers_beyond: int | None = None

    def __post_init__(self):
        try:
            self.rule  # noqa: B018  Refuses a bad pattern now.
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace("Rule:", "Group:")) from None
        for name in ("learning_rate_scale", "decay_scale"):
            what = f"{name} of Group({self.pattern!r})"
            object.__setattr__(self, name, scale_value(getattr(self, name), what))
        own = self.learning_rate is not None
        if own:
            what = f"learning_rate of Group({self.pattern!r})"
            check_number(what, self.learning_rate, schedule=True)
        if own and self.learning_rate_scale != 1.0:
            raise ValueError(
                f"Group({self.pattern!r}) has a learning_rate and a learning_rate_scale of "
                f"{self.learning_rate_scale:g}; give one of the two."
            )
        if self.frozen and (own or self.learning_rate_scale != 1.0 or self.decay_scale != 1.0):
            raise ValueError(
                f"Group({self.pattern!r}) is frozen: its learning rate and decay would do nothing. "
                "Leave them out, or write frozen=False."
            )

    @functools.cached_property
    def rule(self) -> Rule:
        """The pattern and rank, as rules match them."""
        return Rule(self.pattern, ndim=self.ndim)

    def __str__(self) -> str:
        """The name, or the pattern as it is written."""
        return f"group {self.name!r}" if self.name else f"Group({self.pattern!r})"

    def rate(self, base: ScalarOrSchedule, count: Any) -> Any:
        """Returns the learning rate of the group's leaves at a step count.

        >>> Group(".*", learning_rate_scale=0.5).rate(0.1, 0)
        0.05
        """
        if self.learning_rate is not None:
            return value_at(self.learning_rate, count)
        return self.learning_rate_scale * value_at(base, count)


class Assignment(NamedTuple):
    """Which group a leaf is in."""

    path: str
    leaf: Any
    group: Group


def normalize_groups(groups: Any) -> tuple[Group, ...]:
    """Returns ``groups`` as a tuple, refusing what is no :class:`Group`.

    >>> normalize_groups([Group(".*")])[0].pattern
    '.*'
    """
    if isinstance(groups, Group):
        raise TypeError(f"groups must be a tuple, got one Group. Write groups=({groups!r},).")
    others = [groups]
    if isinstance(groups, tuple | list):
        others = [group for group in groups if not isinstance(group, Group)]
    if others:
        raise TypeError(
            f"groups must be a tuple of Group, got {others[0]!r}. Write for instance "
            "groups=(Group('head/.*', learning_rate_scale=10.0), Group('.*'))."
        )
    return tuple(groups)


def assign_groups(params: PyTree, groups: tuple[Group, ...]) -> list[Assignment]:
    """Finds the group of every leaf, in the order of ``jax.tree.leaves(params)``.

    Args:
      params: Pytree of arrays, or of anything with a shape.
      groups: The first whose pattern (and rank) matches wins.

    Raises:
      TypeError: If ``groups`` is no tuple of :class:`Group`.
      ValueError: If a leaf is in no group, or in one for layers that there should not be.

    >>> groups = (Group("head/.*", learning_rate_scale=10.0), Group(".*"))
    >>> [a.group.learning_rate_scale for a in assign_groups({"body": 0.0, "head": [0.0]}, groups)]
    [1.0, 10.0]
    """
    groups = normalize_groups(groups)
    assigned, left = [], []
    for path, leaf in leaves_with_paths(params):
        group = next((g for g in groups if g.rule.matches(path, np.ndim(leaf))), None)
        if group is None:
            left.append(path)
        else:
            assigned.append(Assignment(path, leaf, group))
    if left:
        raise ValueError(
            f"{len(left)} parameter(s) are in none of the {len(groups)} groups: "
            f"{first_few(left)}. End the groups with Group('.*') for the rest."
        )
    if any(a.group.layers_beyond is not None for a in assigned):
        raise ValueError(_other_layers([a.path for a in assigned], groups))
    return assigned


def _other_layers(paths: list[str], groups: tuple[Group, ...]) -> str:
    """Says if the layers are not those that :func:`layerwise` was given; else ''."""
    beyond = next((group for group in groups if group.layers_beyond is not None), None)
    if beyond is None or beyond.layers_beyond is None:
        return ""
    matches = (compile_pattern(beyond.pattern).fullmatch(path) for path in paths)
    found = {int(match["layer"]) for match in matches if match}
    if found == set(range(beyond.layers_beyond)):
        return ""
    numbers = first_few([str(number) for number in sorted(found)])
    return (
        f"found {len(found)} layers{numbers and f' ({numbers})'}, num_layers says "
        f"{beyond.layers_beyond} (from 0). Correct num_layers, or write layers=, the pattern of a "
        f"layer's leaves with {{layer}} for its number; the first path is {paths[0]!r}."
    )


def check_groups(params: PyTree, groups: tuple[Group, ...], *, wrt: Any = None) -> None:
    """Raises unless every group has a leaf: the guard against a misspelt pattern.

    Args:
      params: The whole model's parameters, or a Flax nnx model.
      groups: As in :func:`assign_groups`.
      wrt: What is trained of an nnx model, as in :func:`wdlab.decay_scales`.

    Raises:
      ValueError: If a group that is not ``optional`` has no leaf, or the layers are not those of
        :func:`layerwise`.

    >>> check_groups({"head": 0.0}, (Group("haed"), Group(".*")))
    Traceback (most recent call last):
    ValueError: Group('haed') has no parameter; the nearest path is 'head'. ...
    """
    for message in idle_groups(parameters(params, wrt), groups):
        raise ValueError(message)


def idle_groups(params: PyTree, groups: tuple[Group, ...]) -> list[str]:
    """Returns one message per group that has no leaf although it should.

    >>> idle_groups({"head": 0.0}, (Group("head"), Group(".*")))
    []
    """
    assigned = assign_groups(params, groups)
    used = {id(assignment.group) for assignment in assigned}
    paths = [assignment.path for assignment in assigned]
    layers = _other_layers(paths, groups)
    return [layers] * bool(layers) + [
        f"{group} has no parameter; the nearest path is {nearest_path(group.pattern, paths)!r}. "
        "Correct the pattern, move the group before the one that takes its leaves, or write "
        "optional=True."
        for group in normalize_groups(groups)
        if id(group) not in used and not group.optional and group.pattern != ".*"
    ]
