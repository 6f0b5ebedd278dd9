"""The page that a newcomer reads first runs, and learns."""

from examples import quickstart


def test_both_trainings_learn(capsys):
    for train in (quickstart.train_linen, quickstart.train_nnx):
        first, last = train()
        assert last < 0.1 < first
    out = capsys.readouterr().out
    assert "hidden/kernel" in out
    quickstart.main()
    assert "verdict" in capsys.readouterr().out
