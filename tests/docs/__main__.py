"""Build the site: ``python -m tests.docs FOLDER``."""

import shutil
import sys
import tempfile
from pathlib import Path

from sphinx.cmd.build import build_main

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = {
    "README.md": "index.md",
    "precomputed_fs/guide": "guide",
    "tests/docs/reference": "reference",
    ".github/CHANGELOG.md": "changelog.md",
    ".github/CONTRIBUTING.md": "contributing.md",
    "LICENSE": "LICENSE",
    "tests/mni152.png": "mni152.png",
    "tests/tour.ipynb": "tour.ipynb",
}
"""Where each page or folder of the repository is in the site."""


def build(folder: Path) -> int:
    """Build the site, refusing whatever Sphinx warns of; return the exit code."""
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        for original, page in PAGES.items():
            copy = shutil.copytree if (ROOT / original).is_dir() else shutil.copy
            copy(ROOT / original, source / page)
        return build_main(["-q", "-W", "--keep-going", "-E", "-c", str(HERE), temporary, str(folder)])


if __name__ == "__main__":
    sys.exit(build(Path(sys.argv[1])))
