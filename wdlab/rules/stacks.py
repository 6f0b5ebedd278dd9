"""What training stacks decay by default: rules by name and rank, for trees named as theirs.

Paths have ``/`` where torch's names have dots. Names of a stack's own that Flax calls otherwise are
understood in both ways. Where a stack goes by the type of a layer, the names of such layers decide.
"""

from wdlab.rules.presets import ALL
from wdlab.rules.rule import Rule

# torchtitan at b5bcd76c, components/optimizer/optimizer.py: ordered groups of a regular expression
# that is searched, the first match takes the parameter. default_adamw has the one group '.*' with
# weight_decay 0.1: norms, biases and embeddings decay. A group that matches nothing is an error, as
# check_rules makes it here.
TORCHTITAN = ALL
# OLMo-core at fa6c5014, optim/config.py: strict globs, one that matches nothing is an error, hence
# no optional rule. Its OLMo 2 and 3 scripts exempt embeddings.weight alone; the default nothing.
OLMO_CORE = (Rule("(params/)?embeddings/(weight|embedding)", 0.0), Rule(".*"))
# Megatron-LM at d98e8a64, core/optimizer/__init__.py, get_standard_config_overrides: rank 1 and
# names that end in .bias. Embeddings and scalars decay. A norm's scale that nn.scan stacks has rank
# 2, and decays: give it a rule.
MEGATRON = (
    Rule("(.*/)?bias", 0.0, optional=True),
    Rule(".*", 0.0, ndim=1, optional=True),
    Rule(".*", optional=True),
)
# The same with apply_wd_to_qk_layernorm=True (Qwen3-Next): the norms of queries and keys decay.
MEGATRON_QK_LAYERNORM = (Rule(".*(q|k)_layernorm/.*", optional=True), *MEGATRON)
# MaxText at e591f30c, configs/base.yml: adamw_mask is [], so that everything decays; its Muon gets
# no mask at all.
MAXTEXT = ALL
# Kauldron at c9b3ec8, optim: decay_to_init(weight_decay, mask=None): everything, and toward the
# start, decay_weights(..., toward="init").
KAULDRON = ALL
# Transformers 5.23, Trainer.get_decay_parameter_names: nn.LayerNorm modules by type (here by the
# names ln_1 and ln_f), and lower-cased names that contain bias, layernorm or rmsnorm, or have a
# part norm or ..._norm. Embeddings decay; so do a norm's scale of another name, and A_log.
HF_TRAINER = (
    Rule("(?i).*(bias|layernorm|rmsnorm).*", 0.0, optional=True),
    Rule("(?i)(.*/)?([^/]*_)?norm(/.*)?", 0.0, optional=True),
    Rule(r"(.*/)?ln(_[^/]*)?/(weight|scale)", 0.0, optional=True),
    Rule(".*", optional=True),
)
# nanochat at 92d63d4e, gpt.py, setup_optimizer: the decays of the AdamW groups themselves, for
# weight_decay=1. The blocks' matrices are Muon's, whose decay is a number of its own and falls. As
# the original's assertion, a parameter of another name is an error: there is no last rule.
NANOCHAT_ADAMW = (
    Rule("lm_head/.*", 0.01, optional=True),
    Rule("(transformer/)?wte/.*", 0.001, optional=True),
    Rule("value_embeds/.*", 0.01, optional=True),
    Rule("resid_lambdas", 0.05, optional=True),
    Rule("x0_lambdas|smear_gate/(weight|kernel)|smear_lambda|backout_lambda", 0.0, optional=True),
    Rule("(transformer/)?h/.*", 0.0, optional=True),
)
NANOCHAT_MUON = (Rule("(transformer/)?h/.*"), Rule(".*", 0.0, optional=True))
