"""The parameter groups that are in use, by name: LoRA, DeepSpeed-Chat's, layer-wise rates."""

from wdlab._core.checks import check_number, check_whole
from wdlab.groups.group import Group
from wdlab.rules import DEEPSPEED_CHAT
from wdlab.schedules import ScalarOrSchedule

# Layer 3 of a model is 'blocks/3/', 'encoderblock_3/', 'encoder/layer/3/', 'h/3/', ...: the first
# such step of a path, so that lists inside of a block are no layers, and not inside an embedding.
_LAYER = r"([^/]*([bB]lock|[lL]ayer)s?[_/]?|h[_/])"
_EMBEDDING = (
    r"((?![^/]*[uU]n_?embed)[^/]*[eE]mbed[^/]*|[^/]*_emb|wte|wpe|cls|([^/]*_)?tokens?|shared)"
)
_LAYERS = rf"((?!{_LAYER}\d+/|{_EMBEDDING}/)[^/]+/)*{_LAYER}{{layer}}(/.*)?"
_EMBEDDINGS = rf"(.*/)?{_EMBEDDING}(/.*)?"


def lora(
    learning_rate: ScalarOrSchedule,
    *,
    pattern: str = r"(.*/)?[^/]*lora[^/]*(/.*)?",
    decay_scale: float = 1.0,
    freeze_base: bool = True,
) -> tuple[Group, ...]:
    """LoRA's two groups: the adapters with their own learning rate, and the rest.

    The adapters come first, so that they keep their rate whether they decay or not.

    Args:
      learning_rate: Of the adapters, number >= 0 or schedule.
      pattern: Full match of the adapters' paths: anything with "lora" in a name.
      decay_scale: Of the adapters, >= 0.
      freeze_base: Whether all other leaves are frozen.

    >>> [group.frozen for group in lora(5e-4)]
    [False, True]

    Source: Hu et al., https://arxiv.org/abs/2106.09685.
    """
    adapters = Group(pattern, learning_rate=learning_rate, decay_scale=decay_scale)
    return (adapters, Group(".*", frozen=freeze_base, optional=True))


def deepspeed_chat(
    lora_learning_rate: ScalarOrSchedule,
    *,
    lora_pattern: str = r"(?i).*lora_(right|left)_weight.*",
) -> tuple[Group, ...]:
    """DeepSpeed-Chat's groups, in its order: no decay, then LoRA, then the rest.

    The order is a trap: an adapter whose name is in the no-decay list as well, such as
    ``lora_bias``, does not decay *and* trains with the base rate instead of
    ``lora_learning_rate``. :func:`lora` puts the adapters first. Use it with ``rules=ALL``.

    Args:
      lora_learning_rate: Number >= 0 or schedule; 5e-4 there.
      lora_pattern: Full match of the adapters' paths.

    >>> [(group.decay_scale, group.learning_rate) for group in deepspeed_chat(5e-4)]
    [(0.0, None), (0.0, None), (1.0, 0.0005), (1.0, None)]

    Source: DeepSpeedExamples 45b4b715, applications/DeepSpeed-Chat/dschat/utils/utils.py,
    ``get_optimizer_grouped_parameters``.
    """
    exempt = [rule.pattern for rule in DEEPSPEED_CHAT if rule.scale == 0.0]
    return (
        *(Group(pattern, decay_scale=0.0, optional=True) for pattern in exempt),
        Group(lora_pattern, learning_rate=lora_learning_rate, optional=True),
        Group(".*", optional=True),
    )


def layerwise(
    decay: float,
    num_layers: int,
    *,
    layers: str = _LAYERS,
    embeddings: str = _EMBEDDINGS,
) -> tuple[Group, ...]:
    r"""Layer-wise learning-rate decay: the earlier the layer, the smaller its rate.

    With layer 0 the embeddings, 1 to L the blocks, and L + 1 the head and everything else (the last
    norm), a leaf's rate is :math:`lr_t\, \gamma^{L + 1 - l}`. In torch the rate is the
    group's, so that lr-coupled decay shrinks by layer as well (``decay_follows="group"``); with
    timm's ``corrected_weight_decay``, lr_t**2 over the constructor's lr, twice over. timm counts a
    ViT's last norm to the last block; put a group for it first. A leaf that stacks the layers, as
    ``nn.scan`` makes it, has one path and thus one rate.

    Args:
      decay: :math:`\gamma`, in (0, 1]; 0.65 to 0.9 in BEiT and MAE.
      num_layers: L, the number of layers, at least 1. A model with more is refused at ``init``, one
        with fewer by :func:`check_groups`.
      layers: Full match of the leaves of one layer, with ``{layer}`` for its number from 0. The
        default knows ``blocks/0/``, ``layers_0/``, ``encoder/layer/0/``, ``h/0/``, and
        ``Transformer/encoderblock_0/`` of big_vision's ViT, at any depth.
      embeddings: Full match of the leaves below the layers: anything with "embed" in a name, and
        tokens. What is in a layer stays there.

    Raises:
      ValueError: If a number is out of range or ``layers`` has no ``{layer}``.

    >>> [(group.name, group.learning_rate_scale) for group in layerwise(0.5, num_layers=2)]
    [('embeddings', 0.125), ('layer 0', 0.25), ('layer 1', 0.5), ('layers beyond', 1.0),
     ('rest', 1.0)]

    Source: Bao et al., https://arxiv.org/abs/2106.08254 (BEiT), optim_factory.py; timm aa4b5850,
    timm/optim/_param_groups.py, ``param_groups_layer_decay``.
    """
    check_number("decay", decay, high=1.0, low_open=True)
    check_whole("num_layers", num_layers)
    if "{layer}" not in layers:
        raise ValueError(
            f"layers must hold {{layer}} where the block's number is, got {layers!r}. Write for "
            "instance layers='blocks/{layer}/.*'."
        )
    numbers = layers.replace("{layer}", r"(?P<layer>\d+)", 1).replace("{layer}", "(?P=layer)")
    blocks = [
        Group(
            layers.replace("{layer}", f"0*{layer}"),
            learning_rate_scale=decay ** (num_layers - layer),
            optional=True,  # A missing layer is reported once, by "layers beyond".
            name=f"layer {layer}",
        )
        for layer in range(num_layers)
    ]
    return (
        Group(
            rf"(?!({numbers})\Z)({embeddings})",
            learning_rate_scale=decay ** (num_layers + 1),
            optional=True,
            name="embeddings",
        ),
        *blocks,
        Group(numbers, optional=True, layers_beyond=num_layers, name="layers beyond"),
        Group(".*", optional=True, name="rest"),
    )
