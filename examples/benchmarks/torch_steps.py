"""PyTorch's optimizers for the comparison; imported only where torch is installed."""

from collections.abc import Callable
from typing import Any

import torch  # pyrefly: ignore[missing-import]

LR, DECAY = 1e-3, 0.1


def _clipped(make: Callable[[list], Any]) -> Callable[[list], Callable[[], None]]:
    def build(params: list) -> Callable[[], None]:
        optimizer = make(params)

        def step() -> None:
            # Scales the gradients in place: less from the second step on, at the same cost.
            torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
            optimizer.step()

        return step

    return build


def _plain(make: Callable[[list], Any]) -> Callable[[list], Callable[[], None]]:
    return lambda params: make(params).step


def _muon(params: list) -> Callable[[], None]:
    """Muon for GPT-2's hidden matrices, AdamW for the rest: its last two are embeddings."""
    hidden = [leaf for leaf in params if leaf.ndim == 2][:-2]
    chosen = {id(leaf) for leaf in hidden}
    rest = [leaf for leaf in params if id(leaf) not in chosen]
    matrices = torch.optim.Muon(hidden, LR, weight_decay=DECAY)
    others = torch.optim.AdamW(rest, LR, betas=(0.9, 0.95), weight_decay=DECAY, fused=True)

    def step() -> None:
        matrices.step()
        others.step()

    return step


STEPS = {
    "sgd": _plain(lambda p: torch.optim.SGD(p, LR, fused=True)),
    "momentum": _plain(
        lambda p: torch.optim.SGD(p, LR, momentum=0.9, weight_decay=DECAY, fused=True)
    ),
    "adam": _plain(lambda p: torch.optim.Adam(p, LR, weight_decay=DECAY, fused=True)),
    "adamw": _plain(lambda p: torch.optim.AdamW(p, LR, weight_decay=DECAY, fused=True)),
    "clip + adamw": _clipped(lambda p: torch.optim.AdamW(p, LR, weight_decay=DECAY, fused=True)),
    "radam": _plain(lambda p: torch.optim.RAdam(p, LR, weight_decay=DECAY, foreach=True)),
    "muon": _muon,
    "adafactor": _plain(lambda p: torch.optim.Adafactor(p, LR, weight_decay=DECAY, foreach=True)),
}


def torch_step(
    name: str, shapes: list[tuple[int, ...]], device: str = "cpu", steps: int = 1
) -> Callable[[], None]:
    """So many steps over leaves of these shapes, all entries 0.02, gradients too."""
    params = [torch.full(shape, 0.02, device=device, requires_grad=True) for shape in shapes]
    for leaf in params:
        leaf.grad = torch.full_like(leaf, 0.02)
    step = STEPS[name](params)

    def awaited() -> None:
        for _ in range(steps):
            step()
        if device != "cpu":
            torch.cuda.synchronize()

    return awaited
