"""Sphinx: the site that `make docs` builds from these pages and from the docstrings."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from xql import __version__

project = "xql"
author = "The xql developers"
copyright = "The xql developers, Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    # docs/_ext
    "docstrings",
    "generated_tables",
    "repository_pages",
]
exclude_patterns = ["_ext", "notebooks/runs", "**/.ipynb_checkpoints"]
suppress_warnings = ["myst.header"]  # the results' tables begin at the level that suits a file

# Markdown. The pages must also read well as files: no syntax that only Sphinx knows, but for
# the generated tables and the cards of the first page.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are committed with their outputs: make notebooks

# Docstrings.
default_role = "code"
highlight_language = "text"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [("Fields", "params_style")]  # what docstrings.py makes of Attributes
maximum_signature_line_length = 80

# Every reference to a name of this project must resolve. Those of other projects have no pages
# here, and a shape such as Float[Array, "batch"] is no reference at all.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!xql\.).*")]

# The site.
html_theme = "furo"
html_title = f"xql {version}"
html_static_path = ["_static"]
html_css_files = ["xql.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f5f8b",
        "color-brand-content": "#1f5f8b",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fb8de",
        "color-brand-content": "#7fb8de",
    },
}
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True
