"""Sphinx configuration. Build: ``python -m sphinx -W docs docs/_build``."""

import weightaug

project = "weightaug"
author = "the weightaug developers"
release = version = weightaug.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.doctest", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"weightaug {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# A transform's own docstring says what it draws; the contract of sample and apply is told once, with Transform.
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
nitpicky = False
