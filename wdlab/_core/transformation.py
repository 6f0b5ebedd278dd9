"""The pair that every transformation of this package is."""

from collections.abc import Callable

import optax


def transformation(
    init: Callable[..., optax.OptState], update: Callable[..., tuple[optax.Updates, optax.OptState]]
) -> optax.GradientTransformationExtraArgs:
    """Returns Optax's pair; keyword arguments of ``update``, such as ``value=``, are let pass.

    One that wraps another hands them on instead and is an
    ``optax.GradientTransformationExtraArgs`` itself.

    >>> tx = transformation(lambda params: (), lambda updates, state, params=None: (updates, state))
    >>> tx.update(1.0, (), value=3.0)
    (1.0, ())
    """
    return optax.with_extra_args_support(optax.GradientTransformation(init, update))
