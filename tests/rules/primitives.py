"""Losses in which a weight goes through one primitive or construction each."""

import jax
import jax.numpy as jnp
from jax import lax


def whole(x):
    return x.astype(int)


PRIMITIVES = {
    "inverse": lambda w, x: x @ jnp.linalg.inv(w),
    "solve": lambda w, x: jnp.linalg.solve(w, x.T),
    "singular vectors": lambda w, x: x @ jnp.linalg.svd(w)[0],
    "cholesky": lambda w, x: jnp.linalg.cholesky(w) @ x.T,
    "fft": lambda w, x: jnp.fft.irfft(jnp.fft.rfft(x) * jnp.fft.rfft(w[0])),
    "sort": lambda w, x: jnp.sort(x @ w),
    "top_k": lambda w, x: lax.top_k(x @ w, 2)[0],
    "scatter": lambda w, x: w.at[whole(x[:, 0])].set(x),
    "associative scan": lambda w, x: lax.associative_scan(jnp.multiply, x[:, :, None] * w[None]),
    "windows": lambda w, x: lax.reduce_window(x @ w, -jnp.inf, lax.max, (2, 2), (1, 1), "SAME"),
    "attention": lambda w, x: jax.nn.dot_product_attention(*[(x @ w).reshape(1, 4, 2, 3)] * 3),
    "complex": lambda w, x: jnp.abs(x @ (w + 1j * w)),
    "clip": lambda w, x: jnp.clip(x, -w[0], w[0]),
    "comparison": lambda w, x: jnp.where(x > w[:4], x, 0.0),
    "while": lambda w, x: lax.while_loop(
        lambda c: c[0] < 3, lambda c: (c[0] + 1, jnp.tanh(c[1] @ w)), (0, x)
    )[1],
    "a branch in a scan": lambda w, x: lax.scan(
        lambda c, r: (lax.cond(c.sum() > 0, lambda: c @ w, lambda: c * 2.0), r), x[0], x
    )[0],
    "a scan in a scan": lambda w, x: lax.scan(
        lambda c, r: (lax.scan(lambda d, s: (d @ w, s), c, None, length=2)[0], r), x[0], x
    )[0],
    "a gradient inside": lambda w, x: jax.grad(lambda y: jnp.sum(jnp.tanh(y @ w)))(x),
    "forward mode": lambda w, x: jax.jvp(lambda y: jnp.tanh(y @ w), (x,), (x,))[1],
    "8-bit floats": lambda w, x: x @ w.astype(jnp.float8_e4m3fn).astype(jnp.float32),
    "rounding, gradient passed through": lambda w, x: x @ (w + lax.stop_gradient(jnp.round(w) - w)),
    "a callback": lambda w, x: jax.pure_callback(
        lambda a: a, jax.ShapeDtypeStruct((4, 6), jnp.float32), x @ w
    ),
    "a print": lambda w, x: (jax.debug.print("{}", x.sum()), x @ w)[1],
    "histogram": lambda w, x: jnp.histogram(x @ w, bins=4)[1],
    "custom root": lambda w, x: lax.custom_root(
        lambda z: z - x @ w, x, lambda f, z: f(z) * 0 + x @ w, lambda g, y: y
    ),
    "conjugate gradients": lambda w, x: jax.scipy.sparse.linalg.cg(lambda v: w @ w.T @ v + v, x[0])[
        0
    ],
    "barrier": lambda w, x: lax.optimization_barrier((x @ w, x))[0],
    "no data at all": lambda w, x: w,
}
