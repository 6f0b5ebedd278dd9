"""The parameter rules that are in use, by name, and the names they go by."""

import re

from wdlab.rules.patterns import compile_pattern
from wdlab.rules.rule import Ndim, Rule

# The names that layers give to biases and norms. A leaf counts by its own name, or by a norm-like
# module right above it; 'rescale_proj/kernel' and 'bias_net/kernel' do not. These words decide at
# every rank: attention biases have rank 2, and under nn.scan everything has one dimension more. A
# 'b' beside LoRA's 'a', or in a kernel, is a factor of a matrix.
_BIAS = (
    r"(.*/)?[^/]*bias(es)?\d*(_[^/]*)?(?<!kernel)(?<!proj)(?<!embedding)"
    r"|(?!(.*/)?([^/]*lora[^/]*|kernel|weight|w)/b)(.*/)?b_?\d*"
)
_NORM_NAME = r"([^/]*[nN]orm|([^/]*_)?(ln|bn|gn|rms))"
_NORM = (
    rf"(.*/)?(({_NORM_NAME}\d*_|layer_?|ls_?\d*_)?(scale|gamma|beta|offset)(_?\d+)?|{_NORM_NAME}\d*_[bgw]"
    rf"|lambda_?\d+|{_NORM_NAME}(_?\d+|_f)?|{_NORM_NAME}_([^/]*_)?(weight|gain)"
    rf"|{_NORM_NAME}(_[^/]*|\d*)/(weight|w|g))"
)
# In longer names these words say bias or norm for vectors only: 'proj_b' of rank 2 can be a matrix.
_VAGUE = r"(?!.*lora)(.*/)?([^/]*_)?(b|beta|gamma|scale|offset)(_[^/]*|\d*)"
_EMBEDDING = (
    r"(.*/)?(embeddings?|pos_emb(edding)?|(wte|wpe|[^/]*embed[^/]*)(/(embedding|weight|w))?)"
)
_MATRIX = r"(.*/)?(kernel|w|weight)"
# A weight at any rank; the first alternative is a tree that is one array.
_WEIGHT = r"|(.*/)?(kernel|w|W|weights|embedding)(_?\d+)?"
# The recurrence's own parameters in Mamba (A_log, D, dt_bias), S4, S5, LRU, RG-LRU and RWKV.
_RECURRENCE = (
    r"(.*/)?((log_|inv_)?A_(log|real|imag)|Lambda_(re|im)|(log|inv)_(dt|step)|dt_bias"
    r"|(nu|theta|gamma)_log|a_param|time_(decay|first|faaaa|mix|maa)(_[^/]*)?)"
)
# Vectors that are neither biases nor norm scales by name, and do not decay where they are used.
_KNOWN = (
    r"(.*/)?([^/]*_)?(D|alpha|lambda|gate|gain|g|slopes?|temperature|tau|magnitude|token|cls|log"
    r"|weight)(_[^/]*|\d*)"
)

ALL = (Rule(".*"),)
# Vectors and scalars that are not named like a weight are biases, norms, gains, gates: none decays.
NO_BIAS_OR_NORM = (
    Rule(_BIAS, 0.0, optional=True),
    Rule(_NORM, 0.0, optional=True),
    Rule(_WEIGHT, optional=True),
    Rule(".*", 0.0, ndim=(0, 1), optional=True),
    Rule(".*", optional=True),
)
# Mamba's authors exempt A_log, D and dt_bias (state-spaces/mamba, mamba_ssm/modules/mamba2.py),
# S5's Lambda and log_step (lindermanlab/S5, s5/train_helpers.py). A_log has rank 2 in Mamba 1.
STATE_SPACE = (Rule(rf"{_RECURRENCE}|(.*/)?D", 0.0, optional=True), *NO_BIAS_OR_NORM)
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
    Rule(_VAGUE, 0.0, ndim=(0, 1), optional=True),
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

