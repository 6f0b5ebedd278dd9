"""The conventions, a module for each family of systems: data, and what builds them."""

from wdlab.conventions.families import (
    adafactors,
    jax_codebases,
    keras_family,
    optax_family,
    papers,
    praxis,
    timm_optim,
    torch_optim,
    torch_optim_adaptive,
    torch_optim_plain,
    torch_packages,
    width_scaled,
)

FAMILIES = (
    adafactors,
    jax_codebases,
    keras_family,
    optax_family,
    papers,
    praxis,
    timm_optim,
    torch_optim,
    torch_optim_adaptive,
    torch_optim_plain,
    torch_packages,
    width_scaled,
)
