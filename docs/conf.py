"""Sphinx configuration: numpydoc, a gallery that is run, the ecosystem's theme, no network."""

from sktransfer import __version__

project = "sktransfer"
author = "sktransfer developers"
copyright = "2026, sktransfer developers"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "examples", "auto_examples/*.ipynb"]

# A reference to a name that there is not is a warning, and so an error in CI. What other packages
# define cannot be looked up without a network, and private classes have no page.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(sklearn|imblearn|skorch|scipy|numpy|np|pandas|torch|PIL|pathlib)(\..*)?"),
    (r"py:.*", r"sktransfer\._.*"),
]

autosummary_generate = True
numpydoc_show_class_members = False
autodoc_typehints = "none"

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 60,
}

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
html_show_sourcelink = False
