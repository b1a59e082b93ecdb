"""Configuration of the documentation: MyST pages, docstrings by autodoc."""

from __future__ import annotations

import odeframe

project = "odeframe"
copyright = "odeframe contributors"
version = release = odeframe.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "odeframe"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_mock_imports: list[str] = []
nitpicky = False
