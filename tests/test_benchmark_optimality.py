"""The benchmark that tries the whole group: its optimum is one, and its page says what was measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import optimality
from benchmarks.running.files import read_json
from weightaug import Activation, Architecture, SirenBias, SirenNegation, act
from weightaug.testing import random_element

SINE = Architecture.mlp((2, 2, 1), Activation("sine", 30.0))
ALL = ("permutation", "sign", "phase")
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "optimality" / "optimality.json"


def test_every_element_is_tried_once():
    groups = list(optimality.elements_of(SINE, ALL))
    assert len(groups) == 2 * 4**2
    element = random_element(SINE, (1,))
    moved = torch.stack([act(element, g.map(lambda t: t.unsqueeze(0))).flatten()[0] for g in groups])
    assert len(torch.unique(moved, dim=0)) == len(groups)
    assert (
        len(list(optimality.elements_of(Architecture.mlp((2, 3, 2, 1), "tanh"), ("permutation", "sign")))) == 6 * 2**6
    )


def test_the_optimum_of_a_copy_is_zero_and_of_others_is_not():
    a = random_element(SINE, (5,))
    generator = torch.Generator().manual_seed(0)
    b = SirenBias(k_max=6)(SirenNegation()(a, generator=generator), generator=generator)
    assert optimality.optimum(a, b, ALL)[1].max() < 1e-20
    assert optimality.optimum(a, b, ("permutation",))[1].max() > 1e-3
    assert optimality.optimum(a, random_element(SINE, (5,), seed=1), ALL)[1].min() > 1e-6


def test_a_small_run_writes_what_the_page_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(optimality, "HIDDEN", ((2,), (2, 2)))
    monkeypatch.setattr(optimality, "ACTIVATIONS", {n: optimality.ACTIVATIONS[n] for n in ("tanh", "gelu")})
    optimality.main(["--pairs", "20", "--output", str(tmp_path)])
    rows = read_json(tmp_path / "optimality.json", "rows")["rows"]
    assert [row["group"] for row in rows] == [8, 64, 2, 4]
    for row in rows:
        for setting in optimality.SETTINGS:
            assert row[setting]["below the optimum"] == row[setting]["worse than the identity"] == 0
        if len(row["hidden"]) == 1:  # one layer of neurons is one assignment
            assert row["default"]["optimal"] == 20
    page = tmp_path / "page.md"
    page.write_text("<!-- table: optimality -->\n<!-- end -->\n")
    optimality.main(["--output", str(tmp_path), "--page", str(page)])
    assert "| default | " in page.read_text()
    assert "40 pairs with two hidden spaces. Of 40 with one, every row finds at least 100.0 %" in page.read_text()


def test_what_was_measured_is_ten_thousand_pairs_none_of_them_worse_than_before():
    rows = read_json(RESULTS, "rows")["rows"]
    assert sum(row["pairs"] for row in rows) == 10_000
    for row in rows:
        for setting in optimality.SETTINGS:
            assert row[setting]["below the optimum"] == row[setting]["worse than the identity"] == 0
