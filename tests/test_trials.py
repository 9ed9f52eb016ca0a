"""The long trials, made short: they find what is wrong, and write down what came."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks.trials import kills, soak
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


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on; the trial forks on purpose
def test_some_kills(tmp_path, monkeypatch):
    pytest.importorskip("tqdm")
    pytest.importorskip("sklearn")
    run_command(monkeypatch, kills, "--count", 3, "--log", tmp_path / "log", "--output", tmp_path)
    figures = json.loads((tmp_path / "kills.json").read_text())["figures"]
    assert figures["kills"] >= 3
    assert figures["networks or cells that were not the same"] == 0
    before = len((tmp_path / "log").read_text().splitlines())
    run_command(monkeypatch, kills, "--count", 3, "--log", tmp_path / "log", "--output", tmp_path)
    assert len((tmp_path / "log").read_text().splitlines()) == before  # what is done is kept


def test_other_networks_after_a_kill_would_be_found(tmp_path, monkeypatch):
    kills.append(tmp_path / "a")
    expected = kills.state_of(tmp_path / "a")
    assert kills.state_of(tmp_path / "a") == expected != {}
    plain = kills.networks
    monkeypatch.setattr(kills, "networks", lambda count: plain(count).map(lambda t: t + 1e-7))
    kills.append(tmp_path / "b")
    assert kills.state_of(tmp_path / "b") != expected
