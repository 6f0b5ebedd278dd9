"""Published rules that carry a run's numbers to another run, as data."""

from collections.abc import Callable
from dataclasses import dataclass

from wdlab.conventions.training_run import TrainingRun
from wdlab.conventions.transfer_formulas import (
    POWER_LINES_EXPONENT,
    Numbers,
    batch,
    constant_timescale,
    independent,
    muon_width,
    mup,
    normalized,
    power_lines,
    root_batch_and_timescale,
    same_rms,
    unchanged,
)


@dataclass(frozen=True)
class TransferRule:
    """One published rule.

    ``str()`` is its name.
    """

    name: str
    formula: str
    source: str
    evidence: str  # Where it was tried.
    about: tuple[str, ...]  # What it says the change of; it is silent of all else.
    needs: tuple[str, ...]  # What must be known of both runs.
    apply: Callable[[TrainingRun, TrainingRun], Numbers]
    optimizers: tuple[str, ...] = ("adamw", "muon", "muon_rms")  # Of the new run.

    def __str__(self) -> str:
        return self.name


_DATA = ("batch_size", "steps", "tokens", "dataset_size")
RULES = (
    TransferRule(
        "unchanged",
        "lr' = lr, lambda' = lambda",
        "none: what a copied configuration does",
        "-",
        (),
        (),
        unchanged,
    ),
    TransferRule(
        "constant timescale",
        "lambda' = lambda (lr / lr') (M / M'), M = steps in an epoch; lr' = lr / m",
        "Wang and Aitchison, arXiv 2405.13698, section 3",
        "ResNet-18 and ViT on 80k to 1.28M images, GPT of 124M on a quarter to all of OpenWebText; "
        "many epochs, widths 256 to 1024",
        ("learning_rate", *_DATA, "width"),
        ("batch_size", "tokens"),
        constant_timescale,
    ),
    TransferRule(
        "Power Lines",
        f"1 / (lr lambda S) goes with (D / N)^{POWER_LINES_EXPONENT}",
        "Bergsma et al., arXiv 2505.13738, section 3; the exponent as cited in 2405.13698v3",
        "GPT-2-like models of 111M to 3.3B, SlimPajama, one pass, muP, rate linear to 0, "
        "20 to 1000 tokens per parameter, batch below the critical one",
        ("learning_rate", "batch_size", "steps", "tokens", "parameters"),
        ("batch_size", "tokens", "parameters"),
        power_lines,
        ("adamw",),
    ),
    TransferRule(
        "independent decay",
        "lr' lambda' = lr lambda: the schedule multiplies the decay",
        "Wortsman et al., arXiv 2309.14322, section 3.2.2; Loshchilov and Hutter, 1711.05101",
        "language models of 10M to 4.8B, 1e5 steps of 256 sequences, one lambda of 1e-4 for all",
        ("learning_rate", "parameters", "width", "depth"),
        (),
        independent,
    ),
    TransferRule(
        "muP with standard decay",
        "lr' = lr / m, lambda' = lambda",
        "Yang et al., arXiv 2203.03466; mup's decoupled_wd=True, mup/optim.py at 1981497",
        "in LLaMA-like models of width 128 to 2048 its best rate does not carry over (2510.19093)",
        ("learning_rate", "width"),
        ("width",),
        mup(0.0),
        ("adamw",),
    ),
    TransferRule(
        "muP with decay times width",
        "lr' = lr / m, lambda' = m lambda",
        "Kosson et al., arXiv 2510.19093; mup's default, mup/optim.py; also 2405.13698",
        "LLaMA-like models of width 128 to 2048, 20B tokens; ResNets",
        ("learning_rate", "width"),
        ("width",),
        mup(1.0),
        ("adamw",),
    ),
    TransferRule(
        "sqrt(width)",
        "lr' = lr / m, lambda' = sqrt(m) lambda: sqrt(lr / lambda) width^0.75 stays",
        "Fan et al., arXiv 2510.15262",
        "LLaMA-like models of width 256 to 2048, and a synthetic task; matrices only, vectors have "
        "no decay",
        ("learning_rate", "width"),
        ("width",),
        mup(0.5),
        ("adamw",),
    ),
    TransferRule(
        "normalized decay",
        "delta' = delta sqrt(S / S'), for the decay that the schedule multiplies",
        "Loshchilov and Hutter, arXiv 1711.05101, Appendix B.1",
        "a ResNet on CIFAR-10 and ImageNet32x32, several numbers of epochs, AdamW and SGDW; 'few "
        "experiments'",
        _DATA,
        ("steps",),
        normalized,
    ),
    TransferRule(
        "sqrt(batch)",
        "lr' = lr sqrt(b' / b), lambda' = lambda",
        "Krizhevsky, arXiv 1404.5997; Chen et al., 2002.05709, Appendix B.1",
        "SimCLR, ResNet-50 under LARS: better than linear for small batches and few epochs. "
        "Krizhevsky gives it as theory and used linear (1804.00247, section 4.8); with ResNet-50, "
        "SGD and a batch of 8192 it was worse than linear (1706.02677, Table 2a)",
        ("batch_size",),
        ("batch_size",),
        batch(0.5),
    ),
    TransferRule(
        "linear batch",
        "lr' = lr b' / b, lambda' = lambda",
        "Goyal et al., arXiv 1706.02677, section 2.1",
        "ResNet-50 on ImageNet, SGD with warm-up, batches of 64 to 8192; worse from 16384 on",
        ("batch_size",),
        ("batch_size",),
        batch(1.0),
    ),
    TransferRule(
        "sqrt(batch) and timescale",
        "lr' = lr sqrt(b' / b), lambda' = lambda sqrt(b' / b) (D / D')",
        "karpathy/nanochat, scripts/base_train.py",
        "derived, not measured: its script calls the root for Muon an assumption and the timescale "
        "theory of AdamW; used for 12 to 26 layers, one pass, tokens in proportion to parameters",
        ("batch_size", "steps", "tokens"),
        ("batch_size", "tokens"),
        root_batch_and_timescale,
    ),
    TransferRule(
        "equal RMS of the step",
        "lr' rms' = lr rms, lr' lambda' = lr lambda; rms 0.2 of AdamW, 1 / sqrt(width) of Muon",
        "Liu et al. (Moonlight), arXiv 2502.16982, section 2.2",
        "dense models of 0.4B to 1.5B with AdamW's rate and decay, one of 16B with 2.2B active; "
        "0.2 and 0.4 were alike in small models; its factor is sqrt(max(rows, columns))",
        ("optimizer",),
        ("width",),
        same_rms,
    ),
    TransferRule(
        "Muon width^-2",
        "lambda' = lambda / m^2",
        "karpathy/nanochat, dev/LOG.md, 2026-01-10",
        "widths 512 to 1280, tokens in proportion to parameters, cautious decay falling to 0",
        ("width",),
        ("width",),
        muon_width,
        ("muon", "muon_rms"),
    ),
)
