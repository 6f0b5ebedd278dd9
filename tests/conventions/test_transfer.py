"""Published scaling rules: numbers printed in their sources, a twin, the command that decides."""

import math
import shlex

import numpy as np
import pytest

import wdlab
from tests.twins import transfer as twin
from wdlab import cli
from wdlab.conventions import TrainingRun, transfer

ADAMW = {"learning_rate": 1e-3, "weight_decay": 0.1}


def numbers(found, rule):
    return found[rule].learning_rate, found[rule].weight_decay


def test_linear_rates_as_printed():
    # Goyal et al. 2017, section 5.2: 0.1 at a minibatch of 256 "gives 3.2" at 8k; lambda 0.0001.
    run = {"learning_rate": 0.1, "weight_decay": 1e-4, "batch_size": 256, "tokens": 90 * 1_281_167}
    assert numbers(transfer(run, to={"batch_size": 8192}), "linear batch") == (3.2, 1e-4)
    # Chen et al. 2020 (SimCLR), Appendix B.5 and B.6: 0.05 and 0.1 * BatchSize / 256 at 4096 are
    # 0.8 and 1.6.
    for base, printed in ((0.05, 0.8), (0.1, 1.6)):
        run = {"learning_rate": base, "weight_decay": 1e-6, "batch_size": 256, "steps": 1000}
        found = transfer(run, to={"batch_size": 4096})
        assert found["linear batch"].learning_rate == pytest.approx(printed)


def test_root_rates_as_printed():
    # SimCLR, Appendix B.1: 0.075 sqrt(BatchSize), the same as 0.3 BatchSize / 256 at 4096.
    run = {"weight_decay": 1e-6, "batch_size": 4096, "steps": 1000}
    run["learning_rate"] = 0.3 * 4096 / 256
    for batch in (256, 512, 1024, 2048, 8192):
        found = transfer(run, to={"batch_size": batch})
        assert found["sqrt(batch)"].learning_rate == pytest.approx(0.075 * math.sqrt(batch))
        assert found["linear batch"].learning_rate == pytest.approx(0.3 * batch / 256)


def test_decay_of_a_short_run_as_printed():
    # A nanochat run of depth 4 and vocabulary 32768, batch 512, at its fixed tokens per parameter:
    # "weight decay 0.28 -> 0.0835", the rate times 0.0312. The reference is depth 12 at 2^19.
    reference = 84_935_808 + 25_165_824  # Printed in dev/LOG.md.
    small = 12 * 256**2 * 4 + 256 * 32768
    run = {
        "learning_rate": 1.0,
        "weight_decay": 0.28,
        "batch_size": 2**19,
        "tokens": 12 * reference,
    }
    found = transfer(run, to={"batch_size": 512, "tokens": 12 * small})
    rate, decay = numbers(found, "sqrt(batch) and timescale")
    assert round(decay, 4) == 0.0835
    assert rate == pytest.approx(0.0312, abs=1e-4)


def test_decay_of_muon_by_width_as_printed():
    # nanochat, dev/LOG.md, 2026-01-10: "If d12 optimal is 0.22, then d20 optimal ~ 0.08".
    run = {"learning_rate": 0.02, "weight_decay": 0.22, "width": 768, "optimizer": "muon"}
    found = transfer(run, to={"width": 1280})
    assert round(found["Muon width^-2"].weight_decay, 2) == 0.08
    # Measured there at width 1024: about 0.10; at 512: about 0.40.
    assert transfer(run, to={"width": 1024})["Muon width^-2"].weight_decay == pytest.approx(
        0.1, 0.3
    )
    assert transfer(run, to={"width": 512})["Muon width^-2"].weight_decay == pytest.approx(0.4, 0.3)


