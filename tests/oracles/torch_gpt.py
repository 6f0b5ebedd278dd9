"""The GPT example written again in PyTorch: model, schedule, and the loop over the steps.

From the experiments' description, with torch's own modules and optimizers, so that two programs
that share no line can be compared. Settings are read by their names: any object with the fields of
``examples.gpt.config.Config`` serves.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Causal self-attention, all heads in one product."""

    def __init__(self, c):
        super().__init__()
        self.n_head = c.n_head
        self.qkv = nn.Linear(c.n_embd, 3 * c.n_embd, c.bias)
        self.proj = nn.Linear(c.n_embd, c.n_embd, c.bias)

    def forward(self, x):
        """(B, L, D) -> (B, L, D)."""
        heads = [m.unflatten(2, (self.n_head, -1)).transpose(1, 2) for m in self.qkv(x).chunk(3, 2)]
        y = F.scaled_dot_product_attention(*heads, is_causal=True)
        return self.proj(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Four times as wide inside, with GELU."""

    def __init__(self, c):
        super().__init__()
        self.fc = nn.Linear(c.n_embd, 4 * c.n_embd, c.bias)
        self.proj = nn.Linear(4 * c.n_embd, c.n_embd, c.bias)

    def forward(self, x):
        """(B, L, D) -> (B, L, D)."""
        return self.proj(F.gelu(self.fc(x)))


class Block(nn.Module):
    """LayerNorm before each branch, the residual stream around it."""

    def __init__(self, c):
        super().__init__()
        self.ln_1 = nn.LayerNorm(c.n_embd, bias=c.bias)
        self.attn = Attention(c)
        self.ln_2 = nn.LayerNorm(c.n_embd, bias=c.bias)
        self.mlp = MLP(c)

    def forward(self, x):
        """(B, L, D) -> (B, L, D)."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with the head tied to the token embedding."""

    def __init__(self, c, vocab_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, c.n_embd)
        self.wpe = nn.Embedding(c.block_size, c.n_embd)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd, bias=c.bias)

    def forward(self, windows):
        """Mean cross-entropy of the next token; windows of L + 1 tokens."""
        tokens, targets = windows[:, :-1], windows[:, 1:]
        x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.ln_f(x) @ self.wte.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    @torch.no_grad()
    def load(self, leaves):
        """Takes our weights, (path, array) pairs: kernels are (in, out), here (out, in)."""
        own = dict(self.named_parameters())
        for path, leaf in leaves:
            *module, kind = path.split("/")
            name = ".".join([*module, "bias" if kind == "bias" else "weight"])
            value = torch.tensor(leaf)
            own.pop(name).copy_(value.T if kind == "kernel" else value)
        assert not own, f"these had no counterpart: {list(own)}"


def learning_rate(c, t):
    """Of step t, counted from 0: linear from 0, a cosine to min_lr, then min_lr."""
    end, least = c.lr_decay_iters or c.max_iters, c.learning_rate / 10
    least = least if c.min_lr is None else c.min_lr
    if not c.decay_lr:
        return c.learning_rate
    if t < c.warmup_iters:
        return c.learning_rate * t / c.warmup_iters
    if t > end:
        return least
    share = (t - c.warmup_iters) / (end - c.warmup_iters)
    return least + (c.learning_rate - least) * (1 + math.cos(math.pi * share)) / 2


def make_optimizer(c, model):
    """AdamW, or SGD whose decay is in the gradient; the parameters that decay, and the others."""
    decays, others = split(c, model)
    groups = [
        {"params": decays, "weight_decay": c.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if c.opt_type == "adam":
        return torch.optim.AdamW(groups, lr=0.0, betas=(c.beta1, c.beta2), eps=1e-8)
    momentum = {"gdm": {"momentum": c.beta1, "dampening": c.dampening}, "gd": {}}[c.opt_type]
    return torch.optim.SGD(groups, lr=0.0, **momentum)


def split(c, model):
    """The parameters whose name contains a word of the include list, and the others."""
    words, decays, others = c.wd_substrings_include.split(), [], []
    for name, weight in model.named_parameters():
        (decays if any(word in name for word in words) else others).append(weight)
    return decays, others


def step(c, model, optimizer, micro_batches, t):
    """One update; the mean loss of the micro-batches, and the norm that the clipping sees."""
    optimizer.zero_grad()
    total, largest = 0.0, c.grad_clip or float("inf")
    for windows in micro_batches:
        loss = model(windows) / len(micro_batches)
        loss.backward()
        total += loss.item()
    with torch.no_grad():
        for weight in split(c, model)[0] if c.l2_reg else []:
            weight.grad += 2 * c.l2_reg * weight
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(c, t)
    optimizer.step()
    return total, norm.item()


def train(c, model, steps):
    """Loss and gradient norm of each step, of micro-batches of (A, B, L + 1) tokens."""
    optimizer = make_optimizer(c, model)
    steps = torch.tensor(steps).long()
    return [step(c, model, optimizer, batches, t) for t, batches in enumerate(steps)]
