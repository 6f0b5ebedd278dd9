"""The optimizer of the GPT example under ``--doctor``: watched, and the same steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import wdlab
from examples.gpt import configs, optim
from wdlab.instruments import readings

PARAMS = {"mlp": {"kernel": jax.ShapeDtypeStruct((4, 6), jnp.float32)}}
TINY = dataclasses.replace(configs.CONFIGS["tiny"](), grad_clip=0.0)


@pytest.mark.parametrize("opt_type", ["adam", "gd", "gdm"])
def test_the_share_that_a_step_takes_is_the_measured_one(opt_type):
    config = dataclasses.replace(TINY, opt_type=opt_type, doctor=True, weight_decay=0.1)
    tx, params = optim.make_optimizer(config), jax.tree.map(lambda x: jnp.ones(x.shape), PARAMS)
    state = jax.tree.map(lambda x: 0 * x + 20 if x.dtype == jnp.int32 else x, tx.init(params))
    updates, _ = jax.jit(tx.update)(jax.tree.map(jnp.zeros_like, params), state, params)
    kept = config.beta1 if opt_type == "gdm" else 0.0  # The first of a momentum's repeats.
    share = float(optim.shrink(config)(20)) * (1 - kept)
    np.testing.assert_allclose(updates["mlp"]["kernel"], -share, rtol=1e-4)


def test_watching_changes_no_step():
    plain, watched = (
        optim.make_optimizer(dataclasses.replace(TINY, doctor=doctor)) for doctor in (False, True)
    )
    assert wdlab.equivalent(plain, watched, PARAMS)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), PARAMS)
    assert "decayed/rotation" in readings(watched.init(zeros))
