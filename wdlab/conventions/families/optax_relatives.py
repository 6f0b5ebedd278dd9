"""The conventions of Adam's relatives in Optax, read in and run against optax 0.2.8."""

import optax

from wdlab.conventions.convention import OUTSIDE_ROOT, Convention, Request
from wdlab.conventions.parts import rate_of, with_decay
from wdlab.optimizers import assemble
from wdlab.preconditioners import scale_by_ademamix, scale_by_adopt

_SOURCE = "https://github.com/google-deepmind/optax/blob/v0.2.8/optax/{}.py"
_REFUSED = {
    "mask": "Write rules=(Rule(pattern, scale), ...); a callable mask gets updates, not params.",
    "mu_dtype": "The averages are float32 or wider.",
}


def _adan(request: Request) -> optax.GradientTransformation:
    """Optax' own direction, whose weights are not the paper's."""
    rates = request["b1"], request["b2"], request["b3"]
    return with_decay(request, optax.scale_by_adan(*rates, request["eps"], request["eps_root"]))


def _ademamix(request: Request) -> optax.GradientTransformation:
    names = ("b1", "b2", "b3", "alpha", "eps", "eps_root")
    return with_decay(request, scale_by_ademamix(*(request[name] for name in names)))


def _adopt(request: Request) -> optax.GradientTransformation:
    direction = scale_by_adopt(
        *(request["b1"], request["b2"], request["eps"]),
        clip_exponent=0.25 if request["use_clipping"] else None,
        nesterov=request["nesterov"],
    )
    return assemble(request.name, direction, rate_of(request), 0.0, None, request.rules)


CONVENTIONS = (
    Convention(
        name="optax.adan",
        version="optax 0.2.8",
        source=_SOURCE.format("_src/alias"),
        equation=(
            "u = (m / c1 + (1 - b2) d / c2) / (sqrt(n / c3 + eps_root) + eps), "
            "n the average of (g + (1 - b2) (g - last g))**2; "
            "theta <- theta - lr_t (u + lambda s theta)"
        ),
        coupling="lr",
        order="joint",
        epsilon="outside: sqrt(n / c3 + eps_root) + eps",
        bias_correction="all three averages, 1 - b**t",
        defaults={
            "b1": 0.98,
            "b2": 0.92,
            "b3": 0.99,
            "eps": 1e-8,
            "eps_root": 1e-8,
            "weight_decay": 0.0,
        },
        refused={"mask": _REFUSED["mask"]},
        traps=(
            "the gradient's change has the weight 1 - b2 = 0.08; in the paper (beta = 1 - b) "
            "and in its code 0.92",
            "the decay is added to the step; the docstring and the authors divide by 1 + lr lambda",
        ),
        make=_adan,
    ),
    Convention(
        name="optax.contrib.ademamix",
        version="optax 0.2.8",
        source=_SOURCE.format("contrib/_ademamix"),
        equation=(
            "theta <- theta - lr_t ((m / c1 + alpha s) / (sqrt(v / c2 + eps_root) + eps) + "
            "lambda s theta), s the average of rate b3"
        ),
        coupling="lr",
        order="joint",
        epsilon=OUTSIDE_ROOT,
        bias_correction="m by 1 - b1**t and v by 1 - b2**t, s not",
        defaults={
            "b1": 0.9,
            "b2": 0.999,
            "b3": 0.9999,
            "alpha": 5.0,
            "eps": 1e-8,
            "eps_root": 0.0,
            "weight_decay": 0.0,
        },
        refused=_REFUSED,
        traps=(
            "no warm-up by itself: b3 and alpha take schedules, of the number of updates before",
            "scale_by_ademamix alone has alpha 6",
        ),
        make=_ademamix,
    ),
    Convention(
        name="optax.contrib.adopt",
        version="optax 0.2.8",
        source=_SOURCE.format("contrib/_adopt"),
        equation=(
            "m <- b1 m + (1 - b1) clip(g / max(sqrt(v), eps), (t - 1)**0.25); "
            "theta <- theta - lr_t m; v <- b2 v + (1 - b2) g**2, first v = g**2 and no step"
        ),
        coupling="none",
        order="none",
        epsilon="clamped: the root at least eps",
        bias_correction="none: v is that of before the step and starts at g**2",
        decay_argument=None,
        defaults={
            "b1": 0.9,
            "b2": 0.9999,
            "eps": 1e-6,
            "nesterov": False,
            "use_clipping": True,
        },
        refused={
            "mu_dtype": _REFUSED["mu_dtype"],
            "clip_value_fn": "Give conventions.build('adopt.ADOPT', lr, clip_lambda=0.25).",
        },
        traps=(
            "no weight decay of any kind: chain wdlab.decay_weights after it",
            "1 - b2 is of a float32 0.9999, 1.7e-4 off; built without that",
        ),
        make=_adopt,
    ),
)
