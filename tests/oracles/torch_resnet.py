"""The image models in PyTorch, written from the same description, to compare training with.

Only what is compared: pre-activation ResNets with BatchNorm, VGG-16 with and without it.
"""

import numpy as np
import torch
from torch import nn

_MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]  # ImageNet's
_STD = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
_CONFIGURATION_D = [1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"]


class PreActBlock(nn.Module):
    def __init__(self, n_in, n_out, stride, affine):
        super().__init__()
        bias = not affine
        self.norm1 = nn.BatchNorm2d(n_in, affine=affine)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(n_out, affine=affine)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=bias)
        self.shortcut = self.shortcut_norm = None
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Conv2d(n_in, n_out, 1, stride=stride, bias=bias)
            self.shortcut_norm = None if affine else nn.BatchNorm2d(n_in, affine=False)

    def forward(self, x):
        y = torch.relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y if self.shortcut_norm is None else self.shortcut_norm(y))
        return x + self.conv2(torch.relu(self.norm2(self.conv1(y))))


class PreActResNet(nn.Module):
    def __init__(self, depths, width, n_classes, scale_inv=False):
        super().__init__()
        affine = not scale_inv
        self.norm_in = nn.BatchNorm2d(3, affine=affine)
        self.conv_in = nn.Conv2d(3, width, 3, padding=1, bias=not affine)
        stages, n_in = [], width
        for i, depth in enumerate(depths):
            n_out, blocks = width * 2**i, []
            for j in range(depth):
                blocks.append(PreActBlock(n_in, n_out, 2 if i > 0 and j == 0 else 1, affine))
                n_in = n_out
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.norm_out = nn.BatchNorm2d(n_in, affine=affine)
        self.head = nn.Linear(n_in, n_classes).requires_grad_(not scale_inv)

    def forward(self, x):
        x = self.stages(self.conv_in(self.norm_in(x)))
        return self.head(torch.relu(self.norm_out(x)).mean((2, 3)))


class VGG16(nn.Module):
    def __init__(self, width, n_classes, batch_norm=False, scale_inv=False):
        super().__init__()
        affine, n_in = not scale_inv, 3
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for factor in _CONFIGURATION_D:
            if factor != "M":
                self.convs.append(nn.Conv2d(n_in, factor * width, 3, padding=1))
                n_in = factor * width
                self.norms.append(nn.BatchNorm2d(n_in, affine=affine) if batch_norm else None)
        self.linears = nn.ModuleList([nn.Linear(n_in, n_in) for _ in range(2)])
        self.linear_norms = nn.ModuleList(
            nn.BatchNorm1d(n_in, affine=False) if scale_inv else None for _ in range(2)
        )
        self.head = nn.Linear(n_in, n_classes).requires_grad_(not scale_inv)

    def forward(self, x):
        x, i = (x - _MEAN.to(x)) / _STD.to(x), 0
        for factor in _CONFIGURATION_D:
            if factor == "M":
                x = nn.functional.max_pool2d(x, 2)
            else:
                x = self.convs[i](x)
                x = torch.relu(x if self.norms[i] is None else self.norms[i](x))
                i += 1
        x = x.flatten(1)
        for layer, norm in zip(self.linears, self.linear_norms, strict=True):
            x = layer(x)
            x = torch.relu(x if norm is None else norm(x))
        return self.head(x)


def resnet18(width, n_classes, scale_inv=False):
    return PreActResNet([2, 2, 2, 2], width, n_classes, scale_inv)


_LEAVES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}


def to_torch(tree, prefix=""):
    """Our nested dict of arrays as PyTorch's names and layouts."""
    flat = {}
    for name, node in tree.items():
        if isinstance(node, dict):
            flat |= to_torch(node, f"{prefix}{name}.")
            continue
        array = np.array(node)
        if name == "kernel":  # HWIO -> OIHW, IO -> OI
            array = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
        flat[prefix + _LEAVES.get(name, name)] = torch.from_numpy(np.ascontiguousarray(array))
    return flat


def load(model, params, stats):
    """Copies our weights and statistics into a PyTorch model; every one of them has its place."""
    state = to_torch(params) | to_torch(stats)
    dtype = next(iter(state.values())).dtype
    missing, unexpected = model.to(dtype).load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    return model


def train_step(model, optimizer, x, y):
    """One step of SGD; the loss before it, and the norm of the gradient."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    optimizer.step()
    return float(loss.detach()), float(torch.nn.utils.get_total_norm(grads))
