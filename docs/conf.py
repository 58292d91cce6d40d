"""Sphinx configuration: ``make docs``, or ``sphinx-build -W docs build/docs``."""

import os
import sys
from pathlib import Path

import reclm

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
for name in reclm.__all__:  # autodoc must meet the modules as they are, not with TYPE_CHECKING set
    getattr(reclm, name)

project = "reclm"
author = "the reclm authors"
copyright = author

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "reclm_reference",
]
exclude_patterns = ["_ext", "build"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = os.environ.get("RECLM_DOCS_EXECUTE", "off")  # make docs: force
nb_execution_timeout = 300
nb_output_stderr = "remove"  # progress bars
nb_execution_raise_on_error = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

highlight_language = "text"
html_theme = "pydata_sphinx_theme"
html_title = "reclm"
html_static_path = ["_static"]
html_css_files = ["reclm.css"]
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False
html_sidebars = {page: [] for page in ("install", "glossary", "upgrading", "changelog")}
html_theme_options = {
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
}
