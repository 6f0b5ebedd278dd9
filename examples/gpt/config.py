"""Every setting of the GPT example, its default, and the named configurations.

A configuration is the unit of an experiment: each one below says the command, the data it needs
and what it costs. The names of the fields are the names of the flags (see ``flags.py``).
"""

import dataclasses
import math
from typing import Literal

from examples.runs.errors import UserError

SUBSTRINGS = "substrings"  # rules="substrings": by the names in wd_substrings_include
Coupling = Literal["schedule", "lr", "lr2", "constant", "l2"]
Rules = Literal[
    "substrings", "ALL", "NO_BIAS_OR_NORM", "KERNELS_ONLY", "MATRICES_ONLY", "BERT", "NANOGPT",
    "MINGPT", "DEEPSPEED_CHAT", "BIG_VISION",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    # Where and what.
    out_dir: str = ""  # results; empty: out/<config>, or the next free out/<config>-2, -3, ...
    resume: bool = False  # continue the run in out_dir exactly where its last checkpoint is
    dataset: str = "pydoc"  # 'pydoc' (embedded text) or a folder of data_dir
    data_dir: str = "data"  # where `python -m examples.gpt.data prepare` puts the datasets
    n_train_tokens: int | None = None  # use only the first n training tokens
    random_seed: int = 0  # of the initial weights, the order of the data, dropout and sampling

    # Model: GPT-2.
    n_layer: int = 12  # blocks
    n_head: int = 12  # attention heads per block; divides n_embd
    n_embd: int = 768  # width
    block_size: int = 1024  # tokens of context
    dropout: float = 0.0  # probability, in [0, 1)
    bias: bool = False  # biases in the linear layers and the LayerNorms
    weight_tying: bool = True  # the head is the token embedding
    learnable_ln: bool = True  # LayerNorms with scale (and bias)
    init_scale: float = 0.02  # standard deviation of the initial weights
    custom_init: bool = False  # scale each matrix by its fan-in instead of by init_scale
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; weights stay float32

    # Optimization. One step sees batch_size * gradient_accumulation_steps sequences.
    batch_size: int = 16  # sequences per micro-batch
    gradient_accumulation_steps: int = 16  # micro-batches per step
    max_iters: int = 50_000  # steps
    opt_type: Literal["adam", "gd", "gdm"] = "adam"  # gd, gdm: torch.optim.SGD (gdm: with beta1)
    learning_rate: float = 6e-4  # the peak
    decay_lr: bool = True  # warm-up, then cosine to min_lr; otherwise constant
    warmup_iters: int = 2_000  # steps from learning rate 0 to the peak
    lr_decay_iters: int | None = None  # step at which min_lr is reached; default max_iters
    min_lr: float | None = None  # default learning_rate / 10
    beta1: float = 0.9  # Adam's first moment; the momentum of gdm
    beta2: float = 0.95  # Adam's second moment
    grad_clip: float = 1.0  # largest global gradient norm; 0 for no clipping

    # Decay.
    weight_decay: float = 0.0  # lambda; the coupling says what it is multiplied by
    coupling: Coupling = "lr"  # of adam; gd and gdm decay as torch.optim.SGD does: l2
    rules: Rules = "substrings"  # which parameters decay: a preset of wdlab.rules, or
    wd_substrings_include: str = (
        "wte wpe mlp attn lm_head"  # those whose path contains one of these
    )
    l2_reg: float = 0.0  # adds l2_reg * ||w||^2 over the same parameters; excludes weight_decay

    # Evaluation, records, checkpoints.
    eval_interval: int = 1_000  # steps between evaluations; each one saves a checkpoint
    eval_examples: int = 512  # sequences of each split per evaluation
    log_interval: int = 10  # steps between rows of metrics.jsonl
    keep_checkpoints: int = 2  # newest ones to keep, beside the best
    sample_tokens: int = 300  # length of the text generated at the end; 0 for none
    temperature: float = 0.8  # of the sampling

    @property
    def min_lr_value(self) -> float:
        """The learning rate at the end of the cosine."""
        return self.learning_rate / 10 if self.min_lr is None else self.min_lr

    @property
    def lr_decay_steps(self) -> int:
        """The step at which the cosine ends."""
        return self.max_iters if self.lr_decay_iters is None else self.lr_decay_iters

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one update sees."""
        return self.batch_size * self.gradient_accumulation_steps * self.block_size

    def trajectory(self) -> dict[str, object]:
        """The settings that decide the numbers of a run: equal ones continue it bit for bit."""
        free = {"out_dir", "data_dir", "resume", "max_iters", "eval_interval", "eval_examples"}
        free |= {"log_interval", "keep_checkpoints", "sample_tokens", "temperature"}
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
        return settings | {"lr_decay_iters": self.lr_decay_steps, "min_lr": self.min_lr_value}


_POSITIVE = (
    "n_layer n_head n_embd block_size batch_size gradient_accumulation_steps max_iters "
    "learning_rate init_scale eval_interval eval_examples log_interval keep_checkpoints temperature"
)
_NOT_NEGATIVE = "weight_decay l2_reg grad_clip warmup_iters sample_tokens random_seed"


def check(config: Config) -> None:
    """Refuses settings that make no sense.

    Raises:
      UserError: With the flag, its value, and what it should be.
    """
    for name in _POSITIVE.split():
        _require(config, name, lambda value: 0 < value < math.inf, "positive and finite")
    for name in _NOT_NEGATIVE.split():
        _require(config, name, lambda value: 0 <= value < math.inf, "at least 0 and finite")
    for name in ("dropout", "beta1", "beta2"):
        _require(config, name, lambda value: 0 <= value < 1, "in [0, 1)")
    for name in ("min_lr", "lr_decay_iters", "n_train_tokens"):
        if getattr(config, name) is not None:
            _require(config, name, lambda value: 0 <= value < math.inf, "at least 0 and finite")
    if config.n_embd % config.n_head:
        raise UserError(
            f"--n_embd {config.n_embd} is not divisible by --n_head {config.n_head}: "
            "each head takes an equal share of the width"
        )
    if config.min_lr_value > config.learning_rate:
        raise UserError(
            f"--min_lr {config.min_lr} must be at most --learning_rate {config.learning_rate}"
        )
    if config.l2_reg and config.weight_decay:
        raise UserError("--l2_reg and --weight_decay exclude each other: set one of them to 0")
    if config.decay_lr and config.warmup_iters >= config.lr_decay_steps:
        raise UserError(
            f"--warmup_iters {config.warmup_iters} must be less than the step at which the decay "
            f"ends, {config.lr_decay_steps} (--lr_decay_iters, by default --max_iters)"
        )


def _require(config, name, accepts, wanted) -> None:
    value = getattr(config, name)
    if not accepts(value):
        raise UserError(f"--{name} must be {wanted}, got {value}")


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


CONFIGS = {
    "tiny": _tiny,
    "train_shakespeare_char": _train_shakespeare_char,
    "train_gpt2_micro": _train_gpt2_micro,
    "train_gpt2_small_block256": _train_gpt2_small_block256,
    "train_gpt2_small": _train_gpt2_small,
}
