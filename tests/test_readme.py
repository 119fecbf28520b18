"""README.md and the chapters of the guide: their sessions run as they stand, and what they link to and claim is so."""

import ast
import doctest
import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import neuroglancer_scripts.accessor
import neuroglancer_scripts.utils
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

import precomputed_fs
from precomputed_fs import create_volume, open_volume
from precomputed_fs.doctor.folder_checks import READ
from precomputed_fs.doctor.rules import RULES
from precomputed_fs.interop.filesystem import PrecomputedFileSystem
from precomputed_fs.store.location import resolve
from precomputed_fs.store.storage_options import check_options
from tests.support.brain import scan
from tests.support.tables import table
from tests.tour import PICTURES

README = Path(__file__).parents[1] / "README.md"
GUIDE = README.parent / "precomputed_fs" / "guide"
CHAPTERS = sorted(GUIDE.glob("*.md"))
PAGES = [README, *CHAPTERS]
CONTRIBUTING = sorted((README.parent / ".github").glob("*.md"))

each_chapter = pytest.mark.parametrize("chapter", CHAPTERS, ids=[chapter.stem for chapter in CHAPTERS])


def only_sessions(markdown: str) -> str:
    """Blank all lines outside of Python blocks, so that those inside keep their numbers."""
    lines = []
    inside = False
    for line in markdown.splitlines():
        if line.startswith("```"):
            inside = line == "```python"
            lines.append("")
        else:
            lines.append(line if inside else "")
    return "\n".join(lines)


