"""Recipes: complete, honest about what is not stated, and buildable in their own convention."""

import jax.numpy as jnp
import pytest

from wdlab import conventions
from wdlab.conventions import recipes

FAMILIES = (
    *("GPT-3", "LLaMA 7B", "LLaMA 2", "PaLM", "T5", "BERT", "ViT", "MPT", "DBRX", "nanoGPT"),
    *("OPT", "Chinchilla", "Llama 3", "DeepSeek V3", "Kimi K2", "Moonlight", "OLMo 2", "OLMo 3"),
    *("SmolLM3", "DiT", "DINOv3", "SigLIP 2", "nanochat", "modded-nanogpt"),
    *("Qwen2.5", "Qwen3", "Gemma 2", "Gemma 3", "Stable Diffusion 3"),
)


def test_every_family_is_there():
    for family in FAMILIES:
        assert any(name.startswith(family) for name in recipes.names()), family


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_builds_in_its_convention(name):
    recipe = recipes.get(name)
    assert "https://" in recipe.source
    if recipe.convention is None:
        with pytest.raises(ValueError, match="does not state"):
            recipe.weight_decay_in("torch.AdamW")
        return
    stated = {key: value for key, value in recipe.hyperparameters.items() if value is not None}
    if recipe.weight_decay is not None:
        stated["weight_decay"] = recipe.weight_decay
    tx = conventions.build(recipe.convention, recipe.learning_rate, **stated)
    params = {"dense": {"kernel": jnp.ones((2, 2))}}
    tx.update(params, tx.init(params), params)


@pytest.mark.parametrize(
    ("name", "target", "number"),
    [
        ("nanoGPT", "composer.DecoupledAdamW", 6e-5),
        ("LLaMA 2 7B", "paper.AdamW", 3e-5),
        ("ViT-S/16 big_vision", "torch.AdamW", 0.1),
        ("PaLM", "torch.AdamW", 0.01),
        ("PaLM", "t5x.Adafactor", 1e-4),
        ("GPT-3 175B", "optax.adamw", 0.1),
        ("MPT-7B", "torch.AdamW", 0.0),
        ("SigLIP 2", "torch.AdamW", 0.1),
        ("DeepSeek V3", "paper.AdamW", 2.2e-5),
        ("Kimi K2", "torch.AdamW", 0.1),
        ("DINOv3 ViT-7B/16", "palm.Adafactor", 100.0),
        ("Qwen2.5-Coder fine-tuning", "composer.DecoupledAdamW", 0.0),
        ("Gemma 3 4B fine-tuning", "torch.AdamW", 0.0),
    ],
)
def test_the_number_elsewhere(name, target, number):
    assert recipes.get(name).weight_decay_in(target) == number


def test_what_is_not_stated_is_not_converted():
    for name in ("T5", "Chinchilla", "DBRX", "Gemma 2", "Stable Diffusion 3 (SD3)"):
        with pytest.raises(ValueError, match="does not state the weight decay"):
            recipes.get(name).weight_decay_in("torch.AdamW")
    with pytest.raises(ValueError, match="does not state the optimizer"):
        recipes.get("Qwen2.5 fine-tuning").weight_decay_in("torch.AdamW")
    assert "weight decay   0.1" in str(recipes.get("Qwen2.5 fine-tuning"))
    assert recipes.get("LLaMA 7B").hyperparameters["eps"] is None
    with pytest.raises(ValueError, match="nearest"):
        recipes.get("lama")