def test_power_lines_as_printed():
    # 610M, 20 tokens per parameter: tau = B / (lr lambda D) is 0.21 at every batch of 63 to 2016
    # sequences, so that the decay grows 32 times.
    rate, tokens, length = 0.016, 20 * 610_000_000, 2048
    decay = 63 * length / (rate * 0.21 * tokens)
    run = {"learning_rate": rate, "weight_decay": decay, "batch_size": 63 * length}
    run |= {"tokens": tokens, "parameters": 610_000_000}
    found = transfer(run, to={"batch_size": 2016 * length})["Power Lines"]
    assert found.weight_decay / decay == pytest.approx(32)
    assert found.share == pytest.approx(0.21, rel=0.01)
    # tau ~ TPP^-0.527: from 20 to 1000 tokens per parameter.
    longer = transfer(run, to={"tokens": 50 * tokens})["Power Lines"]
    assert longer.share == pytest.approx(0.21 * 50**-0.527, rel=0.01)


def test_widths_as_printed():
    run = {**ADAMW, "width": 256}
    # Fan et al. 2025: sqrt(lr / lambda) width^0.75 stays; lambda ~ sqrt(width).
    rate, decay = numbers(transfer(run, to={"width": 2048}), "sqrt(width)")
    assert math.sqrt(rate / decay) * 2048**0.75 == pytest.approx(math.sqrt(1e-3 / 0.1) * 256**0.75)
    # Wang and Aitchison: lr = lr_base / s, lambda = s lambda_base; a data set 16 times as large
    # (80k to 1.28M images), a 16th of the decay.
    run |= {"batch_size": 100, "steps": 80_000, "dataset_size": 80_000}
    found = transfer(run, to={"width": 1024})
    assert numbers(found, "constant timescale") == pytest.approx((2.5e-4, 0.4))
    found = transfer(run, to={"dataset_size": 1_280_000})
    assert found["constant timescale"].weight_decay == pytest.approx(0.1 / 16)


def test_normalized_decay_as_stated():
    # "lambda_norm can be interpreted as the weight decay used if only one batch pass is allowed".
    run = {**ADAMW, "coupling": "schedule", "weight_decay": 0.025, "batch_size": 128, "steps": 1}
    found = transfer(run, to={"steps": 400})["normalized decay"].weight_decay
    epochs = 400 * 128 / 51_200
    stated = wdlab.schedules.normalized_weight_decay(
        0.025, batch_size=128, dataset_size=51_200, epochs=epochs
    )
    assert found == pytest.approx(stated)


def test_steps_of_muon_as_printed():
    # Liu et al. 2025, section 2.2: Muon's RMS is sqrt(1 / max(A, B)); scaled by 0.2 sqrt(max(A, B))
    # it "can directly reuse the learning rate and weight decay tuned for AdamW".
    run = {**ADAMW, "width": 1024}
    assert numbers(transfer(run, to={"optimizer": "muon_rms"}), "equal RMS of the step") == (
        1e-3,
        0.1,
    )
    rate, decay = numbers(transfer(run, to={"optimizer": "muon"}), "equal RMS of the step")
    assert rate / math.sqrt(1024) == pytest.approx(1e-3 * 0.2)
    assert rate * decay == pytest.approx(1e-4)


def test_independent_decay_keeps_its_number():
    # Wortsman et al. 2023: one independent decay of 1e-4 for all rates and sizes.
    run = {"learning_rate": 1e-2, "weight_decay": 1e-4, "coupling": "schedule", "width": 256}
    found = transfer(run, to={"learning_rate": 1e-3, "width": 1024})
    assert found["independent decay"].weight_decay == 1e-4
    coupled = transfer(run, to={"learning_rate": 1e-3, "coupling": "lr"})["independent decay"]
    assert coupled.weight_decay == pytest.approx(0.1)


