"""The parameter rules that are in use, by name, and the names they go by."""

import re

from wdlab.rules.rule import Rule

# Names that the Flax, Haiku and Equinox layers give to biases and norms. A leaf counts by its own
# name, or by a norm-like module right above it; 'rescale_proj/kernel' and 'bias_net/kernel' do not.
_BIAS = r"(.*/)?([^/]*_)?(bias|beta|offset|b)(_[^/]*)?"
_NORM_MODULE = r"([^/]*[nN]orm(_?\d+)?|(ln|bn|gn|rms)(_[^/]*|\d*))"
_NORM = rf"(.*/)?(([^/]*_)?(scale|gamma)|{_NORM_MODULE}/(weight|w|g))"
_EMBEDDING = (
    r"(.*/)?(embeddings?|pos_emb(edding)?|(wte|wpe|[^/]*embed[^/]*)(/(embedding|weight|w))?)"
)
_MATRIX = r"(.*/)?(kernel|w|weight)"

ALL = (Rule(".*"),)
# The rank-1 'weight' is Equinox's name for a norm's scale, in a list of layers that has no name.
NO_BIAS_OR_NORM = (
    Rule(_BIAS, 0.0, optional=True),
    Rule(_NORM, 0.0, optional=True),
    Rule("(.*/)?weight", 0.0, ndim=(0, 1), optional=True),
    Rule(".*", optional=True),
)
KERNELS_ONLY = (
    Rule(rf"{_NORM}|{_EMBEDDING}", 0.0, optional=True),
    Rule("(.*/)?(kernel|w)", optional=True),
    Rule("(.*/)?weight", ndim=(2, None), optional=True),
    Rule(".*", 0.0, optional=True),
)
MATRICES_ONLY = (Rule(".*", ndim=(2, None), optional=True), Rule(".*", 0.0, optional=True))
# google-research/bert optimization.py: re.search of LayerNorm, layer_norm, bias; embeddings decay.
BERT = (
    Rule(".*(LayerNorm|layer_norm|bias).*", 0.0, optional=True),
    Rule(r"(.*/)?ln(_[^/]*)?/(scale|weight)", 0.0, optional=True),
    Rule(".*", optional=True),
)
# nanoGPT model.py: rank >= 2 decays, embeddings included; biases and norms by name, since in Flax
# they can have rank 2.
NANOGPT = (
    Rule(rf"{_BIAS}|{_NORM}", 0.0, optional=True),
    Rule(".*", ndim=(2, None), optional=True),
    Rule(".*", 0.0, optional=True),
)
# minGPT model.py: Linear weights decay, biases, LayerNorms and embeddings do not, and every
# parameter must be one of these: there is no last rule for the rest.
MINGPT = (
    Rule(rf"{_BIAS}|{_NORM}|{_EMBEDDING}", 0.0, optional=True),
    Rule(_MATRIX, optional=True),
)
# DeepSpeed-Chat utils.py, substrings of the lower-cased name: 'ln_1' and 'ln_2' are not in its
# list, so GPT-2's inner norms do decay there.
DEEPSPEED_CHAT = (
    Rule("(?i).*bias.*", 0.0, optional=True),
    Rule(r"(?i).*(norm|ln_f)(_\d+)?/(weight|scale).*", 0.0, optional=True),
    Rule(".*", optional=True),
)
# big_vision optax.py: wd_mults defaults to [('.*/kernel$', 1.0)].
BIG_VISION = (Rule(".*/kernel", optional=True), Rule(".*", 0.0, optional=True))


def containing(substrings: str) -> tuple[Rule, ...]:
    """Rules that decay the leaves whose path contains one of the words, and no others.

    The include list of "Why Do We Need Weight Decay" (``wd_substrings_include``). It goes by name
    alone, so biases inside ``attn`` and ``mlp`` decay too.

    Args:
      substrings: Words separated by spaces.

    Raises:
      ValueError: If there is no word.

    >>> [rule.pattern for rule in containing("wte attn")]
    ['.*wte.*', '.*attn.*', '.*']
    """
    if not isinstance(substrings, str) or not substrings.split():
        raise ValueError(f"containing: expected words such as 'wte attn mlp', got {substrings!r}.")
    included = [Rule(f".*{re.escape(word)}.*", optional=True) for word in substrings.split()]
    return (*included, Rule(".*", 0.0, optional=True))


def looks_like_norm_or_bias(path: str) -> bool:
    """Whether the path is named like a bias or a norm's scale.

    >>> looks_like_norm_or_bias("ln_f/scale"), looks_like_norm_or_bias("rescale/kernel")
    (True, False)
    """
    return re.fullmatch(f"{_BIAS}|{_NORM}", path) is not None


def looks_like_matrix(path: str) -> bool:
    """Whether the path is named like a weight matrix or convolution kernel.

    >>> looks_like_matrix("dense/kernel"), looks_like_matrix("norm/weight")
    (True, False)
    """
    return re.fullmatch(_MATRIX, path) is not None and not looks_like_norm_or_bias(path)


_SHORT = {_BIAS: "<bias>", _NORM: "<norm>", _EMBEDDING: "<embedding>"}


def short_pattern(pattern: str) -> str:
    """A preset's long pattern by the names of its parts; a user's own pattern as it is.

    >>> short_pattern(NO_BIAS_OR_NORM[0].pattern), short_pattern("head/.*")
    ('<bias>', 'head/.*')
    """
    for part, name in _SHORT.items():
        pattern = pattern.replace(part, name)
    return pattern
