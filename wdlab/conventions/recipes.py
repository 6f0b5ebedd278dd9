"""Published recipes as data: the weight decay in its own convention, and in any other.

Only what the source states is here; None is what it does not state. No source states what its
weight decay is multiplied by except where code was published with it: ``assumed`` says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from wdlab._core.names import nearest
from wdlab.conventions.conversion import convert


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one published model was trained, as far as weight decay and its optimizer go.

    Attributes:
      name: Of the model.
      source: Paper or file, with its link.
      convention: Key of :mod:`wdlab.conventions`; None where the optimizer is not stated.
      assumed: Why that key, where the source does not say what multiplies the decay.
      learning_rate: At its peak; None where not stated.
      schedule: Shape of the learning rate, in words.
      hyperparameters: By the convention's names; None where not stated.
      weight_decay: In the convention's unit; None where not stated.
      clip_norm: Global norm that gradients are clipped to; None where not stated.
      notes: What else to know.

    >>> get("nanoGPT").weight_decay
    0.1
    """

    name: str
    source: str
    convention: str | None
    assumed: str = ""
    learning_rate: float | None
    schedule: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    weight_decay: float | None
    clip_norm: float | None = None
    notes: str = ""

    def __post_init__(self):
        object.__setattr__(self, "hyperparameters", MappingProxyType(dict(self.hyperparameters)))

    def __str__(self) -> str:
        """All that is stated, as lines of text."""
        lines = {
            "convention": stated(self.convention),
            "assumed": self.assumed,
            "learning rate": f"{stated(self.learning_rate)}; {self.schedule}",
            **{name: stated(value) for name, value in self.hyperparameters.items()},
            "weight decay": stated(self.weight_decay),
            "clip norm": stated(self.clip_norm),
            "source": self.source,
            "notes": self.notes,
        }
        body = [f"{label:13}  {text}" for label, text in lines.items() if text]
        return "\n".join([self.name, *body])

    def weight_decay_in(self, convention: str) -> float:
        """Returns the decay as another convention's number, for the same shrink at the peak.

        Raises:
          ValueError: Where the source does not state the decay, or no number is equal.
        """
        if self.weight_decay is None or self.convention is None or self.learning_rate is None:
            missing = "weight decay" if self.weight_decay is None else "optimizer"
            raise ValueError(f"{self.name}: its source does not state the {missing}.")
        return convert(
            self.weight_decay,
            learning_rate=self.learning_rate,
            source=self.convention,
            target=convention,
        )


def stated(value: object) -> str:
    """A value of a recipe in words.

    >>> stated(0.1), stated(None)
    ('0.1', 'not stated')
    """
    return "not stated" if value is None else str(value)


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


_DECOUPLED = "decoupled is stated or cited; that the learning rate multiplies it is not"
_LLAMA_SCHEDULE = "2,000 steps of warm-up, cosine to a tenth"

