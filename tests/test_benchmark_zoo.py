"""The zoo of CNNs: a small run of every part, and what it says."""

import json

import pytest
import torch

from benchmarks import zoo
from benchmarks.architectures import page
from benchmarks.architectures.barriers import mean_and_half
from benchmarks.architectures.cnns import FAMILIES, HyperParameters, digits_split, outputs, train
from benchmarks.architectures.rebasin import axes_of, permuted, weight_matching
from benchmarks.architectures.store import SPREAD, WELL_TRAINED, load
from tests.commands import run_command
from weightaug import Permute

pytest.importorskip("sklearn")


def run(monkeypatch, *arguments):
    run_command(monkeypatch, zoo, *arguments)


def few(count: int) -> HyperParameters:
    return HyperParameters.good(count)._replace(steps=3, batch=8)


@pytest.fixture(scope="module")
def small_zoo(tmp_path_factory):
    """A folder of hardly trained networks of every family."""
    folder = tmp_path_factory.mktemp("zoo")
    patch = pytest.MonkeyPatch()
    patch.setattr(HyperParameters, "drawn", classmethod(lambda cls, count, generator: few(count)))
    patch.setattr(
        HyperParameters,
        "good",
        classmethod(lambda cls, count, good=HyperParameters.good: good(count)._replace(steps=3)),
    )
    try:
        run(patch, "train", "--folder", folder, "--out", folder / "out", "--networks", 24, "--well-trained", 4)
    finally:
        patch.undo()
    return folder


def test_the_zoo_is_read_as_it_was_trained_and_goes_on(small_zoo, monkeypatch):
    results = json.loads((small_zoo / "out" / "zoo.json").read_text())
    assert [f["networks"] for f in results["families"].values()] == [24, 24, 4, 4]
    networks, columns, seconds = load(small_zoo, SPREAD[1])
    data = digits_split()
    found = outputs(networks, FAMILIES[SPREAD[1]], data.test)
    rates = (found.argmax(-1) == data.test_labels).float().mean(-1)
    torch.testing.assert_close(columns["test_accuracy"], rates)
    torch.testing.assert_close(found, networks(data.test), rtol=1e-4, atol=1e-4)  # the modules' own forward
    assert seconds > 0
    before = networks.flatten().clone()
    monkeypatch.setattr("benchmarks.architectures.store.train", lambda *args: pytest.fail("trained again"))
    run(monkeypatch, "train", "--folder", small_zoo, "--out", small_zoo / "out", "--networks", 24, "--well-trained", 4)
    assert torch.equal(load(small_zoo, SPREAD[1])[0].flatten(), before)


def test_training_lowers_the_loss_and_depends_on_the_seed_alone():
    family = FAMILIES[WELL_TRAINED[1]]
    data = digits_split()
    loss = lambda x: torch.nn.functional.cross_entropy(outputs(x, family, data.train)[0], data.train_labels)
    settings = HyperParameters.good(1)._replace(steps=40)
    first, again = train(family, settings, 1), train(family, settings, 1)
    assert torch.equal(first.flatten(), again.flatten())
    assert not torch.equal(first.flatten(), train(family, settings, 2).flatten())
    assert float(loss(first)) < 1.0 < float(loss(train(family, settings._replace(steps=0), 1)))


def test_every_part_writes_what_the_page_shows(small_zoo, tmp_path, monkeypatch):
    out = small_zoo / "out"
    common = ("--folder", small_zoo, "--out", out, "--seeds", 2)
    run(monkeypatch, "barriers", *common, "--pairs", 2)
    run(monkeypatch, "accuracy", *common, "--epochs", 1)
    run(monkeypatch, "lora", *common, "--adapters", 8)
    barriers = json.loads((out / "barriers.json").read_text())
    for name, family in barriers["families"].items():
        assert len(family["ways"]) == (4 if FAMILIES[name].norm else 2)
        ends = [[way["loss_curve"][i][0] for way in family["ways"].values()] for i in (0, -1)]
        plain = slice(None, None, 2 if FAMILIES[name].norm else 1)  # recomputing moves the ends
        assert all(max(end[plain]) - min(end[plain]) < 1e-3 for end in ends)  # alignment does not
    text = "\n".join(f"<!-- table: {name} -->\n<!-- end -->" for name in ("zoo", "barriers", "accuracy", "lora"))
    (tmp_path / "page.md").write_text(text)
    pytest.importorskip("matplotlib")
    (tmp_path / "figures").mkdir()
    run(monkeypatch, "page", *common, "--page", tmp_path / "page.md")
    written = (tmp_path / "page.md").read_text()
    assert written.count("| three convolutions |") == 1 + 2 + 8
    assert len(list((tmp_path / "figures").glob("*.png"))) == 2


def test_the_verdict_is_the_rule():
    assert mean_and_half([1.0, 1.0, 1.0]) == (1.0, 0.0)
    mean, half = mean_and_half([0.0, 2.0])
    assert mean == 1.0
    assert half == pytest.approx(12.706, abs=1e-2)  # t with one degree of freedom, times 1
    rows = {
        "none": {"mean": (0.5, 0.1)},
        "Permute": {"mean": (0.6, 0.1), "difference": (0.1, 0.05), "verdict": "helps"},
    }
    table = page.table_of({"part": "accuracy", "groups": [{"family": "f", "reader": "r", "rows": rows}]})
    assert "| +0.100 ± 0.050 | helps |" in table


def test_the_plain_loop_takes_a_planted_permutation_back(small_zoo):
    networks, _, _ = load(small_zoo, WELL_TRAINED[1])
    axes = axes_of(networks.architecture)
    a = [t[0] for t in networks.tensors()]
    b = [t[0] for t in Permute()(networks, generator=torch.Generator().manual_seed(0)).tensors()]
    found, sweeps = weight_matching(a, b, axes, generator=torch.Generator().manual_seed(0))
    assert sweeps >= 2
    assert all(torch.equal(x, permuted(y, k, found, None)) for x, y, k in zip(a, b, axes, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
