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


# A block of code after this comment needs a package that may be missing; it is tested by itself.
NEEDS = re.compile(r"<!-- needs: (\w+) -->\n```python\n(.*?)```", flags=re.DOTALL)
WITH_PACKAGES = [
    pytest.param(page, needed[1], needed[2], id=f"{page.relative_to(ROOT)}-{needed[1]}")
    for page in PAGES
    for needed in NEEDS.finditer(page.read_text())
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_examples(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(page, NEEDS.sub("", page.read_text()), monkeypatch)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of other packages
@pytest.mark.parametrize(("page", "package", "block"), WITH_PACKAGES)
def test_examples_with_other_packages(page: Path, package: str, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(package, reason=f"{page.name} shows how to use {package}, which is not installed")
    before = NEEDS.sub("", page.read_text().partition(f"<!-- needs: {package} -->")[0])
    run(page, before + block, monkeypatch)


def run(page: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A closing fence would be taken for expected output.
    text = re.sub(r"^(```|:::).*$", "", text, flags=re.MULTILINE)
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


def test_notebooks_show_what_things_are() -> None:
    data = weightaug.datasets.digits(transform=weightaug.SirenNegation())
    shown = data._repr_html_()
    for text in ("600 networks", "columns psnr", "SirenNegation(p=0.5)", "337 parameters", "convention siren", "sign"):
        assert text in shown
    assert "batch (600,); torch.float32; cpu" in data.element._repr_html_()
    long = weightaug.Architecture.mlp((2, *[3] * 40, 1), "relu")
    assert "and 30 more" in long._repr_html_()
    named = weightaug.Architecture(
        (weightaug.Space("<b>", 2), weightaug.Space("y", 1)), (weightaug.Layer("l", "<b>", "y"),)
    )
    assert "&lt;b&gt;" in named._repr_html_()
    assert "<b>" not in named._repr_html_()
