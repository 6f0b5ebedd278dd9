"""Layer-wise rates by the names that models have; the number of layers; the table of groups."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import wdlab
from wdlab.groups import Group, assign_groups, check_groups, grouped, layerwise, lora, print_groups
from wdlab.preconditioners import scale_by_adam
from wdlab.rules import RuleWarning

# Names of three layers with "#" for the number; of what is below them; of what is above.
MODELS = {
    "timm, BEiT": ("blocks/#/attn/qkv/kernel blocks/#/gamma_1",
        "patch_embed/proj/kernel pos_embed cls_token mask_token", "norm/scale head/kernel"),
    "big_vision ViT": (
        "Transformer/encoderblock_#/MlpBlock_0/Dense_1/kernel"
        " Transformer/encoderblock_#/MultiHeadDotProductAttention_0/query/kernel",
        "embedding/kernel embedding/bias pos_embedding cls",
        "Transformer/encoder_norm/scale MAPHead_0/probe pre_logits/kernel head/kernel"),
    "Flax examples ViT": ("Transformer/encoderblock_#/LayerNorm_0/scale",
        "embedding/kernel Transformer/posembed_input/pos_embedding", "head/bias"),
    "transformers ViT": ("vit/encoder/layer/#/attention/output/dense/kernel",
        "vit/embeddings/patch_embeddings/projection/kernel vit/embeddings/position_embeddings",
        "vit/layernorm/scale vit/pooler/dense/kernel classifier/kernel"),
    "transformers LLaMA": ("model/layers/#/mlp/up/kernel model/layers/#/input_layernorm/weight",
        "model/embed_tokens/embedding", "model/norm/weight lm_head/kernel"),
    "GPT-2": ("transformer/h/#/ln_1/scale transformer/h/#/attn/c_attn/kernel",
        "transformer/wte/embedding transformer/wpe/embedding", "transformer/ln_f/scale"),
    "T5": ("encoder/block/#/layer/0/SelfAttention/relative_attention_bias/embedding"
           " decoder/block/#/layer/2/DenseReluDense/wo/kernel",
        "shared/embedding", "encoder/final_layer_norm/weight lm_head/kernel"),
    "T5X, MaxText": ("decoder/layers_#/self_attention/query/kernel", "token_embedder/embedding",
        "decoder/decoder_norm/scale decoder/logits_dense/kernel"),
    "compact Linen": ("TransformerBlock_#/Dense_0/kernel TransformerBlock_#/Embed_0/embedding",
        "Embed_0/embedding Embed_1/embedding", "LayerNorm_0/scale Dense_0/kernel"),
    "Haiku": ("transformer/block_#/layer_0/w", "embed/embeddings", "linear/w unembed/w"),
    "by hand": ("layers/# layers/#", "token_embedding tok_emb", "unembedding out_layer_norm"),
    "zero-padded": ("block_0#/kernel", "token_embedding/embedding", "head/kernel"),
    "lists in blocks": ("blocks/#/mlp/layers/0/kernel blocks/#/experts/layers_1/kernel",
        "patch_embedding/layers/0/kernel", "head/layers/kernel"),
}  # fmt: skip
LAYERS = 3


def tree(names, layers=LAYERS):
    each, below, above = names
    paths = [path.replace("#", str(i)) for path in each.split() for i in range(layers)]
    return {path: jnp.ones(2) for path in [*paths, *below.split(), *above.split()]}


@pytest.mark.parametrize("names", MODELS.values(), ids=MODELS)
def test_every_part_of_a_model_has_its_rate(names):
    params, groups = tree(names), layerwise(0.5, LAYERS)
    check_groups(params, groups)
    rates = {a.path: a.group.learning_rate_scale for a in assign_groups(params, groups)}
    each, below, above = names
    for i in range(LAYERS):
        for path in each.split():
            assert rates[path.replace("#", str(i))] == 0.5 ** (LAYERS - i)
    assert {rates[path] for path in below.split()} == {0.5 ** (LAYERS + 1)}
    assert {rates[path] for path in above.split()} == {1.0}


@pytest.mark.parametrize("names", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("said", [1, 2, 4, 12])
def test_another_number_of_layers_is_refused(names, said):
    params, groups = tree(names), layerwise(0.5, said)
    message = rf"found {LAYERS} layers \(0, 1, 2\), num_layers says {said} "
    with pytest.raises(ValueError, match=message):
        check_groups(params, groups)
    tx = grouped(scale_by_adam(), 0.1, groups)
    if said < LAYERS:  # The further layers would train at the head's rate.
        with pytest.raises(ValueError, match=message):
            tx.init(params)
    else:
        with pytest.warns(RuleWarning, match=message):
            tx.init(params)


def test_stacked_layers_have_no_number():
    params = {"layers": {"kernel": jnp.ones((3, 2, 2))}, "embed": jnp.ones((2, 2))}
    with pytest.raises(ValueError, match="found 0 layers, num_layers says 3"):
        check_groups(params, layerwise(0.5, 3))


@pytest.mark.parametrize("said", [2, 5])
def test_an_own_pattern_of_layers_is_counted_too(said):
    params = {"stage": {f"cell{i}": {"w": jnp.ones(2), "embed": jnp.ones(2)} for i in range(4)}}
    groups = layerwise(0.5, 4, layers="stage/cell{layer}/.*")
    assert {a.group.name for a in assign_groups(params, groups)} == {f"layer {i}" for i in range(4)}
    with pytest.raises(ValueError, match=f"found 4 layers.*num_layers says {said}"):
        check_groups(params, layerwise(0.5, said, layers="stage/cell{layer}/.*"))


def test_the_table_of_groups_says_rate_and_decay_of_every_leaf(capsys):
    params = {
        "wte": jnp.ones((8, 4)),
        "blocks": [{"kernel": jnp.ones((4, 4)), "bias": jnp.ones(4)}],
        "head": {"kernel": jnp.ones((4, 2)), "lora_a": jnp.ones((4, 1))},
    }
    groups = (
        Group(".*lora.*", learning_rate=lambda t: 0.5 / (t + 1), decay_scale=3.0, name="adapters"),
        Group("wte", frozen=True),
        *layerwise(0.5, 1),
    )
    schedule = wdlab.schedules.warmup_linear(0.1, warmup_steps=2, decay_steps=10)
    rows = print_groups(params, groups, learning_rate=schedule, step=1)
    got = {row.path: (round(row.learning_rate, 6), row.decay_scale) for row in rows}
    base = float(schedule(1))
    assert got == {
        "blocks/0/bias": (round(base / 2, 6), 0.0),
        "blocks/0/kernel": (round(base / 2, 6), 1.0),
        "head/kernel": (round(base, 6), 1.0),
        "head/lora_a": (0.25, 3.0),
        "wte": (0.0, 0.0),
    }
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert "frozen" in lines["wte"]
    assert "layer 0" in lines["blocks/0/bias"]
    assert "exempt" in lines["blocks/0/bias"]
    assert "adapters: 1 tensors, 4 parameters" in out
    print_groups(params, groups)
    out = capsys.readouterr().out
    assert "0.5 x base" in next(line for line in out.splitlines() if "blocks/0/kernel" in line)


def test_the_table_warns_of_idle_groups_and_takes_models(capsys):
    model = nnx.Sequential(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
    rows = print_groups(model, (Group("haed", frozen=True), *lora(0.1, freeze_base=False)))
    assert {row.path.rsplit("/", 1)[-1] for row in rows} == {"kernel", "bias", "scale"}
    assert "Group('haed') has no parameter" in capsys.readouterr().out
    check_groups(model, (Group(".*scale", decay_scale=0.0), Group(".*")))
    with pytest.raises(ValueError, match="mean"):
        check_groups(model, (Group(".*mean", frozen=True), Group(".*")))


def test_names_are_no_markup(capsys):
    print_groups({"[red]a[/red]\x07": np.ones(2)}, (Group(".*"),))
    assert "[red]a[/red]\\x07" in capsys.readouterr().out
