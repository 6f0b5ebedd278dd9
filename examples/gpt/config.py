"""Every setting of the GPT example and its default.

The names of the fields are the names of the flags (see ``flags.py``); ``configs.py`` has the named
configurations.
"""

import dataclasses
from typing import Any, ClassVar, Literal

from examples.runs import conventions
from examples.runs.errors import UserError
from examples.runs.optimizers import Coupling
from examples.runs.settings import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    Range,
    Settings,
    free,
    setting,
    shape,
)

LENGTH = Range(lambda count: 0 <= count <= 1_000_000, "from 0 to 1000000")
SUBSTRINGS = "substrings"  # rules="substrings": by the names in wd_substrings_include
InitFrom = Literal["scratch", "resume", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
AttentionForm = Literal[
    "auto", "plain", "flash", "flash_bf16", "flash_bf16_shifted", "flash_bf16_float32_delta"
]
Remat = Literal["none", "full", "dots", "dots_no_batch"]
OptType = Literal["adam", "gd", "gdm", "muon", "soap", "schedule_free"]
Rules = Literal[
    "substrings", "ALL", "NO_BIAS_OR_NORM", "KERNELS_ONLY", "MATRICES_ONLY", "BERT", "NANOGPT",
    "MINGPT", "DEEPSPEED_CHAT", "BIG_VISION", "convention",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of one training run."""

    OPTIMIZER: ClassVar[tuple[str, ...]] = (
        "opt_type", "convention", "convention_args", "learning_rate", "decay_lr", "warmup_iters",
        "lr_decay_iters", "min_lr", "beta1", "beta2", "dampening", "grad_clip", "weight_decay",
        "coupling", "rules", "wd_substrings_include", "l2_reg",
    )  # fmt: skip

    # Where and what.
    wandb_run_name: str = free("")  # name of the run: results in out_dir/NAME, or NAME-2, ...
    wandb_log: bool = free(False)  # send the rows of metrics.jsonl to Weights & Biases as well
    wandb_project: str = free("wdlab")  # the project there
    init_from: InitFrom = "scratch"  # resume: go on from ckpt_path; gpt2*: Hugging Face's weights
    ckpt_path: str = free("")  # resume: a run's folder or a step's; gpt2*: default data_dir/gpt2*
    eval_only: bool = free(False)  # evaluate and stop: no step, no checkpoint
    dataset: str = "pydoc"  # 'pydoc' (embedded text) or a folder of data_dir
    n_train_tokens: int | None = setting(None, NOT_NEGATIVE)  # use only the first n training tokens

    # Model: GPT-2, or its body with LLaMA's or Qwen's blocks.

    # llama: RMSNorm, SwiGLU, rotary positions, no bias; qwen: with a bias on queries, keys, values
    block: Literal["gpt2", "llama", "qwen"] = shape("gpt2")
    n_layer: int = shape(12, POSITIVE)  # blocks
    n_head: int = shape(12, POSITIVE)  # attention heads per block; divides n_embd
    n_kv_head: int | None = shape(None, POSITIVE)  # heads of keys and values; default n_head
    n_embd: int = shape(768, POSITIVE)  # width
    # width inside the MLP; default 4 n_embd, llama and qwen 8/3 of it
    n_inner: int | None = shape(None, POSITIVE)
    block_size: int = shape(1024, POSITIVE)  # tokens of context
    # flash: the device's fused kernel; plain: all scores at once; auto: flash where there is one
    # (TPUs; GPUs in 16 bits; without dropout), otherwise plain. CPUs have plain alone. flash_bf16*:
    # what a kernel in bfloat16 rounds, on any device; with one of two cures of its bias
    attention: AttentionForm = "auto"
    dropout: float = setting(0.0, BELOW_ONE)  # probability, in [0, 1)
    bias: bool = shape(False)  # biases in the linear layers and the LayerNorms
    weight_tying: bool = shape(True)  # the head is the token embedding
    learnable_ln: bool = shape(True)  # LayerNorms with scale (and bias)
    init_scale: float = setting(0.02, POSITIVE)  # standard deviation of the initial weights
    custom_init: bool = False  # scale each matrix by its fan-in instead of by init_scale
    gelu: Literal["exact", "tanh"] = shape("exact")  # in gpt2's MLP; tanh in OpenAI's weights
    norm_eps: float = shape(1e-5, NOT_NEGATIVE)  # inside the root of LayerNorm and RMSNorm
    rope_theta: float = shape(10_000.0, POSITIVE)  # base of the rotary positions' wavelengths
    # adapters of this rank on the blocks' matrices, which alone train; 0: none
    lora_rank: int = shape(0, NOT_NEGATIVE)
    lora_alpha: float = shape(16.0, POSITIVE)  # the adapters' product counts lora_alpha / lora_rank
    # parts of the vocabulary that head and loss take one by one, computed again in the backward
    # pass: less memory; default 1, and on accelerators more where the logits take over 1 GiB each
    loss_chunks: int | None = setting(None, POSITIVE)
    # what the backward pass computes again of each block, for less memory. full: all; dots: all but
    # the products; dots_no_batch: all but the products with weights. True is full, False none
    remat: Remat = "none"
    scan_layers: bool = shape(False)  # the blocks as one stack of weights: compiles one, not all
    # of the computation; weights stay float32. float16: with dynamic loss scaling
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    # wdlab.doctor's report at the start; norm, rotation and decay of the weights while it trains
    doctor: bool = shape(False)

    # Optimization. One step sees batch_size * gradient_accumulation_steps sequences.
    batch_size: int = setting(16, POSITIVE)  # sequences per micro-batch
    gradient_accumulation_steps: int = setting(16, POSITIVE)  # micro-batches per step
    max_iters: int = free(50_000, POSITIVE)  # steps; after init_from=resume, so many more
    # gd, gdm: torch's SGD (gdm: with beta1); muon: of the hidden matrices, with AdamW for the rest
    opt_type: OptType = shape("adam")
    convention: str = shape("")  # another system's optimizer, such as torch.AdamW, for opt_type
    convention_args: str = setting("")  # its own arguments: "betas=(0.9, 0.95), eps=1e-10"
    learning_rate: float = setting(6e-4, POSITIVE)  # the peak
    # warm-up, then cosine to min_lr, or for schedule_free a constant; otherwise constant
    decay_lr: bool = True
    warmup_iters: int = setting(2_000, NOT_NEGATIVE)  # steps from learning rate 0 to the peak
    lr_decay_iters: int | None = setting(None, NOT_NEGATIVE)  # step of min_lr; default max_iters
    min_lr: float | None = setting(None, NOT_NEGATIVE)  # default learning_rate / 10
    beta1: float = setting(0.9, BELOW_ONE)  # Adam's first moment; the momentum of gdm
    beta2: float = setting(0.95, BELOW_ONE)  # Adam's second moment
    dampening: float = setting(0.0, BELOW_ONE)  # gdm: share of the gradient that it leaves out
    grad_clip: float = setting(1.0, NOT_NEGATIVE)  # largest global gradient norm; 0: no clipping
    max_skipped_steps: int = free(20, POSITIVE)  # so many non-finite steps in a row stop the run

    # Decay.
    weight_decay: float = setting(0.0, NOT_NEGATIVE)  # lambda; coupling says what multiplies it
    coupling: Coupling = "lr"  # not of gd and gdm, which decay as torch.optim.SGD does: l2
    # which parameters decay: a preset of wdlab.rules; convention: all but what it exempts itself;
    # substrings: those whose path contains one of wd_substrings_include
    rules: Rules = "substrings"
    wd_substrings_include: str = "wte wpe mlp attn lm_head"  # words, with spaces between them
    # adds l2_reg * ||w||^2 over the same parameters; excludes weight_decay
    l2_reg: float = setting(0.0, NOT_NEGATIVE)

    # Evaluation, records, checkpoints.

    # of the moving average of the weights, which is evaluated as well; 0: none
    ema_coef: float = setting(0.99, BELOW_ONE)
    eval_interval: int = free(1_000, POSITIVE)  # steps between evaluations, with a checkpoint each
    eval_examples: int = free(512, POSITIVE)  # sequences of each split per evaluation
    log_interval: int = free(10, POSITIVE)  # steps between rows of metrics.jsonl
    # steps that the device makes at a time, up to the next row; default what takes about a second
    updates_per_call: int | None = free(None, POSITIVE)
    sample_tokens: int = free(300, LENGTH)  # length of the text generated at the end; 0: none
    temperature: float = free(0.8, POSITIVE)  # of the sampling
    top_k: int | None = free(None, POSITIVE)  # sample among the k likeliest tokens; default all

    def __post_init__(self) -> None:
        if isinstance(self.remat, bool):
            object.__setattr__(self, "remat", "full" if self.remat else "none")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values; each serves n_head / kv_heads heads of queries."""
        return self.n_head if self.n_kv_head is None else self.n_kv_head

    @property
    def inner_width(self) -> int:
        """The MLP's width; by default SwiGLU's three matrices weigh what GPT-2's two do."""
        if self.n_inner is not None:
            return self.n_inner
        return 4 * self.n_embd if self.block == "gpt2" else -(-8 * self.n_embd // 96) * 32

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

    @property
    def least_bytes(self) -> int:
        """What a run takes at the very least: large weights, their copies, one step's arrays."""
        per_layer = self.n_embd * (2 * (self.n_embd + self.inner_width) + self.lora_rank)
        one = self.opt_type in ("muon", "gdm") or bool(self.convention)
        moments = 0 if self.opt_type == "gd" else 1 if one else 2
        copies = 2 + moments + bool(self.ema_coef)  # With the gradient.
        residuals = self.batch_size * self.block_size * self.n_embd * self.n_layer
        windows = self.batch_size * self.gradient_accumulation_steps + 2 * self.eval_examples
        return 4 * (self.n_layer * per_layer * copies + residuals + windows * self.block_size)

    def trajectory(self) -> dict[str, Any]:
        """As in :class:`Settings`, with what follows from ``max_iters`` and ``learning_rate``."""
        ends = {"lr_decay_iters": self.lr_decay_steps, "min_lr": self.min_lr_value}
        return super().trajectory() | ends

    def check(self) -> None:
        """Refuses settings that are out of range or do not fit together.

        Raises:
          UserError: With the flag, its value, and what it should be.
        """
        super().check()
        _check_model(self)
        if self.min_lr_value > self.learning_rate:
            raise UserError(
                f"--min_lr {self.min_lr} must be at most --learning_rate {self.learning_rate}"
            )
        if self.dampening and self.opt_type != "gdm":
            raise UserError(f"--dampening {self.dampening} is of --opt_type gdm; set it to 0")
        conventions.check(self.convention, self.convention_args)
        if self.rules == conventions.OWN_RULES and not self.convention:
            raise UserError("--rules convention needs --convention NAME")
        if self.l2_reg and self.weight_decay:
            raise UserError("--l2_reg and --weight_decay exclude each other: set one of them to 0")


def _check_model(config: Config) -> None:
    if config.n_embd % config.n_head:
        raise UserError(
            f"--n_embd {config.n_embd} is not divisible by --n_head {config.n_head}: "
            "each head takes an equal share of the width"
        )
    if config.n_head % config.kv_heads:
        raise UserError(
            f"--n_head {config.n_head} is not divisible by --n_kv_head {config.kv_heads}: "
            "each head of keys and values serves an equal share of the heads"
        )
    if config.block != "gpt2" and config.bias:
        raise UserError(
            f"--block {config.block} has "
            + ("no biases" if config.block == "llama" else "biases on queries, keys, values alone")
            + ": add --bias=False (--bias is for --block gpt2)"
        )
    if config.block != "gpt2" and config.n_embd // config.n_head % 2:
        raise UserError(
            f"--n_embd {config.n_embd} / --n_head {config.n_head} must be even for rotary positions"
        )
    if config.scan_layers and config.rules == "MATRICES_ONLY":
        raise UserError(
            "--scan_layers stacks the blocks' weights: biases and norms have two dimensions "
            "there, and --rules MATRICES_ONLY would decay them; write --rules NANOGPT"
        )


def check_warmup(config: Config) -> None:
    """Refuses a decay of the learning rate that ends before it begins.

    Only a mistake where the user wrote one of the two: ``--max_iters 2`` alone, to try a command,
    ends in the warm-up and is fine.

    Raises:
      UserError: If so.
    """
    if config.warmup_iters >= config.lr_decay_steps:
        raise UserError(
            f"--warmup_iters {config.warmup_iters} must be less than the step at which the decay "
            f"ends, {config.lr_decay_steps} (--lr_decay_iters, by default --max_iters)"
        )
