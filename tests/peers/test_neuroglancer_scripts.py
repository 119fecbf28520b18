"""neuroglancer-scripts' own tools run unchanged on our accessor, on a piece of a real brain.

`Stores.run` installs our accessor while a tool runs.
What it wrote is looked at around our code (`Place.objects`), through our code, and compared with what
the untouched tool writes to disk through its own accessor.
"""

import gzip
import itertools
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import neuroglancer_scripts.accessor
import nibabel as nib
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from neuroglancer_scripts.precomputed_io import get_IO_for_existing_dataset, get_IO_for_new_dataset
from neuroglancer_scripts.scripts import (
    compute_scales,
    convert_chunks,
    generate_scales_info,
    link_mesh_fragments,
    mesh_to_precomputed,
    scale_stats,
    volume_to_precomputed,
    volume_to_precomputed_pyramid,
)
from numpy.typing import NDArray

import precomputed_fs
from precomputed_fs import (
    AlreadyExistsError,
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
    URLError,
    get_accessor_for_url,
)
from tests.support import brain as mni152
from tests.support.servers import GcsServer, S3Server, gcs_server, http_server, nginx_installed, nginx_server, s3_server

BUCKET = "neuroglancer-scripts"
SMALL = 3  # millimetres
PIECES = {1: np.s_[30:160, 80:150, 60:110], SMALL: np.s_[::3, 60:180:3, 60:150:3]}
"""130 x 70 x 50 and 66 x 40 x 30 voxels: two scales, in chunks of 64 x 64 x 64 and of 32 x 32 x 32."""
WRITABLE = ("s3", "gs", "memory", "file")
DESTINATIONS = [*((protocol, "--flat") for protocol in WRITABLE), ("s3", "--no-flat"), ("file", "--no-flat")]
HTTP_SERVERS = [
    "aiohttp",
    pytest.param("nginx", marks=pytest.mark.skipif(not nginx_installed(), reason="nginx is not installed")),
]

Volume = NDArray[Any]
Coords = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Encoding:
    """What to ask of the tools, and how its chunks are then stored in buckets."""

    options: Sequence[str]
    content_type: str
    content_encoding: str | None


ENCODINGS = {
    "jpeg": Encoding(["--encoding", "jpeg"], "image/jpeg", None),
    "compressed_segmentation": Encoding(
        ["--encoding", "compressed_segmentation", "--type", "segmentation"], "application/octet-stream", "gzip"
    ),
}


# ----------------------------------------------------------------------------------------------------- what was written


@dataclass(frozen=True)
class Stored:
    """One object, as it is stored."""

    data: bytes
    content_type: str | None = None
    content_encoding: str | None = None
    version: Any = field(default=None, kw_only=True)
    """Another one after each write."""


@dataclass(frozen=True)
class Place:
    """Where a pyramid is, with a way to look at it around the code under test."""

    url: str
    objects: Callable[[], dict[str, Stored]]
    """By name below `url`."""

    def plain(self) -> dict[str, bytes]:
        """Return what the objects hold, without gzip, by name without ``.gz``."""
        return {
            name.removesuffix(".gz"): gzip.decompress(stored.data)
            if name.endswith(".gz") or stored.content_encoding == "gzip"
            else stored.data
            for name, stored in self.objects().items()
        }


def files_below(folder: Path) -> dict[str, Stored]:
    return {
        path.relative_to(folder).as_posix(): Stored(
            path.read_bytes(), version=(path.stat().st_ino, path.stat().st_mtime_ns)
        )
        for path in folder.rglob("*")
        if path.is_file()
    }


def objects_in(server: S3Server | GcsServer, prefix: str) -> dict[str, Stored]:
    found = {}
    for name in server.keys(BUCKET):
        if name.startswith(prefix):
            body, fields = server.get(BUCKET, name)
            version = fields.get("generation") or fields["LastModified"]
            found[name.removeprefix(prefix)] = Stored(
                body, fields["ContentType"], fields["ContentEncoding"], version=version
            )
    return found


def objects_in_memory(prefix: str) -> dict[str, Stored]:
    return {
        name.removeprefix(prefix): Stored(file.getvalue(), version=file.modified)
        for name, file in MemoryFileSystem.store.items()
        if name.startswith(prefix)
    }


# -------------------------------------------------------------------------------------------------------- how tools run


