"""What every comparison does: the same trajectory through both, and the bound on the deviation."""

import jax
import numpy as np

from tests.oracles import run_wdlab
from tests.oracles.trajectories import gradients, initial_params, learning_rates, relative_error

BOUNDS = {np.float64: 1e-10, np.float32: 2e-6}
DTYPES = [np.float64, np.float32]


def deviation(run, name, hyperparameters, make, dtype, *, theirs_in=np.float64):
    """Returns the relative error of ours in ``dtype`` to the package's optimizer.

    The package runs in float64, on parameters and gradients rounded to ``dtype``: two float32
    runs of 200 steps each may be 1e-6 off and lie on opposite sides.

    Args:
      run: The package's runner.
      name: The optimizer, as the runner knows it.
      hyperparameters: The package's own arguments.
      make: Learning-rate schedule -> our transformation.
      dtype: numpy.float64 or numpy.float32, in which ours runs.
      theirs_in: dtype of the package's run.
    """

    def rounded(tree):
        return jax.tree.map(lambda x: x.astype(dtype).astype(np.float64), tree)

    params, grads = rounded(initial_params()), [rounded(tree) for tree in gradients()]
    rates = learning_rates()
    if name == "dadaptation.DAdaptSGD":
        rates = np.maximum(rates, 1e-9)  # The original fails at a rate of 0.
    theirs = run(name, hyperparameters, params, grads, rates, theirs_in)
    ours = run_wdlab.run(make, params, grads, rates, dtype)
    return relative_error(ours, theirs)
