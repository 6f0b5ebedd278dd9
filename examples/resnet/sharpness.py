"""How curved the loss is around some weights, on the first images of every class.

The BatchNorms are in evaluation mode: their statistics are constants.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.instruments import curvature
from wdlab.instruments.jacobians import rademacher_like

from . import model, step
from .data import Dataset, first_of_each_class

TOLERANCE, MIN_PROBES, MAX_PROBES = 1e-3, 10, 100  # Of the trace: PyHessian's accuracy.
BATCH = 50  # Images of one Hessian-vector product.


class Sharpness:
    """Hessian trace, Jacobian norm, top eigenvalue, all with respect to the trained weights.

    Args:
      graph: The model.
      trained: Like the parameters: whether a leaf is trained.
      data: Where the images come from.
      images: The same on the device.
      examples: How many images, the same number of every class.
      seed: Of the probes.
    """

    def __init__(
        self, graph, trained: model.Params, data: Dataset, images: step.Images, examples: int, seed
    ):
        chosen = first_of_each_class(data.y_train, max(1, examples // data.n_classes))
        chosen = np.random.default_rng(0).permutation(chosen)  # Every batch has all classes.
        self.size = min(BATCH, len(chosen))
        self.count = len(chosen) // self.size
        self.x, self.y = images.batch(jnp.asarray(chosen[: self.count * self.size]))
        self.key = jax.random.key(seed)

        def logits(params, stats, x):
            keep = jax.lax.stop_gradient
            params = jax.tree.map(lambda p, t: p if t else keep(p), params, trained)
            return model.apply(graph, params, stats, x)

        def outputs(params, example):
            x, stats = example
            return logits(params, stats, x[None])[0]

        def loss(params, batch):
            x, y, stats = batch
            return step.cross_entropy(logits(params, stats, x), y).mean()

        @jax.jit
        def quadratic_form(params, batch, key):
            v = rademacher_like(params, key)
            product = curvature.hessian_vector_product(lambda p: loss(p, batch), params, v)
            return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, v, product)))

        self.outputs, self.loss, self.quadratic_form = outputs, loss, quadratic_form

    def trace(self, params, stats, stopped: Callable[[], bool]) -> tuple[float, float, int] | None:
        """Hutchinson's estimate of the Hessian's trace, its standard error, the probes used.

        The loop over probes and batches is here and not in the program: so a signal is seen between
        two probes (None), and a CPU is fast (see ``loop.py``).
        """
        found: list[float] = []
        change = np.inf
        while len(found) < MIN_PROBES or (change >= TOLERANCE and len(found) < MAX_PROBES):
            if stopped():
                return None
            key = jax.random.fold_in(self.key, len(found))
            forms = [self.quadratic_form(params, batch, key) for batch in self._batches(stats)]
            before = np.mean(found) if found else 0.0
            found.append(float(np.mean(jax.device_get(forms))))
            change = abs(np.mean(found) - before) / (abs(before) + 1e-6)
        return float(np.mean(found)), float(np.std(found, ddof=1) / len(found) ** 0.5), len(found)

    def _batches(self, stats: model.Stats) -> Iterator[tuple]:
        for i in range(self.count):
            part = slice(i * self.size, (i + 1) * self.size)
            yield self.x[part], self.y[part], stats

    def jacobian_norm(self, params: model.Params, stats: model.Stats) -> float:
        """The mean over the images of the Frobenius norm of d logits / d weights."""
        examples = (self.x, _repeated(stats, len(self.x)))
        return float(curvature.jacobian_norm(self.outputs, params, examples))

    def top_eigenvalue(self, params: model.Params, stats: model.Stats) -> float:
        """The Hessian's largest eigenvalue, by Lanczos."""
        x, y = (a.reshape(self.count, self.size, *a.shape[1:]) for a in (self.x, self.y))
        batches = (x, y, _repeated(stats, self.count))
        found = curvature.hessian_eigenvalues(self.loss, params, self.key, batches)
        return float(found.values[0])


def _repeated(stats: model.Stats, count: int) -> model.Stats:
    """The statistics beside every batch: what a loss closes over would be compiled into it."""
    return jax.tree.map(lambda s: jnp.broadcast_to(s, (count, *s.shape)), stats)