def run_untouched(tool: ModuleType, *arguments: object) -> int:
    """Run a tool with its own accessor; return its exit code."""
    code: int = tool.main([tool.__name__, *map(str, arguments)])
    return code


class Stores:
    """Every place that the tools write to in these tests, and what was written there once for all tests."""

    def __init__(self, s3: S3Server, gcs: GcsServer, folder: Path) -> None:
        self.s3, self.gcs, self.folder = s3, gcs, folder
        self.storage_options: dict[str, Mapping[str, Any]] = {"s3": s3.storage_options, "gs": gcs.storage_options}
        self.brain = cache(self._brain)
        self.brain_volumes = cache(self._brain_volumes)
        self.small = cache(self._small)
        self.converted = cache(self._converted)
        self._serial = itertools.count()

    def accessor(self, url: str, accessor_options: Mapping[str, Any] = {}) -> FsspecAccessor:
        """Stand in for the tools' `get_accessor_for_url`: ours, with the servers' storage options."""
        storage_options = self.storage_options.get(url.partition("://")[0])
        return get_accessor_for_url(url, {**accessor_options, "storage_options": storage_options})

    def run(self, tool: ModuleType, *arguments: object) -> int:
        """Run a tool through our accessor; return its exit code."""
        precomputed_fs.install(storage_options=self.storage_options)
        try:
            return run_untouched(tool, *arguments)
        finally:
            precomputed_fs.uninstall()

    def new(self, protocol: str) -> Place:
        """Return a place where nothing is."""
        name = f"pyramid-{next(self._serial)}"
        if protocol == "file":
            folder = self.folder / name
            return Place(str(folder), lambda: files_below(folder))
        if protocol == "memory":
            return Place(f"memory://{BUCKET}/{name}", lambda: objects_in_memory(f"/{BUCKET}/{name}/"))
        server = self.s3 if protocol == "s3" else self.gcs
        return Place(f"{protocol}://{BUCKET}/{name}", lambda: objects_in(server, f"{name}/"))

    def _brain(self, protocol: str, *options: str) -> Place:
        """Return the piece of 1 mm, as ``volume-to-precomputed-pyramid`` wrote it."""
        place = self.new(protocol)
        assert self.run(volume_to_precomputed_pyramid, *options, nifti(self.folder, 1), place.url) == 0
        return place

    def _brain_volumes(self, protocol: str, *options: str) -> dict[str, Volume]:
        return read_volumes(self.accessor(self.brain(protocol, *options).url))

    def _small(self, protocol: str) -> Place:
        """Return the small brain, as four tools wrote it one after the other."""
        place = self.new(protocol)
        self.step_by_step(place, self.run)
        return place

    def step_by_step(self, place: Place, run: Callable[..., int]) -> None:
        image = nifti(self.folder, SMALL)
        assert run(volume_to_precomputed, "--generate-info", image, place.url) == 0
        self.generate_scales_info(place.plain()["info_fullres.json"], place, run)
        assert run(volume_to_precomputed, "--flat", image, place.url) == 0
        assert run(compute_scales, "--flat", place.url) == 0

    def _converted(self, source: str, destination: str, encoding: str) -> Place:
        """Return the small brain as ``convert-chunks`` took it from one protocol to another."""
        raw, place = self.small("file" if source == "http" else source), self.new(destination)
        with http_server(self.folder) as server:
            url = f"{server.url}/{Path(raw.url).name}" if source == "http" else raw.url
            self.convert(url, place, encoding, self.run)
        return place

    def convert(self, source: str, place: Place, encoding: str, run: Callable[..., int]) -> None:
        """Convert the small brain from raw to another encoding, by two tools."""
        fullres = self.small("file").plain()["info_fullres.json"]
        self.generate_scales_info(fullres, place, run, *ENCODINGS[encoding].options)
        assert run(convert_chunks, "--flat", source, place.url) == 0

    def generate_scales_info(self, fullres: bytes, place: Place, run: Callable[..., int], *options: str) -> None:
        local_copy = self.folder / "info_fullres.json"  # the tool reads it from disk
        local_copy.write_bytes(fullres)
        assert run(generate_scales_info, "--target-chunk-size", 32, *options, local_copy, place.url) == 0


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with ExitStack() as stack:
        s3, gcs = stack.enter_context(s3_server()), stack.enter_context(gcs_server())
        s3.create_bucket(BUCKET)
        gcs.create_bucket(BUCKET)
        yield Stores(s3, gcs, tmp_path_factory.mktemp("stores"))
        for name in [name for name in MemoryFileSystem.store if name.startswith(f"/{BUCKET}/")]:
            del MemoryFileSystem.store[name]


