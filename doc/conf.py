"""How Sphinx builds the documentation: `make doc`."""

import os
from pathlib import Path

from cycler import cycler

from skvae import __version__

# The gallery shows full runs. The tests run the examples in their small form.
os.environ.pop("SKVAE_EXAMPLE_FAST", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the fits of the gallery are small
os.environ.setdefault("MPLBACKEND", "Agg")

project = "skvae"
author = "The skvae developers"
copyright = "2026, The skvae developers"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "changes"]
templates_path = ["_templates"]
nitpicky = False  # numpydoc types are prose: "{ndarray, csr_matrix} of shape (n_users, n_items)"

autosummary_generate = True
autodoc_default_options = {"members": True, "inherited-members": True}
autodoc_typehints = "none"  # the docstrings say more: shapes and units
numpydoc_show_class_members = False  # autodoc lists them

# The pictures of the guide: scripts in doc/pictures, run by the `plot` directive at each build.
plot_formats = [("png", 140)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_apply_rcparams = True
plot_rcparams = {
    "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"]),  # Okabe and Ito
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "legend.frameon": False,
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",  # run them all, not those named plot_*
    "ignore_pattern": r"[/\\]_",
    "abort_on_example_error": False,  # a failure is a warning, hence an error at the end, after all have run
    "show_memory": False,
    "capture_repr": (),  # what is printed, and no list of texts that a panel returns
    "min_reported_time": 5,
}

# The gallery keeps what it has run; a page whose example is gone would be a document without a place.
here = Path(__file__).parent
for page in (here / "gallery").rglob("*.rst"):
    example = here.parent / "examples" / page.relative_to(here / "gallery").with_suffix(".py")
    if page.stem not in {"index", "sg_execution_times"} and not example.exists():
        page.unlink()

html_theme = "pydata_sphinx_theme"
html_title = "skvae"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["skvae.css"]
html_sidebars = {"index": [], "search": [], "genindex": []}  # the other pages have their section in the side bar
html_theme_options = {"show_toc_level": 2, "navigation_with_keys": False, "header_links_before_dropdown": 6}


def skip_inherited_from_sklearn(app, what, name, obj, skip, options):
    """Leave out what scikit-learn adds to every estimator: its docstrings refer to pages of its own guide."""
    source = obj.fget if isinstance(obj, property) else obj
    foreign = callable(source) and not (getattr(source, "__module__", None) or "").startswith("skvae")
    return True if skip or foreign else None


def unlink_mail(app, doctree):
    """Make plain text of what docutils takes for mail addresses, such as NDCG@100."""
    from docutils import nodes

    for link in list(doctree.findall(nodes.reference)):
        if link.get("refuri", "").startswith("mailto:"):
            link.replace_self(nodes.Text(link.astext()))


def setup(app):
    app.connect("autodoc-skip-member", skip_inherited_from_sklearn)
    app.connect("doctree-read", unlink_mail)
