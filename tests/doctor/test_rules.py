"""The rules held against the readers themselves, on disk, over HTTP and in Neuroglancer."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import imagecodecs
import numpy as np
import pytest
from PIL import Image

from precomputed_fs import doctor
from precomputed_fs.doctor.checks import READERS
from precomputed_fs.doctor.rules import RULES
from tests.doctor.flaws import (
    CHUNK_SIZE,
    IDENTITY,
    KEY,
    SIZE,
    Array,
    contents,
    each,
    edited,
    first,
    ids,
    info,
    read_with_ours,
    scale,
    server,
    write,
)
from tests.support import servers
from tests.support.shards import MURMUR, sharding_of
from tests.support.tools import (
    NEUROGLANCER_SCRIPTS,
    info_of,
    open_cloud_volume,
    open_tensorstore,
    read_with_neuroglancer_scripts,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from precomputed_fs.doctor.report import Report
    from tests.support.browser import Neuroglancer


def read_with_tensorstore(url: str, index: int) -> Array:
    store = open_tensorstore(url, index)
    store[tuple(map(slice, store.domain.origin, np.add(store.domain.origin, 1)))].read().result()
    return np.asarray(store.read().result())  # which needs no ranges, if it is all of a shard


def read_with_cloud_volume(url: str, index: int) -> Array:
    return np.array(open_cloud_volume(url, index)[:, :, :])


PEERS: Mapping[str, Callable[[str, int], Array]] = {
    "precomputed_fs": read_with_ours,
    "tensorstore": read_with_tensorstore,
    "cloud-volume": read_with_cloud_volume,
    "neuroglancer-scripts": lambda url, index: read_with_neuroglancer_scripts(url, index)[1],
}


def reads(reader: str, url: str, expected: Array, index: int = 0) -> bool:
    """Return whether a reader opens and reads a scale, with the right voxels."""
    try:
        voxels = PEERS[reader](url, index)
    except Exception:  # noqa: BLE001 - whatever it is that it cannot
        return False
    return voxels.dtype == expected.dtype and np.array_equal(voxels, expected, equal_nan=expected.dtype.kind == "f")


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


def test_each_verdict_on_a_peer_is_tested() -> None:
    """Each rule that closes a pyramid to a reader that runs here is among those that a test expects."""
    expected = {rule for flaw in (*FLAWS, *SERVED) for rule in flaw.rules}
    others = {
        "info-absent", "info-denied", "info-unreachable", "info-damaged", "info-wrong",  # of what nobody can open
        "private", "no-cors", "library", "scale-wrong", "chunks-failed",
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
    Flaw("nothing, jpeg, as far as it may be", options={"encoding": "jpeg", "voxel_offset": (2**24 - 64, 0, 0)}),
    Flaw("@type of null", ["kind-null"], spoil=info(**{"@type": None})),
    Flaw("an odd offset", ["float32-names"], {"voxel_offset": (2**24 + 1, 0, 0)}),
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
