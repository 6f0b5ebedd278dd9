"""The language models' command lines of "Why Do We Need Weight Decay in Modern Deep Learning?".

As its README writes them after ``python train.py``, each with what it asks for, read off the line
and the defaults that the document's configurations have.
"""
# ruff: noqa: E501

import dataclasses

MATRICES = (
    "wte/embedding", "wpe/embedding", "blocks/0/attn/qkv/kernel", "blocks/0/attn/proj/kernel",
    "blocks/0/mlp/fc/kernel", "blocks/0/mlp/proj/kernel",
)  # fmt: skip
NORMS = ("blocks/0/ln_1/scale", "blocks/0/ln_2/scale", "ln_f/scale")
EVERY = MATRICES + NORMS


@dataclasses.dataclass(frozen=True)
class Expected:
    """What one line asks for."""

    rates: tuple[float, ...]  # The learning rate at five steps,
    steps: tuple[int, ...] = (0, 1_000, 2_000, 26_000, 50_000)  # these: rise, peak, middle, end.
    kind: str = "adam"
    weight_decay: float = 0.0  # Of torch.optim.AdamW; of torch.optim.SGD for gdm.
    l2_reg: float = 0.0
    decayed: tuple[str, ...] = MATRICES  # By name: with biases, those of attn and mlp as well.
    beta1: float = 0.9  # The momentum of gdm.
    beta2: float = 0.95
    clip: float = 1.0
    block_size: int = 256
    dtype: str = "float32"

    def __call__(self, **changes) -> "Expected":
        return dataclasses.replace(self, **changes)


COSINE = Expected(rates=(0.0, 3e-4, 6e-4, 3.3e-4, 6e-5))
CONSTANT = Expected(rates=(0.0, 3e-4, 6e-4, 6e-4, 6e-4))
SLOWER_55000 = COSINE(steps=(0, 1_000, 2_000, 28_500, 55_000))
SLOWER_60000 = COSINE(steps=(0, 1_000, 2_000, 31_000, 60_000))
SLOWER_65000 = COSINE(steps=(0, 1_000, 2_000, 33_500, 65_000))
GDM = Expected(rates=(0.0, 0.15, 0.3, 0.165, 0.03), kind="gdm")  # min_lr: a tenth of the peak.
# From step 10,000 of the run in ckpt_path, 10,000 steps more: past the rise.
FINETUNE = Expected(rates=(1e-5,) * 5, steps=(10_000, 10_001, 12_000, 15_000, 20_000))
SHAKESPEARE = Expected(
    rates=(0.0, 5e-4, 1e-3, 5.5e-4, 1e-4), steps=(0, 50, 100, 2_550, 5_000), weight_decay=0.1,
    beta2=0.99,
)  # fmt: skip

