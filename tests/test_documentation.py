"""README and docs: every example runs as it is written, and every public name is in the API pages."""

from __future__ import annotations

import doctest
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import weightaug

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A closing fence would be taken for expected output.
    text = re.sub(r"^(```|:::).*$", "", page.read_text(), flags=re.MULTILINE)
    test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    # In a module of its own, so that classes of the examples can be pickled.
    module = ModuleType("documentation_example")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    test.globs = module.__dict__
    report: list[str] = []
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    failed, _ = doctest.DocTestRunner(optionflags=flags).run(test, out=report.append, clear_globs=False)
    assert failed == 0, "".join(report)


def test_the_readme_has_an_example() -> None:
    assert (ROOT / "README.md").read_text().count(">>> ") >= 10


@pytest.mark.parametrize("name", weightaug.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    assert re.search(rf"^\.\. auto(class|function):: {name}$", pages, flags=re.MULTILINE), (
        f"add weightaug.{name} to the page of its family in docs/api"
    )
