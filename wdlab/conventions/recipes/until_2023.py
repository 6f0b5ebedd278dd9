"""Recipes published until 2023: data."""

from wdlab.conventions.recipes.recipe import Recipe

_DECOUPLED = "decoupled is stated or cited; that the learning rate multiplies it is not"
_LLAMA_SCHEDULE = "2,000 steps of warm-up, cosine to a tenth"

UNTIL_2023 = (
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
