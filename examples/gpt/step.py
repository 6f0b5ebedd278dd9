"""The compiled functions of the training: one step, the evaluation, the weights' metrics.

Letters: S steps, A micro-batches per step, B sequences, M one more than the context length, N
batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from flax.training.dynamic_scale import DynamicScale

import wdlab
from wdlab import instruments
from wdlab.training import skipped_steps

from . import head_loss
from .config import Config
from .model import Key, Params, merge
from .optim import decay_rules, l2_penalty
from .optim import learning_rate as make_learning_rate

Metrics = dict[str, Any]
GROUPS = "ln mlp attn wte wpe lm_head"
_MICRO_BATCHES_UNTIL_LARGER = 2_000  # float16: finite ones in a row before the scale doubles.


class Carry(NamedTuple):
    """What a step takes and gives back, in the same buffers; what a checkpoint holds."""

    params: Any
    opt_state: Any
    ema: Any  # The moving average of the weights; None with ema_coef 0.
    loss_scale: DynamicScale | None  # Only for float16.
    step: jax.Array  # int32, shape (): updates made; those that were skipped do not count.


def losses(graph: nnx.GraphDef, params: Params, tokens_BxM: jax.Array, key: Key = None):
    """Mean cross-entropy (nats) and error rate of the next token."""
    gpt, targets_BxL = merge(graph, params), tokens_BxM[:, 1:]
    x_BxLxD, _ = gpt.features(tokens_BxM[:, :-1], key)
    count = head_loss.parts(gpt.config.loss_chunks, targets_BxL.size, gpt.wte.num_embeddings)
    if count > 1:
        x_NxD = x_BxLxD.reshape(-1, x_BxLxD.shape[-1])
        return head_loss.cross_entropy(x_NxD, gpt.head().T, targets_BxL.reshape(-1), count)
    return head_loss.of_logits(gpt.logits(x_BxLxD), targets_BxL)


def first_loss_scale(config: Config) -> DynamicScale | None:
    """The scale of the loss that keeps float16 gradients from underflow, 65536 at first."""
    if config.dtype != "float16":
        return None
    interval = _MICRO_BATCHES_UNTIL_LARGER * config.gradient_accumulation_steps
    scale = DynamicScale(growth_interval=interval, minimum_scale=1.0)
    return scale.replace(fin_steps=jnp.int32(0), scale=jnp.float32(scale.scale))


def new_carry(
    params: Params,
    tx: optax.GradientTransformation,
    config: Config,
    step: int = 0,
    copies: Any = None,
) -> Carry:
    """The carry before the first update; ``copies``: the sharding of all but the weights."""
    scalars = jax.jit(lambda: (first_loss_scale(config), jnp.int32(step)), out_shardings=copies)()
    ema = jax.tree.map(jnp.copy, params) if config.ema_coef else None
    return Carry(params, wdlab.init_opt_state(tx, params), ema, *scalars)


def is_logged(config: Config, step: Any) -> Any:
    """Whether a step has a row with metrics."""
    return (step % config.log_interval == 0) | (step == config.max_iters)


def make_train_step(
    graph: nnx.GraphDef,
    tx: optax.GradientTransformationExtraArgs,
    config: Config,
    shardings: Carry | None = None,
) -> Callable[..., tuple[Carry, Metrics]]:
    """Makes the jitted ``(carry, tokens_AxBxM) -> (carry, metrics)``.

    The gradient is averaged over the A micro-batches. The carry is donated and comes back in the
    order it went in, so that XLA updates it in place. Where loss or gradient is not finite it comes
    back as it was (the loss scale smaller, the counters larger). The largest entry of the gradient,
    the only metric that costs a pass of its own, is looked for where a step is logged.
    ``shardings``: of the carry, on a mesh: those that it comes with.
    """
    learning_rate = make_learning_rate(config)
    penalty = l2_penalty(config)

    def loss_fn(params, tokens_BxM, key):
        return losses(graph, params, tokens_BxM, key if config.dropout else None)[0]

    def gradient(params, scale, micro):
        if scale is None:
            return None, jax.value_and_grad(loss_fn)(params, *micro)
        scale, _, loss, grads = scale.value_and_grad(loss_fn)(params, *micro)
        return scale, (loss, grads)

    def train_step(carry, tokens_AxBxM):
        params, opt_state, ema, scale, step = carry
        key = jax.random.fold_in(jax.random.key(config.random_seed), step)
        keys_A = jax.random.split(key, tokens_AxBxM.shape[0])

        def add(scale_and_total, micro):
            scale, found = gradient(params, scale_and_total[0], micro)
            return (scale, jax.tree.map(jnp.add, scale_and_total[1], found)), None

        if len(keys_A) == 1:  # No sum to keep beside the gradient.
            scale, (loss, grads) = gradient(params, scale, (tokens_AxBxM[0], keys_A[0]))
        else:
            zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
            (scale, total), _ = jax.lax.scan(add, (scale, zero), (tokens_AxBxM, keys_A))
            loss, grads = jax.tree.map(lambda x: x / len(keys_A), total)
        with jax.named_scope("metrics"):
            seen, _ = penalty.update(grads, penalty.init(params), params)  # What the clipping sees.
            measured = _gradient_metrics(seen, is_logged(config, step + 1))
        with jax.named_scope("optimizer"):
            updates, opt_state = tx.update(grads, opt_state, params, value=loss)
            params = optax.apply_updates(params, updates)
        counts = skipped_steps(opt_state)
        done = counts.in_a_row == 0
        if ema is not None:
            with jax.named_scope("ema"):
                moved = jax.tree.map(lambda e, p: e + (1 - config.ema_coef) * (p - e), ema, params)
                ema = jax.tree.map(lambda m, e: jnp.where(done, m, e), moved, ema)
        measured |= {"loss": loss, "learning_rate": jnp.asarray(learning_rate(step), jnp.float32)}
        measured |= counts._asdict() | ({} if scale is None else {"loss_scale": scale.scale})
        return Carry(params, opt_state, ema, scale, step + done), measured

    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, None))


def make_train_steps(
    train_step: Callable[..., tuple[Carry, Metrics]],
    config: Config,
    shardings: Carry | None = None,
) -> Callable[..., tuple[Carry, Metrics]]:
    """Makes the jitted ``(carry, tokens_SxAxBxM, count, goes_on) -> (carry, numbers)``.

    Steps on the first ``count`` of the S batches, as one loop. A step that is not finite ends it,
    and without ``goes_on`` there is none. The count is no constant: a step is the same program, and
    gives the same bits, whatever the number of those around it. Numbers: the metrics of the last
    step; ``done``, the finite ones; ``clipped``, how many of these were clipped; ``goes_on``,
    whether the last step was finite.
    """

    def train_steps(carry, tokens_SxAxBxM, count, goes_on):
        def step(loop):
            carry, done, clipped, _, _ = loop
            carry, made = train_step(carry, tokens_SxAxBxM[done])
            good = made["in_a_row"] == 0
            large = good & (config.grad_clip > 0) & (config.grad_clip < made["grad_norm"])
            return carry, done + good, clipped + large, good, made

        def is_next(loop):
            _, done, _, good, _ = loop
            return good & (done < count)

        metrics = jax.eval_shape(train_step, carry, tokens_SxAxBxM[0])[1]
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)
        zero = jnp.int32(0)
        found = jax.lax.while_loop(is_next, step, (carry, zero, zero, goes_on, none))
        carry, done, clipped, good, made = found
        return carry, made | {"done": done, "clipped": clipped, "goes_on": good}

    return jax.jit(train_steps, donate_argnums=0, out_shardings=(shardings, None))


def _gradient_metrics(grads: Any, log: jax.Array) -> Metrics:
    """Norms of the gradient of each layer and in all; the largest entry where ``log`` says so."""
    layers = layer_norms(grads)
    largest = jax.lax.cond(log, instruments.largest_entry, lambda _: jnp.zeros(()), grads)
    whole = jnp.sqrt(sum(norm**2 for norm in layers.values()))
    return {"grad_norm": whole, "largest_gradient": largest, "layers": layers}


def layer_norms(tree: Params) -> Metrics:
    """The norm of each block and of each of the other modules: 'blocks/0', 'wte', 'ln_f', ..."""
    blocks = instruments.leaf_norms({"blocks": tree["blocks"]}, depth=2)
    rest = {name: module for name, module in tree.items() if name != "blocks"}
    return blocks | instruments.leaf_norms(rest, depth=1)


def make_evaluate(graph: nnx.GraphDef) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Makes the jitted ``(params, tokens_NxBxM) -> (loss, error)``, without dropout."""

    def evaluate(params, tokens_NxBxM):
        loss_N, error_N = jax.lax.map(lambda x: losses(graph, params, x), tokens_NxBxM)
        return loss_N.mean(), error_N.mean()

    return jax.jit(evaluate)


def make_weight_metrics(config: Config) -> Callable[[Params, Any, jax.Array], Metrics]:
    """Makes the jitted ``(params, opt_state, learning_rate) -> metrics`` of weights and Adam.

    Norms: of all weights, of those that decay and the others, of each group; the largest weight;
    Adam's average effective learning rate, lr / (sqrt(v) + eps).
    """

    def weight_metrics(params, opt_state, learning_rate):
        kinds = instruments.decayed_norms(params, decay_rules(config))
        groups = instruments.group_norms(params, GROUPS)
        found = {"weight_norm": instruments.norm(params)}
        found |= {f"weight_norm_{kind}": value for kind, value in kinds.items()}
        found |= {f"weight_norm/{group}": value for group, value in groups.items()}
        found["largest_weight"] = instruments.largest_entry(params)
        if config.opt_type == "adam" and not config.convention:
            effective = instruments.effective_learning_rate(opt_state, learning_rate)
            found["effective_learning_rate"] = effective
        return found

    return jax.jit(weight_metrics)
