"""Parameter groups in one optimizer: rates, decay, freezing, LoRA, layer-wise decay, muP widths."""

from wdlab.groups.chains import grouped
from wdlab.groups.group import Group, assign_groups, check_groups
from wdlab.groups.layer_widths import Layout, Width, widths
from wdlab.groups.mup import mu_adam, mu_adamw, mu_sgd, mup_groups
from wdlab.groups.presets import deepspeed_chat, layerwise, lora
from wdlab.groups.table import GroupRow, print_groups
from wdlab.groups.transforms import freeze_groups, scale_by_groups

__all__ = [
    "Group",
    "GroupRow",
    "Layout",
    "Width",
    "assign_groups",
    "check_groups",
    "deepspeed_chat",
    "freeze_groups",
    "grouped",
    "layerwise",
    "lora",
    "mu_adam",
    "mu_adamw",
    "mu_sgd",
    "mup_groups",
    "print_groups",
    "scale_by_groups",
    "widths",
]
