"""The scale of Muon's step is that of torch."""

import pytest

from wdlab.conventions import transfer

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("width", [64, 768, 4096])
def test_equal_rms_is_torchs_two_ways_of_scaling(width):
    adjust = pytest.importorskip("torch.optim._muon")._adjust_lr
    run = {"learning_rate": 1e-3, "weight_decay": 0.1, "width": width}
    rates = {}
    for optimizer, name in (("muon", "original"), ("muon_rms", "match_rms_adamw")):
        found = transfer(run, to={"optimizer": optimizer})["equal RMS of the step"]
        assert found.shrink == pytest.approx(1e-4)  # torch decays by the rate that is not adjusted.
        rates[name] = adjust(found.learning_rate, name, (width, width))
    assert rates["original"] == pytest.approx(rates["match_rms_adamw"])
