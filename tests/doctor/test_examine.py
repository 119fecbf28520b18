"""What `doctor` says is held against the readers themselves: who can open a pyramid, does, and who cannot, does not.

Each `Flaw` makes a pyramid with something wrong, or nothing. Then doctor is asked, and tensorstore, cloud-volume,
neuroglancer-scripts and this package open and read it: they have to agree in both directions.
"""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import itertools
import json
import lzma
import shutil
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import cloudvolume
import imagecodecs
import numpy as np
import pytest
import tensorstore
from aiohttp import web
from fsspec.implementations.memory import MemoryFileSystem
from neuroglancer_scripts.accessor import get_accessor_for_url
from neuroglancer_scripts.precomputed_io import get_IO_for_existing_dataset
from PIL import Image

from precomputed_fs import URLError, __main__, create_volume, doctor, open_volume
from precomputed_fs.doctor import SAMPLES, examine
from precomputed_fs.doctor.checks import READERS
from precomputed_fs.doctor.examine import MOST_REQUESTS
from precomputed_fs.doctor.rules import RULES
from tests import servers
from tests.support import browser
from tests.test_peers import (
    LABELS,
    MURMUR,
    NEUROGLANCER_SCRIPTS,
    PARAMETERS,
    boxes,
    image,
    info_of,
    labels,
    sharding_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from precomputed_fs.doctor.report import Report
    from tests.conftest import Pyramid
    from tests.support.browser import Neuroglancer

Array = np.ndarray[Any, np.dtype[Any]]
KEY = "8_8_8"
SIZE, CHUNK_SIZE = (24, 20, 18), (12, 10, 9)
CUBE, CUBES = (12, 12, 12), (24, 24, 24)
IDENTITY = sharding_of((1, 1, 1), "identity")
assert SAMPLES >= 8, "all chunks are looked at, so that the verdict is on the same chunks as the reader's"


# --------------------------------------------------------------------------------------------------------- the readers


def read_with_ours(url: str, index: int) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is there
        volume = open_volume(url)
        return np.asarray(volume[volume.info.scales[index].key][...])  # the others count as `info` does


def read_with_tensorstore(url: str, index: int) -> Array:
    kvstore = f"{url if '://' in url else f'file://{url}'}/"
    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": index}
    store = tensorstore.open(spec, open=True, read=True).result()
    store[tuple(map(slice, store.domain.origin, np.add(store.domain.origin, 1)))].read().result()
    return np.asarray(store.read().result())  # which needs no ranges, if it is all of a shard


def read_with_cloud_volume(url: str, index: int) -> Array:
    place = url if "://" in url else f"file://{url}"
    return np.array(cloudvolume.CloudVolume(place, mip=index, progress=False, cache=False)[:, :, :])


def read_with_neuroglancer_scripts(url: str, index: int) -> Array:
    reader = get_IO_for_existing_dataset(get_accessor_for_url(url))
    scale = reader.info["scales"][index]
    voxels = np.empty((*scale["size"], reader.info["num_channels"]), reader.info["data_type"])
    for start, stop in boxes(scale["size"], scale["chunk_sizes"][0]):
        coords = [*itertools.chain(*zip(start, stop, strict=True))]
        voxels[tuple(map(slice, start, stop))] = reader.read_chunk(scale["key"], coords).T
    return voxels


PEERS: Mapping[str, Callable[[str, int], Array]] = {
    "precomputed_fs": read_with_ours,
    "tensorstore": read_with_tensorstore,
    "cloud-volume": read_with_cloud_volume,
    "neuroglancer-scripts": read_with_neuroglancer_scripts,
}


def reads(reader: str, url: str, expected: Array, index: int = 0) -> bool:
    """Return whether a reader opens and reads a scale, with the right voxels."""
    try:
        voxels = PEERS[reader](url, index)
    except Exception:  # noqa: BLE001 - whatever it is that it cannot
        return False
    return voxels.dtype == expected.dtype and np.array_equal(voxels, expected, equal_nan=expected.dtype.kind == "f")


# ----------------------------------------------------------------------------------------------------------- the flaws


def write(folder: Path, *, encoding: str = "raw", data_type: str = "uint8", channels: int = 1, **options: Any) -> None:
    """Write a pyramid of one scale, of eight chunks."""
    sharding = options.get("sharding")
    x, y, z = options.pop("size", CUBES if sharding else SIZE)
    make = labels if encoding in LABELS else image
    voxels = np.pad(make(data_type)[-24:, :, :24, :channels], ((0, 0),) * 4)[:x, -y:, :z]
    given = {
        "resolution": (8, 8, 8),
        "chunk_size": CUBE if sharding else CHUNK_SIZE,
        "scales": 1,
        "gzip": False,
        "encoding": encoding,
        **PARAMETERS.get(encoding, {}),
        **options,
    }
    create_volume(folder, voxels, **given).close()


@dataclass(frozen=True)
class Flaw:
    """Something that may be wrong with a pyramid."""

    name: str

    rules: Iterable[str] = ()
    """Ids of the errors and warnings that are to be found, and no others."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `write`."""

    spoil: Callable[[Path], None] = lambda _folder: None

    is_less: bool = False
    """Whether voxels go with it, for all who can read."""

    def __str__(self) -> str:
        return self.name

    def make(self, folder: Path) -> Array:
        """Make the pyramid; return what there is to be read."""
        write(folder, **self.options)
        voxels = read_with_ours(str(folder), 0)
        self.spoil(folder)
        return read_with_ours(str(folder), 0) if self.is_less else voxels


def info(**members: Any) -> Callable[[Path], None]:
    return edited(lambda given: given.update(members))


def scale(**members: Any) -> Callable[[Path], None]:
    return edited(lambda given: given["scales"][0].update(members))


def edited(edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        given = json.loads((folder / "info").read_bytes())
        edit(given)
        (folder / "info").write_text(json.dumps(given))

    return spoil


def second(**members: Any) -> Callable[[Path], None]:
    """Add a scale that is not there but for its row in `info`."""
    return edited(
        lambda given: given["scales"].append({**given["scales"][0], "key": "2", "resolution": [16] * 3, **members})
    )


def without_encodings(folder: Path) -> None:
    edited(lambda given: given["scales"][0]["sharding"].pop("data_encoding"))(folder)
    edited(lambda given: given["scales"][0]["sharding"].pop("minishard_index_encoding"))(folder)


def unsharded_second(folder: Path) -> None:
    second()(folder)
    edited(lambda given: given["scales"][1].pop("sharding"))(folder)


def each(change: Callable[[bytes], bytes], suffix: str = "") -> Callable[[Path], None]:
    """Change each chunk."""

    def spoil(folder: Path) -> None:
        for path in [*(folder / KEY).iterdir()]:
            data = change(path.read_bytes())
            path.unlink()
            (folder / KEY / (path.name + suffix)).write_bytes(data)

    return spoil


def first(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """Change one file of the scale."""
    return lambda folder: (change(min((folder / KEY).iterdir())), None)[1]


def renamed(key: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        there = folder / key
        there.parent.mkdir(parents=True, exist_ok=True)
        if there.resolve() != (folder / KEY).resolve():
            shutil.move(folder / KEY, there)
        scale(key=key)(folder)

    return spoil


def in_place_of_info(change: Callable[[bytes], bytes], suffix: str = "") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = (folder / "info").read_bytes()
        (folder / "info").unlink()
        (folder / f"info{suffix}").write_bytes(change(data))

    return spoil


def legacy_shards(folder: Path) -> None:
    for path in [*(folder / KEY).glob("*.shard")]:
        data, length = path.read_bytes(), 16 << IDENTITY["minishard_bits"]
        path.with_suffix(".index").write_bytes(data[:length])
        path.with_suffix(".data").write_bytes(data[length:])
        path.unlink()


def theirs(*, index: str, data: str) -> Callable[[Path], None]:
    """Write the shards anew with neuroglancer-scripts, whose gzip is zlib."""

    def spoil(folder: Path) -> None:
        voxels = read_with_ours(str(folder), 0)
        given = json.loads((folder / "info").read_bytes())["scales"][0]
        shutil.rmtree(folder / KEY)
        (folder / "info").unlink()
        described = info_of(
            "image", "uint8", 1, [{**given, "sharding": sharding_of((1, 1, 1), "identity", index, data)}]
        )
        NEUROGLANCER_SCRIPTS.write(folder, described, [voxels])

    return spoil


def redirected(folder: Path) -> None:
    there = folder.with_name("moved")
    shutil.move(folder, there)
    folder.mkdir()
    (folder / "info").write_text(json.dumps({"redirect": f"file://{there}"}))


def zstd(data: bytes) -> bytes:
    return bytes(imagecodecs.zstd_encode(data))


SUFFIXES = {".br": brotli.compress, ".zstd": zstd, ".xz": lzma.compress, ".bz2": bz2.compress}
CSEG = {"encoding": "compressed_segmentation", "data_type": "uint32"}
SHARDED = {"sharding": IDENTITY}
FLAWS = (
    Flaw("nothing"),
    Flaw("nothing, in shards", options=SHARDED),
    Flaw("nothing, jpeg", options={"encoding": "jpeg"}),
    Flaw("nothing, segmentation", options=CSEG),
    *(Flaw(f"nothing, {data_type}", options={"data_type": data_type}) for data_type in ("uint16", "uint64", "float32")),
    # ------------------------------------------------------------------------------------------------------------ info
    Flaw("no @type", spoil=edited(lambda given: given.pop("@type"))),
    Flaw("@type in capitals", ["kind-case"], spoil=info(**{"@type": "NEUROGLANCER_MULTISCALE_VOLUME"})),
    Flaw("@type of null", ["kind-null"], spoil=info(**{"@type": None})),
    Flaw("no type", ["type-missing"], spoil=edited(lambda given: given.pop("type"))),
    Flaw("another type", ["type-unknown"], spoil=info(type="other")),
    Flaw("type in capitals", spoil=info(type="IMAGE")),
    Flaw("data type in capitals", ["data-type-case"], spoil=info(data_type="UINT8")),
    Flaw("int8", ["data-type", "encoding-unread"], {"data_type": "int8"}),
    Flaw("int64", ["data-type", "encoding-unread"], {"data_type": "uint64"}, info(data_type="int64"), is_less=True),
    Flaw("float64", ["data-type", "encoding-unread"], {"data_type": "uint64"}, info(data_type="float64"), is_less=True),
    Flaw("channels as a float", ["channels-float"], spoil=info(num_channels=1.0)),
    Flaw("sizes as floats", ["floats"], spoil=scale(size=[*map(float, SIZE)])),
    Flaw("chunk sizes as floats", ["floats"], spoil=scale(chunk_sizes=[[*map(float, CHUNK_SIZE)]])),
    Flaw("a byte order mark", ["info-bom"], spoil=in_place_of_info(lambda data: b"\xef\xbb\xbf" + data)),
    Flaw("info.gz", ["info-suffix"], spoil=in_place_of_info(gzip.compress, ".gz")),
    Flaw("info.br", ["info-suffix"], spoil=in_place_of_info(brotli.compress, ".br")),
    Flaw("info in gzip", ["info-hidden-gzip"], spoil=in_place_of_info(gzip.compress)),
    Flaw("a redirect", ["redirect"], spoil=redirected),
    Flaw("an unknown member", spoil=scale(colour="red")),
    Flaw("a finer scale behind", ["resolution-order", "chunks-absent", "scale-empty"],
         spoil=second(resolution=[4] * 3)),
    # --------------------------------------------------------------------------------------------------- the scale
    Flaw("encoding in capitals", ["encoding-case"], spoil=scale(encoding="RAW")),
    Flaw("an unknown encoding", ["encoding-unknown"], spoil=scale(encoding="tiff")),
    Flaw("jpeg_quality of raw", ["foreign-keys"], spoil=scale(jpeg_quality=75)),
    Flaw("png_level of raw", ["foreign-keys"], spoil=scale(png_level=6)),
    Flaw("blocks of raw", ["foreign-keys"], spoil=scale(compressed_segmentation_block_size=[8, 8, 8])),
    Flaw("jxl_quality of raw", spoil=scale(jxl_quality=90)),
    Flaw("a quality of 200", ["foreign-keys"], {"encoding": "jpeg"}, scale(jpeg_quality=200)),
    Flaw("a quality of null", ["foreign-keys"], {"encoding": "jpeg"}, scale(jpeg_quality=None)),
    Flaw("no block size", ["block-size"],
         CSEG, edited(lambda given: given["scales"][0].pop("compressed_segmentation_block_size"))),
    Flaw("blocks that are no cubes", ["block-shape"], {**CSEG, "compressed_segmentation_block_size": (3, 8, 5)}),
    Flaw("an offset", ["offset"], {"voxel_offset": (5, -30, 7)}),
    Flaw("an offset of null", ["offset-null"], spoil=scale(voxel_offset=None)),
    Flaw("no offset", ["offset-missing"], spoil=edited(lambda given: given["scales"][0].pop("voxel_offset"))),
    Flaw("far", ["offset", "beyond-int32", "float32-names"], {"voxel_offset": (2**31 - 10, 0, 0)}),
    Flaw("far, and in time", ["offset", "float32"],
         {"voxel_offset": (2**31 - 4096, 0, 0), "size": (24, 10, 18), "chunk_size": (128, 10, 9)}),
    Flaw("far on the other side", ["offset", "beyond-int32", "float32-names"], {"voxel_offset": (0, -(2**31) - 1, 0)}),
    *(Flaw(f"a key {key}", ["key-segments"], spoil=renamed(key)) for key in (f"./{KEY}", f"{KEY}/", "a/./b")),
    *(Flaw(f"a key {key}", spoil=renamed(key)) for key in ("a b", "1e+06", "a%20b", "a/b", "../x", "\u00e4?#[*]")),
    # ------------------------------------------------------------------------------------------------------- encodings
    Flaw("jpeg in colour", ["channels-scrambled"], {"encoding": "jpeg", "channels": 3}),
    Flaw("png", ["encoding-unknown"], {"encoding": "png"}),
    *(
        Flaw(f"png of {n}", ["encoding-unknown", "channels-scrambled"], {"encoding": "png", "channels": n})
        for n in (2, 3, 4)
    ),
    *(
        Flaw(f"png of {n} x uint16", ["encoding-unknown", "encoding-unread", *more],
             {"encoding": "png", "data_type": "uint16", "channels": n})
        for n, more in ((1, ()), (2, ["channels-scrambled"]), (3, ["channels-scrambled"]))
    ),
    Flaw("jxl", ["encoding-unknown"], {"encoding": "jxl"}),
    Flaw("jxl in colour", ["encoding-unknown", "encoding-unread", "channels-scrambled"],
         {"encoding": "jxl", "channels": 3}),
    Flaw("jxl of 4", ["encoding-unknown", "encoding-unread"], {"encoding": "jxl", "channels": 4}),
    Flaw("compresso", ["encoding-unknown"], {"encoding": "compresso", "data_type": "uint32"}),
    Flaw("crackle", ["encoding-unknown"], {"encoding": "crackle", "data_type": "uint32"}),
    Flaw("fpzip", ["encoding-unknown"], {"encoding": "fpzip", "data_type": "float32"}),
    Flaw("zfpc", ["encoding-unknown"], {"encoding": "zfpc", "data_type": "float32"}),
    Flaw("kempressed", ["encoding-unknown"], {"encoding": "kempressed", "data_type": "float32"}),
    # ---------------------------------------------------------------------------------------- what another scale spoils
    Flaw("foreign keys behind", ["foreign-keys", "chunks-absent", "scale-empty"], spoil=second(jpeg_quality=75)),
    Flaw("png behind", ["encoding-unknown", "chunks-absent", "scale-empty"], spoil=second(encoding="png")),
    Flaw("jxl behind", ["encoding-unknown", "chunks-absent", "scale-empty"], spoil=second(encoding="jxl")),
    Flaw("capitals behind", ["encoding-case", "chunks-absent", "scale-empty"], spoil=second(encoding="RAW")),
    Flaw("an offset behind", ["offset", "chunks-absent", "scale-empty"], spoil=second(voxel_offset=[1, 2, 3])),
    Flaw("floats behind", ["floats", "chunks-absent", "scale-empty"], spoil=second(size=[9.0, 9.0, 9.0])),
    Flaw("shards in front only", ["shards-mixed", "chunks-absent", "scale-empty"], SHARDED, unsharded_second),
    # ---------------------------------------------------------------------------------------------------------- shards
    Flaw("murmur", ["shards-hash"], {"sharding": sharding_of((0, 0, 1), MURMUR)}),
    Flaw("no cubes in shards", ["shards-cubes"], {**SHARDED, "chunk_size": CHUNK_SIZE, "size": SIZE}),
    Flaw("gzip in shards", ["shards-gzip"], {"sharding": sharding_of((1, 1, 1), "identity", "raw", "gzip")}),
    Flaw("gzip in indexes", ["shards-gzip"], {"sharding": sharding_of((1, 1, 1), "identity", "gzip", "raw")}),
    Flaw("an empty minishard", ["shards-empty-minishard"], {"sharding": sharding_of((9, 1, 1), "identity")}),
    Flaw("zlib in shards", ["shards-zlib"], SHARDED, theirs(index="raw", data="gzip")),
    Flaw("zlib in indexes", ["shards-zlib"], SHARDED, theirs(index="gzip", data="raw")),
    Flaw("older shards", ["shards-legacy"], SHARDED, legacy_shards),
    Flaw("a hash in capitals", ["sharding-case"],
         SHARDED, edited(lambda given: given["scales"][0]["sharding"].update(hash="IDENTITY"))),
    Flaw("members in sharding", ["sharding-keys"],
         SHARDED, edited(lambda given: given["scales"][0]["sharding"].update(colour="red"))),
    Flaw("no encodings of shards", (), SHARDED, without_encodings),
    Flaw("an absent shard", ["chunks-absent"], SHARDED, first(Path.unlink), is_less=True),
    Flaw("a cut shard", ["chunks-damaged"], SHARDED, first(lambda path: path.write_bytes(path.read_bytes()[:-8]))),
    # ---------------------------------------------------------------------------------------------------------- chunks
    Flaw(".gz", ["suffix"], {"gzip": True}),
    *(Flaw(suffix, ["suffix"], spoil=each(change, suffix)) for suffix, change in SUFFIXES.items()),
    Flaw("sub-directories", ["sub-directories"], {"flat": False}),
    Flaw("sub-directories of .gz", ["sub-directories", "suffix"], {"flat": False, "gzip": True}),
    Flaw("hidden gzip", ["hidden-gzip"], spoil=each(gzip.compress)),
    Flaw("hidden gzip of jpeg", ["hidden-gzip"], {"encoding": "jpeg"}, each(gzip.compress)),
    Flaw("an absent chunk", ["chunks-absent"], spoil=first(Path.unlink), is_less=True),
    Flaw("no chunks", ["chunks-absent", "scale-empty"], spoil=lambda folder: shutil.rmtree(folder / KEY), is_less=True),
    Flaw("an empty chunk", ["chunks-damaged"], spoil=first(lambda path: path.write_bytes(b""))),
    Flaw("a chunk that is cut", ["chunks-damaged"], spoil=first(lambda path: path.write_bytes(path.read_bytes()[:-1]))),
    Flaw("a chunk that is too long", ["chunks-damaged"],
         spoil=first(lambda path: path.write_bytes(path.read_bytes() + b"."))),
    Flaw("a jpeg that is none", ["chunks-damaged"],
         {"encoding": "jpeg"}, first(lambda path: path.write_bytes(b"none"))),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------------- over HTTP


def marked(name: str, content: str = "") -> Callable[[Path], None]:
    """Tell `server` what to do."""
    return lambda folder: ((folder / name).write_text(content), None)[1]


def coded(encoding: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Compress each chunk, and have `server` say so."""

    def spoil(folder: Path) -> None:
        each(change)(folder)
        (folder / "encoding").write_text(encoding)

    return spoil


SERVED = (
    Flaw("nothing"),
    Flaw("nothing, in shards", ["shards-over-http"], SHARDED),
    Flaw("an offset", ["offset"], {"voxel_offset": (5, -30, 7)}),
    Flaw("info.gz", ["info-suffix"], spoil=in_place_of_info(gzip.compress, ".gz")),
    Flaw(".gz", ["suffix"], {"gzip": True}),
    Flaw("sub-directories", ["sub-directories"], {"flat": False}),
    Flaw("hidden gzip", ["hidden-gzip"], spoil=each(gzip.compress)),
    Flaw("Content-Encoding gzip", spoil=coded("gzip", gzip.compress)),
    Flaw("Content-Encoding br", ["content-encoding-new"], spoil=coded("br", brotli.compress)),
    Flaw("Content-Encoding zstd", ["content-encoding", "content-encoding-new"], spoil=coded("zstd", zstd)),
    Flaw("Content-Encoding xz", ["content-encoding"], spoil=coded("xz", lzma.compress)),
    Flaw("Content-Encoding bz2", ["content-encoding"], spoil=coded("bz2", bz2.compress)),
    Flaw("an absent chunk", ["chunks-absent"], spoil=first(Path.unlink), is_less=True),
    Flaw("a chunk that is cut", ["chunks-damaged"], spoil=first(lambda path: path.write_bytes(path.read_bytes()[:-1]))),
    *(Flaw(f"a key {key}", spoil=renamed(key)) for key in ("a b", "1e+06", f"./{KEY}", f"{KEY}/", "../elsewhere")),
    Flaw("a key a%20b", ["key-percent"], spoil=renamed("a%20b")),
    Flaw("chunks that are forbidden", ["chunks-denied"], spoil=marked("status", "403")),
    Flaw("no ranges", ["no-range", "shards-over-http"], SHARDED, marked("whole")),
    Flaw("no ranges, and no shards", spoil=marked("whole")),
    *(Flaw(f"a server that says {status}", ["server-redirects"], spoil=marked("moved", status))
      for status in ("301", "302")),
)  # fmt: skip


def server(root: Path) -> servers.Handler:
    """Serve files to pages from anywhere, in the ways that some flaws ask for."""
    static = servers.files(root)
    folder = root / "pyramid"

    async def handler(request: web.Request) -> web.StreamResponse:
        is_chunk = not request.path.rpartition("/")[2].startswith("info")
        if (folder / "moved").exists():
            if not request.path.startswith("/elsewhere"):
                moved = int((folder / "moved").read_text())
                return web.Response(status=moved, headers={"Location": f"/elsewhere{request.raw_path}"})
            request = request.clone(rel_url=request.raw_path.removeprefix("/elsewhere"))
        if (folder / "whole").exists():
            kept = {name: value for name, value in request.headers.items() if name.lower() != "range"}
            request = request.clone(headers=kept)
        if is_chunk and (folder / "status").exists():
            return web.Response(status=int((folder / "status").read_text()))
        response = await static(request)
        if is_chunk and (folder / "encoding").exists() and response.status == 200:
            response.headers["Content-Encoding"] = (folder / "encoding").read_text()
        return response

    return browser.cors(handler)


def judged(report: Report, reader: str) -> bool | None:
    return next(iter(report[reader].scales.values())) if report.scales else report[reader].ok


@pytest.mark.parametrize("flaw", FLAWS, ids=str)
def test_readers_on_disk_agree(tmp_path: Path, flaw: Flaw) -> None:
    folder = tmp_path / "pyramid"
    voxels = flaw.make(folder)
    before = contents(tmp_path)
    report = doctor(folder)
    assert contents(tmp_path) == before, "it writes nothing"
    assert {finding.rule.id for finding in report.findings if finding.rule.severity != "note"} == set(flaw.rules), (
        report
    )
    verdicts = {reader: judged(report, reader) for reader in PEERS}
    assert verdicts == {reader: reads(reader, str(folder), voxels) for reader in PEERS}, report


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_verdict_on_a_peer_is_tested() -> None:
    """Each rule that closes a pyramid to a reader that runs here is among those that a test expects."""
    expected = {rule for flaw in (*FLAWS, *SERVED) for rule in flaw.rules}
    others = {
        "info-absent", "info-denied", "info-unreachable", "info-damaged", "info-wrong",  # of what nobody can open
        "protocol", "private", "no-cors", "library", "scale-wrong", "chunks-failed",
        "texture", "progressive-jpeg", "sharding-null", "hidden-null",
    }  # fmt: skip
    assert {rule.id for rule in RULES if rule.severity == "error"} - expected == others


@pytest.mark.parametrize("flaw", SERVED, ids=str)
def test_readers_over_http_agree(tmp_path: Path, flaw: Flaw) -> None:
    voxels = flaw.make(tmp_path / "pyramid")
    with servers.fault_server(server(tmp_path)) as served:
        url = f"{served.url}/pyramid"
        report = doctor(url, attempts=1)
        found = {finding.rule.id for finding in report.findings if finding.rule.severity != "note"}
        assert found == set(flaw.rules), report
        verdicts = {reader: judged(report, reader) for reader in PEERS}
        assert verdicts == {reader: reads(reader, url, voxels) for reader in PEERS}, report


# ----------------------------------------------------------------------------------------------------- other places


def ids(report: Report, severity: str = "error") -> set[str]:
    return {finding.rule.id for finding in report.findings if finding.rule.severity == severity}


def readers_of(report: Report, rule: str) -> set[str]:
    return {reader for finding in report.findings if finding.rule.id == rule for reader in finding.rule.readers}


def test_what_no_other_reader_opens() -> None:
    create_volume("memory://doctor/plain", np.ones(SIZE, np.uint8), resolution=(8, 8, 8), gzip=False)
    report = doctor("memory://doctor/plain")
    assert {reader: verdict.ok for reader, verdict in report.verdicts.items()} == {
        reader: reader == "precomputed_fs" for reader in READERS
    }
    assert ids(report) == {"protocol"}


def test_this_package_opens_it_wherever_it_is(tmp_path: Path, readable_pyramid: Pyramid) -> None:
    write(tmp_path / "made")
    for name, data in contents(tmp_path / "made").items():
        readable_pyramid.put(str(Path(name).relative_to(tmp_path / "made")), data)
    report = doctor(readable_pyramid.url, storage_options=readable_pyramid.storage_options)
    assert report["precomputed_fs"].ok, report
    assert report.chunks == SAMPLES


def test_a_failure_that_nobody_foresaw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("with a s3cret")

    write(tmp_path)
    monkeypatch.setattr(examine, "_chosen", fail)
    report = doctor(tmp_path)
    assert "info-unreachable" in ids(report)
    assert "RuntimeError" in str(report)
    assert "s3cret" not in str(report)


def test_a_cache_in_front_is_not_what_others_read(tmp_path: Path) -> None:
    write(tmp_path / "pyramid")
    with servers.fault_server(server(tmp_path)) as served:
        cached = {"simplecache": {"cache_storage": str(tmp_path / "cache")}}
        report = doctor(f"simplecache::{served.url}/pyramid", storage_options=cached)
    assert report.ok, report


@pytest.mark.parametrize("acl", ["private", "public-read"])
def test_a_bucket_that_is_private_and_one_that_is_not(make_pyramid: Callable[[str], Pyramid], acl: str) -> None:
    pyramid = make_pyramid("s3")
    options = pyramid.storage_options | {"s3_additional_kwargs": {"ACL": acl}}
    create_volume(pyramid.url, image("uint8")[..., :1], resolution=(8, 8, 8), storage_options=options).close()
    pyramid.server.log.clear()
    report = doctor(pyramid.url, storage_options=pyramid.storage_options)
    asked = [request for request in pyramid.server.log.entries() if "Origin" in request.headers]
    assert len(asked) == 1
    assert "Authorization" not in asked[0].headers
    anonymous = pyramid.storage_options | {"key": None, "secret": None, "anon": True}
    is_public = "info-denied" not in ids(doctor(pyramid.url, storage_options=anonymous))
    assert is_public == (acl == "public-read")
    assert report["neuroglancer"].ok == is_public, report
    assert ("private" in ids(report)) == (not is_public)
    assert report["tensorstore"].ok
    assert report["cloud-volume"].ok
    assert ids(report) - {"private"} == {"protocol"}, "neuroglancer-scripts has no buckets"


def test_what_a_web_page_may_not_read(tmp_path: Path) -> None:
    write(tmp_path)
    with servers.http_server(tmp_path) as served:
        report = doctor(served.url)
    assert (ids(report), readers_of(report, "no-cors")) == ({"no-cors"}, {"neuroglancer"})
    assert [reader for reader in READERS if not report[reader].ok] == ["neuroglancer"]


@pytest.mark.parametrize("origin", ["*", "https://neuroglancer-demo.appspot.com", "https://elsewhere.example"])
def test_which_origins_a_server_lets_read(tmp_path: Path, origin: str) -> None:
    write(tmp_path)
    static = servers.files(tmp_path)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = await static(request)
        response.headers["Access-Control-Allow-Origin"] = origin
        return response

    with servers.fault_server(handler) as served:
        assert doctor(served.url)["neuroglancer"].ok == ("elsewhere" not in origin)


def test_a_server_that_answers_no_pages(tmp_path: Path) -> None:
    write(tmp_path)
    static, reset = servers.files(tmp_path), servers.resetting()

    async def handler(request: web.Request) -> web.StreamResponse:
        return await (reset if "Origin" in request.headers else static)(request)

    with servers.fault_server(handler) as served:
        report = doctor(served.url)
        asked = sum("Origin" in request.headers for request in served.log.entries())
        assert asked <= 2, "once more where a connection that was kept is reset, and never again"
    assert report.ok, report


# ----------------------------------------------------------------------------------------------- what is not there


INFO = json.dumps({"type": "image", "data_type": "uint8", "num_channels": 1, "scales": []}).encode()


BROKEN: Mapping[str, tuple[servers.Handler, str]] = {
    "404": (servers.respond(404), "info-absent"),
    "403": (servers.respond(403), "info-denied"),
    "401": (servers.respond(401), "info-denied"),
    "500": (servers.respond(500), "info-unreachable"),
    "no JSON": (servers.respond(200, b"<html>"), "info-wrong"),
    "nothing": (servers.respond(200, b""), "info-wrong"),
    "too deep": (servers.respond(200, b"[" * 100_000), "info-wrong"),
    "no scales": (servers.respond(200, INFO), "info-wrong"),
    "no gzip": (servers.respond(200, INFO, {"Content-Encoding": "gzip"}), "info-damaged"),
    "a redirect to nowhere": (servers.respond(200, b'{"redirect": "ftp:/x"}'), "info-wrong"),
    "cut short": (servers.truncated(INFO, len(INFO) + 1), "info-damaged"),
    "a reset": (servers.resetting(), "info-unreachable"),
}


@pytest.mark.parametrize(("handler", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_opened_is_a_finding(handler: servers.Handler, expected: str) -> None:
    with servers.fault_server(handler) as served:
        report = doctor(f"{served.url}/pyramid", attempts=1)
    found = ids(report)
    assert {name for name in found if name.startswith("info-")} == {expected}, report
    assert report["precomputed_fs"].ok is False
    if expected != "info-wrong":
        assert not any(verdict.ok is not False for verdict in report.verdicts.values())


def test_nobody_there() -> None:
    assert "info-unreachable" in ids(doctor(servers.refused_url(), attempts=1))


STRANGE: Sequence[Any] = (
    None,
    True,
    -1,
    0,
    1.5,
    2**80,
    "",
    "raw",
    [],
    [1],
    [1, 2, 3],
    [[1, 2, 3]],
    [0, 0, 0],
    {},
    {"@type": "x"},
)


@pytest.mark.parametrize(
    "member",
    ["@type", "type", "data_type", "num_channels", "scales", "scales.key", "scales.size", "scales.resolution",
     "scales.voxel_offset", "scales.chunk_sizes", "scales.encoding", "scales.sharding", "scales.hidden"],
)  # fmt: skip
def test_a_strange_info_is_a_finding(tmp_path: Path, member: str) -> None:
    write(tmp_path)
    given = json.loads((tmp_path / "info").read_bytes())
    *_, name = member.split(".")
    for value in STRANGE:
        changed = json.loads(json.dumps(given))
        (changed["scales"][0] if "." in member else changed)[name] = value
        (tmp_path / "info").write_text(json.dumps(changed))
        report = doctor(tmp_path)
        try:
            is_read = bool([read_with_ours(str(tmp_path), index) for index in range(len(open_volume(tmp_path)))])
        except Exception:  # noqa: BLE001 - of any kind
            is_read = False
        assert report["precomputed_fs"].ok == is_read, (value, report)
        json.dumps(report.to_dict())


def test_a_key_that_leaves_the_host(tmp_path: Path) -> None:
    write(tmp_path / "pyramid")
    with servers.fault_server(server(tmp_path)) as served:
        scale(key="../../../elsewhere")(tmp_path / "pyramid")
        report = doctor(f"{served.url}/pyramid")
    assert "scale-wrong" in ids(report)
    assert [verdict.ok for verdict in report.verdicts.values()] == [False, None, None, None, None], "nothing was read"


def test_only_other_readers_need_the_finest_scale_first(coarsest_first: Path) -> None:
    report = doctor(coarsest_first)
    concerned = {
        name for name, verdict in report.verdicts.items() for f in verdict.findings if f.rule.id == "resolution-order"
    }
    assert concerned == {*READERS} - {"precomputed_fs"}
    assert report.scales == ("16_16_16", "8_8_8", "4_4_4"), "as other readers count them"
    assert report["precomputed_fs"].ok


def test_a_library_that_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, encoding="compresso", data_type="uint32")
    assert "library" not in ids(doctor(tmp_path))
    monkeypatch.setitem(sys.modules, "compresso", None)
    report = doctor(tmp_path)
    assert readers_of(report, "library") == {"precomputed_fs"}
    assert not report["precomputed_fs"].ok


# ------------------------------------------------------------------------------------------------- what it takes


def asked_of(served: servers.HttpServer, **options: Any) -> tuple[Report, list[str]]:
    served.log.clear()
    report = doctor(f"{served.url}/pyramid", **options)
    return report, [request.path for request in served.log.entries()]


@pytest.mark.parametrize("samples", [1, 3, 5, SAMPLES])
def test_requests_are_few(tmp_path: Path, samples: int) -> None:
    folder = tmp_path / "pyramid"
    create_volume(folder, image("uint8")[..., :1], resolution=(8, 8, 8), chunk_size=(5, 5, 5), scales=2, gzip=False)
    with servers.fault_server(server(tmp_path)) as served:
        report, asked = asked_of(served, samples=samples)
        assert report.chunks == 2 * samples
        assert len(asked) == 2 + 2 * samples, "info, once as a page, and each chunk"
        assert asked.count("/pyramid/info") == 2
        assert sorted(asked_of(served, samples=samples)[1]) == sorted(asked), "the same ones each time"
        if samples > 3:
            assert set(asked_of(served, samples=samples, seed=1)[1]) != set(asked)


def test_requests_for_what_is_absent_are_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "pyramid"
    write(folder)
    shutil.rmtree(folder / KEY)
    with servers.fault_server(server(tmp_path)) as served:
        report, asked = asked_of(served)
    assert "scale-empty" in ids(report, "warning")
    assert len(asked) - 2 == SAMPLES * MOST_REQUESTS


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_requests_for_shards_are_few(tmp_path: Path, encoding: str) -> None:
    folder = tmp_path / "pyramid"
    write(folder, sharding=sharding_of((1, 1, 1), "identity", encoding, encoding))
    with servers.fault_server(server(tmp_path)) as served:
        report, asked = asked_of(served)
    assert report.chunks == SAMPLES
    assert report["precomputed_fs"].ok
    assert len(asked) - 2 <= 3 * SAMPLES + 2


def test_a_scale_of_many_chunks_takes_no_longer(tmp_path: Path) -> None:
    write(tmp_path)
    scale(size=[2**40] * 3, chunk_sizes=[[8, 8, 8]])(tmp_path)
    began = time.monotonic()
    assert doctor(tmp_path).chunks == SAMPLES
    assert time.monotonic() - began < 10


def test_huge_chunks_are_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    scale(size=[2048] * 3, chunk_sizes=[[2048] * 3])(tmp_path)
    report = doctor(tmp_path)
    assert report.chunks == 0
    assert "huge-chunks" in ids(report, "warning")
    assert {verdict.ok for verdict in report.verdicts.values()} == {None}, "nobody has tried"


def test_a_server_that_dawdles_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "pyramid"
    write(folder)
    static = server(tmp_path)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/info"):
            return await static(request)
        response = web.StreamResponse(headers={"Content-Length": "1000000"})
        await response.prepare(request)
        for _ in range(60):  # a byte now and then: nothing that a request's own time limit would end
            await response.write(b".")
            await asyncio.sleep(0.1)
        return response

    with servers.fault_server(handler) as served:
        began = time.monotonic()
        report = doctor(f"{served.url}/pyramid", time_limit=1.0)
        assert time.monotonic() - began < 5
    assert "took-too-long" in ids(report, "warning")
    assert {verdict.ok for verdict in report.verdicts.values()} == {None}
    assert "unknown" in str(report)


def test_a_server_that_is_silent_is_not_waited_for() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    with servers.fault_server(handler) as served:
        began = time.monotonic()
        assert "info-unreachable" in ids(doctor(served.url, timeout=0.3, attempts=1))
        assert time.monotonic() - began < 5


# ----------------------------------------------------------------------------------------------------- the report


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    write(tmp_path / "pyramid")
    first(lambda path: path.write_bytes(b""))(tmp_path / "pyramid")
    with servers.fault_server(server(tmp_path)) as served:
        host = served.url.removeprefix("http://")
        reports = [
            doctor(
                f"http://somebody:pa55w0rd@{host}/{name}?sig=s1gnature",
                storage_options={"headers": {"X": "t0ken-of-mine"}},
            )
            for name in ("pyramid", "nothing")
        ]
    reports.append(doctor("http://somebody:pa55w0rd@127.0.0.1:9/x?sig=s1gnature", attempts=1))
    for report in reports:
        shown = f"{report} {report!r} {report.to_dict()} {report._repr_html_()}"
        assert not [secret for secret in ("pa55w0rd", "s1gnature", "t0ken-of-mine") if secret in shown]


def test_the_report_says_which_scale(tmp_path: Path) -> None:
    create_volume(tmp_path, image("uint8")[..., :1], resolution=(8, 8, 8), scales=3, gzip=False)
    edited(lambda given: given["scales"][1].update(voxel_offset=None))(tmp_path)
    report = doctor(tmp_path)
    assert report.scales == ("8_8_8", "16_16_16", "32_32_32")
    assert dict(report["cloud-volume"].scales) == {"8_8_8": True, "16_16_16": False, "32_32_32": True}
    assert str(report["cloud-volume"]) == "only 8_8_8, 32_32_32"
    assert str(report["tensorstore"]) == "no"
    assert "neuroglancer-scripts  only 8_8_8, 32_32_32" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["readers"]["cloud-volume"] == {
        "ok": False, "scales": {"8_8_8": True, "16_16_16": False, "32_32_32": True},
    }  # fmt: skip


def test_a_notebook_is_shown_no_markup_of_others(tmp_path: Path) -> None:
    write(tmp_path)
    scale(key="<script>alert(1)</script>")(tmp_path)
    shown = doctor(tmp_path)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_each_rule_says_all_that_it_is_to_say() -> None:
    concerned = [(rule.id, reader, rule.severity) for rule in RULES for reader in rule.readers]
    assert len(concerned) == len(set(concerned)), "two rules say the same"
    for rule in RULES:
        assert rule.severity in {"error", "warning", "note"}
        assert rule.looks_at in {"pyramid", "scale"}
        assert set(rule.readers) <= set(READERS)
        assert all((rule.readers, rule.message, rule.advice, rule.source)), rule


def test_what_is_open_is_looked_at_and_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, sharding=IDENTITY)
    told = doctor(tmp_path).to_dict()
    with open_volume(tmp_path) as volume:
        volume[0][:1, :1, :1] = volume[0][:1, :1, :1] + 1  # waits for its shard
        before = (tmp_path / KEY / "0.shard").read_bytes()
        assert doctor(volume).to_dict() == doctor(volume.accessor).to_dict() == told
        assert (tmp_path / KEY / "0.shard").read_bytes() == before
    assert (tmp_path / KEY / "0.shard").read_bytes() != before
    for opened in (volume, volume.accessor):
        with pytest.raises(TypeError, match="attempts: for URLs"):
            doctor(opened, attempts=1)


def test_what_is_open_is_looked_at_with_its_options() -> None:
    fs = MemoryFileSystem()
    volume = create_volume("/test_doctor/own", np.ones((4, 4, 4), np.uint8), resolution=(1, 1, 1), fs=fs)
    assert doctor(volume)["precomputed_fs"].ok
    fs.pipe_file("/test_doctor/own/info", b'{"redirect": 3}')
    assert "info-wrong" in ids(doctor(volume.accessor))


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    for options in ({"samples": 0}, {"time_limit": 0}, {"timeout": -1}):
        with pytest.raises(ValueError, match="expected"):
            doctor(tmp_path, **options)
    with pytest.raises(TypeError):
        doctor(tmp_path, colour="red")
    with pytest.raises(URLError):
        doctor("nowhere://x")


# ------------------------------------------------------------------------------------------------ the command line


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = __main__.main(["doctor", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "good")
    write(tmp_path / "packed", gzip=True)
    assert run(capsys, tmp_path / "good") == (0, f"{doctor(tmp_path / 'good')}\n")
    assert run(capsys, tmp_path / "packed")[0] == 6
    assert run(capsys, tmp_path / "packed", "--reader", "cloud-volume", "--reader", "precomputed_fs")[0] == 0
    assert run(capsys, tmp_path / "packed", "--reader", "cloud-volume", "--reader", "tensorstore")[0] == 6
    assert run(capsys, tmp_path / "nothing", "--reader", "precomputed_fs")[0] == 6
    code, printed = run(capsys, tmp_path / "packed", "--json", "--samples", 2)
    assert (code, json.loads(printed)) == (6, doctor(tmp_path / "packed", samples=2).to_dict())
    assert run(capsys, "nowhere://x")[0] == 2


# -------------------------------------------------------------------------------------------------- Neuroglancer


@pytest.mark.parametrize(
    ("chunk_size", "size", "is_too_large"),
    [((64, 64, 64), (99, 99, 99), False), ((2048, 4, 4), (4096, 4, 4), False), ((2100, 4, 4), (4096, 4, 4), True),
     ((2100, 4, 4), (2000, 4, 4), False), ((8192, 8192, 1), (9999, 9999, 1), False),
     ((20000, 3, 1), (20000, 3, 1), True)],
)  # fmt: skip
def test_chunks_and_textures(
    tmp_path: Path, chunk_size: Sequence[int], size: Sequence[int], is_too_large: bool
) -> None:
    write(tmp_path)
    scale(size=size, chunk_sizes=[chunk_size])(tmp_path)
    assert ("texture" in ids(doctor(tmp_path))) == is_too_large


@pytest.mark.parametrize("member", ["sharding", "hidden"])
def test_null_is_no_value_to_neuroglancer(tmp_path: Path, member: str) -> None:
    write(tmp_path)
    scale(**{member: None})(tmp_path)
    report = doctor(tmp_path)
    assert [reader for reader in READERS if not report[reader].ok] == ["neuroglancer"]


def progressive(data: bytes) -> bytes:
    """Store a JPEG anew, with the same pixels in another order."""
    packed = io.BytesIO()
    Image.fromarray(imagecodecs.jpeg8_decode(data)).save(packed, "JPEG", quality=95, progressive=True)
    return packed.getvalue()


NG_FLAWS = (
    Flaw("nothing", options={"voxel_offset": (2**24 - 64, 0, 0)}),
    Flaw("@type of null", ["kind-null"], spoil=info(**{"@type": None})),
    Flaw("an odd offset", ["float32-names"], {"voxel_offset": (2**24 + 1, 0, 0)}),
    Flaw("jpeg", options={"encoding": "jpeg"}),
    Flaw("progressive jpeg", ["progressive-jpeg"], {"encoding": "jpeg"}, each(progressive)),
)


@pytest.mark.parametrize("flaw", NG_FLAWS, ids=str)
def test_neuroglancer_agrees(tmp_path: Path, neuroglancer: Neuroglancer, flaw: Flaw) -> None:
    flaw.make(tmp_path / "pyramid")
    voxels = read_with_ours(str(tmp_path / "pyramid"), 0)
    position = np.add(flaw.options.get("voxel_offset", (0, 0, 0)), np.array(SIZE) / 2).tolist()
    with servers.fault_server(server(tmp_path)) as served:
        report = doctor(f"{served.url}/pyramid")
        assert {rule.id for rule in RULES if "neuroglancer" in rule.readers} & ids(report) == set(flaw.rules)
        served.log.clear()
        with neuroglancer.show(f"precomputed://{served.url}/pyramid", position=position, resolution=(8, 8, 8)) as view:
            chunks = [request.path for request in served.log.entries() if KEY in request.path]
            is_right = bool(chunks) and all((tmp_path / path.lstrip("/")).exists() for path in chunks)
            if is_right:
                shown = view.volume(KEY).astype(int)
                is_right = int(np.abs(shown - voxels[..., 0]).max()) <= 3  # decoders of JPEG round differently
    assert report["neuroglancer"].ok == is_right