# fmt: off
COMMANDS = [
    (SHAKESPEARE, "config/train_shakespeare_char.py"),
    (COSINE, "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.0 --wandb_run_name=owt_gpt2small_block256"),
    (COSINE(weight_decay=0.1), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.1 --wandb_run_name=owt_gpt2small_block256"),
    (COSINE(weight_decay=0.3), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.3 --wandb_run_name=owt_gpt2small_block256"),
    (CONSTANT, "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.0006 --max_iters=50000 --weight_decay=0.0 --wandb_run_name=owt_gpt2small_block256"),
    (CONSTANT(weight_decay=0.1), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.0006 --max_iters=50000 --weight_decay=0.1 --wandb_run_name=owt_gpt2small_block256"),
    (CONSTANT(weight_decay=0.3), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.0006 --max_iters=50000 --weight_decay=0.3 --wandb_run_name=owt_gpt2small_block256"),
    (CONSTANT(weight_decay=0.6), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.0006 --max_iters=50000 --weight_decay=0.6 --wandb_run_name=owt_gpt2small_block256"),
    (FINETUNE, "config/train_gpt2_small_block256.py --batch_size=4 --gradient_accumulation_steps=64 --learning_rate=0.00001 --min_lr=0.00001 --max_iters=10000 --wandb_run_name=owt_gpt2_small_block256_ft_lr0.0006_wd0   --init_from=resume --eval_examples=5000 --ckpt_path='/home/maksym/tml_wd/models_llm/2023-09-16_10-47-27.655-owt_gpt2small_block256-learning_rate=0.0006-min_lr=0.000060-weight_decay=0-n_embd=768-max_iters=50000-init_scale=0.02-iter=10000.pt'"),
    (FINETUNE, "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.00001 --min_lr=0.00001 --max_iters=10000 --wandb_run_name=owt_gpt2_small_block256_ft_constlr0.0006_wd0   --init_from=resume --eval_examples=5000 --ckpt_path='/home/maksym/tml_wd/models_llm/2023-09-18_16-50-58.849-owt_gpt2small_block256-learning_rate=0.0006-min_lr=0.000600-weight_decay=0-n_embd=768-max_iters=50000-init_scale=0.02-iter=10000.pt'"),
    (COSINE(dtype="bfloat16", block_size=1024), "config/train_gpt2_small.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.0 --dtype=bfloat16 --wandb_run_name=owt_gpt2small_high_lr_bfloat16 --random_seed=0 --out_dir=models"),
    (COSINE(weight_decay=0.1, dtype="bfloat16", block_size=1024), "config/train_gpt2_small.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.1 --dtype=bfloat16 --wandb_run_name=owt_gpt2small_high_lr_bfloat16 --random_seed=0 --out_dir=models"),
    (COSINE(weight_decay=0.3, dtype="bfloat16", block_size=1024), "config/train_gpt2_small.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.3 --dtype=bfloat16 --wandb_run_name=owt_gpt2small_high_lr_bfloat16 --random_seed=0 --out_dir=models"),
    (COSINE(block_size=1024), "config/train_gpt2_small.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.0 --dtype=float32  --wandb_run_name=owt_gpt2small_high_lr_float32  --random_seed=0 --out_dir=models"),
    (COSINE(weight_decay=0.003, decayed=EVERY), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.003 --wd_substrings_include='wte wpe mlp attn lm_head ln' --wandb_run_name=owt_gpt2small_block256_wd_all --out_dir=models"),
    (COSINE(weight_decay=0.01, decayed=EVERY), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.01  --wd_substrings_include='wte wpe mlp attn lm_head ln' --wandb_run_name=owt_gpt2small_block256_wd_all --out_dir=models"),
    (COSINE(weight_decay=0.03, decayed=EVERY), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.03  --wd_substrings_include='wte wpe mlp attn lm_head ln' --wandb_run_name=owt_gpt2small_block256_wd_all --out_dir=models"),
    (COSINE(weight_decay=0.1, decayed=EVERY), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.1   --wd_substrings_include='wte wpe mlp attn lm_head ln' --wandb_run_name=owt_gpt2small_block256_wd_all --out_dir=models"),
    (COSINE(weight_decay=0.15, decayed=EVERY), "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.15  --wd_substrings_include='wte wpe mlp attn lm_head ln' --wandb_run_name=owt_gpt2small_block256_wd_all --out_dir=models"),
    (COSINE(weight_decay=0.2, decayed=EVERY), "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.2   --wd_substrings_include='wte wpe mlp attn lm_head ln' --wandb_run_name=owt_gpt2small_block256_wd_all --out_dir=models"),
    (COSINE(weight_decay=0.3, decayed=EVERY), "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --weight_decay=0.3   --wd_substrings_include='wte wpe mlp attn lm_head ln' --wandb_run_name=owt_gpt2small_block256_wd_all"),
    (COSINE(l2_reg=1e-06), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --l2_reg=0.000001 --wandb_run_name=owt_gpt2small_block256_l2_reg --out_dir=models"),
    (COSINE(l2_reg=3e-06), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --l2_reg=0.000003 --wandb_run_name=owt_gpt2small_block256_l2_reg --out_dir=models"),
    (COSINE(l2_reg=5e-06), "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --l2_reg=0.000005 --wandb_run_name=owt_gpt2small_block256_l2_reg --out_dir=models"),
    (COSINE(l2_reg=7e-06), "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --l2_reg=0.000007 --wandb_run_name=owt_gpt2small_block256_l2_reg --out_dir=models"),
    (COSINE(l2_reg=1e-05), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --l2_reg=0.00001 --wandb_run_name=owt_gpt2small_block256_l2_reg --out_dir=models"),
    (COSINE(l2_reg=0.0001), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --l2_reg=0.0001 --wandb_run_name=owt_gpt2small_block256_l2_reg --out_dir=models"),
    (COSINE(l2_reg=0.001), "config/train_gpt2_small_block256.py --batch_size=8 --gradient_accumulation_steps=32 --learning_rate=0.0006 --min_lr=0.00006 --max_iters=50000 --l2_reg=0.001 --wandb_run_name=owt_gpt2small_block256_l2_reg --out_dir=models"),
    (GDM, "config/train_gpt2_small_block256.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.3 --max_iters=50000 --weight_decay=0.0     --opt_type=gdm --wandb_run_name=owt_gpt2small_block256_sgdm --out_dir=models"),
    (GDM(weight_decay=1e-05), "config/train_gpt2_small_block256.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.3 --max_iters=50000 --weight_decay=0.00001 --opt_type=gdm --wandb_run_name=owt_gpt2small_block256_sgdm --out_dir=models"),
    (GDM(weight_decay=3e-05), "config/train_gpt2_small_block256.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.3 --max_iters=50000 --weight_decay=0.00003 --opt_type=gdm --wandb_run_name=owt_gpt2small_block256_sgdm --out_dir=models"),
    (GDM(weight_decay=0.0001), "config/train_gpt2_small_block256.py --batch_size=16 --gradient_accumulation_steps=16 --learning_rate=0.3 --max_iters=50000 --weight_decay=0.0001  --opt_type=gdm --wandb_run_name=owt_gpt2small_block256_sgdm --out_dir=models"),
    (SLOWER_55000, "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --lr_decay_iters=55000  --max_iters=50000 --weight_decay=0.0 --wandb_run_name=owt_gpt2small_block256_slower_lr_decay"),
    (SLOWER_60000, "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --lr_decay_iters=60000  --max_iters=50000 --weight_decay=0.0 --wandb_run_name=owt_gpt2small_block256_slower_lr_decay --out_dir=models"),
    (SLOWER_65000, "config/train_gpt2_small_block256.py --batch_size=32 --gradient_accumulation_steps=8 --learning_rate=0.0006 --min_lr=0.00006 --lr_decay_iters=65000  --max_iters=50000 --weight_decay=0.0 --wandb_run_name=owt_gpt2small_block256_slower_lr_decay"),
]
# fmt: on
