"""What a long matching shows, and that it is only shown."""

import sys

import pytest
import torch

from tests.test_matching import SINE, networks, symmetry
from weightaug import Architecture, act
from weightaug.matching import match

WIDE = Architecture.siren((2, 350, 350, 1))


@pytest.mark.parametrize("shape", [(), (7,), (2, 3), (0,), (1100,)])
def test_a_bar_counts_the_pairs_and_changes_nothing(shape, capsys):
    pytest.importorskip("tqdm")
    count = max(torch.Size(shape).numel(), 0)
    a, b = (networks(SINE, count, seed=i).map(lambda t: t.reshape(*shape, *t.shape[1:])) for i in range(2))
    plain = match(a, b)
    assert capsys.readouterr().err == ""
    shown = match(a, b, progress=True)
    assert (f"{count}/{count}" if count else "0pair") in capsys.readouterr().err
    torch.testing.assert_close(act(b, shown).flatten(), act(b, plain).flatten(), rtol=0, atol=0)


def test_a_wide_pair_tells_how_many_neurons_still_move(capsys):
    pytest.importorskip("tqdm")
    b = networks(WIDE, 2)
    a = act(b, symmetry(WIDE, 2)).map(lambda t: t + 0.3 * torch.randn(t.shape, dtype=t.dtype))
    plain = match(a, b, symmetry="permutation")
    shown = match(a, b, symmetry="permutation", progress=True)
    told = capsys.readouterr().err
    assert "neurons of space 1 moved" in told
    assert " 0 neurons of space" in told  # the last visits move none
    assert "2/2" in told
    for p, q in zip(plain.permutation, shown.permutation, strict=True):
        assert torch.equal(p, q)


def test_without_tqdm_there_is_no_bar(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    for p, q in zip(match(a, b, progress=True).permutation, match(a, b).permutation, strict=True):
        assert torch.equal(p, q)
    assert capsys.readouterr().err == ""
