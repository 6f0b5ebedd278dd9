"""Optimizers as chains short enough to see where the decay sits; the coupling has no default."""

from wdlab._core.dtypes import in_float32
from wdlab.optimizers.adafactor_chain import adafactor, scale_by_adafactor
from wdlab.optimizers.adam_relatives import adan, ademamix, adopt, lamb, mars, signum
from wdlab.optimizers.assembly import assemble, complete, scale_by_learning_rate
from wdlab.optimizers.averaging import (
    ScheduleFreeState,
    averaged,
    schedule_free,
    schedule_free_eval_params,
)
from wdlab.optimizers.chains import adam, adamw, lionw, radamw, sgd, sgdw
from wdlab.optimizers.d_adaptation import dadapt_adam, dadapt_adan, dadapt_lion
from wdlab.optimizers.d_adaptation_sums import dadapt_adagrad, dadapt_sgd
from wdlab.optimizers.injection import inject_hyperparams
from wdlab.optimizers.muon_chain import branches_of, muon
from wdlab.optimizers.muon_conversion import MuonNumbers, muon_from_adamw
from wdlab.optimizers.prodigy_adam import prodigy
from wdlab.optimizers.schedule_free_chains import schedule_free_adamw, schedule_free_sgd
from wdlab.optimizers.second_order import shampoo, soap
from wdlab.optimizers.stable_decay import adams

__all__ = [
    "MuonNumbers",
    "ScheduleFreeState",
    "adafactor",
    "adam",
    "adams",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "assemble",
    "averaged",
    "branches_of",
    "complete",
    "dadapt_adagrad",
    "dadapt_adam",
    "dadapt_adan",
    "dadapt_lion",
    "dadapt_sgd",
    "in_float32",
    "inject_hyperparams",
    "lamb",
    "lionw",
    "mars",
    "muon",
    "muon_from_adamw",
    "prodigy",
    "radamw",
    "scale_by_adafactor",
    "scale_by_learning_rate",
    "schedule_free",
    "schedule_free_adamw",
    "schedule_free_eval_params",
    "schedule_free_sgd",
    "sgd",
    "sgdw",
    "shampoo",
    "signum",
    "soap",
]
