"""Arguments beside the defaults with which the optimizers of optimi, timm and others are compared.

Of every key the first case has the defaults.
"""

OPTIMI = {
    "optimi.Adam": [
        {},
        {"decouple_wd": True, "betas": (0.5, 0.95), "eps": 1e-3},
        {"decouple_lr": True, "max_lr": 2e-2},
    ],
    "optimi.AdamW": [{}, {"decouple_lr": True}],
    "optimi.RAdam": [{}, {"decouple_wd": True, "betas": (0.9, 0.999)}],
    "optimi.Lion": [{}, {"decouple_lr": True, "betas": (0.5, 0.8)}],
    "optimi.SGD": [
        {},
        {"momentum": 0.9, "dampening": True, "torch_init": True},
        {"momentum": 0.9, "dampening": True, "decouple_wd": True},
        {"momentum": 0.9, "decouple_lr": True},
    ],
    "optimi.StableAdamW": [{}, {"decouple_lr": True, "betas": (0.5, 0.95), "eps": 1e-2}],
    "optimi.Adan": [{}, {"decouple_lr": True, "betas": (0.9, 0.5, 0.95)}, {"adam_wd": True}],
}
VARIANTS = {**OPTIMI}