@cache
def brain(step: int) -> Any:
    """Return a piece of the MNI152 T1 template in uint8, of 1 mm or thinned out."""
    affine = nib.load(mni152.scan()).affine  # type: ignore[attr-defined]
    return nib.Nifti1Image(mni152.template(), affine).slicer[PIECES[step]]


@cache
def nifti(folder: Path, step: int) -> Path:
    path = folder / f"mni152 {step} mm.nii"
    nib.save(brain(step), path)
    return path


@pytest.fixture(scope="module")
def theirs(stores: Stores) -> Place:
    """Return the piece of 1 mm, as the untouched tool writes it to disk through its own accessor."""
    place = stores.new("file")
    assert run_untouched(volume_to_precomputed_pyramid, nifti(stores.folder, 1), place.url) == 0
    return place


@pytest.fixture(scope="module")
def theirs_small(stores: Stores) -> Place:
    """Return the small brain, as the untouched tools write it step by step."""
    place = stores.new("file")
    stores.step_by_step(place, run_untouched)
    return place


# ------------------------------------------------------------------------------------------------------- reading arrays


def chunks_of(scale: Mapping[str, Any]) -> Iterator[Coords]:
    """Iterate over the chunks' coordinates (xmin, xmax, ymin, ymax, zmin, zmax)."""
    (sx, sy, sz), (cx, cy, cz) = scale["size"], scale["chunk_sizes"][0]
    for x, y, z in itertools.product(range(0, sx, cx), range(0, sy, cy), range(0, sz, cz)):
        yield x, min(x + cx, sx), y, min(y + cy, sy), z, min(z + cz, sz)


def read_volumes(accessor: Any) -> dict[str, Volume]:
    """Read every scale through the tools' `PrecomputedIO`; arrays are (channel, z, y, x)."""
    io = get_IO_for_existing_dataset(accessor)
    volumes = {}
    for scale in io.info["scales"]:
        volume = np.zeros((io.info["num_channels"], *scale["size"][::-1]), io.info["data_type"])
        for x0, x1, y0, y1, z0, z1 in chunks_of(scale):
            volume[:, z0:z1, y0:y1, x0:x1] = io.read_chunk(scale["key"], (x0, x1, y0, y1, z0, z1))
        volumes[scale["key"]] = volume
    return volumes


def their_volumes(place: Place) -> dict[str, Volume]:
    return read_volumes(neuroglancer_scripts.accessor.get_accessor_for_url(place.url))


def assert_same_volumes(volumes: Mapping[str, Volume], expected: Mapping[str, Volume]) -> None:
    assert list(volumes) == list(expected)
    for key, volume in volumes.items():
        np.testing.assert_array_equal(volume, expected[key], err_msg=key)


def assert_is_the_source(volumes: Mapping[str, Volume], step: int) -> None:
    """Compare the first, finest scale with the source, voxel by voxel."""
    finest, *_ = volumes.values()
    np.testing.assert_array_equal(finest[0].T, np.asanyarray(brain(step).dataobj))


# ------------------------------------------------------------------------------------------------ the larger piece


@pytest.mark.parametrize(("protocol", "layout"), DESTINATIONS)
def test_every_voxel_read_back_is_its_source(stores: Stores, theirs: Place, protocol: str, layout: str) -> None:
    """And that of each scale of the untouched tool."""
    volumes = stores.brain_volumes(protocol, layout)
    assert volumes["1mm"].shape == (1, 50, 70, 130)
    assert_is_the_source(volumes, 1)
    assert_same_volumes(volumes, their_volumes(theirs))


def test_what_the_untouched_tool_wrote_is_read(stores: Stores, theirs: Place) -> None:
    assert_same_volumes(read_volumes(stores.accessor(theirs.url)), their_volumes(theirs))


def flat_name(name: str) -> str:
    """Name a chunk as the specification does, given its name in neuroglancer-scripts' sub-directories."""
    key, *ranges = name.split("/")
    return f"{key}/{'_'.join(ranges)}" if ranges else name


