"""How each convention is checked: live against its package, or against a float64 twin."""

import jax.numpy as jnp
import numpy as np

from wdlab.preconditioners import Grafting

LIVE = frozenset(
    {
        *(f"torch.{name}" for name in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adafactor")),
        *("torch.Muon", "optax.contrib.muon", "keller_jordan.Muon"),
        "keller_jordan.MuonWithAuxAdam",
        *(
            f"torch.{name}"
            for name in ("Adamax", "Adagrad", "RMSprop", "Adadelta", "ASGD", "Rprop")
        ),
        *(f"optax.{name}" for name in ("adamw", "adafactor", "lion", "lamb", "contrib.sophia")),
        *(f"keras.{name}" for name in ("AdamW", "SGD", "Adafactor", "Lion")),
        *("transformers.Adafactor", "lion_pytorch.Lion"),
        *(
            f"optimi.{name}"
            for name in ("Adam", "AdamW", "RAdam", "Lion", "SGD", "StableAdamW", "Adan")
        ),
        *(
            f"timm.{name}"
            for name in ("AdamW", "NAdamW", "SGDW", "Lion", "Adan", "Adopt", "Mars", "Lamb", "Lars")
        ),
        "timm.NvNovoGrad",
        *("optax.adan", "optax.contrib.ademamix", "optax.contrib.adopt"),
        *(
            f"schedulefree.{name}ScheduleFree{kind}"
            for name, kind in (("AdamW", ""), ("AdamW", "Reference"), ("SGD", ""), ("RAdam", ""))
        ),
        "prodigyopt.Prodigy",
        *(f"dadaptation.DAdapt{name}" for name in ("Adam", "SGD", "AdaGrad", "Lion", "Adan")),
        *(f"optax.contrib.schedule_free_{name}" for name in ("adamw", "sgd")),
        *("optax.contrib.prodigy", "optax.contrib.dadapt_adamw"),
        *(f"bitsandbytes.{name}" for name in ("Adam", "AdamW", "AdEMAMix", "Lion", "SGD")),
        *("bitsandbytes.RMSprop", "bitsandbytes.Adagrad", "torchao._AdamW"),
        *(f"torchao.Adam{w}{bits}" for w in ("", "W") for bits in ("8bit", "4bit", "Fp8")),
        *(f"mup.{name}" for name in ("MuSGD", "MuAdam", "MuAdamW")),
    }
)


def _rising_to(value):
    """A schedule of the authors' kind: linear in the number of updates before, then constant."""

    def schedule(count):
        least = np.minimum if isinstance(count, int) else jnp.minimum  # In double in the twin.
        return value * least(0.5 + 0.01 * count, 1.0)

    return schedule


# Key -> arguments with which it is compared, beside the defaults and the decay.
TWIN_VARIANTS = {
    "torch.Adadelta": [{}, {"rho": 0.5, "eps": 1e-3, "maximize": True}],
    "torch.ASGD": [{}, {"lambd": 0.3, "alpha": 0.5, "maximize": True}],
    "torch.Rprop": [{}, {"etas": (0.3, 1.5), "step_sizes": (1e-3, 0.1)}],
    "transformers.AdamW": [{}, {"correct_bias": False, "betas": (0.8, 0.95)}],
    "fairseq.Adam": [{}, {"amsgrad": True, "eps": 1e-4}],
    "fairseq.NAG": [{}, {"momentum": 0.9}],
    "fairseq.Adafactor": [
        {"relative_step": True},
        {"scale_parameter": False, "beta1": 0.9},
        {"relative_step": True, "warmup_init": True, "eps": (1e-20, 0.1)},
    ],
    "composer.DecoupledSGDW": [{}, {"momentum": 0.9, "dampening": 0.3}],
    "composer.DecoupledAdamW": [{}, {"amsgrad": True, "betas": (0.9, 0.999)}],
    "apex.FusedAdam": [{}, {"adam_w_mode": False}, {"bias_correction": False}],
    "deepspeed.FusedAdam": [{}, {"adam_w_mode": False}],
    "deepspeed.DeepSpeedCPUAdam": [{}, {"adamw_mode": False, "eps": 1e-3}],
    "t5x.Adafactor": [
        {},
        {
            "weight_decay_rate_lr_exponent": 1.0,
            "min_dim_size_to_factor": 3,
            "beta1": 0.9,
            "dtype_momentum": None,
        },
        {"weight_decay_rate_lr_exponent": 2.0, "factored": False, "max_parameter_scale": 0.5},
        {"weight_decay_rate_lr_exponent": 0.5, "multiply_by_parameter_scale": False},
    ],
    "palm.Adafactor": [{}, {"beta1": 0.5}],
    "praxis.sharded_adam": [{}, {"update_capping": 0.0, "epsilon_root": 1e-6, "beta2": 0.98}],
    "praxis.sharded_adafactor": [
        {"decay_method": "adam", "decay_adam": 0.98},
        {
            "decay_method": "pow",
            "decay_pow": 0.8,
            "beta1": 0.9,
            "quantized_dtype": "float32",
            "multiply_by_parameter_scale": True,
        },
        {"decay_method": "pow", "decay_pow": 0.5, "factored": False, "clip_threshold": None},
    ],
    "big_vision.adam": [{}, {"b2": 0.95, "eps_root": 1e-6}],
    "big_vision.adafactor": [
        {"momentum": 0.0, "min_dim_size_to_factor": 3},
        {"dtype_momentum": None, "beta2_cap": 0.9, "clipping_threshold": 0.5},
    ],
    "axlearn.adamw": [{"b1": 0.9, "b2": 0.95, "eps": 1e-8}],
    "axlearn.adamw_decoupled": [{"b1": 0.9, "b2": 0.95, "eps": 1e-8}],
    "nanodo.adamw": [{}, {"independent_weight_decay": True}],
    "timm.AdamW": [{}, {"corrected_weight_decay": True, "caution": True}, {"amsgrad": True}],
    "timm.NAdamW": [{"clipping_threshold": 0.5}, {"corrected_weight_decay": True, "caution": True}],
    "timm.SGDW": [{}, {"corrected_weight_decay": True, "momentum": 0.9, "caution": True}],
    "timm.Lion": [{}, {"corrected_weight_decay": True, "caution": True}],
    "modded_nanogpt.Adam": [{}, {"adam_betas": (0.9, 0.99), "lr_mul": 5.0, "wd_mul": 3.0}],
    "tfa.AdamW": [{}, {"amsgrad": True}],
    "tfa.SGDW": [{}, {"momentum": 0.9, "nesterov": True}],
    "bert.AdamWeightDecayOptimizer": [{}, {"beta_2": 0.95, "epsilon": 1e-3}],
    "ademamix.AdEMAMix": [{}, {"alpha": 8.0, "beta3_warmup": 150, "alpha_warmup": 90}],
    "ademamix.ademamix": [
        {"eps_root": 1e-6},
        {"b3_scheduler": _rising_to(0.9999), "alpha_scheduler": _rising_to(8.0)},
    ],
    "adan.Adan": [{}, {"no_prox": True, "max_grad_norm": 0.5, "betas": (0.9, 0.5, 0.95)}],
    "adopt.ADOPT": [
        {"betas": (0.9, 0.99)},
        {"decouple": True, "clip_lambda": None, "maximize": True, "eps": 1e-2},
    ],
    "mars.MARS": [
        {},
        {"optimize_1d": True, "mars_type": "mars-lion", "gamma": 0.5},
        {"amsgrad": True, "lr_1d": 0.1, "betas_1d": (0.5, 0.9), "weight_decay_1d": 0.5},
    ],
    "optimi.Adam": [{}],
    "optimi.AdamW": [{"decouple_lr": True, "max_lr": 2e-2}],
    "optimi.RAdam": [{"decouple_wd": True}],
    "optimi.Lion": [{"decouple_lr": True}],
    "optimi.SGD": [{"momentum": 0.9, "dampening": True, "torch_init": True}],
    "optimi.StableAdamW": [{}, {"decouple_lr": True, "betas": (0.5, 0.95), "eps": 1e-2}],
    "optimi.Adan": [{}, {"decouple_lr": True}],
    "timm.Adan": [{"no_prox": True}],
    "timm.Adopt": [{"decoupled": True, "corrected_weight_decay": True, "caution": True}],
    "timm.Mars": [{"caution": True}],
    "timm.Lamb": [{"trust_clip": True}, {"decoupled_decay": True, "always_adapt": True}],
    "timm.Lars": [{"momentum": 0.9, "trust_coeff": 0.1}],
    "timm.NvNovoGrad": [{"amsgrad": True}],
    "apex.FusedLAMB": [{"use_nvlamb": True}, {"adam_w_mode": False, "grad_averaging": False}],
    "apex.FusedNovoGrad": [
        {},
        {"reg_inside_moment": True, "norm_type": 0, "init_zero": True},
        {"bias_correction": False, "grad_averaging": False},
    ],
    "bitsandbytes.Adam": [{}],
    "bitsandbytes.AdamW": [{}],
    "bitsandbytes.AdEMAMix": [{"t_alpha": 90, "t_beta3": 150}],
    "bitsandbytes.Lion": [{}],
    "bitsandbytes.SGD": [{"momentum": 0.9}],
    "bitsandbytes.RMSprop": [{}],
    "bitsandbytes.Adagrad": [{}],
    "bitsandbytes.LAMB": [{"max_unorm": 0.1}],
    "bitsandbytes.LARS": [{"momentum": 0.9}],
    "torchao._AdamW": [{"amsgrad": True}],
    **{f"torchao.Adam{w}{bits}": [{}] for w in ("", "W") for bits in ("8bit", "4bit", "Fp8")},
    "optax.adan": [{"b2": 0.5}],
    "optax.contrib.ademamix": [{"eps_root": 1e-6}],
    "optax.contrib.adopt": [{"nesterov": True}],
    "paper.SGDW": [{}, {"beta1": 0.0}],
    "paper.AdamW": [{}, {"beta2": 0.95, "eps": 1e-3}],
    "paper.AdamWR": [{"first_steps": 20, "factor": 2}, {"first_steps": 70}],
    "paper.Adafactor": [{}, {"eps2": 0.1, "d": 0.5}],
    # Of the 12 rows of a (12, 5) the first gradient does not say the basis: they have a null space.
    "soap.SOAP": [
        {"max_precond_dim": 10},
        {
            "max_precond_dim": 10,
            "shampoo_beta": 0.9,
            "precondition_frequency": 3,
            "normalize_grads": True,
            "correct_bias": False,
        },
    ],
    # Of the trajectory's matrices the first gradients leave a null space: test_soap.py.
    "emerging_optimizers.SOAP": [],
    # Without learning, which needs probes: with them in tests/preconditioners/test_kron.py.
    "kron.Kron": [
        {"preconditioner_update_probability": 1e-3},
        {"preconditioner_update_probability": 1e-3, "b1": 0.0, "precond_init_scale": 2.0},
    ],
    # With one projection: the signs of a second one are free, and the moments depend on them.
    "galore.GaLoreAdamW": [
        {"rank": 2, "scale": 0.25},
        {"rank": 3, "proj_type": "reverse_std", "correct_bias": False},
    ],
    "apollo.APOLLOAdamW": [  # Its random projections are compared in tests/oracles.
        {"rank": 2, "proj": "svd", "scale": 4.0},
        {"rank": 1, "proj": "svd", "scale_type": "tensor", "scale": 128.0, "scale_front": True},
        {"rank": 3, "proj": "svd", "disable_nl": True, "correct_bias": False},
    ],
    "distributed_shampoo.DistributedShampoo": [
        {"betas": (0.9, 0.95), "max_preconditioner_dim": 7, "grafting_config": Grafting("adam")},
        {
            "weight_decay_type": "CORRECTED",
            "max_preconditioner_dim": 12,
            "epsilon": 1e-6,
            "precondition_frequency": 3,
            "start_preconditioning_step": 10,
            "grafting_config": Grafting("rmsprop", b2=0.9),
            "iterate_averaging_config": {"momentum": 0.5, "dampening": 0.3, "use_nesterov": True},
        },
        {
            "weight_decay_type": "INDEPENDENT",
            "betas": (0.0, 0.9),
            "use_bias_correction": False,
            "max_preconditioner_dim": 16,
            "target_parameter_dimensionality": 2,
            "grafting_config": Grafting("adagrad"),
        },
        {
            "weight_decay_type": "L2",
            "beta3": 0.5,
            "epsilon": 1e-4,
            "target_parameter_dimensionality": 4,
            "grafting_config": Grafting("sgd"),
            "iterate_averaging_config": {"momentum": 0.9, "dampening": 0.0, "use_nesterov": False},
        },
    ],
    # Its curvature comes in by a keyword argument: tests/preconditioners/test_sophia.py.
    "sophia.SophiaG": [{}, {"betas": (0.5, 0.9), "maximize": True}],
    "gpa.GPAAdamW": [
        {"use_wd_on_y": True, "train_interp_coeff": 0.5},
        {"iterate_averaging_type": "SCHEDULE_FREE", "weight_pow_coeff": 1.0, "beta1": 0.5},
    ],
    "schedulefree.AdamWScheduleFree": [
        {"betas": (0.95, 0.9), "eps": 1e-3, "warmup_steps": 30, "r": 1.5, "weight_lr_power": 1.0}
    ],
    "schedulefree.AdamWScheduleFreeReference": [{"decay_at_z": True, "warmup_steps": 30}],
    "schedulefree.SGDScheduleFree": [{}],
    "schedulefree.RAdamScheduleFree": [{}, {"silent_sgd_phase": False, "betas": (0.9, 0.95)}],
    "optax.contrib.schedule_free_adamw": [{}],
    "optax.contrib.schedule_free_sgd": [{"b1": 0.5}],
    "paper.RAdam": [{}, {"betas": (0.9, 0.99), "eps": 1e-3}],
}

_POLAR = {"coefficient_type": "polar_express", "num_ns_steps": 7, "nesterov": True}
_CONVERGING = ((2.0, -1.5, 0.5), (1.875, -1.25, 0.375))
_FLAT = {"cautious_wd": True, "nesterov": True, "adjust_lr": "rms_norm", "flatten": True}
_JIACHENG = {"use_polar_express": False, "adjust_lr": None}
# The same for the optimizers of matrices, which test_muons.py takes over more shapes, and with
# kernels, on which the release of KellerJordan/Muon fails.
MATRIX_VARIANTS = {
    "torch.Muon": [{}, {"adjust_lr_fn": "match_rms_adamw", "nesterov": False, "ns_steps": 1}],
    "optax.contrib.muon": [
        {"adam_weight_decay": 0.1, "ns_steps": 2},
        {
            "nesterov": False,
            "adaptive": True,
            "consistent_rms": 0.2,
            "ns_coeffs": ((2, -1.5, 0.5),),
        },
    ],
    "moonlight.Muon": [{}, {"nesterov": False, "ns_steps": 1, "adamw_betas": (0.8, 0.99)}],
    "keller_jordan.Muon": [{}],
    "keller_jordan.MuonWithAuxAdam": [{"adam_weight_decay": 0.5, "momentum": 0.8}],
    "dion.Muon": [{}, _FLAT, _JIACHENG],
    "dion.NorMuon": [{}, _FLAT],
    "dion.Dion": [{}, {"rank_fraction": 0.4, "rank_multiple_of": 2, "power_iters": 2}],
    "dion.Dion2": [{}, {"fraction": 0.5, "adjust_lr": "rms_norm"}],
    "dion.NorDion2": [{"fraction": 0.5, "use_polar_express": False}],
    "modded_nanogpt.NorMuon": [{}, {"lr_mul": 2.0, "wd_mul": 5.0, "beta2": 0.5, "momentum": 0.8}],
    "nanochat.Muon": [{}, {"num_iterations": 200, "ns_steps": 1, "beta2": 0.5}],
    "emerging_optimizers.Muon": [
        {"fp32_matmul_prec": "highest"},
        {"weight_decay_method": "independent", "scale_mode": "shape_scaling", **_POLAR},
        {"weight_decay_method": "palm", "extra_scale_factor": 0.2, "num_ns_steps": 1},
        {"weight_decay_method": "l2", "scale_mode": "unit_rms_norm", "num_ns_steps": 2},
    ],
    "emerging_optimizers.Scion": [{"coefficient_type": "simple", "spectral_radius": 3.0}],
    "megatron.Muon": [
        {},
        {"decoupled_weight_decay": False, "muon_num_ns_steps": 1, "adam_beta2": 0.95},
    ],
    "scion.Scion": [
        {},
        {"momentum": 0.1, "scale": 3.0, "norm_kwargs": {"steps": 2}},
        {"unconstrained": True, "norm_kwargs": {"steps": 1}},
    ],
    "llm_optimizer_benchmark.Signum": [
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.5, "sign_update": False},
        {"momentum": 0.9, "nesterov": True},
    ],
}
