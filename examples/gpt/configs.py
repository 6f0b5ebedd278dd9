"""The named configurations.

A configuration is the unit of an experiment: each one says the command, the data it needs and what
it costs.
"""

from .config import Config


def _tiny() -> Config:
    """A character-level GPT on the Python reference texts that come with Python itself.

    ``python -m examples.gpt.train tiny``: no data to prepare, about a minute on two CPU cores.
    Decay is schedule-only (``coupling="schedule"``): at the peak of the learning rate every step
    takes ``weight_decay`` of a decayed weight, whatever the learning rate is.
    """
    return Config(
        n_layer=3, n_head=3, n_embd=96, block_size=64, batch_size=16,
        gradient_accumulation_steps=1, max_iters=1_000, learning_rate=4e-3, warmup_iters=100,
        beta2=0.99, weight_decay=1e-3, coupling="schedule", rules="NO_BIAS_OR_NORM", bias=True,
        eval_interval=250, eval_examples=256, log_interval=10,
    )  # fmt: skip


def _train_shakespeare_char() -> Config:
    """Character-level Shakespeare as in nanoGPT: 10.7M parameters, 1.1 MB of text.

    ``python -m examples.gpt.data prepare shakespeare_char``, then
    ``python -m examples.gpt.train train_shakespeare_char``. 82M tokens, 5e15 floating-point
    operations: minutes on a GPU or TPU, most of a day on two CPU cores.
    """
    return Config(
        dataset="shakespeare_char", n_layer=6, n_head=6, n_embd=384, block_size=256, dropout=0.2,
        batch_size=64, gradient_accumulation_steps=1, max_iters=5_000, learning_rate=1e-3,
        warmup_iters=100, beta2=0.99, weight_decay=0.1, eval_interval=250, eval_examples=2_048,
    )  # fmt: skip


def _finetune_shakespeare() -> Config:
    """GPT-2's own weights, a few steps further on Shakespeare, as in nanoGPT.

    Put ``model.safetensors`` and ``config.json`` of GPT-2 (Hugging Face's layout) into
    ``data/gpt2``, run ``python -m examples.gpt.data prepare shakespeare``, then
    ``python -m examples.gpt.train finetune_shakespeare`` (``--init_from gpt2-xl`` and so on for the
    larger ones, ``--ckpt_path`` for another folder). 0.7M tokens, 5e14 floating-point operations.
    """
    return Config(
        init_from="gpt2", dataset="shakespeare", batch_size=1, gradient_accumulation_steps=32,
        max_iters=20, learning_rate=3e-5, decay_lr=False, eval_interval=5, eval_examples=40,
        log_interval=1,
    )  # fmt: skip


def _train_gpt2_small() -> Config:
    """GPT-2 small (124M) at context 1024 on OpenWebText, for the bfloat16 experiments.

    ``python -m examples.gpt.data prepare openwebtext`` (13 GB to download), then
    ``python -m examples.gpt.train train_gpt2_small --dtype bfloat16 --weight_decay 0.1``.
    13e9 tokens, 1e19 floating-point operations: a day on one modern accelerator.
    """
    return Config(dataset="openwebtext")


def _train_gpt2_small_block256() -> Config:
    """GPT-2 small at context 256 on OpenWebText: the weight decay x learning rate experiments.

    ``python -m examples.gpt.train train_gpt2_small_block256 --weight_decay 0.1``. 3.3e9 tokens,
    2.4e18 floating-point operations: hours on one modern accelerator.
    """
    return Config(dataset="openwebtext", block_size=256)


def _train_gpt2_micro() -> Config:
    """A GPT-2 of 4 layers, 4 heads, width 192, context 256 on OpenWebText: 11.5M parameters.

    ``python -m examples.gpt.train train_gpt2_micro``: 3.3e9 tokens, 2.3e17 floating-point
    operations, most of them in the head with its 50304 tokens.
    """
    return Config(dataset="openwebtext", n_layer=4, n_head=4, n_embd=192, block_size=256)


def _gpt2_medium() -> Config:
    """GPT-2 medium (355M) at context 1024 on OpenWebText.

    ``python -m examples.gpt.train gpt2_medium --weight_decay 0.1``. 13e9 tokens, 3e19
    floating-point operations: days on one modern accelerator.
    """
    return Config(dataset="openwebtext", n_layer=24, n_head=16, n_embd=1024, remat="full")


def _gpt2_large() -> Config:
    """GPT-2 large (774M) at context 1024 on OpenWebText.

    ``python -m examples.gpt.train gpt2_large --weight_decay 0.1``. 13e9 tokens, 6e19
    floating-point operations: days on eight accelerators.
    """
    return Config(
        dataset="openwebtext", n_layer=36, n_head=20, n_embd=1280, remat="full", scan_layers=True
    )


def _gpt2_xl() -> Config:
    """GPT-2 XL (1.6B) at context 1024 on OpenWebText.

    ``python -m examples.gpt.train gpt2_xl --weight_decay 0.1``. 13e9 tokens, 1.2e20
    floating-point operations: a week on eight accelerators.
    """
    return Config(
        dataset="openwebtext", n_layer=48, n_head=25, n_embd=1600, remat="full", scan_layers=True
    )


def _llama_7b() -> Config:
    """The shape of LLaMA 7B (6.7B with its own 32000 tokens) at context 2048 on OpenWebText.

    ``python -m examples.gpt.train llama_7b --weight_decay 0.1 --rules NO_BIAS_OR_NORM``: for a
    mesh of many accelerators; the weights, their gradient and Adam's moments take 110 GB.
    """
    return Config(
        dataset="openwebtext", block="llama", n_layer=32, n_head=32, n_embd=4096, n_inner=11_008,
        block_size=2048, weight_tying=False, norm_eps=1e-6, learning_rate=3e-4, remat="full",
        scan_layers=True,
    )  # fmt: skip


def _llama_70b() -> Config:
    """The shape of LLaMA 2 70B (69.0B with its own 32000 tokens) at context 4096 on OpenWebText.

    ``python -m examples.gpt.train llama_70b --weight_decay 0.1 --rules NO_BIAS_OR_NORM``: for a
    mesh of hundreds of accelerators; the weights, their gradient and Adam's moments take 1.1 TB.
    """
    return Config(
        dataset="openwebtext", block="llama", n_layer=80, n_head=64, n_kv_head=8, n_embd=8_192,
        n_inner=28_672, block_size=4_096, weight_tying=False, norm_eps=1e-5, learning_rate=1.5e-4,
        remat="full", scan_layers=True,
    )  # fmt: skip


CONFIGS = {
    "tiny": _tiny,
    "train_shakespeare_char": _train_shakespeare_char,
    "finetune_shakespeare": _finetune_shakespeare,
    "train_gpt2_micro": _train_gpt2_micro,
    "train_gpt2_small_block256": _train_gpt2_small_block256,
    "train_gpt2_small": _train_gpt2_small,
    "gpt2_medium": _gpt2_medium,
    "gpt2_large": _gpt2_large,
    "gpt2_xl": _gpt2_xl,
    "llama_7b": _llama_7b,
    "llama_70b": _llama_70b,
}
