"""What other packages call an argument is answered with the line to write here."""

import inspect
import pickle

import pytest

import wdlab
from wdlab import groups, optimizers

FACTORIES = {
    **{name: getattr(optimizers, name) for name in
       ("sgd", "sgdw", "adam", "adamw", "radamw", "lionw", "adafactor", "adams",
        "ademamix", "adan", "adopt", "lamb", "mars", "signum")},
    "grouped": groups.grouped, "mu_sgd": groups.mu_sgd, "mu_adam": groups.mu_adam,
    "decay_weights": wdlab.decay_weights, "add_l2_gradient": wdlab.add_l2_gradient,
    "injected": optimizers.inject_hyperparams(optimizers.adamw),
    "torch.AdamW": lambda *args, **given: wdlab.conventions.build("torch.AdamW", *args, **given),
}  # fmt: skip


@pytest.mark.parametrize("argument", ["mask", "weight_decay_mask", "exclude_from_weight_decay"])
@pytest.mark.parametrize("name", FACTORIES)
def test_a_mask_is_answered_with_rules(name, argument):
    with pytest.raises(TypeError, match=rf"'{argument}'.*rules=\(Rule\('.*rules=mask"):
        FACTORIES[name](0.1, **{argument: lambda params: params})


@pytest.mark.parametrize(
    ("argument", "told"),
    [("lr", "by its place"), ("wd", "weight_decay="), ("betas", "b1= and b2="),
     ("epsilon", "nearest is 'eps'"), ("weight_decya", "nearest is 'weight_decay'")],
)  # fmt: skip
def test_other_names_are_answered_too(argument, told):
    with pytest.raises(TypeError, match=f"adamw has no argument '{argument}'.*{told}"):
        optimizers.adamw(0.1, **{argument: 0.1})


@pytest.mark.parametrize("name", ["adamw", "grouped", "decay_weights"])
def test_a_factory_keeps_its_name_signature_and_pickle(name):
    factory = FACTORIES[name]
    assert factory.__name__ == name
    assert "rules" in inspect.signature(factory).parameters
    assert pickle.loads(pickle.dumps(factory)) is factory
