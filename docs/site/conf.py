"""Settings of Sphinx. The sources are what ``build.py`` gathers, not this folder."""

import qstrategies

project = "qstrategies"
author = "The maintainers of qstrategies"
release = version = qstrategies.__version__
language = "en"
smartquotes = False  # -- is no dash in a command

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # pages that programs write begin lower levels where they like

autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
python_display_short_literal_types = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
exclude_patterns = ["files"]  # what pages link to

html_theme = "furo"
html_title = f"qstrategies {release}"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_static_path = ["static"]
html_css_files = ["site.css"]
pygments_style = "xcode"  # enough contrast on light and on dark
pygments_dark_style = "github-dark"
highlight_language = "none"
