"""Sphinx's configuration of the site."""

import os
import sys
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

sys.path.insert(0, str(Path(__file__).parents[2]))

from precomputed_fs import __version__
from tests.docs.__main__ import PAGES

project = "precomputed_fs"
author = "the precomputed_fs developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

html_theme = "furo"
html_title = "precomputed_fs"
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 3  # as GitHub makes them
default_role = "py:obj"  # of docstrings: a link where the name is known
napoleon_google_docstring = False
autodoc_typehints = "none"  # docstrings have the types
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

CONTENTS = """

```{toctree}
:caption: Guide
:hidden:

guide/first-steps
guide/pictures
guide/stores
guide/sources
guide/labels
guide/writing
guide/shards
guide/copying
guide/dataset
guide/arrays
guide/readers
guide/errors
guide/performance
guide/command-line
guide/remote-notebooks
guide/accessor
guide/from-cloud-volume
guide/from-neuroglancer-scripts
guide/from-tensorstore
```

```{toctree}
:caption: Reference
:hidden:

reference/volumes
reference/dataset
reference/accessors
reference/errors
```

```{toctree}
:caption: Development
:hidden:

contributing
changelog
```
"""


def setup(app: Sphinx) -> None:
    """Have pages link within the site to what they link to in the repository, and the first one list all."""
    app.connect("source-read", _adapt)
    app.connect("missing-reference", _find_public)
    app.connect("autodoc-process-docstring", _keep_colon, priority=400)  # before napoleon, at 500


def _adapt(_: Sphinx, page: str, source: list[str]) -> None:
    for original, copy in PAGES.items():
        source[0] = source[0].replace(f"]({original}", f"]({os.path.relpath(copy, Path(page).parent)}")
    if page == "index":
        source[0] += CONTENTS


def _find_public(app: Sphinx, env: BuildEnvironment, name: pending_xref, text: Any) -> Any:
    """Link public names, such as `open_volume`, in the docstrings of classes of other modules."""
    if name.get("refdomain") != "py":
        return None
    target = f"precomputed_fs.{name['reftarget']}"
    return env.domains.python_domain.resolve_xref(env, name["refdoc"], app.builder, "obj", target, name, text)


def _keep_colon(_: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Begin a property with an empty comment: napoleon takes what is before a colon in its first line for a type."""
    if what in {"attribute", "property"}:
        lines[:0] = ["..", ""]