_ALL = (
    Recipe(
        name="GPT-3 175B",
        source="Brown et al. 2020, https://arxiv.org/abs/2005.14165, Appendix B",
        convention="torch.AdamW",
        assumed=_DECOUPLED,
        learning_rate=6e-5,
        schedule="375M tokens of warm-up, cosine to a tenth over 260B tokens",
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.1,
        clip_norm=1.0,
        notes="The smaller models have larger rates, 6e-4 for 125M, and the same decay.",
    ),
    Recipe(
        name="LLaMA 7B",
        source="Touvron et al. 2023, https://arxiv.org/abs/2302.13971, section 2.3 and Table 2",
        convention="torch.AdamW",
        assumed=_DECOUPLED,
        learning_rate=3e-4,
        schedule=_LLAMA_SCHEDULE,
        hyperparameters={"betas": (0.9, 0.95), "eps": None},
        weight_decay=0.1,
        clip_norm=1.0,
        notes="3e-4 for 7B and 13B, 1.5e-4 for 33B and 65B.",
    ),
    Recipe(
        name="LLaMA 2 7B",
        source="Touvron et al. 2023, https://arxiv.org/abs/2307.09288, section 2.2 and Table 1",
        convention="torch.AdamW",
        assumed=_DECOUPLED,
        learning_rate=3e-4,
        schedule=_LLAMA_SCHEDULE,
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-5},
        weight_decay=0.1,
        clip_norm=1.0,
        notes="3e-4 for 7B and 13B, 1.5e-4 for 34B and 70B.",
    ),
    Recipe(
        name="PaLM",
        source="Chowdhery et al. 2022, https://arxiv.org/abs/2204.02311, section 5",
        convention="palm.Adafactor",
        learning_rate=1e-2,
        schedule="1e-2 for 10,000 steps, then 1 / sqrt(step)",
        hyperparameters={"beta1": 0.9, "decay_rate": 0.8},
        weight_decay=1.0,
        clip_norm=1.0,
        notes="The decay is lr**2 itself, which is weight_decay=1.0 of that convention.",
    ),
    Recipe(
        name="T5",
        source="Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.1.2",
        convention="paper.Adafactor",
        learning_rate=1e-2,
        schedule="1 / sqrt(max(step, 10,000)); fine-tuning at a constant 1e-3",
        weight_decay=None,
        notes="No weight decay is stated.",
    ),
    Recipe(
        name="BERT",
        source=(
            "Devlin et al. 2019, https://arxiv.org/abs/1810.04805, Appendix A.2; eps, clipping and "
            "exclusions from https://github.com/google-research/bert, optimization.py"
        ),
        convention="bert.AdamWeightDecayOptimizer",
        learning_rate=1e-4,
        schedule="10,000 steps of warm-up, then linear to zero",
        hyperparameters={"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-6},
        weight_decay=0.01,
        clip_norm=1.0,
        notes="The paper says L2; the code decouples it, and does not correct for bias.",
    ),
    Recipe(
        name="ViT-S/16 big_vision",
        source=(
            "Beyer et al. 2022, https://arxiv.org/abs/2205.01580; "
            "https://github.com/google-research/big_vision, big_vision/configs/vit_s16_i1k.py"
        ),
        convention="big_vision.adam",
        learning_rate=1e-3,
        schedule="10,000 steps of warm-up, cosine to zero",
        hyperparameters={"b1": 0.9, "b2": 0.999, "mu_dtype": "bfloat16"},
        weight_decay=1e-4,
        clip_norm=1.0,
        notes="1e-4 is multiplied by the schedule alone: 0.1 of torch.AdamW. Kernels only.",
    ),
    Recipe(
        name="MPT-7B",
        source=(
            "https://github.com/mosaicml/llm-foundry, scripts/train/yamls/pretrain/mpt-7b.yaml, "
            "the published configuration of that size"
        ),
        convention="composer.DecoupledAdamW",
        learning_rate=1.2e-4,
        schedule="100 steps of warm-up, cosine to a tenth",
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.0,
        clip_norm=1.0,
        notes="The released weights were trained for longer; their exact settings are not stated.",
    ),
    Recipe(
        name="DBRX",
        source="https://github.com/databricks/dbrx, README; trained with LLM Foundry and Composer",
        convention=None,
        learning_rate=None,
        schedule="not stated",
        weight_decay=None,
        notes="Optimizer settings are not published.",
    ),
    Recipe(
        name="nanoGPT",
        source="https://github.com/karpathy/nanoGPT at 3adf61e1, train.py and model.py",
        convention="torch.AdamW",
        learning_rate=6e-4,
        schedule="2,000 steps of warm-up, cosine to a tenth over 600,000 steps",
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.1,
        clip_norm=1.0,
        notes="Leaves of rank 2 and more decay, embeddings included: rules.NANOGPT.",
    ),
    Recipe(
        name="OPT-175B",
        source="Zhang et al. 2022, https://arxiv.org/abs/2205.01068, section 2.2 and Table 1",
        convention="torch.AdamW",
        assumed=_DECOUPLED,
        learning_rate=1.2e-4,
        schedule="2,000 steps of warm-up, linear to a tenth over 300B tokens",
        hyperparameters={"betas": (0.9, 0.95), "eps": None},
        weight_decay=0.1,
        clip_norm=1.0,
        notes="Rate and clipping were changed by hand during the run.",
    ),
    Recipe(
        name="Chinchilla",
        source="Hoffmann et al. 2022, https://arxiv.org/abs/2203.15556, section 4.1 and Table 4",
        convention=None,
        learning_rate=1e-4,
        schedule="cosine to a tenth over the run's own length",
        hyperparameters={"betas": None, "eps": None},
        weight_decay=None,
        notes="AdamW is stated, its decay, betas and epsilon are not.",
    ),
)
_RECIPES = {recipe.name: recipe for recipe in _ALL}