def without_code(markdown: str) -> str:
    return re.sub(r"^```.*?^```$", "", markdown, flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Return the names of a page's headings, as they are linked."""
    headings = re.findall(r"^#+ (.*)$", without_code(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Go to an empty folder, with nothing in memory://."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    fsspec.register_implementation("precomputed", PrecomputedFileSystem, clobber=True)  # or an older installation
    monkeypatch.setattr(neuroglancer_scripts.utils, "init_logging_for_cmdline", lambda: None)
    for name in neuroglancer_scripts.accessor.__all__:  # a session replaces some: they come back
        monkeypatch.setattr(neuroglancer_scripts.accessor, name, getattr(neuroglancer_scripts.accessor, name))
    return tmp_path


def run(page: Path) -> dict[str, Any]:
    """Run all sessions of a page in one namespace; return it."""
    text = only_sessions(page.read_text(encoding="utf-8"))
    sessions = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    output: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(sessions, out=output.append, clear_globs=False)
    assert result.attempted > 0
    assert result.failed == 0, "".join(output)
    return sessions.globs


PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "Bbox": lambda box: [box.minpt, box.maxpt],
    "Box": lambda box: [box.start, box.stop],
    "CloudVolumePrecomputed": lambda volume: np.array(volume[:, :, :]),
    "Scale": lambda scale: scale[...],
    "TensorStore": lambda store: store.read().result(),
    "WriteFutures": lambda _: None,
    "set": sorted,
}
"""What can be compared of the values of any package, by the names of their types."""


@dataclass(frozen=True)
class Side:
    """A folder in which a chapter was run, and its names: where the code of one column of a table is done."""

    folder: Path
    names: dict[str, Any]

    def do(self, code: str, monkeypatch: pytest.MonkeyPatch) -> Any:
        """Run a command, a statement or an expression; return what comes of it."""
        monkeypatch.chdir(self.folder)
        for script in entry_points(group="console_scripts", name=code.partition(" ")[0]):
            command = shlex.split(code)
            return script.load()(command[1:] if command[0] == "precomputed-fs" else command)
        self.names["_"] = None
        (statement,) = ast.parse(code).body
        assigned = code if isinstance(statement, ast.Assign) else f"_ = {code}"
        exec(assigned, self.names)  # noqa: S102 - as it is in the table
        value = self.names["_"]
        return PLAIN.get(type(value).__name__, lambda value: value)(value)

    def voxels(self) -> dict[tuple[str, str], Any]:
        """Return what is in the folder, by volume and scale."""
        folders = sorted(info.parent for info in self.folder.glob("*/info"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that one is empty
            return {(folder.name, scale.key): scale[...] for folder in folders for scale in open_volume(folder)}


def same(there: Any, here: Any) -> bool:
    """Compare values of two packages; axes of one element do not matter."""
    if isinstance(there, dict) or there is None or here is None:
        return bool(there == here)
    return np.array_equal(np.squeeze(np.asarray(there)), np.squeeze(np.asarray(here)))


@each_chapter
def test_sessions(place: Path, chapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chapters for users of another package have a table, too: its code does the same there and here."""
    if not chapter.stem.startswith("from-"):
        run(chapter)
        return
    sides = []
    for side in ("there", "here"):
        (place / side).mkdir()
        monkeypatch.chdir(place / side)
        sides.append(Side(place / side, run(chapter)))
    rows = table(chapter, "", "there", "here")
    assert len(rows) >= 15
    for row in rows:
        there, here = (side.do(row.code(column), monkeypatch) for column, side in enumerate(sides, 1))
        assert same(there, here), (str(row), there, here)
        wrote_there, wrote_here = (side.voxels() for side in sides)
        assert {name for name, _ in wrote_there} == {name for name, _ in wrote_here}, str(row)
        assert [both for both in wrote_there.keys() & wrote_here if not same(wrote_there[both], wrote_here[both])] == []


def test_the_session_of_the_readme_makes_its_picture(place: Path) -> None:
    shutil.copy(scan(), "brain.nii.gz")
    run(README)
    with Image.open("slices.png") as made, Image.open(PICTURES["slices"]) as shown:
        np.testing.assert_array_equal(np.asarray(made), np.asarray(shown))
    assert f"({PICTURES['slices'].relative_to(README.parent).as_posix()})" in README.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*PAGES, *CONTRIBUTING], ids=lambda page: page.stem)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^):]+)\)", without_code(page.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target
        assert page not in CHAPTERS or there.parent == GUIDE, f"{target} is not in the package"


def test_contributors_are_sent_to_what_there_is() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in CONTRIBUTING)
    paths = re.findall(r"`((?:precomputed_fs|tests|benchmarks)/[^`]*)`", text)
    assert len(paths) > 20
    assert [path for path in paths if not (README.parent / path.partition(" ")[0]).exists()] == []
    rooms = {f"{path.parent.relative_to(README.parent).as_posix()}/" for path in GUIDE.parent.glob("*/__init__.py")}
    assert rooms - {*paths} == set()


def test_the_readme_is_short_and_leads_to_each_chapter() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    paths = {chapter.relative_to(README.parent).as_posix() for chapter in CHAPTERS}
    assert {path for path in paths if f"({path})" not in text} == set()


@each_chapter
def test_chapters_are_in_the_package(chapter: Path) -> None:
    text = (resources.files("precomputed_fs") / "guide" / chapter.name).read_text(encoding="utf-8")
    titles = re.findall(r"^# (.*)$", without_code(text), flags=re.MULTILINE)
    assert len(titles) == 1
    assert text.startswith(f"# {titles[0]}\n")
    assert f"[{titles[0]}](" in README.read_text(encoding="utf-8") or chapter.stem.startswith("from-")


# ---------------------------------------------------------------------------------------------- the tables of README.md


STORES = {
    **{str(row): row.code(1) for row in table(README, "where")},
    **{
        url: f"open_volume({url!r}, storage_options={options.code(1)})"
        for url, options in zip(
            ("s3://b/p", "s3://b/p", "s3://b/p", "gs://b/p", "az://c/p", "https://h/p"),
            table(GUIDE / "stores.md", "", "`storage_options=`"),
            strict=True,
        )
    },
}


@pytest.mark.parametrize("call", STORES.values(), ids=STORES)
def test_stores_take_these_options(call: str) -> None:
    """They are URLs, and the drivers know the options; nothing is asked of a store."""
    location = eval(call, {"open_volume": resolve})
    for link in location.links:
        check_options(link)


def protocols(*names: str) -> Callable[[Path, str], bool]:
    """Return a check of the rules that say which protocols a reader opens."""

    def opens(_folder: Path, reader: str) -> bool:
        rules = [rule for rule in RULES if rule.id == "protocol" and reader in rule.readers]
        found = {
            name: any(rule.finds(SimpleNamespace(protocol=name, protocols=(name,))) for rule in rules) for name in names
        }
        assert len({*found.values()}) == 1, found
        return not any(found.values())

    return opens


def volumes(*several: Mapping[str, Any], hole: bool = False) -> Callable[[Path, str], bool]:
    """Return a check that a reader can open pyramids which are made with these options."""

    def opens(folder: Path, reader: str) -> bool:
        verdicts: set[bool] = set()
        for number, options in enumerate(several):
            url = folder / str(number)
            if not url.exists():
                given = {"data_type": "uint8", "channels": 1, **options}
                shape = (32, 32, 32, given.pop("channels"))
                voxels = np.random.default_rng(0).integers(0, 100, shape).astype(given.pop("data_type"))
                create_volume(url, voxels, **{"resolution": 8, "chunk_size": 16, "scales": 1, "gzip": False, **given})
                if hole:
                    min((url / "8_8_8").iterdir()).unlink()
            verdicts.add(precomputed_fs.doctor(url)[reader].ok is True)
        (verdict,) = verdicts
        return verdict

    return opens


def beside(*kinds: str) -> Callable[[Path, str], bool]:
    """Return a check of what the rules say that a reader reads beside voxels."""
    return lambda _folder, reader: {*kinds} <= {*READ.get(reader, ())}


READERS = ("precomputed_fs", "neuroglancer-scripts", "cloud-volume", "tensorstore")
PEERS = {
    "local files, `https://`": protocols("file", "http"),
    "`s3://`, `gs://`": protocols("s3", "gs"),
    "`az://`, `sftp://`": protocols("az", "sftp"),
    "`compressed_segmentation`": volumes(
        {"encoding": "compressed_segmentation", "data_type": "uint32", "type": "segmentation"}
    ),
    "`png`": volumes({"encoding": "png"}),
    "`jxl`, `compresso`": volumes({"encoding": "jxl"}, {"encoding": "compresso", "type": "segmentation"}),
    "images of three channels in `jpeg`": volumes({"encoding": "jpeg", "channels": 3, "type": "image"}),
    "signed integers": volumes({"data_type": "int16", "type": "image"}, {"data_type": "int32", "type": "image"}),
    "a `voxel_offset`": volumes({"voxel_offset": (1, 2, 3)}),
    "shards, compressed": volumes({"sharding": True, "gzip": True}),
    "chunks in files `.gz`": volumes({"gzip": True}),
    "sub-directories, as neuroglancer-scripts writes them": volumes({"flat": False}),
    "absent chunks, as zeros, by default": volumes({}, hole=True),
    "meshes, skeletons": beside("mesh", "skeletons"),
    "segment properties, annotations": beside("segment_properties", "annotations"),
}


def test_other_packages_open_what_the_readme_says(tmp_path: Path) -> None:
    said = {str(row): row.cells[1:] for row in table(README, "", *READERS)}
    answers = ("no", "yes")
    found = {
        claim: tuple(answers[opens(tmp_path / str(number), reader)] for reader in READERS)
        for number, (claim, opens) in enumerate(PEERS.items())
    }
    assert said == found
