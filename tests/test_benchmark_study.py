"""The study: its parts, and a page that says what the results say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import study, table1
from benchmarks.table import gaps, report
from benchmarks.table.rows import ROWS
from benchmarks.table.study import STUDY

ROOT = Path(__file__).parents[1]


def table(views=1, **means):
    """Three seeds of rows with given means, beside settings of the preset ``small``."""
    (small, *_) = report.recorded(ROOT / "benchmarks" / "results" / "small")
    wobble = (-0.25, 0.0, 0.25)
    rows = {
        row: report.Summary({seed: mean + wobble[(seed + place) % 3] for seed in range(3)}, 0, 0)
        for place, (row, mean) in enumerate(means.items())
    }
    return small._replace(rows=rows, views=views)


@pytest.mark.parametrize("name", STUDY)
def test_every_part_can_be_planned(name, tmp_path):
    settings = table1.parse(["--preset", name, "--output", str(tmp_path)])
    assert settings.preset == name
    if "modelnet10" in settings.datasets:
        pytest.skip("its networks are counted from the archive, which is not downloaded")
    cells = table1.training_jobs(settings)
    assert len({cell.path for cell in cells}) == len(cells)
    assert {cell.row for cell in cells} <= set(ROWS)


def test_parts_share_their_networks(tmp_path):
    def folders(name):
        settings = table1.parse(["--preset", name, "--output", str(tmp_path)])
        return {part.path for part in table1.fitting_jobs(settings)}

    assert folders("study") == folders("study-readers") == folders("study-leak") == folders("study-views")
    assert len(folders("study-redrawn") & folders("study")) == len(folders("study")) // 10  # those of the first seed


def test_committed_results_are_those_of_the_parts_as_they_are_now(tmp_path):
    """A setting that is said since must not make older results those of something else, to be made again."""
    fashion = [["--preset", name] for name, part in STUDY.items() if "modelnet10" not in part.datasets]
    for n in (250, 500, 1000, 2000, 3000, 4000):  # as docs/study.md says
        curve = ["--preset", "study-curve", "--train.images", str(n)]
        curve += ["--fit.images", "4000", "500", "1000"] if n > 3000 else []
        curve += ["--seeds", *"01234"] if n == 3000 else []
        fashion.append([*curve, "--train.epochs", str(90_000 // n)])
        fashion.append([*curve, "--views", "10", "--rows", "none", "--train.epochs-many-views", str(9000 // n)])
    known = {
        cell.path.name
        for arguments in fashion
        for cell in table1.training_jobs(table1.parse([*arguments, "--output", str(tmp_path)]))
    }
    committed = {path.name for path in (ROOT / "benchmarks" / "results" / "study" / "cells").glob("fashion*.json")}
    assert committed
    assert committed <= known, sorted(committed - known)[:3]


def test_the_page_says_what_the_results_say():
    page = (ROOT / "docs" / "study.md").read_text()
    assert study.filled(page, study.tables_of(ROOT / "benchmarks" / "results")) == page, (
        "run: python benchmarks/study.py"
    )


def test_a_page_that_asks_for_another_table_is_refused():
    with pytest.raises(ValueError, match="asks for the table 'magic'; there are: main"):
        study.filled("<!-- table: magic -->\n<!-- end -->", {"main": ""})


def test_midpoints_stand_beside_accuracies(tmp_path):
    (main, *_) = report.recorded(ROOT / "benchmarks" / "results" / "small")
    rows = [{"alignment": "none", "midpoint dB, other": 7.125}, {"alignment": "full group", "midpoint dB, other": 9.5}]
    path = tmp_path / "fitted.json"
    path.write_text(json.dumps({"result": {"siren": {"rows": rows}}}))
    lines = study.midpoints([main], path).splitlines()
    assert len(lines) == 4
    assert lines[2].startswith("| none | 7.12 | ")
    assert lines[3].startswith("| full group | 9.50 | ")
    assert "Spearman's rank correlation of the 17 differences: 1.00, p < .001." in study.recipes([main], [main])


def test_the_learning_curve_has_a_column_for_each_size():
    (main, *_) = report.recorded(ROOT / "benchmarks" / "results" / "small")
    assert study.learning_curve([main]) == study.NOT_YET
    few = []
    for record in main.records:
        settings = record["settings"] | {"train": record["settings"]["train"] | {"images": 250}}
        few.append(record | {"settings": settings, "networks": record["networks"] | {"train": 250}})
    lines = study.learning_curve([main._replace(records=tuple(few)), main]).splitlines()
    assert lines[0] == "| training images | 250 | 3,000 |"
    mean = main.rows["none"].interval.mean
    assert f"| No augmentation | {mean:.1f} ± " in lines[2]
    assert main._replace(records=tuple(few)).title.endswith(", 250 training samples")


def test_verdicts_stand_side_by_side():
    (main, *_) = report.recorded(ROOT / "benchmarks" / "results" / "small")
    other = main._replace(rows={row: main.rows[row] for row in ("none", "siren_negation")})
    lines = study.verdicts({"one": [main], "two": [other], "not there": []}).splitlines()
    assert lines[0] == "| augmentation | one | two |"
    found = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines[2:]}
    assert found["*none: accuracy, %*"][0] == found["*none: accuracy, %*"][1]
    for row, compared in main.comparisons.items():
        if row == study.CONTROL:
            assert study.label_of(row) not in found
            continue
        one, *two = found[study.label_of(row)]
        assert f"{compared.difference.mean:+.1f}±{compared.difference.half:.1f}" in one
        assert ("↑" in one, "↓" in one) == (compared.verdict == "helps", compared.verdict == "harms")
        assert bool(two and two[0].strip()) == (row == "siren_negation")


def test_how_small_a_difference_can_be_seen():
    (main, *_) = report.recorded(ROOT / "benchmarks" / "results" / "small")
    rows = {"none": main.rows["none"], "mixup": main.rows["mixup"]}
    *_, line = study.resolution({"one": [main._replace(rows=rows)], "not there": []}).splitlines()
    half = main.comparisons["mixup"].difference.half  # of three seeds
    assert line.startswith("| one | ")
    assert line.split(" | ")[2] == f"{half:.1f}"


def test_claims_of_the_paper_are_judged_by_the_rule():
    one = table(none=20, siren_negation=30, siren_bias=25, mixup=20, translate=16, rotate=18, scale=20, noise=9)
    ten = table(10, none=40, mixup=30)
    lines = study.claims({"one": one, "ten": ten}, {"one": ten}).splitlines()
    assert lines[0] == "| the paper's claim | one | ten |"
    found = {line.split(" | ")[0].strip("| "): line[:-2].split(" | ")[1:] for line in lines[2:]}
    assert found["SIREN negation helps"][0].startswith("**stands**<br>+10.0±")
    assert found["SIREN negation helps"][0].endswith("<br>paper\N{NO-BREAK SPACE}+3.1")
    assert found["SIREN bias harms DWS"][0].startswith("**falls**<br>-5.0±")
    assert found["MixUp helps"][0].startswith("undecided<br>")
    assert found["MixUp helps"][1].startswith("**falls**<br>-10.0±")
    assert found["MixUp helps more than geometry (translation, rotation, scale)"][0].startswith("**stands**<br>+2.0±")
    assert found["MixUp of one view comes within 2 points of ten views"][0].startswith("**falls**<br>-20.0±")
    assert len(found) == 5  # nothing of rows that there are not, nor of another model
    near = table(10, none=21)
    assert "10 views" not in study.claims({"one": one}, {})
    assert "of ten views | **stands**<br>-1.0±" in study.claims({"one": one}, {"one": near})  # within the margin
    few = {row: report.Summary({0: summary.accuracies[0], 1: 0.0}, 0, 0) for row, summary in one.rows.items()}
    assert len(study.claims({"one": one._replace(rows=few)}, {}).splitlines()) == 2  # two seeds are not tested


def test_claims_are_not_judged_where_the_paper_s_figures_say_the_opposite():
    graphs = table(none=20, noise=9, mixup=20, aligned_mixup=30)._replace(model="relation-transformer")
    text = study.claims({"graphs": graphs}, {})
    assert "| Gaussian noise helps the Relation Transformer | **falls**<br>-11.0±" in text
    assert "| Alignment adds to MixUp | not judged<br>+10.0±" in text
    assert "paper\N{NO-BREAK SPACE}-1.4 |" in text
    assert "SIREN bias" not in text


def test_other_epochs_and_rates_stand_beside_the_tables():
    few = table(none=20, mixup=25)
    (record, *_) = few.records
    train = record["settings"]["train"] | {"epochs": 60}
    longer = few._replace(records=({**record, "settings": {**record["settings"], "train": train}},))
    lines = study.checks([longer, few]).splitlines()
    assert lines[2].startswith("| 1 | 30 | 0.005 | No augmentation | 20.0")
    assert "| – | 3 |" in lines[2]
    assert lines[5].startswith("| 1 | 60 | 0.005 | MixUp | 25.0")
    assert "| +5.00 ± " in lines[5]
    assert study.checks([]) == study.NOT_YET


def test_rows_stand_against_each_other():
    (main, *_) = report.recorded(ROOT / "benchmarks" / "results" / "small")
    lines = gaps.between([main]).splitlines()
    assert len(lines) == 2 + len(gaps.BETWEEN)
    found = main.rows["full_aligned_mixup"].differences(main.rows["aligned_mixup"])
    (line,) = [line for line in lines if line.startswith("| Full-group alignment + MixUp | Alignment + MixUp | ")]
    assert f"{sum(found) / len(found):+.2f}" in line
    assert gaps.between([]) == study.NOT_YET


def test_partners_of_all_views_stand_beside_those_of_one():
    rows = table(mixup=20, aligned_mixup=21).rows
    assert gaps.leak([table(none=20, mixup=20)]) == study.NOT_YET
    leaked = {
        f"{row} (10 views)": report.Summary({seed: value + more for seed, value in summary.accuracies.items()}, 0, 0)
        for (row, summary), more in zip(rows.items(), (2, 5), strict=True)
    }
    text = gaps.leak([table()._replace(rows=rows | leaked)])
    assert "| MixUp | 20.00 | 22.00 | +2.00 ± 0.00 | < .001 | 3 |" in text
    assert "| Alignment + MixUp | 21.00 | 26.00 | +5.00 ± 0.00 | < .001 | 3 |" in text
    assert "What alignment adds to MixUp: +1.00 ± " in text
    assert "of all ten views; the second is more by +3.00 ± 0.00 (p < .001)." in text
    assert "full-group" not in text


def test_readers_stand_against_augmentation_by_negation():
    odd = table(none=25, full_aligned_mixup=35)._replace(model="dws-odd")
    lines = gaps.alternatives([table(none=20, siren_negation=30, full_aligned_mixup=28), odd]).splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == ["DWS", *["DWS with signs built in"] * 2]
    assert "| No augmentation | -5.00 ± " in lines[3]
    assert lines[4].endswith(" | 3 |")
    assert gaps.alternatives([odd]) == study.NOT_YET


def test_verdicts_without_pairs_are_told_where_they_differ():
    rows = table(none=20, mixup=30).rows
    noisy = report.Summary({0: 21.5, 1: 23.0, 2: 24.5, 3: 21.5, 4: 24.5}, 0, 0)
    none = report.Summary({0: 21.5, 1: 20.0, 2: 18.5, 3: 21.5, 4: 18.5, 5: 20.0, 6: 20.0}, 0, 0)  # the other way round
    text = gaps.unpaired(table()._replace(rows={**rows, "none": none, "noise": noisy}), without="permuted_labels")
    (_, _, line) = text.splitlines()  # nothing of MixUp, about which both tests agree
    label, gap, p, verdict, _, paired = line.strip("| ").split(" | ")
    assert (label, gap, verdict, paired) == ("Gaussian noise", "+3.00", "helps", "undecided")
    assert p == "< .001" or float(p) < 0.05
    assert len(gaps.unpaired(table(none=20, mixup=30), without="mixup").splitlines()) == 2