@pytest.mark.parametrize("rule", twin.RULES)
def test_a_rule_is_its_twin(rule):
    rng = np.random.default_rng(0)
    for _ in range(30):
        lr, decay = 10 ** rng.uniform(-4, -1), 10 ** rng.uniform(-3, 0)
        batch, tokens, parameters, width = (int(2**k) for k in rng.integers(0, 5, 4))
        run = TrainingRun(
            learning_rate=lr,
            weight_decay=decay,
            batch_size=2**18,
            tokens=2**30,
            parameters=10**7,
            width=64,
        )
        to = {
            "batch_size": 2**18 * batch * 3,  # Always a change.
            "tokens": 2**30 * tokens * 3,
            "parameters": 10**7 * parameters * 3,
            "width": 64 * width * 3,
        }
        ratios = (3 * batch, 3 * tokens, 3 * parameters, 3 * width)
        wanted = twin.RULES[rule](lr, decay, *ratios)
        assert numbers(transfer(run, to=to), rule) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("coupling", ["lr", "schedule", "constant", "lr2"])
def test_a_coupling_changes_the_number_and_not_the_shrink(coupling):
    run = {**ADAMW, "batch_size": 8, "steps": 100}
    found = transfer(run, to={"batch_size": 16, "coupling": coupling})["constant timescale"]
    power = {"lr": 1, "lr2": 2}.get(coupling, 0)
    assert found.shrink == pytest.approx(2e-4)
    assert found.weight_decay == pytest.approx(2e-4 / 1e-3**power)


def test_the_table_and_the_command_that_decides():
    run = {**ADAMW, "batch_size": 2**18, "tokens": 2**32, "parameters": 10**8, "width": 512}
    found = wdlab.transfer(run, to={"width": 2048, "tokens": 2**34, "parameters": 10**9})
    text = str(found)
    for prediction in found.predictions:
        assert str(prediction.rule) in text
        assert prediction.rule.source
        assert prediction.rule.evidence
    assert "left out, about other changes: sqrt(batch); linear batch" in text
    assert found.spread["learning_rate"] == pytest.approx(4)
    command = shlex.split(text.splitlines()[-1].removeprefix("to decide: wdlab "))
    arguments = cli._parser().parse_args(command)
    swept = [float(value) for value in arguments.weight_decay.split(",")]
    rates = [float(value) for value in arguments.learning_rate.split(",")]
    for prediction in found.predictions:  # All that the rules say is among the points, nearly.
        assert min(abs(math.log(prediction.weight_decay / d)) for d in swept) < 0.11
        assert min(abs(math.log(prediction.learning_rate / r)) for r in rates) < 0.11
    assert all(b / a > 1.09 for a, b in zip(swept, swept[1:], strict=False))
    with pytest.raises(KeyError, match="not found for adamw"):
        found["Muon width^-2"]


def test_the_command_line(capsys):
    line = "transfer --learning-rate 1e-3 --weight-decay 0.1 --batch-size 256 --steps 1e4 --to "
    assert cli.main([*line.split(), "batch-size=1024"]) == 0
    out = capsys.readouterr().out
    run = {**ADAMW, "batch_size": 256, "steps": 10_000}
    assert out == f"{transfer(run, to={'batch_size': 1024})}\n"
    for to, message in {
        "batch_size": "write NAME=VALUE",
        "batch_siz=3": "the nearest is 'batch_size'",
        "width=1.5": "whole number",
        "batch_size=256": "nothing changes",
        "coupling=l2": "no strength of its own",
    }.items():
        assert cli.main([*line.split(), to]) == 2
        assert message in capsys.readouterr().err


def test_runs_that_contradict_themselves():
    with pytest.raises(ValueError, match="tokens 500 are not batch_size 8 times steps 100, 800"):
        TrainingRun(**ADAMW, batch_size=8, steps=100, tokens=500)
    with pytest.raises(TypeError, match="needs weight_decay"):
        transfer({"learning_rate": 0.1}, to={"width": 3})
    with pytest.raises(ValueError, match="Without decay nothing scales"):
        TrainingRun(learning_rate=0.1, weight_decay=0.0)
    run = TrainingRun(**ADAMW, batch_size=8, tokens=800)
    assert run.changed({"batch_size": 16}).tokens == 800
    assert run.changed({"tokens": 1600}).steps == 200
    assert run.changed({"steps": 50, "tokens": 800}).batch_size == 16
