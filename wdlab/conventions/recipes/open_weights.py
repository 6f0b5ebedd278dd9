"""Recipes of models whose weights were published, but little about their training: data.

Beside a model is the fine-tuning that its authors published, where there is one.
"""

from wdlab.conventions.recipes.recipe import Recipe

_QWEN_2_5 = "Qwen Team 2024, https://arxiv.org/abs/2412.15115, section {}"
_GEMMA_CODE = "https://github.com/google-deepmind/gemma at {}"
_GEMMA_FINE_TUNING = (
    "Batch 32 over 10,000 steps. Optax' Adafactor with all its defaults: no decay; where "
    "weight_decay_rate is set, no learning rate multiplies it."
)

OPEN_WEIGHTS = (
    Recipe(
        name="Stable Diffusion 3 (SD3)",
        source=(
            "Esser et al. 2024, https://arxiv.org/abs/2403.03206, Appendix B.3; eps from section "
            "5.3.2"
        ),
        convention="torch.AdamW",
        assumed="AdamW is stated; that the learning rate multiplies a decay is not",
        learning_rate=1e-4,
        schedule="1,000 steps of linear warm-up; what follows is not stated",
        hyperparameters={"betas": None, "eps": 1e-15},
        weight_decay=None,
        notes=(
            "Rate and warm-up are of the comparison of 61 formulations, batch 1,024. Of the "
            "text-to-image models, batch 4,096 over 500,000 steps, it is stated only that the rate "
            "of the deepest was adjusted at step 300,000. eps is of high resolutions in bfloat16."
        ),
    ),
    Recipe(
        name="Gemma 2",
        source="Gemma Team 2024, https://arxiv.org/abs/2408.00118, sections 3 and 4",
        convention=None,
        learning_rate=None,
        schedule="not stated",
        weight_decay=None,
        notes=(
            "The report names no optimizer and none of its numbers. 13T tokens for 27B, 8T for 9B, "
            "2T for 2B, the smaller two distilled."
        ),
    ),
    Recipe(
        name="Gemma 2 2B fine-tuning",
        source=_GEMMA_CODE.format("80da5b47, examples/next_token_prediction.py"),
        convention="optax.adafactor",
        learning_rate=1e-3,
        schedule="constant, no warm-up",
        weight_decay=0.0,
        notes=_GEMMA_FINE_TUNING,
    ),
    Recipe(
        name="Qwen2.5",
        source=_QWEN_2_5.format("3.2"),
        convention=None,
        learning_rate=None,
        schedule="not stated",
        weight_decay=None,
        notes=(
            "18T tokens. Learning rate and batch size come from the report's own scaling laws, "
            "whose numbers it does not give; the optimizer is not named."
        ),
    ),
    Recipe(
        name="Qwen2.5 fine-tuning",
        source=_QWEN_2_5.format("4.1"),
        convention=None,
        learning_rate=7e-6,
        schedule="falling to 7e-7 in two epochs",
        weight_decay=0.1,
        clip_norm=1.0,
        notes="Supervised fine-tuning. The optimizer is not named: the decay's unit is not known.",
    ),
    Recipe(
        name="Qwen2.5-Coder fine-tuning",
        source=(
            "https://github.com/QwenLM/Qwen2.5-Coder at 186f7370, "
            "finetuning/sft/scripts/sft_qwencoder.sh; the optimizer from "
            "finetuning/sft/configs/default_offload_opt_param.json at 584d297f"
        ),
        convention="torch.AdamW",
        learning_rate=5e-5,
        schedule="100 steps of warm-up, cosine to zero",
        hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8},
        weight_decay=0.0,
        clip_norm=1.0,
        notes=(
            "Three epochs, batch 1,024. Betas, eps and clipping are the defaults of Transformers' "
            "TrainingArguments. The script hands its MIN_LR of 5e-6 to nothing."
        ),
    ),
    Recipe(
        name="Gemma 3",
        source="Gemma Team 2025, https://arxiv.org/abs/2503.19786, sections 1, 2.2 and 2.4",
        convention=None,
        learning_rate=None,
        schedule="not stated",
        weight_decay=None,
        notes=(
            "The report names no optimizer and none of its numbers, and calls the recipe similar "
            "to Gemma 2's. 14T tokens for 27B, 12T for 12B, 4T for 4B, 2T for 1B, all distilled."
        ),
    ),
    Recipe(
        name="Gemma 3 4B fine-tuning",
        source=_GEMMA_CODE.format("1eaf283a, examples/seq2seq.py"),
        convention="optax.adafactor",
        learning_rate=1e-3,
        schedule="constant, no warm-up",
        weight_decay=0.0,
        notes=_GEMMA_FINE_TUNING,
    ),
    Recipe(
        name="Qwen3",
        source="Qwen Team 2025, https://arxiv.org/abs/2505.09388, section 3.2",
        convention=None,
        learning_rate=None,
        schedule="three stages, a faster decay in the second; the numbers are not stated",
        weight_decay=None,
        notes=(
            "36T tokens. Learning rate and batch size come from the report's own scaling laws, "
            "whose numbers it does not give; optimizer and weight decay do not occur in it."
        ),
    ),
)
