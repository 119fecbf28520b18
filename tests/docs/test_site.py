"""The site: it is built without warnings, its links lead somewhere, pages have titles, no public name is missing."""

import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.util.inventory import InventoryFile

import precomputed_fs
from precomputed_fs import FsspecAccessor, Mesh, Scale, Skeleton, Volume
from precomputed_fs.doctor.report import Report
from precomputed_fs.scene.annotation_values import Annotations
from precomputed_fs.scene.annotations import AnnotationCollection
from precomputed_fs.scene.meshes import Meshes
from precomputed_fs.scene.segment_properties import SegmentProperties
from precomputed_fs.scene.skeletons import Skeletons
from precomputed_fs.view.server import Server, View
from tests.support.extras import ROOT, command_with

pytestmark = [pytest.mark.processes, pytest.mark.slow]

BUILD = """\
import runpy
runpy.run_module("tests.docs", run_name="__main__")
"""


class Page(HTMLParser):
    """What a page links to, what can be linked to in it, and its title."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {""}
        self.title = ""
        self._is_title = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value is not None}
        self.anchors.add(given.get("id", ""))
        if tag == "a":
            self.links.append(given.get("href", ""))
        elif tag in {"img", "link", "script"}:
            self.loaded += [given[name] for name in ("href", "src") if name in given]
        self._is_title = tag == "title" and not self.title

    def handle_data(self, data: str) -> None:
        if self._is_title:
            self.title += data
            self._is_title = False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = command_with("docs", BUILD, str(folder))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_each_page_has_a_title(pages: dict[Path, Page]) -> None:
    assert len(pages) > 20
    assert not [path for path, page in pages.items() if not page.title.strip()]


def test_links_within_the_site_lead_somewhere(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {""}
            if not target.exists() or (target.suffix == ".html" and unquote(parts.fragment) not in anchors):
                broken.append((path.name, link))
    assert not broken


def test_pages_load_nothing_from_other_servers(pages: dict[Path, Page]) -> None:
    assert not [link for page in pages.values() for link in page.loaded if urlsplit(link).netloc]


def test_the_pictures_of_the_guide_are_shown(site: Path, pages: dict[Path, Page]) -> None:
    shown = {Path(link).name for page in pages.values() for link in page.loaded}
    assert {path.name for path in Path(precomputed_fs.__file__).parent.glob("guide/*.png")} <= shown


# What only the other packages of this one call.
INTERNAL = {
    Volume: {"beside", "flush_unless_in_block", "make_again", "pyramid_for", "use_info"},
    Scale: {
        "check_may_miss", "check_writable", "fetch_each", "missing_or_default", "read_selection", "select_to_write",
        "shown", "use_info",
    },
}  # fmt: skip


def test_every_public_name_and_method_is_described(site: Path) -> None:
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    described = {name for kind in inventory.data.values() for name in kind}
    names = {f"precomputed_fs.{name}" for name in precomputed_fs.__all__}
    for owner in (Volume, Scale, Mesh, Skeleton, FsspecAccessor):
        names |= _members(f"precomputed_fs.{owner.__name__}", owner)
    for result in (Meshes, Skeletons, SegmentProperties, AnnotationCollection, Annotations, Report, Server, View):
        names |= _members(f"{result.__module__}.{result.__name__}", result)
    assert sorted(names - described) == []


def _members(owner: str, of: type) -> set[str]:
    names = {name for name in dir(of) if not name.startswith("_")} - INTERNAL.get(of, set())
    return {owner, *(f"{owner}.{name}" for name in names)}


def test_classes_of_other_modules_link_to_public_names(site: Path, pages: dict[Path, Page]) -> None:
    links = pages[site / "reference" / "dataset.html"].links
    assert {f"#precomputed_fs.{name}" for name in ("open_meshes", "open_skeletons")} <= set(links)
    assert "volumes.html#precomputed_fs.Volume.meshes" in links


def test_what_a_property_says_before_a_colon_is_not_taken_for_its_type(site: Path) -> None:
    assert "<p>4: x, y, z and channel.</p>" in (site / "reference" / "volumes.html").read_text()
