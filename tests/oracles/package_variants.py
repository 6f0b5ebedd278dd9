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
AVERAGES = {
    "schedulefree.AdamWScheduleFree": [
        {},
        {"betas": (0.95, 0.9), "eps": 1e-3, "warmup_steps": 30, "r": 1.5, "weight_lr_power": 1.0},
    ],
    "schedulefree.AdamWScheduleFreeReference": [{}, {"decay_at_z": True, "warmup_steps": 30}],
    "schedulefree.SGDScheduleFree": [{}, {"momentum": 0.5, "warmup_steps": 30, "r": 2.0}],
    "schedulefree.RAdamScheduleFree": [{}, {"silent_sgd_phase": False, "betas": (0.9, 0.95)}],
    "optax.contrib.schedule_free_adamw": [{}, {"b1": 0.5, "b2": 0.9, "weight_lr_power": 1.0}],
    "optax.contrib.schedule_free_sgd": [{}, {"b1": 0.5}],
}
DISTANCES = {
    "prodigyopt.Prodigy": [
        {},
        {"use_bias_correction": True, "d0": 0.1, "beta3": 0.9, "slice_p": 3, "growth_rate": 1.1},
        {"decouple": False, "safeguard_warmup": True, "d_coef": 2.0, "d0": 0.1},
    ],
    "dadaptation.DAdaptAdam": [
        {},
        {"decouple": True, "use_bias_correction": True, "d0": 0.1, "growth_rate": 1.1},
    ],
    "dadaptation.DAdaptSGD": [{}, {"momentum": 0.9, "d0": 0.1, "growth_rate": 1.1}],
    "dadaptation.DAdaptAdaGrad": [{}, {"momentum": 0.9, "d0": 0.1, "growth_rate": 1.1}],
    "dadaptation.DAdaptLion": [{}, {"betas": (0.5, 0.8), "d0": 0.1}],
    "dadaptation.DAdaptAdan": [{}, {"no_prox": True, "d0": 0.1, "betas": (0.9, 0.5, 0.95)}],
    "optax.contrib.prodigy": [{}, {"beta3": 0.9, "estim_lr0": 0.1, "safeguard_warmup": True}],
    "optax.contrib.dadapt_adamw": [{}, {"estim_lr0": 0.1, "betas": (0.5, 0.9)}],
}
OPTAX = {
    "optax.adan": [{}, {"b1": 0.9, "b2": 0.5, "b3": 0.95, "eps_root": 1e-6}],
    "optax.contrib.ademamix": [{}, {"b3": 0.99, "alpha": 8.0, "eps_root": 1e-6}],
    "optax.contrib.adopt": [{}, {"nesterov": True, "use_clipping": False, "b2": 0.99}],
}
BITSANDBYTES = {
    "bitsandbytes.Adam": [{}, {"betas": (0.5, 0.95), "eps": 1e-3}],
    "bitsandbytes.AdamW": [{}],
    "bitsandbytes.AdEMAMix": [{}, {"alpha": 8.0, "t_alpha": 90, "t_beta3": 150}],
    "bitsandbytes.Lion": [{}, {"betas": (0.5, 0.8)}],
    "bitsandbytes.SGD": [{"momentum": 0.9}, {"momentum": 0.5, "nesterov": True, "dampening": 0.3}],
    "bitsandbytes.RMSprop": [{}, {"alpha": 0.9, "momentum": 0.9}],
    "bitsandbytes.Adagrad": [{}, {"eps": 1e-2}],
}
TORCHAO = {
    "torchao._AdamW": [{}, {"amsgrad": True, "betas": (0.5, 0.95)}],
    **{f"torchao.AdamW{bits}": [{}] for bits in ("8bit", "4bit", "Fp8")},
    **{f"torchao.Adam{bits}": [{}] for bits in ("8bit", "4bit", "Fp8")},
}
VARIANTS = {**OPTIMI, **TIMM, **AVERAGES, **DISTANCES, **BITSANDBYTES, **TORCHAO, **OPTAX}
# Those that compute in float32 whatever the weights' dtype, with the bound on the deviation of ours
# in float64. SGD's weights leap to 1e3 at the spike: torch.SGD in float32 is 4.8e-6 off as well.
# torchao's 1 - b2**t is a difference of float32 numbers, up to 2e-5 off, and a step is half of that
# off. It shows in Adam alone: its 4.8e-6 are 7e-7 with that expression alone in float64, and a
# float64 twin with that expression alone in float32 is 7e-7 off torchao as well.
IN_FLOAT32 = {
    **dict.fromkeys(BITSANDBYTES, 2e-6),
    "bitsandbytes.SGD": 6e-6,
    **{name: 2e-6 if "AdamW" in name else 6e-6 for name in TORCHAO},
}
# What the originals take and ignore, and the registry does not have.
IGNORED = {
    "bitsandbytes.SGD": ("nesterov", "dampening"),
    "bitsandbytes.RMSprop": ("momentum",),
}
