"""The claims on top of the results page: what is said of made-up results, both ways."""

import json

import numpy as np
import pytest

from examples.studies import claims, table

SEEDS = 0.1 * np.arange(5)
NOISE = 1e-3 * np.array([-2.0, 2.0, -1.0, 1.0, 0.0])


def result(name, numbers, size="tiny", **others):
    made = {"name": name, "size": size, "agrees": "in part", "number": "a number", "remark": "so."}
    plain = {label: np.asarray(values).tolist() for label, values in numbers.items()}
    return made | {"numbers": plain} | others


def one_pass(effects):
    """The numbers of one_pass_mlp; effects: of decay in each case, and at the best rates."""
    names = [*(f"{case}, E = {{}}" for case in claims.CASES), "cosine, best lr, E = {}"]
    return {name.format(0): SEEDS for name in names} | {
        name.format(3): SEEDS + effect + NOISE for name, effect in zip(names, effects, strict=True)
    }


def dial(without, with_decay):
    return result("mantissa_dial", {
        f"m = {bits}, E = {e}": [count] * 5
        for bits in (23, 7, 4)
        for e, count in ((0, without), (3, with_decay))
    })  # fmt: skip


def stable():
    columns = claims.MEASURES
    return result(
        "stabilized_mlp", {f"{c}, E = {e}": 1 + SEEDS + e for c in columns for e in (0, 5)}
    )


def said(letter, *results):
    claim = next(claim for claim in claims.CLAIMS if claim.letter == letter)
    return claim.find(claims.of(claim, results))


def cells(text):
    """The table in a text: first cell of a line -> the others."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {first: others for first, *others in lines}


def test_lower_higher_and_undecided_are_told_apart():
    found = cells(said("a", result("one_pass_mlp", one_pass((-0.1, 0.1, 0.0, -0.1)))))
    answers = [others[1].split(" (")[0] for others in found.values()][1:]
    assert answers == ["lower", "higher", "undecided", "lower"]
    found = cells(said("a", result("one_pass_mlp", one_pass((0.1, -0.1, 0.1, 0.1)))))
    assert found["falling learning rate"] == ["lower", "higher (+0.1 [+0.098, +0.1])"]
    assert found["constant rate"][0] == "not lower"


def test_a_language_model_has_a_column_of_its_own():
    best = {claims.OVER: 0.1 + NOISE}
    gpt = result("one_pass_gpt", one_pass((-0.1, 0.1, -0.1, -0.1)) | best, "small")
    found = cells(said("a", result("one_pass_mlp", one_pass((-0.1,) * 4)), gpt))
    _, here, of_gpt = found["falling, each at its best rate"]
    assert here.startswith("lower (-0.1")
    assert of_gpt.startswith("higher (+0.1")


def test_where_nothing_diverges_the_claim_is_not_tested():
    assert "Not tested: nothing diverges" in said("b", dial(0, 0))
    text = said("b", dial(2, 1), result("lm_bf16_divergence", {}))
    assert cells(text)["products in bfloat16"] == ["10", "5"]
    assert "Not tested" not in text
    assert "a number" in text


def test_the_claim_about_rounding_names_the_tests_that_show_it():
    counts = {f"flash_bf16, decay {d}: diverged, of 6": [n] * 5
              for d, n in (("none", 3), ("independent", 1))}  # fmt: skip
    counts |= {name.replace("flash_bf16", "float32"): [1] * 5 for name in counts}
    others = [result("attention_bias", {}), result("logit_growth", counts)]
    text = said("b", dial(0, 0), *others)
    assert "over the seeds, in: lr up to 1, bfloat16 flash attention." in text
    assert cells(text)["lr up to 1, attention in float32"] == ["5", "5"]
    same = result("logit_growth", dict.fromkeys(counts, [2] * 5))
    assert "over the seeds, in: none." in said("b", dial(0, 0), same)


def test_the_largest_size_is_what_counts():
    small = stable() | {"size": "small", "remark": "the larger one."}
    assert "the larger one." in said("c", small, stable())
    assert said("c", small, stable()) == said("c", stable(), small)


def test_an_image_model_has_a_line_of_its_own():
    errors = {"resnet18, large lr, decay": SEEDS, "resnet18, large lr, no decay": SEEDS + 1 + NOISE}
    text = said("c", stable(), result("loss_stabilization", errors, "small", exponent=8.1))
    _, exponent, here = cells(text)["ResNet-18: test error after the drop, %"]
    assert (exponent, here.split(" (")[0]) == ("8", "lower")
    earlier = result("loss_stabilization", {}) | {"numbers": dict.fromkeys(errors, "8 ± 1")}
    assert "ResNet-18: test" not in said("c", stable(), earlier)


def test_a_claim_without_a_result_says_so(tmp_path):
    text = claims.section([result("lm_bf16_divergence", {}), stable()])
    assert text.count("No result yet.") == 2
    assert text.count("results/claim_c.png") == text.count("results/claim_") == 1
    claims.save([stable()], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["claim_c.png"]


@pytest.mark.parametrize("letter", [claim.letter for claim in claims.CLAIMS])
def test_each_claim_of_the_page_has_a_small_picture(letter, tmp_path):
    stored = [json.loads(path.read_text()) for path in sorted(table.RESULTS.glob("*.json"))]
    claims.save(stored, tmp_path)
    for folder in (tmp_path, table.RESULTS):
        assert 3_000 < (folder / f"claim_{letter}.png").stat().st_size <= 60 * 1024