@pytest.mark.parametrize(("protocol", "layout"), DESTINATIONS)
def test_brain_is_stored_byte_for_byte_as_the_untouched_tool_does(
    stores: Stores, theirs: Place, protocol: str, layout: str
) -> None:
    """Apart from where gzip is said, and from the layout."""
    expected = {flat_name(name) if layout == "--flat" else name: data for name, data in theirs.plain().items()}
    assert len(expected) == 1 + 6 + 2  # info, chunks of 1 mm, of 2 mm
    assert stores.brain(protocol, layout).plain() == expected


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_buckets_say_type_and_compression_of_each_object(stores: Stores, protocol: str) -> None:
    stored = stores.brain(protocol, "--flat").objects()
    info = stored.pop("info")
    assert (info.content_type, info.content_encoding) == ("application/json", None)
    assert {(chunk.content_type, chunk.content_encoding) for chunk in stored.values()} == {
        ("application/octet-stream", "gzip")
    }


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_elsewhere_the_suffix_says_the_compression(stores: Stores, protocol: str) -> None:
    stored = stores.brain(protocol, "--flat").objects()
    assert {Path(name).suffix for name in stored if name != "info"} == {".gz"}
    assert "info" in stored


def test_chunks_are_named_flat_unless_told_otherwise(stores: Stores) -> None:
    image, default = nifti(stores.folder, SMALL), stores.new("memory")
    assert stores.run(volume_to_precomputed_pyramid, image, default.url) == 0
    assert f"{SMALL}mm/64-66_0-40_0-30.gz" in default.objects()


@pytest.mark.parametrize("layout", ["--flat", "--no-flat"])
def test_the_untouched_accessor_reads_what_was_written_to_disk(stores: Stores, layout: str) -> None:
    volumes = their_volumes(stores.brain("file", layout))
    assert_is_the_source(volumes, 1)
    assert_same_volumes(volumes, stores.brain_volumes("file", layout))


@pytest.mark.parametrize("server_name", HTTP_SERVERS)
@pytest.mark.parametrize("layout", ["--flat", "--no-flat"])
def test_brain_on_disk_is_read_over_http(stores: Stores, theirs: Place, server_name: str, layout: str) -> None:
    place = stores.brain("file", layout)
    with (nginx_server if server_name == "nginx" else http_server)(stores.folder) as server:
        volumes = read_volumes(stores.accessor(f"{server.url}/{Path(place.url).name}"))
    assert_is_the_source(volumes, 1)
    assert_same_volumes(volumes, their_volumes(theirs))


