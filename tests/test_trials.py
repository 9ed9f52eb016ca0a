"""The long trials, made short: they find what is wrong, and write down what came."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks.trials import soak
from tests.commands import run_command
from weightaug import Permute, WeightSpaceElement


def test_a_short_soak(tmp_path, monkeypatch):
    pytest.importorskip("tqdm")
    run_command(monkeypatch, soak, "--cases", 60, "--output", tmp_path)
    figures = json.loads((tmp_path / "soak.json").read_text())["figures"]
    assert figures["cases"] == 60
    assert figures["failures"] == 0
    assert figures["cases in every mode"] == 3


def test_a_soak_finds_a_transform_that_does_not_keep_the_function(tmp_path, monkeypatch):
    plain = Permute.apply

    def apply(self: Permute, element: WeightSpaceElement, params):
        return plain(self, element, params).map(lambda t: t * 1.001)

    monkeypatch.setattr(Permute, "apply", apply)

    def run() -> None:
        for number in range(400):
            soak.run_case(number, Counter())

    with pytest.raises(AssertionError, match=r"case \d+: .*Permute"):
        run()
