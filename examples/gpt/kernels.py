"""The flash kernels that come with JAX: splash attention on TPUs, cuDNN's on NVIDIA's GPUs.

They compute the scores block by block in on-chip memory, and again in the backward pass, instead
of holding those of all pairs of tokens (Dao et al. 2022, https://arxiv.org/abs/2205.14135).

Letters in names are shapes: B sequences, L tokens, H heads of queries, G heads of keys and values,
K width of a head.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from examples.runs.mesh import AXES, platform

_LANES = 128  # Splash attention cuts a sequence into blocks of a multiple of this.
_LARGEST_BLOCK = 512


def obstacle(platform: str, length: int, width: int, dtype: jnp.dtype) -> str:
    """Why a platform has no flash kernel for such attention; empty: it has one.

    Args:
      platform: As JAX names it, such as "tpu".
      length: Tokens of a sequence.
      width: Of a head.
      dtype: Of queries, keys and values.

    Example:
      >>> obstacle("tpu", 1024, 64, jnp.dtype("bfloat16"))
      ''
      >>> obstacle("tpu", 1000, 64, jnp.dtype("bfloat16"))
      'a sequence of 1000 tokens is no multiple of 128'
      >>> obstacle("gpu", 1024, 64, jnp.dtype("float32"))
      "cuDNN's kernel has no float32"
    """
    if platform == "tpu":
        if length % _LANES:
            return f"a sequence of {length} tokens is no multiple of {_LANES}"
        return "" if dtype in (jnp.float32, jnp.bfloat16) else f"splash attention has no {dtype}"
    if platform in ("gpu", "cuda"):
        if dtype not in (jnp.float16, jnp.bfloat16):
            return f"cuDNN's kernel has no {dtype}"
        if width % 8 or width > 128:
            return f"a head's width must be a multiple of 8 and at most 128, not {width}"
        return _gpu_obstacle()
    return f"there is no flash kernel for a {platform}"


def _gpu_obstacle() -> str:
    device = jax.local_devices()[0]
    if "cuda" not in device.client.platform_version:
        return "cuDNN is of NVIDIA's GPUs alone"
    capability = device.compute_capability
    return "" if float(capability) >= 8 else f"compute capability {capability} is below 8.0"


def flash(q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array) -> jax.Array:
    """Causal attention by the kernel of these devices, where :func:`obstacle` finds none."""
    if platform() == "tpu":
        return splash_attention(q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)
    return jax.nn.dot_product_attention(
        q_BxLxHxK, k_BxLxGxK, v_BxLxGxK, is_causal=True, implementation="cudnn"
    )


def splash_attention(
    q_BxLxHxK: jax.Array, k_BxLxGxK: jax.Array, v_BxLxGxK: jax.Array, *, interpret: bool = False
) -> jax.Array:
    """JAX's kernel for TPUs; on a mesh each device takes its own sequences.

    Args:
      q_BxLxHxK: Queries; L a multiple of 128.
      k_BxLxGxK: Keys.
      v_BxLxGxK: Values.
      interpret: Run the kernel's program on any platform, slowly.
    """
    _, length, heads, width = q_BxLxHxK.shape

    def own(*q_k_v: jax.Array) -> jax.Array:
        kernel = _splash_kernel(length, heads, interpret)
        out_BxHxLxK = jax.vmap(kernel)(*(x.swapaxes(1, 2) for x in q_k_v))
        return out_BxHxLxK.swapaxes(1, 2)

    if jax.sharding.get_abstract_mesh().axis_names == AXES:  # XLA cannot split a kernel.
        split = PartitionSpec(AXES)
        own = jax.shard_map(own, in_specs=split, out_specs=split, check_vma=False)
    return own(width**-0.5 * q_BxLxHxK, k_BxLxGxK, v_BxLxGxK)


def _splash_kernel(length: int, heads: int, interpret: bool) -> Callable[..., Any]:
    """The kernel for one sequence, heads first."""
    from jax.experimental.pallas.ops.tpu.splash_attention import (  # Half a second.
        splash_attention_kernel as splash,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as splash_mask,
    )

    block = next(size for size in range(_LARGEST_BLOCK, 0, -_LANES) if length % size == 0)
    minor = splash.QKVLayout.SEQ_MINOR  # A head narrower than 128 would be filled up in memory.
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block,
        use_fused_bwd_kernel=True, q_layout=minor, k_layout=minor, v_layout=minor,
    )  # fmt: skip
    mask = splash_mask.MultiHeadMask([splash_mask.CausalMask((length, length))] * heads)
    return splash.make_splash_mha(
        mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
