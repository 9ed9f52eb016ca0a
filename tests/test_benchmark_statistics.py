"""The statistics of the table: intervals, corrections and verdicts; and reports of recorded results."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks import figures, table1
from benchmarks.running.files import write_json
from benchmarks.table import notes, report
from benchmarks.table.cell import fingerprint
from benchmarks.table.statistics import bootstrap, compare, holm, paired_p

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECORDED = ("small", "modelnet10-small", "digits-views")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-50, 50).filter(lambda x: abs(x) > 1e-3), min_size=3, max_size=10, unique=True))
def test_intervals_and_p_are_those_of_scipy(values):
    (found,) = compare({"row": values}).values()
    test = stats.ttest_1samp(values, 0)
    low, high = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue, rel=1e-6)
    assert found.difference.mean - found.difference.half == pytest.approx(low, abs=1e-6)
    assert found.difference.mean + found.difference.half == pytest.approx(high, abs=1e-6)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_the_bootstrap_is_near_its_normal_limit():
    values = np.random.default_rng(1).standard_normal(200).tolist()
    low, high = bootstrap(values)
    half = 1.96 * np.std(values) / math.sqrt(200)
    assert low == pytest.approx(np.mean(values) - half, abs=0.02)
    assert high == pytest.approx(np.mean(values) + half, abs=0.02)
    assert bootstrap(values) == (low, high)


def test_holm_is_the_textbooks():
    # Holm (1979): the k-th smallest of m times m - k + 1, never below the one before.
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06}
    )
    found = holm({"a": 0.6, "b": 0.9, "alone": math.nan})
    assert (found["a"], found["b"]) == (1, 1)
    assert math.isnan(found["alone"])


def test_verdicts_follow_by_rule():
    found = compare(
        {"up": [5.0, 5.2, 4.9, 5.1], "down": [-5.0, -5.2, -4.9, -5.1], "noise": [1.0, -1.0, 2.0, -2.0], "one": [9.0]}
    )
    assert {row: c.verdict for row, c in found.items()} == {
        "up": "helps",
        "down": "harms",
        "noise": "undecided",
        "one": "undecided",
    }
    assert compare({"none": []}) == {}
    # The same row is decided alone, and undecided among many that say nothing.
    mild = [2.0, 3.5, 1.5, 4.0]
    assert compare({"mild": mild})["mild"].verdict == "helps"
    crowd = {f"noise {i}": [1.0, -1.0, 2.0, -2.0] for i in range(20)}
    assert compare({"mild": mild} | crowd)["mild"].verdict == "undecided"
    assert paired_p([1.0, 1.0, 1.0]) == 0
    assert paired_p([0.0, 0.0, 0.0]) == 1
    assert math.isnan(paired_p([6.3, 6.3]))  # two that agree decide nothing
    assert compare({"two": [6.3, 6.3]})["two"].verdict == "undecided"


@pytest.mark.parametrize("name", RECORDED)
def test_the_committed_pages_are_those_of_the_committed_results(name):
    page = RESULTS / name / "report.md"
    tables = report.recorded(RESULTS / name)
    assert page.read_text(encoding="utf-8") == report.markdown(tables)
    assert f"../benchmarks/results/{name}/report.md" in (ROOT / "docs" / "table1.md").read_text(encoding="utf-8")
    records = [json.loads(path.read_text()) for path in (RESULTS / name / "cells").glob("*.json")]
    assert sum(len(column.records) for column in tables) == len(records)


def test_rows_of_different_partners_stand_for_themselves():
    tables = report.recorded(RESULTS / "digits-views")
    rows = {row for column in tables for row in column.rows if row.startswith("mixup")}
    assert rows == {"mixup", "mixup (10 views)"}
    assert "MixUp (partners of 10 views)" in report.markdown(tables)


def test_two_results_of_one_row_and_seed_are_refused(tmp_path):
    (column, *_) = report.recorded(RESULTS / "small")
    record = column.records[0]
    other = dict(record, settings=record["settings"] | {"augmentation": {"type": "Permute", "more": 1}})
    for name, content in (("a", record), ("b", other)):
        write_json(tmp_path / "cells" / f"{name}.json", content)
    with pytest.raises(ValueError, match=r"b.json and a.json are both of the row .* and seed 0.*move one of them"):
        report.recorded(tmp_path)


def test_mixed_versions_are_said_and_refused_on_demand(tmp_path):
    (column, *_) = report.recorded(RESULTS / "small")
    first, second, *_ = column.records
    same = [dict(record, fingerprint=fingerprint()) for record in (first, second)]
    assert notes.mixed_versions(same) == ""
    other = dict(second, fingerprint=fingerprint() | {"models": "000000000000"})
    assert notes.mixed_versions([same[0], other]) == "models in 2 versions"
    assert "1 of 2 results do not say" in notes.mixed_versions([same[0], second])
    for i, record in enumerate((same[0], other)):
        write_json(tmp_path / "cells" / f"{i}.json", record)
    assert "made by different code" in report.markdown(report.recorded(tmp_path))
    arguments = ["--recorded", "--steps", "report", "--output", str(tmp_path)]
    with pytest.raises(SystemExit, match="models in 2 versions; delete the older ones"):
        table1.main([*arguments, "--one-version"])
    with pytest.raises(SystemExit, match="steps must be report alone with --recorded"):
        table1.main(["--recorded", "--output", str(tmp_path)])


def test_the_plan_counts_what_is_left(tmp_path, capsys):
    pytest.importorskip("sklearn")
    arguments = ["--preset", "smoke", "--datasets", "digits", "--workers", "1", "--output", str(tmp_path)]
    arguments += ["--fit.limit", "40", "--fit.steps", "3", "--train.epochs", "1", "--models", "dws", "probe", "--rows"]
    table1.main([*arguments, "none", "--steps", "plan"])
    text = capsys.readouterr().out
    assert "| fits of digits, networks | 40 | 0 | not known: run one |" in text
    assert "| digits, dws, 1 view | 1 | 0 | not known: run one |" in text
    table1.main([*arguments, "none"])
    capsys.readouterr()
    table1.main([*arguments, "none", "mixup", "--steps", "plan"])
    text = capsys.readouterr().out
    assert "| fits of digits, networks | 40 | 40 | 0 min |" in text
    assert "| digits, dws, 1 view | 2 | 1 | 0 min |" in text
    assert "| digits, probe, 1 view | 1 | 1 | 0 min |" in text  # readers are trained without augmentation
    assert "processor hours left" in text
    table1.main([*arguments, "none", "--fitted-views", "100", "--steps", "plan"])
    line = next(line for line in capsys.readouterr().out.splitlines() if "fits of digits" in line)
    assert line.startswith("| fits of digits, networks | 4000 | 40 | ")
    manifest = json.loads(next(tmp_path.glob("inrs/*/view0/*/manifest.json")).read_text())
    minutes = 99 * manifest["settings"]["metadata"]["processor_seconds"] / 60
    assert line.endswith(f"| {minutes:.0f} min |")
    for path in tmp_path.glob("cells/*.json"):
        record = json.loads(path.read_text())
        assert set(record["fingerprint"]) == {"package", "networks", "models", "training"}
        assert record["flops"] > 0
        assert record["last_accuracy"] == record["curves"]["test_accuracy"][-1]


def test_the_forest_shows_every_difference(tmp_path):
    pytest.importorskip("matplotlib")
    tables = [column for column in report.recorded(RESULTS / "small") if column.comparisons]
    (axes,) = figures.draw_forest(tables).axes
    shown = {round(float(bar[0].get_xdata()[0]), 6) for bar in axes.containers}
    assert shown == {round(c.difference.mean, 6) for table in tables for c in table.comparisons.values()}
    assert {label.get_text() for label in axes.get_yticklabels()} >= {"SIREN negation", "MixUp"}
    figures.main(["forest", "--runs", str(RESULTS / "small"), "--out", str(tmp_path)])
    assert (tmp_path / "forest-fashion-mnist.svg").exists()
    with pytest.raises(SystemExit, match="no result files"):
        figures.main(["forest", "--runs", str(tmp_path), "--out", str(tmp_path)])
