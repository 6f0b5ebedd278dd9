"""Recipes published since 2024, and of training scripts that are run by many: data."""

from wdlab.conventions.recipes.recipe import Recipe

_DECOUPLED = "AdamW is stated; that the learning rate multiplies the decay is not"
_OLMO = "https://github.com/allenai/OLMo-core at fa6c5014, src/scripts/{}"
_OLMO_NOTES = (
    "Everything but embeddings.weight decays. The optimizer, SkipStepAdamW, leaves the whole step "
    "out, decay included, where loss or gradient norm are outliers. The tenth is CosWithWarmup's "
    "default, eps the optimizer's."
)
_BETAS = {"betas": (0.9, 0.95), "eps": None}

RECENT = (
    Recipe(
        name="DiT-XL/2",
        source="https://github.com/facebookresearch/DiT at ed81ce22, train.py",
        convention="torch.AdamW",
        learning_rate=1e-4,
        schedule="constant, no warm-up",
        hyperparameters={"betas": (0.9, 0.999), "eps": 1e-8},
        weight_decay=0.0,
        notes="The same for all sizes; betas and eps are torch's defaults; no clipping.",
    ),
    Recipe(
        name="Llama 3 405B",
        source=(
            "Grattafiori et al. 2024, https://arxiv.org/abs/2407.21783, section 3.4.1; the decay "
            "from section 3.2.1, of the scaling law's runs"
        ),
        convention="torch.AdamW",
        learning_rate=8e-5,
        schedule="8,000 steps of warm-up, cosine to 8e-7 over 1,200,000 steps",
        hyperparameters=_BETAS,
        weight_decay=0.1,
        notes=(
            "Section 3.4.1 states no decay. The scaling law's runs decay by 0.1 times the learning "
            "rate of the step: one of few papers that state the multiplier."
        ),
    ),
    Recipe(
        name="DeepSeek V3",
        source="DeepSeek-AI 2024, https://arxiv.org/abs/2412.19437, section 4.2",
        convention="torch.AdamW",
        assumed=_DECOUPLED,
        learning_rate=2.2e-4,
        schedule=(
            "2,000 steps of warm-up, constant until 10T tokens, cosine to 2.2e-5 over 4.3T, "
            "constant for 333B, 7.3e-6 for 167B"
        ),
        hyperparameters=_BETAS,
        weight_decay=0.1,
        clip_norm=1.0,
    ),
    Recipe(
        name="OLMo 2 7B",
        source=_OLMO.format("train/OLMo2/OLMo2-7B.py"),
        convention="torch.AdamW",
        learning_rate=3e-4,
        schedule="2,000 steps of warm-up, cosine to a tenth",
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.1,
        clip_norm=1.0,
        notes=_OLMO_NOTES,
    ),
    Recipe(
        name="OLMo 2 32B",
        source=_OLMO.format("official/OLMo2/OLMo-2-0325-32B-train.py"),
        convention="torch.AdamW",
        learning_rate=6e-4,
        schedule="2,000 steps of warm-up, cosine to a tenth",
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.1,
        clip_norm=1.0,
        notes=_OLMO_NOTES,
    ),
    Recipe(
        name="SigLIP 2",
        source="Tschannen et al. 2025, https://arxiv.org/abs/2502.14786, section 2.1",
        convention="big_vision.adam",
        assumed=(
            "decoupled is stated, what multiplies it is not; in big_vision, where SigLIP was "
            "published, it is the schedule alone"
        ),
        learning_rate=1e-3,
        schedule="20,000 steps of warm-up, cosine",
        hyperparameters={"b1": None, "b2": None},
        weight_decay=1e-4,
        clip_norm=1.0,
        notes="As torch.AdamW's it would be 1,000 times weaker.",
    ),
    Recipe(
        name="Moonlight 16B-A3B",
        source="Liu et al. 2025, https://arxiv.org/abs/2502.16982, section 3.3",
        convention="moonlight.Muon",
        learning_rate=4.2e-4,
        schedule=(
            "2,000 steps of warm-up, cosine to 4.2e-5 at 5.2T tokens, then from 1e-4 linear to "
            "zero over 500B"
        ),
        hyperparameters={"momentum": None, "ns_steps": None},
        weight_decay=0.1,
        notes=(
            "The step is 0.2 sqrt(max(rows, columns)) times the learning rate, the decay is not. "
            "The published class' defaults are momentum 0.95, 5 iterations."
        ),
    ),
    Recipe(
        name="SmolLM3 3B",
        source=(
            "https://github.com/huggingface/smollm at a0417598, "
            "text/pretraining/smollm3/stage1_8T.yaml"
        ),
        convention="torch.AdamW",
        learning_rate=2e-4,
        schedule=(
            "2,000 steps of warm-up, constant until step 4,198,000, linear to zero over 522,000"
        ),
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.1,
        clip_norm=1.0,
        notes="All but .*token_embedding.* decay: norms too.",
    ),
    Recipe(
        name="Kimi K2",
        source=(
            "Kimi Team 2025, https://arxiv.org/abs/2507.20534, section 2.5; Algorithm 1 is MuonClip"
        ),
        convention="moonlight.Muon",
        assumed="Muon with weight decay and matched RMS is cited; QK-clip is not part of the class",
        learning_rate=2e-4,
        schedule=(
            "500 steps of warm-up, constant for 10T tokens, cosine to 2e-5 over 5.5T; annealing to "
            "7e-6"
        ),
        hyperparameters={"momentum": None, "ns_steps": None},
        weight_decay=0.1,
        notes=(
            "MuonClip is this and QK-clip with tau = 100: query and key weights of heads whose "
            "largest logit is above it are scaled down after the step."
        ),
    ),
    Recipe(
        name="DINOv3 ViT-7B/16",
        source=(
            "https://github.com/facebookresearch/dinov3 at 6876159a, "
            "dinov3/configs/train/dinov3_vit7b16_pretrain.yaml; Simeoni et al. 2025, "
            "https://arxiv.org/abs/2508.10104"
        ),
        convention="torch.AdamW",
        learning_rate=4e-4,
        schedule="100,000 steps of warm-up, then constant; the decay is constant",
        hyperparameters={"betas": (0.9, 0.99), "eps": None},
        weight_decay=0.04,
        clip_norm=30.0,
        notes=(
            "Biases, and names with norm, gamma or fourier_w, do not decay; the patch embedding's "
            "rate is times 0.2, layer-wise decay 0.98. The config's 5e-5 is multiplied by "
            "4 sqrt(4096 / 1024) for its batch of 256 times 16. Later stages have other configs."
        ),
    ),
    Recipe(
        name="OLMo 3 7B",
        source=_OLMO.format("official/OLMo3/OLMo-3-1025-7B-pretrain-1.py"),
        convention="torch.AdamW",
        learning_rate=3e-4,
        schedule="2,000 steps of warm-up, cosine to a tenth over 5T tokens, later 7T",
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.1,
        clip_norm=1.0,
        notes=_OLMO_NOTES,
    ),
    Recipe(
        name="OLMo 3 32B",
        source=_OLMO.format("official/OLMo3/OLMo-3-1025-32B-pretrain.py"),
        convention="torch.AdamW",
        learning_rate=6e-4,
        schedule="2,000 steps of warm-up, cosine to a tenth",
        hyperparameters={"betas": (0.9, 0.95), "eps": 1e-8},
        weight_decay=0.1,
        clip_norm=1.0,
        notes=_OLMO_NOTES,
    ),
    Recipe(
        name="nanochat",
        source=(
            "https://github.com/karpathy/nanochat at 92d63d4e, scripts/base_train.py and "
            "nanochat/gpt.py"
        ),
        convention="nanochat.Muon",
        learning_rate=0.02,
        schedule="40 steps of warm-up, constant, the last 65 % linear to a twentieth",
        hyperparameters={"momentum": None, "beta2": 0.9, "ns_steps": 5},
        weight_decay=0.28,
        notes=(
            "The decay is multiplied by sqrt(B / B_ref) D_ref / D, and falls to zero as a cosine "
            "besides following the rate; learning rates too grow with sqrt(B / B_ref). Momentum "
            "goes from 0.85 to 0.97 in 400 steps and to 0.90 at the end. Of the AdamW groups "
            "lm_head decays by 0.01, embeddings by 0.001, value embeddings by 0.01, "
            "resid_lambdas by 0.05, the rest not."
        ),
    ),
    Recipe(
        name="modded-nanogpt",
        source="https://github.com/KellerJordan/modded-nanogpt at f411b3d3, train_gpt.py",
        convention="modded_nanogpt.NorMuon",
        learning_rate=0.023,
        schedule="by stages of batch size: times 1, 1.52, 1.73; the end as in the script",
        hyperparameters={"momentum": 0.95, "beta2": 0.9},
        weight_decay=1.2,
        notes=(
            "Multiplied by the square of the learning rate. The Adam parameters: rate 0.008, decay "
            "0.005, times 150 for embed and lm_head, times 5 for value and bigram embeddings, 0 "
            "for scalars and biases."
        ),
    ),
)
