"""Every setting of the GPT example and its default.

The names of the fields are the names of the flags (see ``flags.py``); ``configs.py`` has the named
configurations.
"""

import dataclasses
from typing import Literal

from examples.runs.errors import UserError
from examples.runs.flags import BELOW_ONE, NOT_NEGATIVE, POSITIVE, require

SUBSTRINGS = "substrings"  # rules="substrings": by the names in wd_substrings_include
Coupling = Literal["schedule", "lr", "lr2", "constant", "l2"]
InitFrom = Literal["scratch", "resume", "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"]
Rules = Literal[
    "substrings", "ALL", "NO_BIAS_OR_NORM", "KERNELS_ONLY", "MATRICES_ONLY", "BERT", "NANOGPT",
    "MINGPT", "DEEPSPEED_CHAT", "BIG_VISION",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    # Where and what.
    out_dir: str = ""  # results; empty: out/<config>, or the next free out/<config>-2, -3, ...
    wandb_run_name: str = ""  # the run's name: results in out_dir/<name>, or <name>-2, -3, ...
    wandb_log: bool = False  # send the rows of metrics.jsonl to Weights & Biases as well
    wandb_project: str = "wdlab"  # the project there
    resume: bool = False  # continue the run in out_dir exactly where its last checkpoint is
    init_from: InitFrom = "scratch"  # resume: go on from ckpt_path; gpt2*: Hugging Face's weights
    ckpt_path: str = ""  # resume: a run's folder or a step's; gpt2*: default data_dir/<init_from>
    eval_only: bool = False  # evaluate and stop: no step, no checkpoint
    dataset: str = "pydoc"  # 'pydoc' (embedded text) or a folder of data_dir
    data_dir: str = "data"  # where `python -m examples.gpt.data prepare` puts the datasets
    n_train_tokens: int | None = None  # use only the first n training tokens
    random_seed: int = 0  # of the initial weights, the order of the data, dropout and sampling

    # Model: GPT-2, or its body with LLaMA's or Qwen's blocks.
    block: Literal["gpt2", "llama", "qwen"] = "gpt2"  # llama: RMSNorm, SwiGLU, rotary positions, no
    # bias; qwen: the same with a bias on queries, keys and values
    n_layer: int = 12  # blocks
    n_head: int = 12  # attention heads per block; divides n_embd
    n_kv_head: int | None = None  # heads of keys and values; default n_head; divides n_head
    n_embd: int = 768  # width
    n_inner: int | None = None  # width inside the MLP; default 4 n_embd, llama and qwen 8/3 of it
    block_size: int = 1024  # tokens of context
    dropout: float = 0.0  # probability, in [0, 1)
    bias: bool = False  # biases in the linear layers and the LayerNorms
    weight_tying: bool = True  # the head is the token embedding
    learnable_ln: bool = True  # LayerNorms with scale (and bias)
    init_scale: float = 0.02  # standard deviation of the initial weights
    custom_init: bool = False  # scale each matrix by its fan-in instead of by init_scale
    gelu: Literal["exact", "tanh"] = "exact"  # of gpt2's MLP; OpenAI's weights were made with tanh
    norm_eps: float = 1e-5  # inside the root of LayerNorm and RMSNorm
    rope_theta: float = 10_000.0  # base of the rotary positions' wavelengths
    lora_rank: int = 0  # adapters of this rank on the blocks' matrices, which alone train; 0: none
    lora_alpha: float = 16.0  # the adapters' product counts lora_alpha / lora_rank
    remat: bool = False  # compute each block again in the backward pass: less memory, more time
    scan_layers: bool = False  # the blocks as one stack of weights: compiles one block, not all
    # Of the computation; weights stay float32. float16: with dynamic loss scaling.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    # Optimization. One step sees batch_size * gradient_accumulation_steps sequences.
    batch_size: int = 16  # sequences per micro-batch
    gradient_accumulation_steps: int = 16  # micro-batches per step
    max_iters: int = 50_000  # steps; after init_from=resume, so many more
    opt_type: Literal["adam", "gd", "gdm"] = "adam"  # gd, gdm: torch.optim.SGD (gdm: with beta1)
    learning_rate: float = 6e-4  # the peak
    decay_lr: bool = True  # warm-up, then cosine to min_lr; otherwise constant
    warmup_iters: int = 2_000  # steps from learning rate 0 to the peak
    lr_decay_iters: int | None = None  # step at which min_lr is reached; default max_iters
    min_lr: float | None = None  # default learning_rate / 10
    beta1: float = 0.9  # Adam's first moment; the momentum of gdm
    beta2: float = 0.95  # Adam's second moment
    dampening: float = 0.0  # of gdm: the share of the gradient that the momentum leaves out
    grad_clip: float = 1.0  # largest global gradient norm; 0 for no clipping
    max_skipped_steps: int = 20  # non-finite steps are skipped; so many in a row stop the run

    # Decay.
    weight_decay: float = 0.0  # lambda; the coupling says what it is multiplied by
    coupling: Coupling = "lr"  # of adam; gd and gdm decay as torch.optim.SGD does: l2
    rules: Rules = "substrings"  # which parameters decay: a preset of wdlab.rules, or
    wd_substrings_include: str = (
        "wte wpe mlp attn lm_head"  # those whose path contains one of these
    )
    l2_reg: float = 0.0  # adds l2_reg * ||w||^2 over the same parameters; excludes weight_decay

    # Devices. Any number of them and of processes gives the same run, up to rounding.
    mesh_data: int = 0  # devices over which the batch is split; 0: all that mesh_fsdp leaves
    mesh_fsdp: int = 1  # over which weights and optimizer state are split too; see runs/mesh.py
    distributed: bool = False  # one of several processes, which JAX finds (a TPU slice)

    # Evaluation, records, checkpoints.
    ema_coef: float = 0.99  # of the moving average of the weights, evaluated as well; 0 for none
    eval_interval: int = 1_000  # steps between evaluations; each one saves a checkpoint
    eval_examples: int = 512  # sequences of each split per evaluation
    log_interval: int = 10  # steps between rows of metrics.jsonl
    keep_checkpoints: int = 2  # newest ones to keep, beside the best
    sample_tokens: int = 300  # length of the text generated at the end; 0 for none
    temperature: float = 0.8  # of the sampling
    top_k: int | None = None  # sample among the k likeliest tokens; default all

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

    def trajectory(self) -> dict[str, object]:
        """The settings that decide the numbers of a run: equal ones continue it bit for bit."""
        free = {"out_dir", "data_dir", "resume", "max_iters", "eval_interval", "eval_examples"}
        free |= {"log_interval", "keep_checkpoints", "sample_tokens", "temperature", "ckpt_path"}
        free |= {"eval_only", "max_skipped_steps", "wandb_run_name", "wandb_log", "wandb_project"}
        free |= {"top_k", "mesh_data", "mesh_fsdp", "distributed"}
        settings = {k: v for k, v in dataclasses.asdict(self).items() if k not in free}
        return settings | {"lr_decay_iters": self.lr_decay_steps, "min_lr": self.min_lr_value}


_POSITIVE = (
    "n_layer n_head n_embd block_size batch_size gradient_accumulation_steps max_iters "
    "max_skipped_steps learning_rate init_scale eval_interval eval_examples log_interval "
    "keep_checkpoints temperature mesh_fsdp n_kv_head n_inner top_k"
)
_NOT_NEGATIVE = (
    "weight_decay l2_reg grad_clip warmup_iters sample_tokens random_seed lora_rank mesh_data "
    "min_lr lr_decay_iters n_train_tokens"
)


def check(config: Config) -> None:
    """Refuses settings that make no sense.

    Raises:
      UserError: With the flag, its value, and what it should be.
    """
    require(config, _POSITIVE, POSITIVE)
    require(config, _NOT_NEGATIVE, NOT_NEGATIVE)
    require(config, "dropout beta1 beta2 ema_coef dampening", BELOW_ONE)
    _check_model(config)
    if config.min_lr_value > config.learning_rate:
        raise UserError(
            f"--min_lr {config.min_lr} must be at most --learning_rate {config.learning_rate}"
        )
    if config.dampening and config.opt_type != "gdm":
        raise UserError(f"--dampening {config.dampening} is of --opt_type gdm; set it to 0")
    if config.l2_reg and config.weight_decay:
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
