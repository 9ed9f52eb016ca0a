"""The benchmark of views: its data, its sets, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import weightaug as wa
from benchmarks import views
from weightaug.testing import random_element

ROOT = Path(__file__).parents[1]


@pytest.fixture
def data() -> views.Data:
    element = random_element(wa.Architecture.siren((2, 6, 6, 1)), (70,), dtype=torch.float32)
    labels = torch.nn.functional.one_hot(torch.arange(70) % 10, 10).float()
    return views.Data(element, labels, element[:9], torch.arange(9), [element], 4, None)


@pytest.mark.parametrize(("row", "count"), [("views-3", 210), ("functions-2", 140), ("weights-2", 140), ("real-1", 70)])
def test_sets_have_networks_and_labels(data, tmp_path, row, count):
    element, labels = views.more(row, data, tmp_path)
    assert len(element) == len(labels) == count
    assert torch.allclose(labels.sum(1), torch.ones(count))


def test_refitted_sets_show_what_they_should_and_the_others_do_not(data, tmp_path):
    kept = wa.psnr(data.train, views.more("views-3", data, tmp_path)[0][:70], data.size).median()
    lost = wa.psnr(data.train, views.more("noise-3", data, tmp_path)[0][:70], data.size).median()
    assert kept > 25 > 15 > lost


def test_both_readers_train(data):
    dws = views.cell_dws(data.train, data.labels, data, 0, 2)
    flat = data.train.flatten()
    mlp = views.cell_mlp(flat, data.labels, flat[:9], data, 0, 60)
    assert 0 <= dws <= 100
    assert mlp > 50  # it is tested on what it has seen


def test_the_page_is_that_of_the_results(tmp_path):
    page = ROOT / "docs" / "views.md"
    copy = tmp_path / "views.md"
    copy.write_text(page.read_text())
    views.write_page(copy, ROOT / "benchmarks" / "results" / "views")
    assert copy.read_text() == page.read_text(), "run: python benchmarks/views.py --page docs/views.md"


def test_differences_are_paired(tmp_path):
    (tmp_path / "cells").mkdir()
    found = {"psnr_quantiles": [1, 2, 3], "distance_to_original": 0.5}
    (tmp_path / "properties.json").write_text(json.dumps(found))
    for row, scores in {"none": [10.0, 20.0, 60.0], "views-3": [11.0, 22.0, 63.0]}.items():
        for seed, score in enumerate(scores):
            cell = {"model": "mlp", "row": row, "seed": seed, "accuracy": score, "steps": 7, "rate": 1e-3}
            (tmp_path / "cells" / f"{row}{seed}.json").write_text(json.dumps(cell))
    table = views.table_of(tmp_path)
    assert "| views-3 | 32.0 ± 68.1 | +2.0 ± 2.5 | 3 |" in table


def test_rows_trained_otherwise_are_not_put_beside_each_other(tmp_path):
    path = tmp_path / "cell.json"
    path.write_text(json.dumps({"steps": 7, "rate": 1e-3}))
    views._same_setting(path, {"steps": 7, "rate": 1e-3})
    with pytest.raises(SystemExit, match=r"'steps': 7.*'steps': 8"):
        views._same_setting(path, {"steps": 8, "rate": 1e-3})
