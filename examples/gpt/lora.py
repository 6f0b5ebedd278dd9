"""Low-rank adapters: ``lora_a`` and ``lora_b`` beside the matrices of the blocks.

Hu et al. 2021, https://arxiv.org/abs/2106.09685. Their paths, ``blocks/0/attn/qkv/lora_a/kernel``,
are matrices to every decay rule; ``wdlab.groups.lora`` finds them by name.
"""

import jax

PyTree = dict


def is_adapter(path: tuple) -> bool:
    """Whether a key path leads into an adapter."""
    return any(getattr(key, "key", None) in ("lora_a", "lora_b") for key in path)


def freeze_base(params: PyTree) -> PyTree:
    """The same, where there are adapters with no gradient for all but them."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not any(is_adapter(path) for path, _ in leaves):
        return params
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if is_adapter(path) else jax.lax.stop_gradient(leaf), params
    )


def merge_adapters(params: PyTree, scale: float) -> PyTree:
    """Adds ``scale * lora_a @ lora_b`` to the matrices: a model of lora_rank 0 that says the same.

    Args:
      params: Of a model with adapters.
      scale: ``lora_alpha / lora_rank``.

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = {"kernel": jnp.ones((2, 1))}, {"kernel": jnp.ones((1, 2))}
      >>> merged = merge_adapters({"kernel": jnp.eye(2), "lora_a": a, "lora_b": b}, scale=2.0)
      >>> list(merged), merged["kernel"].tolist()
      (['kernel'], [[3.0, 2.0], [2.0, 3.0]])
    """
    if not isinstance(params, dict):
        return params
    merged = {
        name: merge_adapters(part, scale)
        for name, part in params.items()
        if name not in ("lora_a", "lora_b")
    }
    if "lora_a" in params:
        product = params["lora_a"]["kernel"] @ params["lora_b"]["kernel"]  # Stacks of them, too.
        merged["kernel"] = params["kernel"] + scale * product
    return merged
