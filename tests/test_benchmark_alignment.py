"""The alignment benchmark: its peer is what it says, its pages hold what was measured. No time is asserted."""

from __future__ import annotations

import pytest
import torch

from benchmarks import alignment
from benchmarks.measuring import alignment_tables
from benchmarks.measuring.frank_wolfe import frank_wolfe
from benchmarks.running.files import write_json
from benchmarks.running.pages import write_tables
from weightaug import Architecture, GroupElement, act
from weightaug.testing import random_element

SMALL = Architecture.siren((2, 6, 6, 1))


def test_frank_wolfe_finds_a_planted_permutation_and_never_loses_to_the_identity():
    a = random_element(SMALL, (6,))
    generator = torch.Generator().manual_seed(0)
    b = act(a, alignment.random_symmetry(SMALL, 6, (), generator))
    found = frank_wolfe(a, b)
    assert isinstance(found, GroupElement)
    before, after = alignment.squared(a, b), alignment.squared(a, act(b, found))
    assert (after <= before + 1e-9).all()
    assert int((after < 1e-12).sum()) >= 3


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_parts_run_from_the_command_line_to_the_page(tmp_path, capsys):
    pytest.importorskip("tyro")
    command = ["--parts", "planted", "objective", "small", "--networks", "3", "--output", str(tmp_path)]
    alignment.main(command)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: planted -->\nold\n<!-- end -->\nb\n<!-- table: other -->\nkept\n<!-- end -->\n")
    alignment.main(["--output", str(tmp_path), "--page", str(page)])
    text = page.read_text()
    assert "old" not in text
    assert "2-32-32-1 sine, permutation x phase" in text
    assert text.endswith("kept\n<!-- end -->\n")
    assert {"planted", "objective", "small"} == set(alignment_tables.tables(tmp_path))


def test_tables_of_fitted_pairs_count_who_is_nearer(tmp_path):
    row = {"squared distance": 2.0, "against plain": -0.5, "midpoint dB, same": 9.0, "midpoint dB, other": 8.0}
    result = {
        "pairs": 5,
        "fit psnr": {"median": 40.0},
        "nearer, equal, farther than Frank-Wolfe": {"permutation": [2, 2, 1]},
        "rows": [row | {"alignment": "full group", "ms per pair": 0.1}],
    }
    write_json(tmp_path / "fitted.json", {"result": {"siren": result}, "threads": 1, "load_average": [0.5]})
    text = alignment_tables.tables(tmp_path)["fitted-siren"]
    assert "| full group | 2 | -50.0 % | 9.00 | 8.00 | 0.10 |" in text
    assert "`permutation` is nearer on 2, as near on 2 and farther on 1" in text


def test_settings_out_of_range_are_refused_in_one_line(tmp_path):
    pytest.importorskip("tyro")
    with pytest.raises(SystemExit, match="images must be at least 2, got 1"):
        alignment.main(["--images", "1", "--output", str(tmp_path)])


def test_folders_without_networks_are_refused(tmp_path):
    pytest.importorskip("tyro")
    (tmp_path / "empty" / "view0").mkdir(parents=True)
    with pytest.raises(SystemExit, match="view0 holds no networks"):
        alignment.main(["--parts", "fitted", "--fits", str(tmp_path / "empty"), "--output", str(tmp_path / "out")])


def test_a_page_that_is_not_there_is_one_line():
    with pytest.raises(OSError, match="page"):
        write_tables(alignment.Path("/nowhere/page.md"), {})
