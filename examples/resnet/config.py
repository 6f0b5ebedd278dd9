"""Every setting of the image example, its default, and the named configurations.

The names of the fields are the names of the flags: those of the paper's scripts, where it has them.
Without a configuration's name the defaults are those scripts': ResNet-18 of width 64 on CIFAR-10.
"""

import dataclasses
from typing import Literal

from examples.runs.errors import UserError
from examples.runs.flags import BELOW_ONE, NOT_NEGATIVE, POSITIVE, Range, require

Rules = Literal["ALL", "NO_BIAS_OR_NORM", "KERNELS_ONLY"]


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of one training run."""

    # Where and what.
    out_dir: str = ""  # results; empty: out/<exp_name>, or the next free out/<exp_name>-2, ...
    exp_name: str = "resnet"  # name of the run
    resume: bool = False  # continue the run in out_dir exactly where its last checkpoint is
    dataset: str = "cifar10"  # cifar10, cifar100, cifar10_5k, digits (embedded), or a .npz file
    data_dir: str = "data"  # where CIFAR's archives are, or are downloaded to
    no_data_augm: bool = True  # no flips, translations, cutout; False: with them
    random_seed: int = 42  # of the initial weights, the order of the data, the augmentation

    # Model.
    model: str = "resnet18"  # see MODELS in model.py
    width: int = 64  # channels of the first stage
    batch_norm: bool = False  # BatchNorm; without it ResNets have GroupNorm, VGG has none
    scale_inv: bool = False  # BatchNorm without scale and bias, last layer frozen

    # Optimization: SGD as in PyTorch.
    epochs: int = 100  # passes over the training data
    batch_size: int = 128  # images per step; a last partial batch is dropped
    lr: float = 0.03  # learning rate, until first_decay
    momentum: float = 0.9
    wd: float = 0.0  # weight decay: wd * w is added to the gradient, before the momentum
    rules: Rules = "ALL"  # which parameters decay: a preset of wdlab.rules
    first_decay: float = 0.5  # the fraction of the epochs after which lr becomes lr_flow
    lr_flow: float = 1e-4  # learning rate after first_decay, and of the gradient flow
    wd_gamma_decay: float = 1.0  # factor of wd after first_decay
    radius: float | None = None  # project the weights onto this sphere at init and every epoch
    ema: float = 0.999  # of the moving average of the weights, per step

    # Devices. Any number of them and of processes gives the same run, up to rounding.
    mesh_data: int = 0  # devices over which the batch is split; 0: all that mesh_fsdp leaves
    mesh_fsdp: int = 1  # over which weights and optimizer state are split too; see runs/mesh.py
    distributed: bool = False  # one of several processes, which JAX finds (a TPU slice)

    # Gradient flow (examples.resnet.flow).
    flow_every: int = 50  # epochs between two probes
    flow_steps: int = 100  # epochs that the copy trains
    wd_flow: float = 0.0  # its weight decay
    probe_examples: int = 5_000  # images for curvature: the first ones of each class
    jacobian: bool = True  # the mean norm of the Jacobian d logits / d weights too
    top_eigenvalue: bool = False  # the Hessian's largest eigenvalue too

    # Records, checkpoints.
    save_every: int = 10  # epochs between checkpoints; the last one is always saved
    keep_checkpoints: int = 2  # newest ones to keep

    def trajectory(self) -> dict[str, object]:
        """The settings that decide the numbers of a run: equal ones continue it bit for bit."""
        free = {"out_dir", "exp_name", "data_dir", "resume", "save_every", "keep_checkpoints"}
        free |= {"mesh_data", "mesh_fsdp", "distributed"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in free}


_POSITIVE = (
    "epochs batch_size width lr lr_flow flow_every flow_steps probe_examples save_every "
    "keep_checkpoints mesh_fsdp radius"
)


def check(config: Config) -> None:
    """Refuses settings that make no sense.

    Raises:
      UserError: With the flag, its value, and what it should be.
    """
    require(config, _POSITIVE, POSITIVE)
    require(config, "wd wd_flow wd_gamma_decay random_seed mesh_data", NOT_NEGATIVE)
    require(config, "momentum ema", BELOW_ONE)
    require(config, "first_decay", Range(lambda value: 0 <= value <= 1, "in [0, 1]"))
    if config.batch_size == 1:
        raise UserError("--batch_size must be at least 2: the variance of one image is no variance")
    if config.scale_inv:
        _check_scale_inv(config)


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


CONFIGS = {"tiny": _tiny, "cifar10": Config}
