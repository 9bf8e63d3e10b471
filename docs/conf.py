"""Sphinx configuration: numpydoc, a gallery that is run, the ecosystem's theme, no network."""

import os
import re
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from PIL import Image

from sktransfer import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for `recorded`
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

project = "sktransfer"
author = "sktransfer developers"
copyright = "2026, sktransfer developers"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",  # the source is part of the site, so that it is there offline too
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "recorded",
]
templates_path = ["_templates"]
exclude_patterns = [
    "_build",
    "examples",
    "inventories",
    "auto_examples/*.ipynb",
    "**sg_execution_times.rst",
]

# The build needs no network: each inventory is a short list, in the readable first version of
# Sphinx' format, of names that our pages may refer to. A reference to a name that is on no list is
# a warning, and so an error in CI: add a line with the page that describes it.
intersphinx_mapping = {
    name: (url, str(HERE / "inventories" / f"{name}.txt"))
    for name, url in {
        "imblearn": "https://imbalanced-learn.org/stable/",
        "numpy": "https://numpy.org/doc/stable/",
        "pandas": "https://pandas.pydata.org/docs/",
        "python": "https://docs.python.org/3/",
        "skorch": "https://skorch.readthedocs.io/en/stable/",
        "scipy": "https://docs.scipy.org/doc/scipy/",
        "sklearn": "https://scikit-learn.org/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
    }.items()
}

# Private classes have no page.
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"sktransfer\._.*")]

autosummary_generate = True
numpydoc_show_class_members = False
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"

# Prompts and outputs are not copied.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    # All others read images that may not be copied: `recorded` shows what they gave.
    "filename_pattern": r"/plot_",
    "subsection_order": ["examples/getting_results", "examples/choosing", "examples/evaluating"],
    "within_subsection_order": "FileNameSortKey",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sktransfer",),
    "reference_url": {"sktransfer": None},
    "image_srcset": ["2x"],
    "download_all_examples": False,
    "remove_config_comments": True,
    "abort_on_example_error": True,
    "show_memory": False,
    "min_reported_time": 60,
    "write_computation_times": False,  # its page loads scripts from another host
}

html_theme = "pydata_sphinx_theme"
html_title = "sktransfer"
html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
# Where the site is published: only 404.html, which a server shows at any address, needs to know.
html_baseurl = os.environ.get("DOCS_BASEURL", "")
html_context = {"default_mode": "auto"}
# Pages that are no section of several have nothing to show at the left.
html_sidebars = {
    page: []
    for page in ("index", "404", "getting_started", "faq", "coming_from", "glossary", "citing")
}
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"image_light": "_static/logo.svg", "image_dark": "_static/logo.svg", "text": project},
    "navbar_persistent": ["search-button-field.html"],
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "icon_links": [
        {
            "name": "Source code",
            "url": PROJECT["urls"]["Source"],
            "icon": "fa-brands fa-github",
        }
    ],
    "header_links_before_dropdown": 4,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}


def size_by_resolution(app, doctree):
    """Show an image at 100 dots per inch, so that one drawn with 200 is sharp on a fine screen."""
    for image in doctree.findall(nodes.image):
        path = Path(app.srcdir, image["uri"])
        if path.suffix == ".png" and path.is_relative_to(HERE / "_static") and "width" not in image:
            with Image.open(path) as opened:
                resolution = opened.info.get("dpi", (100, 100))[0]
                image["width"] = f"{round(opened.width * 100 / resolution)}px"


def complete_page(app, page, template, context, doctree):
    """Give a page a description, and repair what screen readers stumble over."""
    if doctree is None:
        return
    first = next(doctree.findall(nodes.paragraph), None)
    text = " ".join(first.astext().split()) if first else PROJECT["description"]
    context["description"] = text if len(text) < 160 else text[:157].rsplit(" ", 1)[0] + " …"
    body = context["body"]
    # ARIA has withdrawn a role of footnotes, and the list of them may then contain nothing else.
    body = re.sub(r' role="doc-(biblioentry|backlink)"', "", body)
    body = body.replace('<div role="list" class="citation-list">', "<div>")
    # A corner of a table that heads nothing is no header.
    body = re.sub(r"<th([^>]*)>(\s|<p>\s*</p>)*</th>", r"<td\1></td>", body)
    if page.startswith("generated/"):  # long names break between their words
        body = re.sub(
            r"<h1>.*?<",
            lambda title: re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=_)", "<wbr>", title[0]),
            body,
            count=1,
        )
    context["body"] = body


def setup(app):
    """Connect the functions above."""
    app.connect("doctree-read", size_by_resolution)
    app.connect("html-page-context", complete_page)
