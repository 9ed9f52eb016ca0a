"""The benchmark of frames: a small run, and a page that says what the results say."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import frames, merging
from tests.commands import run_command
from tests.test_matching import networks
from weightaug import Architecture, io

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fits(tmp_path):
    """Networks whose class can be read from their size, in two parts."""
    x = networks(Architecture.siren((2, 4, 4, 1)), 60, dtype=torch.float32)
    labels = torch.arange(60) % 2
    x = x.map(lambda t: t * (0.2 + labels).view(-1, *(1,) * (t.dim() - 1)))
    for first in (0, 30):
        part = slice(first, first + 30)
        io.save(tmp_path / "fits" / f"{first:03d}", x[part], labels[part], columns={"psnr": torch.full((30,), 40.0)})
    return tmp_path / "fits"


def run(monkeypatch, *arguments):
    run_command(monkeypatch, frames, *arguments)


def test_a_small_run_and_its_page(fits, tmp_path, monkeypatch, capsys):
    rows = ["raw weights", "the mean, full group", "8 members, full group"]
    run(
        monkeypatch,
        "--dataset",
        "small",
        "--fits",
        fits,
        "--out",
        tmp_path,
        "--seeds",
        2,
        "--epochs",
        3,
        "--rows",
        *rows,
    )
    results = json.loads((tmp_path / "small.json").read_text())
    assert list(results["rows"]) == rows
    assert all(len(row["accuracy"]) == 2 for row in results["rows"].values())
    assert all(0 <= value <= 1 for row in results["rows"].values() for value in row["accuracy"])
    assert results["networks"] == 60
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: small -->\nold\n<!-- end -->\nafter\n")
    run(monkeypatch, "--page", page, "--out", tmp_path)
    text = page.read_text()
    assert text.startswith("before\n<!-- table: small -->\n| weights")
    assert text.endswith("|\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert all(f"| {row} | " in text for row in rows)


def test_the_reader_reads_what_can_be_read():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (400,), generator=generator)
    features = torch.randn(400, 5, generator=generator) + 3 * labels.unsqueeze(1)
    of_both = labels[:300], labels[300:]
    training = frames.READERS["mlp"]._replace(epochs=3)

    def score(features):
        torch.manual_seed(0)
        return frames.fit_and_test(frames.perceptron(5, 2), features[:300], features[300:], of_both, training)

    assert score(features) > 0.9
    assert score(torch.randn(400, 5, generator=generator)) < 0.7


def test_dws_reads_one_reference_and_goes_on_where_it_stopped(fits, tmp_path, monkeypatch, capsys):
    options = ["--dataset", "small", "--fits", fits, "--out", tmp_path, "--seeds", 2, "--epochs", 2, "--reader", "dws"]
    run(monkeypatch, *options, "--rows", "raw weights", "8 members, full group")
    results = json.loads((tmp_path / "small-dws.json").read_text())
    assert list(results["rows"]) == ["raw weights"]  # DWS does not read 8 references side by side
    capsys.readouterr()
    run(monkeypatch, *options, "--rows", "a member, full group", "raw weights")
    assert "raw" not in capsys.readouterr().out
    later = json.loads((tmp_path / "small-dws.json").read_text())
    assert later["rows"]["raw weights"] == results["rows"]["raw weights"]
    assert list(later["rows"]) == ["raw weights", "a member, full group"]
    with pytest.raises(SystemExit, match="another reader"):
        run(monkeypatch, *options, "--epochs", 3)


def test_tables_hold_the_interval_of_students_t():
    row = {"accuracy": [0.1, 0.2, 0.3], "processor_seconds_of_features": [1.0, 2.0, 3.0]}
    assert "| a | 20.0 ± 24.8 | 2.0 |\n" in frames.table_of({"rows": {"a": row}})


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--seeds", "1"), "--seeds of at least 2"),
        (("--epochs", "0"), "--epochs of at least 1"),
        (("--dataset", "fashion-mnist"), "--fits"),
        (("--fits", "nowhere"), "no networks here"),
        (("--rows", "magic"), "invalid choice"),
    ],
)
def test_the_command_line_is_checked(monkeypatch, capsys, arguments, word):
    with pytest.raises(SystemExit) as error:
        run(monkeypatch, *arguments)
    assert word in capsys.readouterr().err + str(error.value)


def test_more_networks_than_there_are(fits, monkeypatch):
    with pytest.raises(SystemExit, match="at most 60 networks together, got 100"):
        run(monkeypatch, "--dataset", "small", "--fits", fits, "--split", 60, 20, 20)


@pytest.mark.parametrize(
    ("name", "command", "marks"),
    [("frames.md", frames, 5), ("alignment.md", merging, 1)],
)
def test_pages_say_what_the_results_say(tmp_path, monkeypatch, name, command, marks):
    text = (ROOT / "docs" / name).read_text()
    assert text.count("<!-- table: ") >= marks
    page = tmp_path / name
    page.write_text(text)
    run_command(monkeypatch, command, "--page", page)
    assert page.read_text() == text


def test_sets_are_compared(tmp_path, monkeypatch):
    run_command(monkeypatch, merging, "--sets", 2, "--size", 2, "--out", tmp_path / "m")
    results = json.loads((tmp_path / "m" / "merging.json").read_text())["results"]
    assert set(results) == {"random, permutation", "random, auto"}
    assert all(0 < result["mean_ratio"] <= result["largest_ratio"] < 1.2 for result in results.values())
    assert merging.table_of({"results": results}).count("\n") == 4


def test_digits_of_another_convention_have_results_of_their_own(fits, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frames, "fit_digits", lambda folder, convention: fits)
    for convention in ("authors", "siren"):
        more = ["--seeds", 2, "--epochs", 1, "--rows", "raw weights", "--out", tmp_path]
        run(monkeypatch, "--convention", convention, *more)
    names = {path.stem: json.loads(path.read_text())["dataset"] for path in tmp_path.glob("*.json")}
    assert names == {"digits": "digits", "digits-siren": "digits-siren"}