# Which matrices Muon trains: those between embedding and head. By the names these have; a head that
# is called Dense_0 or fc, or tied to the embedding by other means, needs a rule of its own.
_POSITION = r"(.*/)?([^/]*_)?(pos|position|positional|relative)(_[^/]*|al[^/]*|s)?(/[^/]*)?"
_TOKEN = r"(.*/)?([^/]*_)?(cls|class_?token|tokens?|registers?|query_embed[^/]*)"
_HEAD = (
    r"(.*/)?([^/]*_)?(heads?|unembed(ding)?|classifier|logits)(_[^/]*)?(/(kernel|weight|w))?"
    r"|(params/)?output(_layer|_proj(ection)?)?/(kernel|weight|w)"
)
_ANY_EMBEDDING = rf"{_EMBEDDING}|(.*/)?[^/]*embed[^/]*/kernel"
HIDDEN_MATRICES = (
    Rule(rf"{_BIAS}|{_NORM}|{_RECURRENCE}", 0.0, optional=True),
    Rule(rf"{_ANY_EMBEDDING}|{_POSITION}|{_TOKEN}", 0.0, optional=True),
    Rule(_HEAD, 0.0, optional=True),
    Rule(".*", ndim=(2, None), optional=True),
    Rule(".*", 0.0, optional=True),
)


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


def looks_like_norm_or_bias(path: str, ndim: int) -> bool:
    """Whether a leaf of that path and rank is named like a bias or a norm's scale.

    >>> looks_like_norm_or_bias("ln_f/scale", 2), looks_like_norm_or_bias("rescale/kernel", 2)
    (True, False)
    """
    vector = rf"{_VAGUE}|(.*/)?weight" if ndim < 2 else "(?!)"
    return _matches(f"{_BIAS}|{_NORM}|{vector}", path)


def looks_like_matrix(path: str, ndim: int) -> bool:
    """Whether a leaf of that path and rank is named like a weight matrix or convolution kernel.

    >>> looks_like_matrix("dense/kernel", 2), looks_like_matrix("norm/weight", 1)
    (True, False)
    """
    return _matches(_MATRIX, path) and not looks_like_norm_or_bias(path, ndim)


def doubt(path: str, ndim: int, scale: float) -> str:
    """What name and rank of a leaf leave open where NO_BIAS_OR_NORM decided it; else ''.

    >>> doubt("expert_b", 2, 1.0)
    "decays as a matrix of rank 2, and is named like a bias or norm scale; ..."
    """
    rank = "a scalar" if ndim == 0 else "a vector" if ndim == 1 else f"of rank {ndim}"
    if ndim > 1 and scale and _matches(_RECURRENCE, path):
        found = "decays, and state-space models exempt it; see rules.STATE_SPACE"
    elif ndim > 1 and scale and _matches(_VAGUE, path):
        found = f"decays as a matrix {rank}, and is named like a bias or norm scale"
    elif ndim > 1 and not scale and _matches(r"(.*/)?b_?\d*", path):
        found = f"is exempt as a bias, and {rank}"
    elif ndim < 2 and not scale and not _says_why_exempt(path, ndim):
        found = f"is exempt as {rank}, and its name does not say what it is"
    else:
        return ""
    own = re.escape(path)
    return f"{found}; put Rule({own!r}) or Rule({own!r}, 0.0) in front to say which"


def _says_why_exempt(path: str, ndim: int) -> bool:
    return looks_like_norm_or_bias(path, ndim) or _matches(f"{_KNOWN}|{_RECURRENCE}", path)


def _matches(pattern: str, path: str) -> bool:
    return compile_pattern(pattern).fullmatch(path) is not None


_SHORT = {
    _BIAS: "<bias>",
    _NORM: "<norm>",
    _WEIGHT: "<weight>",
    _RECURRENCE: "<recurrence>",
    _ANY_EMBEDDING: "<embedding>",
}
_SHORT |= {_EMBEDDING: "<embedding>", _POSITION: "<position>", _TOKEN: "<token>", _HEAD: "<head>"}


def short_rule(rule: Rule) -> str:
    """A rule's pattern, a preset's long one by the names of its parts, and the rank it asks for.

    >>> short_rule(NO_BIAS_OR_NORM[0]), short_rule(Rule("head/.*", ndim=2))
    ('<bias>', 'head/.*, rank 2')
    """
    pattern = rule.pattern
    for part, name in _SHORT.items():
        pattern = pattern.replace(part, name)
    return pattern if rule.ndim is None else f"{pattern}, rank {_ranks(rule.ndim)}"


def _ranks(ndim: Ndim) -> str:
    if not isinstance(ndim, tuple):
        return str(ndim)
    low, high = ndim
    return f"{low} or more" if high is None else f"{low} to {high}"