@pytest.mark.parametrize(
    "spelled",
    [
        "{}",
        "file://{}",
        "file://localhost{}",
        "precomputed://{}",
        "precomputed://file://{}",
        "{}|neuroglancer-precomputed:",
    ],
)
def test_a_tool_takes_a_path_in_every_spelling(
    stores: Stores, spelled: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = stores.brain("file", "--flat")
    assert stores.run(scale_stats, spelled.format(place.url)) == 0
    assert "Total: 8 chunks" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------- running twice


@pytest.mark.parametrize(("protocol", "layout"), DESTINATIONS)
def test_a_second_run_says_that_there_is_a_pyramid_and_changes_nothing(
    stores: Stores, caplog: pytest.LogCaptureFixture, protocol: str, layout: str
) -> None:
    place = stores.brain(protocol, layout)
    before = place.objects()
    code = stores.run(volume_to_precomputed_pyramid, layout, nifti(stores.folder, SMALL), place.url)
    assert code == 1
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said == f"Cannot write info: {place.url}/info exists; pass overwrite=True to replace it"
    assert place.objects() == before


@pytest.mark.parametrize("protocol", WRITABLE)
def test_generate_info_twice_says_that_there_is_one(
    stores: Stores, caplog: pytest.LogCaptureFixture, protocol: str
) -> None:
    place = stores.small(protocol)
    before = place.objects()
    assert stores.run(volume_to_precomputed, "--generate-info", nifti(stores.folder, SMALL), place.url) == 1
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert said.startswith(f"cannot write info_fullres.json: {place.url}/info_fullres.json exists")
    assert place.objects() == before


@pytest.mark.parametrize("protocol", WRITABLE)
@pytest.mark.parametrize("tool", [compute_scales, volume_to_precomputed])
def test_chunks_that_are_there_are_not_replaced(stores: Stores, tool: ModuleType, protocol: str) -> None:
    """The tools do not ask to overwrite, and the contract's default is not to."""
    place = stores.small(protocol)
    before = place.objects()
    first = () if tool is compute_scales else (nifti(stores.folder, SMALL),)
    with pytest.raises(AlreadyExistsError, match=f"{place.url}/.mm/0-32_0-(32_0-30|20_0-15)"):
        stores.run(tool, *first, place.url)
    assert place.objects() == before


@pytest.mark.parametrize("protocol", WRITABLE)
def test_without_info_the_tool_says_what_to_do(stores: Stores, caplog: pytest.LogCaptureFixture, protocol: str) -> None:
    place = stores.new(protocol)
    assert stores.run(volume_to_precomputed, nifti(stores.folder, SMALL), place.url) == 1
    (said,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert said.startswith(f"No 'info' file was found ({place.url}/info does not exist")
    assert place.objects() == {}


# --------------------------------------------------------------------------------------------------------- step by step


@pytest.mark.parametrize("protocol", WRITABLE)
def test_four_tools_step_by_step_write_what_they_write_untouched(
    stores: Stores, theirs_small: Place, protocol: str
) -> None:
    stored, expected = stores.small(protocol).plain(), theirs_small.plain()
    assert {
        "info",
        "info_fullres.json",
        "transform.json",
        f"{SMALL}mm/64-66_32-40_0-30",
        f"{2 * SMALL}mm/32-33_0-20_0-15",
    } <= expected.keys()
    assert len(expected) == 3 + 3 * 2 * 1 + 2 * 1 * 1
    assert stored == expected
    volumes = read_volumes(stores.accessor(stores.small(protocol).url))
    assert_is_the_source(volumes, SMALL)
    assert_same_volumes(volumes, their_volumes(theirs_small))


@pytest.mark.parametrize("protocol", WRITABLE)
def test_scale_stats_prints_what_it_prints_untouched(
    stores: Stores, theirs: Place, protocol: str, capsys: pytest.CaptureFixture[str]
) -> None:
    place = stores.brain(protocol, "--flat")
    capsys.readouterr()
    assert run_untouched(scale_stats, theirs.url) == 0
    expected = capsys.readouterr().out
    assert "Scale 1mm, Unsharded, chunk size [64, 64, 64]: 6 chunks" in expected
    assert stores.run(scale_stats, place.url) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("server_name", HTTP_SERVERS)
def test_scale_stats_reads_info_over_http(stores: Stores, server_name: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = stores.brain("file", "--flat")
    with (nginx_server if server_name == "nginx" else http_server)(stores.folder) as server:
        assert stores.run(scale_stats, f"{server.url}/{Path(place.url).name}") == 0
        assert server.log.methods() == ["GET"]
    assert "Total: 8 chunks" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------------- shards


def sharded_info(stores: Stores, place: Place, run: Callable[..., int], *options: str, scales: int = 1) -> None:
    """Let the tools write an `info` whose scales are sharded."""
    folder = stores.new("memory")
    image = nifti(stores.folder, SMALL)
    assert stores.run(volume_to_precomputed, "--generate-info", "--sharding", "1,1,1", *options, image, folder.url) == 0
    stores.generate_scales_info(folder.plain()["info_fullres.json"], place, run, "--max-scales", str(scales))


@pytest.mark.processes
@pytest.mark.parametrize("options", [[], ["--no-gzip"]], ids=["gzip", "raw"])
def test_shards_that_the_untouched_tools_wrote_are_read(stores: Stores, options: Sequence[str]) -> None:
    place = stores.new("file")
    sharded_info(stores, place, run_untouched, *options)
    untouched = "import sys; from neuroglancer_scripts.scripts.volume_to_precomputed import main; sys.exit(main())"
    image = nifti(stores.folder, SMALL)
    # In a process of its own: the tool completes its shards when the process ends.
    subprocess.run([sys.executable, "-c", untouched, image, place.url], check=True, capture_output=True, timeout=60)
    assert {Path(name).suffix for name in place.objects() if "/" in name} == {".shard"}
    assert_is_the_source(read_volumes(stores.accessor(place.url)), SMALL)


@pytest.mark.parametrize("protocol", WRITABLE)
def test_the_shards_of_a_tool_that_does_not_flush_are_written(stores: Stores, protocol: str) -> None:
    place = stores.new(protocol)
    sharded_info(stores, place, stores.run)
    with pytest.warns(ResourceWarning, match=rf"without flush.*written late: .*chunks of {SMALL}mm"):
        assert stores.run(volume_to_precomputed, nifti(stores.folder, SMALL), place.url) == 0
    assert {Path(name).suffix for name in place.objects() if "/" in name} == {".shard"}
    assert_is_the_source(read_volumes(stores.accessor(place.url)), SMALL)


@pytest.mark.processes
def test_the_shards_of_command_lines_are_written(stores: Stores, theirs_small: Place) -> None:
    place = stores.new("s3")
    sharded_info(stores, place, stores.run, scales=2)
    for tool, arguments in (("volume_to_precomputed", [nifti(stores.folder, SMALL)]), ("compute_scales", [])):
        ended = command_line(stores, tool, *arguments, place.url)
        assert ended.returncode == 0, ended.stderr
        assert "without flush" not in ended.stderr  # a warning that Python hides
    assert {Path(name).suffix for name in place.objects() if "/" in name} == {".shard"}
    assert_same_volumes(read_volumes(stores.accessor(place.url)), their_volumes(theirs_small))


# ----------------------------------------------------------------------------------------------------- options of tools


def test_no_gzip_stores_the_bytes_as_they_are(stores: Stores) -> None:
    place = stores.new("file")
    assert stores.run(volume_to_precomputed_pyramid, "--no-gzip", nifti(stores.folder, SMALL), place.url) == 0
    stored = place.objects()[f"{SMALL}mm/0-64_0-40_0-30"].data
    assert stored == np.asanyarray(brain(SMALL).dataobj)[:64].tobytes("F")


def test_compresslevel_decides_the_size(stores: Stores) -> None:
    sizes = []
    for level in (0, 1, 9):
        place = stores.new("memory")
        image = nifti(stores.folder, SMALL)
        assert stores.run(volume_to_precomputed_pyramid, "--compresslevel", level, image, place.url) == 0
        sizes.append(len(place.objects()[f"{SMALL}mm/0-64_0-40_0-30.gz"].data))
    stored, fast, small = sizes
    assert stored > 64 * 40 * 30 > fast > small


def test_mmap_writes_the_same(stores: Stores) -> None:
    by_mmap, at_once = stores.new("memory"), stores.new("memory")
    assert stores.run(volume_to_precomputed_pyramid, "--mmap", nifti(stores.folder, SMALL), by_mmap.url) == 0
    assert stores.run(volume_to_precomputed_pyramid, nifti(stores.folder, SMALL), at_once.url) == 0
    assert by_mmap.plain() == at_once.plain()


@pytest.mark.parametrize("bad", [["--compresslevel", "10"], ["--compresslevel", "x"], ["--flat=no"]])
def test_a_bad_option_is_a_usage_error(stores: Stores, bad: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    place = stores.new("memory")
    with pytest.raises(SystemExit, match="2"):
        stores.run(volume_to_precomputed_pyramid, *bad, nifti(stores.folder, SMALL), place.url)
    assert "usage:" in capsys.readouterr().err
    assert place.objects() == {}


def test_an_unknown_scheme_is_an_url_error_before_anything_is_written(stores: Stores) -> None:
    with pytest.raises(URLError, match="gopher"):
        stores.run(volume_to_precomputed_pyramid, nifti(stores.folder, SMALL), "gopher://host/brain")


# ------------------------------------------------------------------------------------------------------- convert-chunks


@pytest.fixture(scope="module")
def theirs_converted(stores: Stores, theirs_small: Place) -> dict[str, Place]:
    """Return, by encoding, the small brain as the untouched tools convert it."""
    places = {encoding: stores.new("file") for encoding in ENCODINGS}
    for encoding, place in places.items():
        stores.convert(theirs_small.url, place, encoding, run_untouched)
    return places


@pytest.mark.parametrize(
    ("source", "destination", "encoding"),
    [
        ("s3", "gs", "jpeg"),
        ("gs", "s3", "compressed_segmentation"),
        ("memory", "file", "compressed_segmentation"),
        ("file", "memory", "jpeg"),
        ("http", "memory", "compressed_segmentation"),
    ],
)
def test_converted_chunks_are_those_of_the_untouched_tool(
    stores: Stores, theirs_converted: Mapping[str, Place], source: str, destination: str, encoding: str
) -> None:
    place = stores.converted(source, destination, encoding)
    expected = theirs_converted[encoding]
    assert place.plain() == expected.plain()
    assert_same_volumes(read_volumes(stores.accessor(place.url)), their_volumes(expected))


@pytest.mark.parametrize(
    ("source", "destination", "encoding"), [("s3", "gs", "jpeg"), ("gs", "s3", "compressed_segmentation")]
)
def test_converted_chunks_carry_their_media_type(stores: Stores, source: str, destination: str, encoding: str) -> None:
    """And JPEG is not compressed once more."""
    chunk = stores.converted(source, destination, encoding).objects()[f"{SMALL}mm/0-32_0-32_0-30"]
    expected = ENCODINGS[encoding]
    assert (chunk.content_type, chunk.content_encoding) == (expected.content_type, expected.content_encoding)


def test_segmentation_converted_is_the_source(stores: Stores) -> None:
    volumes = read_volumes(stores.accessor(stores.converted("gs", "s3", "compressed_segmentation").url))
    assert {volume.dtype.name for volume in volumes.values()} == {"uint32"}
    assert_is_the_source(volumes, SMALL)


def test_copy_info_copies_a_pyramid_to_another_store(stores: Stores) -> None:
    place = stores.new("s3")
    assert stores.run(convert_chunks, "--copy-info", "--no-gzip", stores.small("file").url, place.url) == 0
    assert {stored.content_encoding for stored in place.objects().values()} == {None}
    assert_is_the_source(read_volumes(stores.accessor(place.url)), SMALL)


def test_a_chunk_that_is_missing_in_the_source_is_named(stores: Stores) -> None:
    source, place = stores.new("file"), stores.new("memory")
    assert stores.run(volume_to_precomputed_pyramid, nifti(stores.folder, SMALL), source.url) == 0
    (Path(source.url) / f"{SMALL}mm/64-66_0-40_0-30.gz").unlink()
    with pytest.raises(NotFoundError, match=f"{source.url}/{SMALL}mm/64-66_0-40_0-30 does not exist"):
        stores.run(convert_chunks, "--copy-info", source.url, place.url)


def test_converting_to_a_read_only_protocol_is_refused_before_any_write(stores: Stores) -> None:
    with http_server(stores.folder) as server:
        with pytest.raises(DataAccessError, match="read-only"):
            stores.run(convert_chunks, "--copy-info", stores.small("memory").url, f"{server.url}/new")
        assert server.log.count() == 0


# --------------------------------------------------------------------------------------------------------------- meshes


def store_meshes(stores: Stores, place: Place, run: Callable[..., int], folder: Path) -> Place:
    """Let the tools store a real cortex, and the links of two segments to it."""
    cortex = mni152.scan().with_name("fsaverage5") / "pial_left.gii.gz"
    table = folder / "labels.csv"
    table.write_text("1,pial\n2,pial,absent\n")
    stores.generate_scales_info(stores.small("file").plain()["info_fullres.json"], place, run)
    assert run(mesh_to_precomputed, "--mesh-name", "pial", cortex, place.url) == 0
    assert run(link_mesh_fragments, table, place.url) == 0
    return place


@pytest.fixture(scope="module")
def their_meshes(stores: Stores, tmp_path_factory: pytest.TempPathFactory) -> Place:
    return store_meshes(stores, stores.new("file"), run_untouched, tmp_path_factory.mktemp("meshes"))


@pytest.mark.parametrize("protocol", WRITABLE)
def test_meshes_and_their_links_are_stored_as_by_the_untouched_tools(
    stores: Stores, their_meshes: Place, protocol: str, tmp_path: Path
) -> None:
    """The mesh tool replaces `info`, and names have a colon in them."""
    expected = their_meshes.plain()
    assert expected.keys() == {"info", "mesh/pial", "mesh/1:0", "mesh/2:0"}
    assert store_meshes(stores, stores.new(protocol), stores.run, tmp_path).plain() == expected


# -------------------------------------------------------------------------------------------------------- PrecomputedIO


def rgb_info() -> dict[str, Any]:
    scale = {
        "key": "only",
        "encoding": "raw",
        "size": [5, 4, 3],
        "chunk_sizes": [[4, 4, 4]],
        "resolution": [1, 1, 1],
        "voxel_offset": [0, 0, 0],
    }
    return {"type": "image", "data_type": "uint16", "num_channels": 3, "scales": [scale]}


@pytest.mark.parametrize("protocol", WRITABLE)
def test_precomputed_io_reads_the_array_it_wrote(stores: Stores, protocol: str) -> None:
    place = stores.new(protocol)
    chunk = np.arange(3 * 3 * 4 * 4, dtype="<u2").reshape(3, 3, 4, 4)
    writer = get_IO_for_new_dataset(rgb_info(), stores.accessor(place.url))
    writer.write_chunk(chunk, "only", (0, 4, 0, 4, 0, 3))
    reader = get_IO_for_existing_dataset(stores.accessor(place.url))
    assert reader.info == rgb_info()
    np.testing.assert_array_equal(reader.read_chunk("only", (0, 4, 0, 4, 0, 3)), chunk)
    with pytest.raises(NotFoundError):
        reader.read_chunk("only", (4, 5, 0, 4, 0, 3))


@pytest.mark.parametrize("protocol", WRITABLE)
def test_a_new_dataset_replaces_info_only_when_told(stores: Stores, protocol: str) -> None:
    place, changed = stores.new(protocol), rgb_info() | {"num_channels": 1}
    get_IO_for_new_dataset(rgb_info(), stores.accessor(place.url))
    with pytest.raises(DataAccessError):
        get_IO_for_new_dataset(changed, stores.accessor(place.url))
    assert json.loads(place.plain()["info"]) == rgb_info()
    get_IO_for_new_dataset(changed, stores.accessor(place.url), overwrite_info=True)
    assert json.loads(place.plain()["info"]) == changed


def test_a_new_dataset_on_a_read_only_protocol_is_not_implemented(stores: Stores) -> None:
    """As `get_IO_for_new_dataset` documents it."""
    with http_server(stores.folder) as server, pytest.raises(NotImplementedError):
        get_IO_for_new_dataset(rgb_info(), stores.accessor(server.url))


# -------------------------------------------------------------------------------------- options through the environment

COMMAND_LINE = """
import importlib, sys
import neuroglancer_scripts.accessor
import precomputed_fs
for name in neuroglancer_scripts.accessor.__all__:
    setattr(neuroglancer_scripts.accessor, name, getattr(precomputed_fs, name))
tool, *arguments = sys.argv[1:]
sys.exit(importlib.import_module(f"neuroglancer_scripts.scripts.{tool}").main([tool, *arguments]))
"""


def command_line(stores: Stores, tool: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a tool in a process of its own that knows of the servers by its environment alone."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GOOGLE_"))}
    environment |= {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": stores.s3.endpoint,
        "STORAGE_EMULATOR_HOST": stores.gcs.endpoint,
        "FSSPEC_GS_TOKEN": "anon",
    }
    command = [sys.executable, "-c", COMMAND_LINE, tool, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.processes
def test_storage_options_reach_a_command_line_by_the_environment(stores: Stores, theirs_small: Place) -> None:
    """As those of S3 do in `test_the_shards_of_command_lines_are_written`."""
    place = stores.new("gs")
    stores.generate_scales_info(theirs_small.plain()["info_fullres.json"], place, stores.run)
    image = nifti(stores.folder, SMALL)
    first = command_line(stores, "volume_to_precomputed", image, place.url)
    assert first.returncode == 0, first.stderr
    expected = {
        name: data for name, data in theirs_small.plain().items() if name == "info" or name.startswith(f"{SMALL}mm/")
    }
    assert place.plain() == expected


@pytest.mark.processes
def test_a_second_command_line_ends_with_a_message_and_no_traceback(stores: Stores) -> None:
    place = stores.small("file")
    before = place.objects()
    second = command_line(stores, "volume_to_precomputed", "--generate-info", nifti(stores.folder, SMALL), place.url)
    assert second.returncode == 1
    assert f"CRITICAL: cannot write info_fullres.json: {place.url}/info_fullres.json exists" in second.stderr
    assert "Traceback" not in second.stderr
    assert place.objects() == before


def test_storage_options_reach_a_tool_by_the_users_environment_in_process(
    stores: Stores, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`vars(args)` has no storage options, so `get_accessor_for_url` itself takes the tools' place here."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", stores.s3.endpoint)
    monkeypatch.setattr(neuroglancer_scripts.accessor, "get_accessor_for_url", get_accessor_for_url)
    assert run_untouched(scale_stats, stores.brain("s3", "--flat").url) == 0
    assert "Total: 8 chunks" in capsys.readouterr().out
