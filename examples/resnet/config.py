"""Every setting of the image example, its default, and the named configurations.

The names of the fields are the names of the flags: those of the paper's scripts, where it has them.
Without a configuration's name the defaults are those scripts': ResNet-18 of width 64 on CIFAR-10.
"""

import dataclasses
from typing import ClassVar, Literal

from examples.runs import conventions
from examples.runs.errors import UserError
from examples.runs.optimizers import Coupling
from examples.runs.settings import (
    BELOW_ONE,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    Settings,
    free,
    setting,
    shape,
)

OptType = Literal["sgd", "muon", "soap", "schedule_free"]
Rules = Literal["ALL", "NO_BIAS_OR_NORM", "KERNELS_ONLY", "convention"]


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of one training run."""

    OPTIMIZER: ClassVar[tuple[str, ...]] = (
        "opt_type", "convention", "convention_args", "momentum", "coupling", "rules",
    )  # fmt: skip

    # Where and what.
    exp_name: str = free("resnet")  # name of the run
    dataset: str = "cifar10"  # cifar10, cifar100, cifar10_5k, digits (embedded), or a .npz file
    no_data_augm: bool = True  # no flips, translations, cutout; False: with them
    random_seed: int = setting(42, NOT_NEGATIVE)  # of initial weights, order, augmentation

    # Model.
    model: str = "resnet18"  # see MODELS in model.py
    width: int = setting(64, POSITIVE)  # channels of the first stage
    batch_norm: bool = False  # BatchNorm; without it ResNets have GroupNorm, VGG has none
    scale_inv: bool = False  # BatchNorm without scale and bias, last layer frozen

    # Optimization: SGD as in PyTorch, or another optimizer.
    opt_type: OptType = shape("sgd")  # muon: of the hidden kernels, with AdamW for the rest
    convention: str = shape("")  # another system's optimizer, such as torch.AdamW, for opt_type
    convention_args: str = setting("")  # its own arguments: "betas=(0.9, 0.95), eps=1e-10"
    epochs: int = setting(100, POSITIVE)  # passes over the training data
    batch_size: int = setting(128, POSITIVE)  # images per step; a last partial batch is dropped
    lr: float = setting(0.03, POSITIVE)  # learning rate, until first_decay
    momentum: float = setting(0.9, BELOW_ONE)  # of sgd: of the gradient, decay included
    wd: float = setting(0.0, NOT_NEGATIVE)  # weight decay: of sgd, wd * w joins the gradient
    coupling: Coupling = "lr"  # what multiplies wd; not of sgd
    # which parameters decay: a preset of wdlab.rules, or what the convention itself exempts
    rules: Rules = "ALL"
    first_decay: float = setting(0.5, FRACTION)  # share of the epochs after which lr is lr_flow
    lr_flow: float = setting(1e-4, POSITIVE)  # after first_decay, and of the gradient flow
    wd_gamma_decay: float = setting(1.0, NOT_NEGATIVE)  # factor of wd after first_decay
    # project the weights onto the sphere of this radius, at the start and after every epoch
    radius: float | None = setting(None, POSITIVE)
    ema: float = setting(0.999, BELOW_ONE)  # of the moving average of the weights, per step

    # Gradient flow (examples.resnet.flow).
    flow_every: int = setting(50, POSITIVE)  # epochs between two probes
    flow_steps: int = setting(100, POSITIVE)  # epochs that the copy trains
    wd_flow: float = setting(0.0, NOT_NEGATIVE)  # its weight decay
    probe_examples: int = setting(5_000, POSITIVE)  # images for curvature: each class's first ones
    jacobian: bool = True  # the mean norm of the Jacobian d logits / d weights too
    top_eigenvalue: bool = False  # the Hessian's largest eigenvalue too

    save_every: int = free(10, POSITIVE)  # epochs between checkpoints; the last one is always saved

    @property
    def least_bytes(self) -> int:
        """What a run takes at the very least: of large models the weights and one activation."""
        if self.model == "linear":
            return 0
        return 4 * (4 * 9 * (8 * self.width) ** 2 + self.batch_size * 32**2 * self.width)

    def check(self) -> None:
        """Refuses settings that are out of range or do not fit together.

        Raises:
          UserError: With the flag, its value, and what it should be.
        """
        super().check()
        if self.batch_size == 1:
            raise UserError("--batch_size must be at least 2: one image has no variance")
        conventions.check(self.convention, self.convention_args)
        if self.rules == conventions.OWN_RULES and not self.convention:
            raise UserError("--rules convention needs --convention NAME")
        if self.scale_inv:
            _check_scale_inv(self)


def _check_scale_inv(config: Config) -> None:
    if config.model == "linear" or config.model.endswith("_gn"):
        raise UserError(f"--scale_inv needs BatchNorm, which --model {config.model} has not")
    if not config.batch_norm and config.model not in ("resnet18_plain", "resnet34_plain", "wrn28"):
        raise UserError(f"--scale_inv needs --batch_norm with --model {config.model}")


def _tiny() -> Config:
    """ResNet-18 of width 8 on scikit-learn's digits.

    ``python -m examples.resnet.train``: no data to prepare, about a minute on two CPU cores.
    """
    return Config(
        exp_name="tiny", dataset="digits", width=8, batch_norm=True, epochs=16, batch_size=64,
        lr=0.05, momentum=0.0, wd=0.01, lr_flow=1e-3, flow_every=8, flow_steps=4,
        probe_examples=100,
    )  # fmt: skip


def _cifar10() -> Config:
    """ResNet-18 of width 64 on CIFAR-10, the defaults of the paper's scripts."""
    return Config()


CONFIGS = {"tiny": _tiny, "cifar10": _cifar10}
