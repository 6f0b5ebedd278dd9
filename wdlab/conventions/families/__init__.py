"""The conventions, a module for each family of systems: data, and what builds them."""

import importlib
import pkgutil

_MODULES = [
    importlib.import_module(f"{__name__}.{each.name}") for each in pkgutil.iter_modules(__path__)
]
FAMILIES = [module for module in _MODULES if hasattr(module, "CONVENTIONS")]
