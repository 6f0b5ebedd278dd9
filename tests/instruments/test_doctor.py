"""The doctor finds each planted fault, and says nothing of sound chains."""

import json
import resource
import time

import jax
import jax.numpy as jnp
import optax
import pytest
from optax import contrib

import wdlab
from tests.public_programs import PROGRAMS
from wdlab.cli import main
from wdlab.rules import NO_BIAS_OR_NORM, Rule

STEPS = 10_000
LR = wdlab.schedules.warmup_cosine(1e-3, warmup_steps=100, decay_steps=STEPS, end=1e-4)


def shapes(dtype=jnp.float32, blocks=3):
    def leaf(*shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    def block():
        return {
            "attn": {"kernel": leaf(8, 24), "bias": leaf(24)},
            "mlp": {"kernel": leaf(8, 32), "bias": leaf(32)},
            "ln": {"scale": leaf(8), "bias": leaf(8)},
        }

    named = {f"h_{n}": block() for n in range(blocks)}
    return {"wte": {"embedding": leaf(50, 8)}, "ln_f": {"scale": leaf(8)}, **named}


PARAMS, DEEP = shapes(), shapes(blocks=12)
# The same with its blocks stacked, as a scan has them: a norm's scale is of rank 2 there.
SCANNED = {
    "wte": PARAMS["wte"],
    "ln_f": PARAMS["ln_f"],
    "h": jax.tree.map(lambda x: jax.ShapeDtypeStruct((12, *x.shape), x.dtype), PARAMS["h_0"]),
}


def by_path(keep, params=PARAMS):
    """A mask of the paths that ``keep`` is true of."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: keep(jax.tree_util.keystr(keys, simple=True, separator="/")), params
    )


def kernels(path):
    return "kernel" in path or "embedding" in path


def adamw(keep=kernels, **changes):
    arguments = {"weight_decay": 0.1, "mask": by_path(keep)} | changes
    return optax.adamw(arguments.pop("learning_rate", LR), **arguments)


def labelled(groups, label):
    return optax.multi_transform(groups, by_path(label))


def negative_decay():
    return optax.chain(optax.adam(LR), optax.add_decayed_weights(1e-4))


BF16 = shapes(jnp.bfloat16)
FREEZE_BEHIND = labelled(
    {
        "trained": adamw(kernels, mask=None),
        "frozen": optax.chain(optax.set_to_zero(), optax.add_decayed_weights(-1e-4)),
    },
    lambda path: "frozen" if "wte" in path else "trained",
)
FAULTS = {
    # What is wrong: check that finds it, transformation, further arguments.
    "mask typo: matches nothing": ("nothing_decays", adamw(lambda path: "kernal" in path), {}),
    "mask typo: misses the biases": ("some_of_a_role", adamw(lambda p: "bais" not in p
                                                             and "scale" not in p), {}),
    "mask inverted": ("inverted", adamw(lambda path: not kernels(path)), {}),
    "mask misses a matrix": ("some_of_a_role", adamw(lambda p: kernels(p) and "mlp" not in p), {}),
    "h_1 meant for one block": (
        "one_of_its_kind",
        adamw(mask=by_path(lambda p: kernels(p) and "h_1" not in p, DEEP)),
        {"params": DEEP},
    ),
    "rank as role": ("some_of_a_role",
                     adamw(mask=jax.tree.map(lambda x: x.ndim > 1, SCANNED)), {"params": SCANNED}),
    "norms decay": ("some_of_a_role", adamw(lambda p: kernels(p) or "ln/" in p), {}),
    "embeddings meant to decay": ("not_as_intended", adamw(lambda p: "kernel" in p),
                                  {"rules": NO_BIAS_OR_NORM}),
    "biases meant to be exempt": ("not_as_intended", adamw(lambda p: True),
                                  {"rules": NO_BIAS_OR_NORM}),
    "decay after schedule zero": ("goes_on_alone", optax.adafactor(
        optax.linear_schedule(1e-2, 0.0, 5000), weight_decay_rate=1e-4), {}),
    "bfloat16 underflow": ("lost_in_16_bits", optax.adamw(1e-3, weight_decay=0.1),
                           {"params": BF16}),
    "callable mask under inject": ("mask_under_injection", optax.inject_hyperparams(optax.adamw)(
        LR, weight_decay=0.1, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p)), {}),
    "hyperparameters in bfloat16": ("numbers_in_16_bits", optax.inject_hyperparams(optax.adamw)(
        LR, weight_decay=0.1), {"params": BF16}),
    "L2 where decoupled was meant": ("l2_under_a_preconditioner", optax.chain(
        optax.add_decayed_weights(0.1), optax.adam(LR)), {}),
    "clip after decay": ("clipped_with_the_step", optax.chain(
        adamw(), optax.clip_by_global_norm(1e-3)), {}),
    "frozen leaves decay": ("frozen_decays", FREEZE_BEHIND, {}),
    "double decay": ("decays_twice", optax.chain(
        adamw(), wdlab.decay_weights(0.1, multiplier=LR, rules=NO_BIAS_OR_NORM)), {}),
    "decay outside MultiSteps": ("decays_between_updates", optax.chain(
        optax.MultiSteps(optax.adam(LR), 8).gradient_transformation(),
        wdlab.decay_weights(1e-4, rules=NO_BIAS_OR_NORM)), {}),
    "sign flip": ("weights_grow", negative_decay(), {}),
    "1000 times too strong": ("forgets_the_run", wdlab.optimizers.adamw(
        LR, weight_decay=0.1, coupling="schedule"), {}),
    "1000 times too weak": ("does_nothing", adamw(weight_decay=1e-5), {}),
    "schedule-free's y": ("schedule_free_at_y", contrib.schedule_free_adamw(
        1e-3, weight_decay=0.1), {}),
    "MARS's 1-D leaves": ("inverted", wdlab.conventions.build("mars.MARS", 3e-3), {}),
    "Muon's NAdamW half": ("two_momenta", contrib.muon(
        1e-3, weight_decay=0.1, adam_weight_decay=0.1), {}),
    "another learning rate": ("another_rate", adamw(learning_rate=1e-2), {"lr": 1e-3}),
    "statistics among the parameters": ("statistics", adamw(mask=None), {
        "params": {"params": PARAMS, "batch_stats": {"norm": {"mean": PARAMS["ln_f"]["scale"]}}}}),
    "everything is frozen": ("frozen", optax.set_to_zero(), {}),
    "an unused leaf decays": ("unused_decays", adamw(),
                              {"roles": {"wte/embedding": "unused"}}),
}  # fmt: skip


@pytest.fixture
def unnamed(monkeypatch):
    """Most of a visit goes into the convention's name: test_doctor_conventions.py asks for it."""
    monkeypatch.setattr("wdlab.instruments.diagnosis.report.nearest_convention", lambda *_: None)


@pytest.mark.usefixtures("unnamed")
@pytest.mark.parametrize("name", FAULTS)
def test_each_planted_fault_is_found(name):
    check, tx, more = FAULTS[name]
    report = wdlab.doctor(tx, **{"params": PARAMS, "steps": STEPS} | more)
    found = {f.fault for f in report.findings if f.severity != "note"}
    assert check in found, str(report)
    assert all(f.advice for f in report.findings if f.severity != "note")
    assert report.findings[0].severity == min(
        (f.severity for f in report.findings), key=["error", "warning", "note"].index
    )


SOUND = {
    "ours": wdlab.optimizers.adamw(LR, weight_decay=0.1, coupling="lr"),
    "schedule coupling": wdlab.optimizers.adamw(LR, weight_decay=1e-4, coupling="schedule"),
    "lion": wdlab.optimizers.lionw(LR, weight_decay=1.0, coupling="lr"),
    "sgd with L2": wdlab.optimizers.sgd(LR, weight_decay=5e-4, coupling="l2", momentum=0.9),
    "accumulation": optax.MultiSteps(
        wdlab.optimizers.adamw(LR, weight_decay=0.1, coupling="lr"), 8
    ).gradient_transformation(),
    "injected": wdlab.inject_hyperparams(wdlab.optimizers.adamw)(
        LR, weight_decay=0.1, coupling="lr"
    ),
    "frozen embeddings": optax.chain(
        wdlab.optimizers.adamw(LR, weight_decay=0.1, coupling="lr"),
        wdlab.decay.freeze((Rule("wte/.*"), Rule(".*", 0.0))),
    ),
    "centralized gradients": optax.chain(optax.centralize(), adamw()),
    "ours, schedule-free": wdlab.optimizers.schedule_free_adamw(
        1e-3, weight_decay=0.1, coupling="lr"
    ),
    "ours, Muon": wdlab.optimizers.muon(LR, weight_decay=0.1, coupling="lr"),
    "matrices of which nothing is known": wdlab.conventions.build("dion.Dion2", LR),
    "the first step is another": optax.novograd(1e-2, weight_decay=1e-3),
    "accumulators that do not start at 0": optax.chain(
        optax.adaptive_grad_clip(0.01), optax.yogi(1e-3), optax.ema(0.9)
    ),
    "a projection made anew at some steps": optax.chain(
        wdlab.preconditioners.scale_by_galore(rank=2),
        optax.add_decayed_weights(0.1, mask=by_path(kernels)),
        optax.scale(-1e-3),
    ),
    "masked clip": optax.chain(optax.clip_by_global_norm(1.0), adamw()),
}


@pytest.mark.usefixtures("unnamed")
@pytest.mark.parametrize("name", SOUND)
def test_nothing_is_said_of_a_sound_chain(name):
    report = wdlab.doctor(SOUND[name], PARAMS, steps=STEPS)
    assert [f for f in report.findings if f.severity != "note"] == [], str(report)
    assert report.verdict.startswith("sound")


@pytest.mark.usefixtures("unnamed")
@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_said_of_public_programs(name):
    program = PROGRAMS[name]()
    for more in ({}, {"loss_fn": program.loss, "batch": program.batch}):
        report = wdlab.doctor(program.tx, program.params, steps=program.steps, **more)
        assert [f for f in report.findings if f.severity != "note"] == [], str(report)
        assert report.verdict.startswith("sound")


def test_a_trust_ratios_answer_to_no_gradient_is_no_strength():
    tx = optax.lamb(5e-3, weight_decay=0.01, mask=by_path(kernels))
    report = wdlab.doctor(tx, PARAMS, steps=100 * STEPS)
    assert [f for f in report.findings if f.severity != "note"] == [], str(report)


def test_lookahead_is_looked_at_in_both_copies():
    params = optax.LookaheadParams.init_synced(PARAMS["h_0"])
    tx = optax.lookahead(optax.adam(1e-3), sync_period=5, slow_step_size=0.1)
    report = wdlab.doctor(tx, params, steps=STEPS)
    assert {f.severity for f in report.findings} <= {"note"}
    assert "cannot be measured" in str(report)
    assert report.verdict == "sound as far as it can be measured"


def test_the_report_is_text_json_and_a_page():
    tx = adamw(lambda path: not kernels(path))
    report = wdlab.doctor(tx, PARAMS, steps=STEPS, tokens_per_step=1000)
    assert str(report).startswith("verdict: 1 error")
    told = json.loads(json.dumps(report.as_json()))
    group = next(g for g in told["groups"] if g["peak_shrink"])
    assert group["timescale_tokens"] == pytest.approx(1000 * group["timescale_steps"])
    assert group["weight_decay"] == pytest.approx(0.1, rel=1e-3)
    assert group["follows"] == "the learning rate"
    page = report.html()
    assert page.count("<svg") == 2
    assert "http" not in page  # It needs no other file.


def test_numbers_of_a_group_are_those_of_the_formulas():
    """Timescale 1 / (lr lambda), rotation and norm as in wdlab.instruments.rotation."""
    tx = wdlab.optimizers.adamw(1e-3, weight_decay=0.1, coupling="lr", b1=0.9, b2=0.95)
    group = wdlab.doctor(tx, PARAMS, steps=STEPS).groups[0]
    assert group.convention == "torch.AdamW(betas=(0.9, 0.95), weight_decay=0.1)"
    assert group.timescale_steps == pytest.approx(1e4, rel=1e-4)
    assert group.total_shrink == pytest.approx(1 - (1 - 1e-4) ** STEPS, rel=1e-4)
    rotation = wdlab.instruments.predicted_rotation(1e-4, 0.9)
    assert group.rotation == pytest.approx(float(rotation), rel=1e-4)
    assert group.equilibrium_rms == pytest.approx((1e-3 / 0.2) ** 0.5, rel=1e-3)


def test_roles_from_the_loss_are_used():
    params = {"a": jnp.ones((8, 4)), "b": jnp.ones(4), "c": jnp.ones((3, 3))}

    def loss(params, x):
        return jnp.mean((x @ params["a"] + params["b"]) ** 2)

    tx = optax.adamw(1e-3, weight_decay=0.1)
    report = wdlab.doctor(tx, params, steps=100, loss_fn=loss, batch=jnp.ones((2, 8)))
    assert report.roles_known
    assert [f.leaf for f in report.findings if f.fault == "unused_decays"] == ["c"]


def test_the_function_is_what_the_names_lead_to():
    assert wdlab.doctor is wdlab.instruments.doctor
    assert callable(wdlab.doctor)


def test_the_command_prints_writes_and_fails_where_something_is_wrong(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made_here.py").write_text(
        "import jax, optax\n"
        "P = {'kernel': jax.ShapeDtypeStruct((2, 3), 'float32')}\n"
        "def sound(): return optax.adamw(1e-3, weight_decay=0.1), P\n"
        "def wrong(): return {'tx': optax.add_decayed_weights(0.1), 'params': P, 'steps': 10}\n"
        "def other(): return 3\n"
        "def broken(): raise SystemExit('no GPU here')\n"
    )
    assert main(["doctor", "made_here:sound", "--steps", "10000", "--html", "page.html"]) == 0
    assert "verdict: sound" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert main(["doctor", "made_here:wrong"]) == 1
    assert "the weights grow" in " ".join(capsys.readouterr().out.split())
    for line, message in {
        "made_here:sound": "--steps N",
        "made_here:other --steps 3": "got int",
        "made_here:no --steps 3": "made_here:no: module 'made_here' has no attribute 'no'",
        "made_here:broken --steps 3": "made_here.py:6: SystemExit: no GPU here",
        "missing:make --steps 3": "missing:make: No module named 'missing'",
        "./made_here.py:sound --steps 3": "as import does: made_here:sound",
        "../made_here:sound --steps 3": "write MODULE:FUNCTION",
        "x": "write MODULE:FUNCTION",
    }.items():
        assert main(["doctor", *line.split()]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_the_gpt2_tree_takes_seconds_and_no_arrays():
    """12 blocks of GPT-2's shapes, 124 M parameters, as shapes alone: no array of that size."""
    params = {
        "wte": {"embedding": jax.ShapeDtypeStruct((50304, 768), jnp.float32)},
        **{
            f"h_{n}": {
                "kernel": jax.ShapeDtypeStruct((768, 9216), jnp.float32),
                "ln": {"scale": jax.ShapeDtypeStruct((768,), jnp.float32)},
            }
            for n in range(12)
        },
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    report = wdlab.doctor(SOUND["ours"], params, steps=STEPS)
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB
    assert sum(group.entries for group in report.groups) > 120e6


def test_of_a_sign_flip_nothing_is_said_about_the_strength():
    names = {finding.fault for finding in wdlab.doctor(negative_decay(), PARAMS, steps=10).findings}
    assert "weights_grow" in names
    assert not names & {"does_nothing", "forgets_the_run"}
