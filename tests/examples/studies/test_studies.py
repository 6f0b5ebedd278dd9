"""The studies: every one runs from points to summary, on trainings cut short."""

import dataclasses
import importlib
import json
import math

import numpy as np
import pytest

from examples.studies import all as all_studies
from examples.studies import digits, images, language, study, table

NAMES = [known.name for known in all_studies.studies()]
LANGUAGE = [n for n in NAMES if n.startswith("lm_") or n == "which_parameters"]


def module(name):
    return importlib.import_module(f"examples.studies.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_a_study_is_a_lab_note_with_a_command(name):
    text = module(name).__doc__
    assert f"Command: ``python -m examples.studies.{name}``" in text
    assert "Question: " in text
    assert module(name).STUDY.name == name
    for size in module(name).STUDY.sizes:
        points = list(module(name).STUDY.points(size))
        assert len({json.dumps(p, sort_keys=True) for p in points}) == len(points) > 1


def section(name, folder, size="tiny"):
    """The part of the results page."""
    return table.section(json.loads((folder / f"{name}-{size}.json").read_text()))


def curves(config, finetune=None):
    """What language.train returns, made up: falling losses, lower with more decay."""
    rng, rows = np.random.default_rng(0), []
    for phase, settings in {"training": config, "fine-tuning": finetune}.items():
        for seed in range(language.SEEDS if settings else 0):
            for i in range(language.WINDOWS):
                loss = 3 - i / 10 - settings.weight_decay / 100 + rng.normal() / 1_000
                rows.append({"phase": phase, "seed": seed, "step": i, "loss": loss, "grad_norm": 1})
            rows[-1] |= {"train_loss": loss, "val_loss": loss, "weight_norm": 1.0}
    return rows


@pytest.mark.parametrize("name", LANGUAGE)
def test_a_study_of_language_models_from_points_to_summary(name, tmp_path, monkeypatch):
    monkeypatch.setattr(language, "train", curves)
    summary = study.run(module(name).STUDY, "tiny", tmp_path)
    assert summary.agrees in ("yes", "in part", "no", "not tested")
    assert "nan" not in section(name, tmp_path)
    assert (tmp_path / f"{name}-tiny.png").stat().st_size > 5_000


class MadeUpRun:
    """An image model's training, made up: every number falls with the epochs."""

    def __init__(self, m, seed, *, radius=None):
        self.seed, self.epoch = seed, 0

    def train(self, lr, wd, epochs):
        self.epoch += epochs
        return [1 / self.epoch + lr + wd + self.seed / 100] * epochs

    def measure(self, prefix=""):
        value = 1 / self.epoch + self.seed / 100
        names = ("train_loss", "train_error", "test_loss", "test_error", "weight_norm")
        return {prefix + name: value for name in names}

    def norm(self):
        return self.measure()["weight_norm"]

    def flow(self, lr, epochs):
        return self.measure("flow_") | {"flow_hessian_trace": 1 / self.epoch}


@pytest.mark.parametrize("name", ["loss_stabilization", "sphere", "hessian_trace"])
def test_a_study_of_image_models_from_points_to_summary(name, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "build", lambda *args, **kwargs: None)
    monkeypatch.setattr(images, "Run", MadeUpRun)
    size = module(name).STUDY.sizes[0]
    summary = study.run(module(name).STUDY, size, tmp_path)
    assert summary.agrees in ("yes", "in part", "no", "not tested")
    assert "nan" not in section(name, tmp_path, size)
    assert (tmp_path / f"{name}-{size}.png").stat().st_size > 5_000


def test_the_image_studies_train_as_the_example_does():
    m = images.build("linear", 1, batch_norm=False)  # The quickest to compile.
    run = images.Run(m, seed=1, radius=1.0)
    assert run.measure()["weight_norm"] == pytest.approx(1.0, rel=1e-5)
    copy = run.copy()
    first = run.train(0.05, 0.0, 1) + run.train(0.05, 0.0, 1)
    assert first[1] < first[0] < math.log(10) * 1.5
    assert run.measure()["weight_norm"] == pytest.approx(1.0, rel=1e-5)
    assert copy.epoch == 0
    assert copy.train(0.05, 0.0, 1) == first[:1]  # The copy has buffers of its own.
    assert run.measure()["train_error"] < 0.9


@pytest.mark.slow
def test_the_tiny_training_learns_and_fine_tunes(monkeypatch):
    monkeypatch.setattr(language, "STEPS", 40)
    config = language.tiny(learning_rate=6e-4, max_iters=50_000, weight_decay=0.1)
    tuning = language.tiny(learning_rate=1e-5, min_lr=1e-5, max_iters=25_000, warmup_iters=0)
    rows = language.train(config, tuning)
    assert len(rows) == 2 * language.SEEDS * language.WINDOWS
    last = language.final(rows, "train_loss", "fine-tuning")
    assert last.max() < 0.75 * math.log(103)  # It starts at the logarithm of 103 characters.
    assert np.unique(last).size == language.SEEDS


def test_rules_that_decide_alike_are_one_training():
    def first(rules, **flags):
        flags |= {"learning_rate": 6e-4, "max_iters": 50_000, "rules": rules, "bias": True}
        return language._as_first_written(language.tiny(**flags))

    bert = first("BERT", weight_decay=0.1)
    assert first("NANOGPT", weight_decay=0.1, lr_decay_iters=50_000) == bert
    stronger = first("NANOGPT", weight_decay=0.2)
    assert stronger == dataclasses.replace(bert, weight_decay=stronger.weight_decay) != bert
    assert first("MINGPT", weight_decay=0.1) != bert  # It exempts the embeddings.
    assert first("NANOGPT", weight_decay=0.1, lr_decay_iters=60_000) != bert


def test_papers_numbers_keep_their_exponent_at_the_tiny_size():
    config = language.tiny(learning_rate=6e-4, min_lr=6e-5, max_iters=50_000, weight_decay=0.3)
    paper, tiny = 6e-4 * 50_000 * 0.3, config.learning_rate * config.max_iters
    assert tiny * config.weight_decay == pytest.approx(paper)
    assert config.min_lr == pytest.approx(config.learning_rate / 10)
    slower = language.tiny(learning_rate=6e-4, max_iters=50_000, lr_decay_iters=65_000)
    assert slower.lr_decay_iters / slower.max_iters == pytest.approx(1.3)
    sgd = language.tiny(learning_rate=0.3, max_iters=50_000, opt_type="gdm")
    assert sgd.learning_rate == 0.3


def test_the_paper_size_is_the_papers_command(monkeypatch):
    commands = []
    monkeypatch.setattr(language.program, "main", lambda argv: commands.append(argv))
    monkeypatch.setattr(study.records, "read", lambda path: [])
    point = {"schedule": "constant", "weight_decay": 0.3}
    module("lm_weight_decay").STUDY.measure(point, "paper")
    training, tuning = (" ".join(argv) for argv in commands)
    for text in ("train_gpt2_small_block256", "--learning_rate=0.0006", "--min_lr=0.0006",
                 "--weight_decay=0.3", "--batch_size=8", "--gradient_accumulation_steps=32",
                 "--max_iters=50000"):  # fmt: skip
        assert text in training
    for text in ("--init_from=resume", "--ckpt_path=", "--learning_rate=1e-05"):
        assert text in tuning


def test_the_variance_of_adams_step_is_the_papers_formula():
    radam = module("radam_warmup")
    assert radam.theory(3, 0.999) == math.inf
    r = radam.rho(50, 0.999)
    rng = np.random.default_rng(0)
    psi = np.sqrt(r / rng.chisquare(r, 2_000_000))
    assert radam.theory(50, 0.999) == pytest.approx(psi.var(), rel=0.02)


def test_digits_learn():
    import wdlab

    def run(key):
        tx = wdlab.optimizers.adam(3e-3)
        params, *_ = digits.train(tx, digits.init(key), key, steps=200)
        return digits.evaluate(params)

    assert digits.over_seeds(run, 2)["test_error"].max() < 0.1
