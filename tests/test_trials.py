"""The long trials, made short: they find what is wrong, and write down what came."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from benchmarks.trials import kills, mutants, mutations, page, reaching, records, soak
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


SOURCE = """
def f(a: int, b: int = 2) -> int:
    if a > b and not done:
        raise ValueError(f"{a + 1} is too large")
    total = 0
    for i in range(a):
        total += g(i, scale=3.5)
    return total
"""


def test_changes_are_small_and_leave_out_texts_and_annotations():
    changes = [mutations.mutated(SOURCE, i) for i in range(mutations.count_of(SOURCE))]
    plain = mutations.ast.unparse(mutations.ast.parse(SOURCE))
    assert len({change.source for change in changes}) == len(changes)
    assert plain not in {change.source for change in changes}
    told = {(change.what, change.after) for change in changes}
    assert {
        ("comparison", "if a >= b and (not done):"),
        ("and, or", "if a > b or not done:"),
        ("sign or not", "if a > b and done:"),
        ("condition", "if not (a > b and (not done)):"),
        ("constant", "def f(a: int, b: int=3) -> int:"),
        ("constant", "total += g(i, scale=8.0)"),
        ("argument scale", "total += g(i)"),
        ("operator", "total -= g(i, scale=3.5)"),
        ("deleted", "pass"),
        ("returned", "return None"),
    } <= told
    assert all("a + 1" in change.source or change.what == "deleted" for change in changes)
    with pytest.raises(IndexError):
        mutations.mutated(SOURCE, len(changes))


def test_a_sample_of_changes_is_the_same_for_a_seed():
    assert mutants.sample(20, 0) == mutants.sample(40, 0)[:20] != mutants.sample(20, 1)


@pytest.fixture
def reached(tmp_path):
    """What three tests run of group.py, as coverage and pytest keep it."""
    coverage = pytest.importorskip("coverage")
    data = coverage.CoverageData(str(tmp_path / reaching.DATA))
    file = str(reaching.ROOT / "weightaug" / "group.py")
    for test, lines in (("", [1, 10]), ("tests.test_group.test_a", [30]), ("tests.test_b.test_b", [30, 31])):
        data.set_context(test)
        data.add_lines({file: lines})
    data.write()
    cases = [
        ("tests.test_group", "test_a[1]", 2.0),
        ("tests.test_group", "test_a[2]", 3.0),
        ("tests.test_b", "test_b", 1),
    ]
    told = "".join(f'<testcase classname="{name}" name="{test}" time="{s}"/>' for name, test, s in cases)
    (tmp_path / reaching.TIMES).write_text(f"<testsuites><testsuite>{told}</testsuite></testsuites>")
    return reaching.Reached(tmp_path)


def test_the_tests_that_run_a_line_come_the_quickest_first(reached):
    assert reached.tests("group.py", 30) == ["tests.test_b.test_b", "tests.test_group.test_a"]
    assert reached.tests("group.py", 31) == ["tests.test_b.test_b"]
    assert reached.tests("element.py", 30) == []
    assert reached.seconds["tests.test_group.test_a"] == 5.0


def test_tests_named_after_a_file_come_first_and_only_so_many(reached, monkeypatch):
    monkeypatch.setattr(mutants, "path_of", str)
    assert mutants.names_of(reached, "group.py", 30) == ["tests.test_group.test_a", "tests.test_b.test_b"]
    monkeypatch.setattr(mutants, "TIME", 2.0)
    assert mutants.names_of(reached, "group.py", 30) == ["tests.test_b.test_b"]


def test_a_test_is_named_as_pytest_takes_it():
    name = "tests.test_trials.test_a_test_is_named_as_pytest_takes_it"
    assert reaching.path_of(name) == "tests/test_trials.py::test_a_test_is_named_as_pytest_takes_it"
    with pytest.raises(FileNotFoundError):
        reaching.path_of("tests.test_nothing.test_a")


def test_the_page_is_that_of_the_records(tmp_path):
    copy = tmp_path / "tried.md"
    copy.write_text(page.PAGE.read_text())
    page.write_tables(
        copy,
        {
            name: page.section(record)
            for name, record in records.read_records().items()
            if name in page.tables_in(copy.read_text())
        },
    )
    assert copy.read_text() == page.PAGE.read_text(), "run: python benchmarks/trials/page.py"
    assert set(records.read_records()) <= set(page.tables_in(copy.read_text()))


def test_a_change_is_told_by_what_differs():
    before, after = "a" * 100 + "b < c" + "d" * 100, "a" * 100 + "b <= c" + "d" * 100
    told = mutants._apart(f"{before} -> {after}")
    left, right = told.split(" -> ")
    assert "b < cd" in left
    assert "b <= cd" in right
    assert left.startswith("...a")
    assert right.endswith("d...")
    assert len(told) < 160
    assert mutants._apart("a < b -> a <= b") == "a < b -> a <= b"
