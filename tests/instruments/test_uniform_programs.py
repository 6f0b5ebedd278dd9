"""Programs on uniform arrays give what JAX gives, or say that they do not know."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wdlab.instruments.plans.uniform_programs import Program
from wdlab.instruments.plans.uniform_tracing import trace

SMALL = np.asarray([3.4445, -4.775, 2.0315], np.float32)
FUNCTIONS = {
    "elementwise": lambda x: jnp.sqrt(jnp.exp(x) - jnp.tanh(x)) / (1 + jnp.abs(x)) ** 3,
    "more of them": lambda x: jnp.clip(jnp.log1p(x * x), 0.1, 0.9) + jnp.sign(x) * jnp.expm1(-x),
    "whole numbers": lambda x: x + (jnp.int32(7) % 3) * (jnp.int32(-7) // 2),
    "sums": lambda x: x / jnp.linalg.norm(x) + x.mean() + jnp.max(x, axis=0),
    "products": lambda x: (x @ x.T) @ x / x.size,
    "choice": lambda x: jnp.where(x > 0.5, x, -x) + jax.lax.cond(x.sum() > 1, jnp.sin, jnp.cos, x),
    "loop": lambda x: jax.lax.fori_loop(0, 5, lambda n, y: 0.5 * y + x, x),
    "while": lambda x: jax.lax.while_loop(lambda y: y.max() < 9, lambda y: 2 * y + 1, jnp.abs(x)),
    "small constant": lambda x: SMALL[0] * x + SMALL[1] * x**2 + SMALL.sum() * SMALL[2],
    "joined": lambda x: x * jnp.stack([x.sum(), x[0, 0]]).sum() * jnp.arange(4.0)[2],
    "places": lambda x: x[:3, 1:].T.reshape(-1)[:1] + jnp.broadcast_to(x[0], (2, 5))[1, 0],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_program_gives_what_jax_gives(name):
    function, shape = FUNCTIONS[name], (4, 5)
    program = Program()
    x = program.input("x")
    (found,) = trace(program, jax.make_jaxpr(function)(jnp.zeros(shape)), [x])
    for value in (0.3, 1.7, -0.8):
        ((got, unknown),) = program.run({x: np.float64(value)}, [program.single(found)])
        np.testing.assert_allclose(got, function(jnp.full(shape, value)).ravel()[0], rtol=2e-5)
        assert not np.any(unknown)


@pytest.mark.parametrize(
    ("function", "known"),
    [
        (lambda x: x * jnp.eye(20), False),
        (lambda x: x + jax.random.normal(jax.random.key(0), x.shape), False),
        (lambda x: 0 * x + (x - x) * jnp.arange(20.0), True),
        (lambda x: jnp.linalg.svd(x)[0], False),
        (lambda x: jnp.cumsum(x, 0), False),
    ],
)
def test_entries_that_differ_are_unknown_unless_they_do_not_matter(function, known):
    program = Program()
    x = program.input("x")
    (found,) = trace(program, jax.make_jaxpr(function)(jnp.zeros((20, 20))), [x])
    ((_, unknown),) = program.run({x: np.float64(0.5)}, [program.single(found)])
    assert np.all(unknown) != known
