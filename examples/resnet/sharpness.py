"""How curved the loss is around some weights, on the first images of every class.

The BatchNorms are in evaluation mode: their statistics are constants.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from wdlab.instruments import hessian_eigenvalues, hessian_trace, jacobian_norm
from wdlab.instruments.jacobians import Estimate

from . import model, step
from .data import Dataset, first_of_each_class

BATCH = 50  # Images of one Hessian-vector product.


class Sharpness:
    """Hessian trace, Jacobian norm, top eigenvalue, all with respect to the trained weights.

    Args:
      graph: The model.
      data: Where the images come from.
      images: The same on the device.
      examples: How many images, the same number of every class.
      seed: Of the probes.
    """

    def __init__(self, graph, data: Dataset, images: step.Images, examples: int, seed: int):
        chosen = first_of_each_class(data.y_train, max(1, examples // data.n_classes))
        chosen = np.random.default_rng(0).permutation(chosen)  # Every batch has all classes.
        self.size = min(BATCH, len(chosen))
        self.count = len(chosen) // self.size
        self.x, self.y = images.batch(jnp.asarray(chosen[: self.count * self.size]))
        self.key = jax.random.key(seed)

        def outputs(params, example):
            x, stats = example
            return model.apply(graph, params, stats, x[None])[0]

        def loss(params, batch):
            x, y, stats = batch
            return step.cross_entropy(model.apply(graph, params, stats, x), y).mean()

        self.outputs, self.loss = outputs, loss

    def trace(self, params, stats, stopped: Callable[[], bool]) -> Estimate:
        """Hutchinson's estimate of the Hessian's trace, to PyHessian's accuracy."""
        batches = self._batches(stats)
        return hessian_trace(self.loss, params, self.key, batches, stopped=stopped)

    def _batches(self, stats: model.Stats) -> tuple:
        x, y = (a.reshape(self.count, self.size, *a.shape[1:]) for a in (self.x, self.y))
        return x, y, _repeated(stats, self.count)

    def jacobian_norm(self, params: model.Params, stats: model.Stats) -> float:
        """The mean over the images of the Frobenius norm of d logits / d weights."""
        examples = (self.x, _repeated(stats, len(self.x)))
        return float(jacobian_norm(self.outputs, params, examples))

    def top_eigenvalue(self, params: model.Params, stats: model.Stats) -> float:
        """The Hessian's largest eigenvalue, by Lanczos."""
        found = hessian_eigenvalues(self.loss, params, self.key, self._batches(stats))
        return float(found.values[0])


def _repeated(stats: model.Stats, count: int) -> model.Stats:
    """The statistics beside every batch: what a loss closes over would be compiled into it."""
    return jax.tree.map(lambda s: jnp.broadcast_to(s, (count, *s.shape)), stats)
