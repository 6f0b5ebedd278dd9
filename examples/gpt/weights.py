"""Weights in Hugging Face's layout (GPT-2, LLaMA, Qwen2) from a local folder.

The folder holds ``config.json`` and ``model.safetensors`` (or its parts and their index), as
https://huggingface.co/openai-community/gpt2 has them.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from examples.runs.errors import UserError
from wdlab.from_torch import load_tensors
from wdlab.rules import leaves_with_paths

from . import model
from .config import Config
from .data import GPT2_VOCABULARY

# Our path -> their names, to be put side by side; ".T": theirs are (outputs, inputs). GPT-2's own
# matrices are (inputs, outputs), as ours.
_GPT2 = {
    "wte/embedding": ["wte.weight"],
    "wpe/embedding": ["wpe.weight"],
    "ln_f/scale": ["ln_f.weight"],
    "ln_f/bias": ["ln_f.bias"],
    "lm_head/kernel": ["lm_head.weight.T"],
    "ln_1/scale": ["ln_1.weight"],
    "ln_1/bias": ["ln_1.bias"],
    "ln_2/scale": ["ln_2.weight"],
    "ln_2/bias": ["ln_2.bias"],
    "attn/qkv/kernel": ["attn.c_attn.weight"],
    "attn/qkv/bias": ["attn.c_attn.bias"],
    "attn/proj/kernel": ["attn.c_proj.weight"],
    "attn/proj/bias": ["attn.c_proj.bias"],
    "mlp/fc/kernel": ["mlp.c_fc.weight"],
    "mlp/fc/bias": ["mlp.c_fc.bias"],
    "mlp/proj/kernel": ["mlp.c_proj.weight"],
    "mlp/proj/bias": ["mlp.c_proj.bias"],
}
_LLAMA = {
    "wte/embedding": ["embed_tokens.weight"],
    "ln_f/scale": ["norm.weight"],
    "lm_head/kernel": ["lm_head.weight.T"],
    "ln_1/scale": ["input_layernorm.weight"],
    "ln_2/scale": ["post_attention_layernorm.weight"],
    "attn/qkv/kernel": [f"self_attn.{x}_proj.weight.T" for x in "qkv"],
    "attn/qkv/bias": [f"self_attn.{x}_proj.bias" for x in "qkv"],
    "attn/proj/kernel": ["self_attn.o_proj.weight.T"],
    "mlp/gate/kernel": ["mlp.gate_proj.weight.T"],
    "mlp/fc/kernel": ["mlp.up_proj.weight.T"],
    "mlp/proj/kernel": ["mlp.down_proj.weight.T"],
}
_GELU = {"gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu": "exact"}


def load_gpt2(
    folder: Path, config: Config, vocab_size: int = GPT2_VOCABULARY
) -> tuple[Config, model.Params]:
    """Reads GPT-2's weights.

    Args:
      folder: With ``config.json`` and ``model.safetensors``.
      config: The sizes are replaced by those of the folder; ``block_size`` stays and may be
        shorter than theirs (1024), ``lora_rank`` adds fresh adapters.
      vocab_size: Theirs (50257) or more. Tokens that theirs lacks get the mean embedding, so that
        they are never likely; with zeros they would be, as GPT-2's logits are far below zero.

    Raises:
      UserError: If a file or a tensor is missing or has another shape than the sizes say.
    """
    given, file = _settings(folder, ("gpt2",)), folder / "config.json"
    for name in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
        if given.get(name):
            raise UserError(f"{file} has {name}, which this model does not have")
    if given.get("scale_attn_weights") is False:
        raise UserError(f"{file} has scale_attn_weights false: scores are scaled here")
    config = dataclasses.replace(
        config, block="gpt2", n_layer=given["n_layer"], n_head=given["n_head"], n_kv_head=None,
        n_embd=given["n_embd"], n_inner=given.get("n_inner"), bias=True, learnable_ln=True,
        weight_tying=given.get("tie_word_embeddings", True),
        norm_eps=given.get("layer_norm_epsilon", 1e-5),
        gelu=_one_of(_GELU, given.get("activation_function", "gelu_new"), folder),
    )  # fmt: skip
    return config, _load(folder, config, _GPT2, "transformer.", "h", given, vocab_size)


def load_llama(
    folder: Path, config: Config, vocab_size: int | None = None
) -> tuple[Config, model.Params]:
    """Reads the weights of LLaMA or Qwen2, as :func:`load_gpt2` does.

    Args:
      folder: As there.
      config: As there; ``block_size`` may be anything.
      vocab_size: Theirs (the default) or more.

    Raises:
      UserError: As there; and for rotary positions that are scaled, or a bias that is not Qwen2's.
    """
    given = _settings(folder, ("llama", "qwen2"))
    rope = given.get("rope_parameters") or given.get("rope_scaling") or {}
    kind = rope.get("rope_type", "default")
    if kind != "default" or given.get("attention_bias") or given.get("mlp_bias"):
        raise UserError(
            f"{folder / 'config.json'} has rope_type {kind!r}, attention_bias "
            f"{given.get('attention_bias')}, mlp_bias {given.get('mlp_bias')}: here rotary "
            "positions are not scaled, and biases are Qwen2's alone"
        )
    width = given["hidden_size"] // given["num_attention_heads"]
    if (given.get("head_dim") or width) != width:
        raise UserError(
            f"{folder / 'config.json'} has head_dim {given['head_dim']}; here a head's width is "
            f"hidden_size / num_attention_heads, {width}"
        )
    config = dataclasses.replace(
        config, block="qwen" if given["model_type"] == "qwen2" else "llama", bias=False,
        n_layer=given["num_hidden_layers"], n_head=given["num_attention_heads"],
        n_kv_head=given.get("num_key_value_heads"), n_embd=given["hidden_size"],
        n_inner=given["intermediate_size"], norm_eps=given["rms_norm_eps"], learnable_ln=True,
        weight_tying=given.get("tie_word_embeddings", False),
        rope_theta=rope.get("rope_theta") or given.get("rope_theta", 10_000.0),
    )  # fmt: skip
    return config, _load(folder, config, _LLAMA, "model.", "layers", given, vocab_size)


def _settings(folder: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        given = json.loads(path.read_text("utf-8"))
        kind = given["model_type"]
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: put config.json and model.safetensors there, for instance those "
            "of https://huggingface.co/openai-community/gpt2"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no configuration of a model ({error!r})") from None
    if kind not in kinds:
        raise UserError(f"{path} has model_type {kind!r}, expected {' or '.join(kinds)}")
    return given


def _one_of(choices: dict[str, Any], name: str, folder: Path) -> Any:
    if name not in choices:
        raise UserError(
            f"{folder / 'config.json'} has activation {name!r}; there are {', '.join(choices)}"
        )
    return choices[name]


def _load(folder, config, names, prefix, layers, given, vocab_size) -> model.Params:
    longest = given.get("n_positions")  # None where positions are rotary.
    if longest is not None and config.block_size > longest:
        raise UserError(
            f"--block_size {config.block_size} is more than the {longest} positions that the "
            f"weights in {folder} know"
        )
    found = {name.removeprefix(prefix): x for name, x in _tensors(folder).items()}
    whole = dataclasses.replace(
        config, scan_layers=False, lora_rank=0, block_size=longest or config.block_size
    )
    params = _arrays(model.shapes(whole, given["vocab_size"]), names, layers, found, folder)
    if "wpe" in params:
        params["wpe"]["embedding"] = params["wpe"]["embedding"][: config.block_size]
    _pad_vocabulary(params, given["vocab_size"], vocab_size or given["vocab_size"])
    if config.scan_layers:
        params["blocks"] = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *params["blocks"].values()
        )
    if config.lora_rank:
        fresh = model.create(config, vocab_size or given["vocab_size"], config.random_seed)[1]
        params = _overlay(fresh, params)
    return params


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    index = folder / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.exists():
        files = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    for name in files:
        if not (folder / name).is_file():
            hint = ""
            if (folder / "pytorch_model.bin").exists():
                hint = " (pytorch_model.bin is a pickle, which is not read here: convert it)"
            raise UserError(f"{folder / name} is missing{hint}")
    try:
        return {k: x for name in files for k, x in load_tensors(folder / name).items()}
    except (ValueError, ImportError) as error:
        raise UserError(str(error)) from None


def _arrays(shapes, names, layers, found, folder) -> model.Params:
    """The parameters, for each of which there must be tensors of the right shape."""
    leaves = []
    for path, leaf in leaves_with_paths(shapes):
        parts = [_tensor(found, name, path, folder) for name in _names_of(path, names, layers)]
        array = np.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]
        if array.shape != leaf.shape:
            raise UserError(
                f"{path} has shape {array.shape} in {folder}, but by its config.json {leaf.shape}"
            )
        leaves.append(jnp.asarray(array, leaf.dtype))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _names_of(path: str, names: dict[str, list[str]], layers: str) -> Iterator[str]:
    head, _, rest = path.partition("/")
    if head != "blocks":
        yield from names[path]
        return
    layer, _, inside = rest.partition("/")
    for name in names[inside]:
        yield f"{layers}.{layer}.{name}"


def _tensor(found: dict[str, np.ndarray], name: str, path: str, folder: Path) -> np.ndarray:
    stored = name.removesuffix(".T")
    if stored not in found:
        raise UserError(f"{folder} has no tensor {stored!r}, our {path}")
    return found[stored].T if name.endswith(".T") else found[stored]


def _pad_vocabulary(params: model.Params, theirs: int, ours: int) -> None:
    if ours < theirs:
        raise UserError(f"the weights know {theirs} tokens, the data has a vocabulary of {ours}")

    def padded(matrix_VxD):
        mean_D = matrix_VxD.mean(0, keepdims=True)
        return jnp.concatenate([matrix_VxD, jnp.repeat(mean_D, ours - theirs, axis=0)])

    params["wte"]["embedding"] = padded(params["wte"]["embedding"])
    if "lm_head" in params:
        params["lm_head"]["kernel"] = padded(params["lm_head"]["kernel"].T).T


def _overlay(fresh: model.Params, given: model.Params) -> model.Params:
    """The fresh parameters, those that are given in their place."""
    return {
        name: _overlay(part, given[name]) if isinstance(part, dict) and name in given
        else given.get(name, part)
        for name, part in fresh.items()
    }  # fmt: skip
