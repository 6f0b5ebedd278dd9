"""Published recipes as data: the weight decay in its own convention, and in any other.

Only what the source states is here; None is what it does not state. No source states what its
weight decay is multiplied by except where code was published with it: ``assumed`` says so.
"""

from wdlab._core.names import nearest
from wdlab.conventions.recipes.open_weights import OPEN_WEIGHTS
from wdlab.conventions.recipes.recent import RECENT
from wdlab.conventions.recipes.recipe import Recipe, stated
from wdlab.conventions.recipes.until_2023 import UNTIL_2023

__all__ = ["Recipe", "get", "names", "stated"]
_RECIPES = {recipe.name: recipe for recipe in (*UNTIL_2023, *RECENT, *OPEN_WEIGHTS)}


def names() -> tuple[str, ...]:
    """Returns the names of all recipes.

    >>> "LLaMA 2 7B" in names()
    True
    """
    return tuple(_RECIPES)


def get(name: str) -> Recipe:
    """Returns one recipe.

    Args:
      name: One of :func:`names`, in any case.

    Raises:
      ValueError: If there is none of that name, naming the nearest.

    >>> get("PaLM").convention
    'palm.Adafactor'
    >>> round(get("GPT-3 175B").weight_decay_in("composer.DecoupledAdamW"), 9)
    6e-06
    """
    lowered = {key.lower(): key for key in _RECIPES}
    if name.lower() in lowered:
        return _RECIPES[lowered[name.lower()]]
    raise ValueError(
        f"no recipe {name!r}; the nearest is {nearest(name, _RECIPES)!r}. There are: "
        f"{', '.join(_RECIPES)}."
    )
