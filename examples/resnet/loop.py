"""An epoch as few calls of one compiled program, for the training and for the gradient flow."""

import time

import jax
from flax import nnx

from examples.runs import processes
from examples.runs.errors import UserError

from . import data, optim, step
from .config import Config

_SECONDS_PER_CALL = 1.0  # Between two looks at the signals and two updates of the bar.


class Diverged(UserError):
    """Loss or gradient became NaN or infinite.

    Args:
      message: For the user.
      state: The state before the bad step.
      done: Good steps of this call before it.
    """

    def __init__(self, message: str, state: step.State, done: int):
        super().__init__(message)
        self.state, self.done = state, done


class Epochs:
    """Runs steps of an epoch, as many at once as take about a second.

    The order of epoch e and its augmentation depend on the key and e alone, so that a run which
    stops anywhere goes on with the very next batch.
    """

    def __init__(self, graph: nnx.GraphDef, config: Config, images: step.Images, key: jax.Array):
        self.images, self.key, self.batch_size = images, key, config.batch_size
        self.steps = len(images.y) // config.batch_size
        # XLA on a CPU has fast gradients of convolutions outside of loops only (jaxlib 0.10: ten
        # times slower inside); there every step is a call, which costs nothing beside it.
        self._looped = jax.default_backend() != "cpu"
        self._train_steps = step.make_train_steps(
            graph,
            optim.make_optimizer_of_rates(config.momentum, config.scale_inv, config.rules),
            config.ema,
            augmented=not config.no_data_augm,
            looped=self._looped,
        )
        self._per_call, self._compiled = 1, False
        self._order: tuple[int, jax.Array] | None = None

    def order(self, epoch: int) -> jax.Array:
        """The images of every step of an epoch, int32 (S, B)."""
        if self._order is None or self._order[0] != epoch:
            key = jax.random.fold_in(self.key, 2 * epoch)
            order = data.order_of_epoch(key, len(self.images.y), self.batch_size)
            self._order = epoch, order
        return self._order[1]

    def advance(
        self, rates: tuple[float, float], state: step.State, epoch: int, first: int
    ) -> tuple[step.State, int, float]:
        """Some steps from ``first`` on: the new state, how many steps, the loss of the last one.

        Raises:
          Diverged: If a step is not finite.
        """
        last = min(first + self._per_call, self.steps)
        key = jax.random.fold_in(self.key, 2 * epoch + 1)
        started = time.monotonic()
        state, reached, loss, grad_norm = self._train_steps(
            state, self.images, self.order(epoch), key, rates, first, last
        )
        done, loss, grad_norm = int(reached) - first, float(loss), float(grad_norm)
        if first + done < last:
            number = epoch * self.steps + first + done + 1
            raise Diverged(
                f"step {number} has loss {loss} and gradient norm {grad_norm}: stopped. Try a "
                "lower --lr, or --batch_norm",
                state,
                done,
            )
        if self._looped and self._compiled:
            seconds = max(time.monotonic() - started, 1e-6) / done
            count = max(1, round(_SECONDS_PER_CALL / seconds))
            self._per_call = int(processes.agree(lambda: str(count)))
        self._compiled = True
        return state, done, loss
