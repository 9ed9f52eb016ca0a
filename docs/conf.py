"""Sphinx configuration. Build: ``python -m sphinx -W docs docs/_build``."""

import importlib
import os

from sphinx.errors import ExtensionError
from sphinx.ext.napoleon import GoogleDocstring
from sphinx_gallery.scrapers import figure_rst

import weightaug

project = "weightaug"
author = "The weightaug authors"
copyright = "2026, The weightaug authors"
release = version = weightaug.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Only where it is asked for, so that a build needs no network.
if os.environ.get("WEIGHTAUG_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

html_theme = "furo"
html_title = f"weightaug {release}"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# A transform's own docstring says what it draws; the contract of sample and apply is told once, with Transform.
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = False


def figures(block, block_vars, gallery_conf) -> str:
    """Puts the figure of a block of an example into its page: those of weightaug.plot are unknown to pyplot."""
    figure = block_vars["example_globals"].pop("figure", None)
    if figure is None:
        return ""
    path = next(block_vars["image_path_iterator"])
    figure.savefig(path, dpi=110, facecolor="white")
    return figure_rst([path], gallery_conf["src_dir"])


sphinx_gallery_conf = {
    "image_scrapers": (figures,),
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "min_reported_time": 60,
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
}
# The gallery's settings hold what cannot be pickled; nothing is lost by that.
suppress_warnings = ["config.cache"]


class Properties:
    """Keeps the docstrings of properties whole: napoleon takes what stands before their first colon for a type."""

    def __init__(self) -> None:
        self.kept: dict[str, list[str]] = {}

    def keep(self, app, what, name, obj, options, lines) -> None:
        if what in ("property", "attribute", "data"):
            self.kept[name] = list(lines)

    def restore(self, app, what, name, obj, options, lines) -> None:
        if name in self.kept:
            lines[:] = GoogleDocstring(self.kept.pop(name), app.config, app, "method", name, obj, options).lines()


def check_complete(app, environment) -> None:
    """Fails the build if something public is in no page."""
    modules = ["weightaug", *(f"weightaug.{name}" for name in weightaug._MODULES)]
    documented = set(environment.get_domain("py").objects)
    public = {f"{module}.{name}" for module in modules for name in importlib.import_module(module).__all__}
    if missing := sorted(public - documented):
        raise ExtensionError(f"public, and in no page of docs/api: {missing}")


def skip_numbers(app, what, name, obj, skip, options) -> bool | None:
    """Fields of named tuples are told in the docstring of their class; alone they say "Alias for field number 0"."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app) -> None:
    properties = Properties()
    app.connect("autodoc-process-docstring", properties.keep, priority=400)  # napoleon's priority is 500
    app.connect("autodoc-process-docstring", properties.restore, priority=600)
    app.connect("autodoc-skip-member", skip_numbers)
    app.connect("env-check-consistency", check_complete)
