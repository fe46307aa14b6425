"""How `make docs` builds this folder as a site: Markdown by MyST, the Python calls from their docstrings."""

project = "muse-nuclei"
author = "the muse-nuclei authors"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "muse-nuclei"
html_show_sphinx = False
html_copy_source = False
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings say what arguments are; whole signatures are unreadable
autodoc_member_order = "bysource"
