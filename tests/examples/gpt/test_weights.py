"""Weights from a folder in Hugging Face's layout: what is read, and what is refused."""

import dataclasses
import json
import struct
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.gpt import model, train
from examples.gpt.config import Config
from examples.gpt.weights import load_gpt2
from examples.runs.errors import UserError
from wdlab.from_torch import load_tensors

V, P, D = 11, 6, 8  # Vocabulary, positions, width.
GIVEN = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": D, "vocab_size": V}
GIVEN |= {"n_positions": P, "activation_function": "gelu_new"}
CONFIG = Config(block_size=P)
pytest.importorskip("safetensors")


def tensors():
    """What the weights of a small GPT-2 are called there, with random values."""
    shapes = {"wte.weight": (V, D), "wpe.weight": (P, D), "ln_f.weight": (D,), "ln_f.bias": (D,)}
    for i in range(2):
        for name, shape in {
            "ln_1": (D,),
            "ln_2": (D,),
            "attn.c_attn": (D, 3 * D),
            "attn.c_proj": (D, D),
            "mlp.c_fc": (D, 4 * D),
            "mlp.c_proj": (4 * D, D),
        }.items():
            shapes |= {f"h.{i}.{name}.weight": shape, f"h.{i}.{name}.bias": shape[-1:]}
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64"}


def write(path, arrays):
    """A safetensors file, by its specification."""
    header, blobs, end = {"__metadata__": {"format": "pt"}}, [], 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype.name], "shape": array.shape}
        header[name]["data_offsets"] = [start, end]
        blobs.append(array.tobytes())
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(GIVEN))
    write(tmp_path / "model.safetensors", tensors())
    return tmp_path


def test_reads_every_dtype_even_from_odd_places(tmp_path):
    arrays = {"a": np.arange(3, dtype=np.float16), "b": np.array(7, np.int64)}
    arrays |= {"c": np.asarray(jnp.array([[1.5, -2]], jnp.bfloat16)), "d": np.zeros((0, 2), "f4")}
    write(tmp_path / "x.safetensors", arrays)
    for name, found in load_tensors(tmp_path / "x.safetensors").items():
        assert found.dtype == arrays[name].dtype
        np.testing.assert_array_equal(found, arrays[name])


def test_gpt2_lies_where_our_model_has_it(folder):
    config, params = load_gpt2(folder, CONFIG, vocab_size=V)
    assert (config.n_layer, config.n_embd, config.bias, config.gelu) == (2, D, True, "tanh")
    same = jax.tree.map(lambda a, b: a.shape == b.shape, params, model.shapes(config, V))
    assert all(jax.tree.leaves(same))
    stored = tensors()
    np.testing.assert_array_equal(params["wte"]["embedding"], stored["wte.weight"])
    block = params["blocks"][1]
    np.testing.assert_array_equal(block["attn"]["qkv"]["kernel"], stored["h.1.attn.c_attn.weight"])
    np.testing.assert_array_equal(block["ln_2"]["bias"], stored["h.1.ln_2.bias"])


def test_prefixes_parts_shorter_contexts_and_stacks(folder):
    stored = {f"transformer.{name}": x for name, x in tensors().items()}
    parts = {"a.safetensors": {}, "b.safetensors": {}}
    for i, (name, x) in enumerate(stored.items()):
        parts[("a.safetensors", "b.safetensors")[i % 2]][name] = x
    for name, arrays in parts.items():
        write(folder / name, arrays)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {name: file for file, arrays in parts.items() for name in arrays}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    _, params = load_gpt2(folder, Config(block_size=4, scan_layers=True), vocab_size=V)
    np.testing.assert_array_equal(params["wpe"]["embedding"], tensors()["wpe.weight"][:4])
    assert params["blocks"]["mlp"]["fc"]["kernel"].shape == (2, D, 4 * D)


def test_tokens_that_the_weights_lack_are_unlikely(folder):
    _, params = load_gpt2(folder, CONFIG, vocab_size=V + 5)
    matrix = params["wte"]["embedding"]
    assert matrix.shape == (V + 5, D)
    np.testing.assert_allclose(matrix[V:], np.tile(matrix[:V].mean(0), (5, 1)), rtol=1e-6)


def test_adapters_are_added(folder):
    config, params = load_gpt2(folder, dataclasses.replace(CONFIG, lora_rank=2), vocab_size=V)
    assert jax.tree.structure(params) == jax.tree.structure(model.shapes(config, V))
    np.testing.assert_array_equal(params["wte"]["embedding"], tensors()["wte.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "has model_type 'bert', expected gpt2"),
        ({"activation_function": "relu"}, "activation 'relu'; there are gelu_new"),
        ({"n_layer": 3}, "no tensor 'h.2.attn.c_proj.bias'"),
        ({"n_embd": 16}, r"attn/proj/bias has shape \(8,\) .* by its config.json \(16,\)"),
        ({"n_positions": 4}, "--block_size 6 is more than the 4 positions"),
        ({"vocab_size": V + 1}, r"wte/embedding has shape \(11, 8\)"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ],
)
def test_other_models_are_refused(folder, change, message):
    (folder / "config.json").write_text(json.dumps(GIVEN | change))
    with pytest.raises(UserError, match=message):
        load_gpt2(folder, CONFIG, vocab_size=50)


def test_a_vocabulary_that_is_too_small_is_refused(folder):
    with pytest.raises(UserError, match="the weights know 11 tokens, .* vocabulary of 10"):
        load_gpt2(folder, CONFIG, vocab_size=10)


def test_weights_do_not_train_on_another_vocabulary(folder, capsys, tmp_path):
    flags = ["--init_from=gpt2", f"--ckpt_path={folder}", f"--block_size={P}"]
    assert train.main(["tiny", *flags, f"--out_dir={tmp_path / 'out'}"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "weights for 50304 tokens, but the data of --dataset pydoc has" in said
    assert not (tmp_path / "out").exists()


def test_missing_and_damaged_files_are_named(folder, monkeypatch):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (b"", b"\0" * 4, b"\xff" * 100, whole[:-1], whole[:100]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="model.safetensors' cannot be read as safetensors"):
            load_gpt2(folder, CONFIG, vocab_size=V)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "safetensors", None)
        with pytest.raises(UserError, match="this file needs safetensors: pip install safetensors"):
            load_gpt2(folder, CONFIG, vocab_size=V)
    path.rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model.safetensors is missing \(pytorch_model.bin is a"):
        load_gpt2(folder, CONFIG)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is no configuration"):
        load_gpt2(folder, CONFIG)
    with pytest.raises(UserError, match=r"config.json is missing: put config.json and"):
        load_gpt2(folder / "nowhere", CONFIG)
