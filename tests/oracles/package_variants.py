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
_CORRECTED = {"corrected_weight_decay": True, "caution": True}
TIMM = {
    "timm.AdamW": [
        {},
        {**_CORRECTED, "amsgrad": True},
        {"clipping_threshold": 0.5, "betas": (0.5, 0.9), "eps": 1e-3, "amsgrad": True},
    ],
    "timm.NAdamW": [{}, _CORRECTED, {"clipping_threshold": 0.5, "betas": (0.5, 0.9)}],
    "timm.SGDW": [{}, {**_CORRECTED, "momentum": 0.9}],
    "timm.Lion": [{}, _CORRECTED],
    "timm.Adan": [{}, {"no_prox": True, "betas": (0.9, 0.5, 0.95)}],
    "timm.Adopt": [
        {},
        {"decoupled": True, "betas": (0.9, 0.99), "maximize": True},
        {"decoupled": True, **_CORRECTED, "clip_exp": None, "eps": 1e-2},
    ],
    "timm.Mars": [
        {},
        {"gamma": 0.5, "lr_1d_factor": 0.3, "betas_1d": (0.5, 0.9), "caution": True},
        {"optimize_1d": True, "mars_type": "lion", "caution": True},
    ],
    "timm.Lamb": [
        {},
        {"grad_averaging": False, "bias_correction": False, "always_adapt": True},
        {"decoupled_decay": True, "trust_clip": True, "max_grad_norm": None},
        {"decoupled_decay": True, **_CORRECTED},
    ],
    "timm.Lars": [
        {},
        {"momentum": 0.9, "nesterov": True, "trust_coeff": 0.1, "always_adapt": True},
        {"momentum": 0.9, "dampening": 0.3, "trust_clip": True, "eps": 1e-2},
    ],
    "timm.NvNovoGrad": [
        {},
        {"grad_averaging": True, "amsgrad": True, "betas": (0.9, 0.5)},
        {"decoupled_decay": True, "corrected_weight_decay": True},
    ],
}
VARIANTS = {**OPTIMI, **TIMM}
