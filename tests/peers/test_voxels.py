"""What tensorstore, cloud-volume and neuroglancer-scripts write is read voxel by voxel, and they read what we write.

A matrix of whatever each of them supports. `LIMITS` says what it does not, and each limit is tested as well, so that
one that falls is noticed. Of a lossy encoding, both have to read the same, and as well as the other tool itself does.
"""

import contextlib
import importlib.util
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from precomputed_fs import create_volume, open_volume
from precomputed_fs.format.grid import Triple
from tests.support.brain import image, labels
from tests.support.shards import MURMUR, sharding_of
from tests.support.tools import (
    CLOUD_VOLUME,
    LABELS,
    NEUROGLANCER_SCRIPTS,
    OURS,
    PARAMETERS,
    PEERS,
    SCRAMBLED,
    TENSORSTORE,
    Array,
    Info,
    Tool,
    boxes,
    info_of,
    open_cloud_volume,
    unscrambled,
)

# ---------------------------------------------------------------------------------------------------------- the matrix


@dataclass(frozen=True)
class Shape:
    """Where the voxels are, and how they are cut."""

    name: str
    size: Triple = (35, 24, 29)
    chunk_size: Triple = (16, 13, 11)
    voxel_offset: Triple = (0, 0, 0)


ORIGIN = Shape("origin")
EDGES = Shape("edges", voxel_offset=(5, -30, 7))
CUBES = Shape("cubes", chunk_size=(13, 13, 13))
FAR = Shape("far", voxel_offset=(2**31 - 8, 2**40, -(2**33)))
FEW_CHUNKS = (
    Shape("whole-chunks", size=(32, 13, 22), voxel_offset=(64, 0, -22)),
    Shape("one-chunk", size=(19, 7, 5), chunk_size=(64, 64, 64), voxel_offset=(1, 2, 3)),
    Shape("slices", size=(35, 24, 3), chunk_size=(20, 37, 1), voxel_offset=(0, 0, 100)),
    Shape("row", size=(35, 1, 1), chunk_size=(8, 1, 1), voxel_offset=(0, -1, 0)),
)
SHAPES = (*FEW_CHUNKS, ORIGIN, EDGES, CUBES, FAR, Shape("negative", voxel_offset=(-1000, -200, -3000)))


@dataclass(frozen=True)
class Case:
    """A scale: what `info` says of it, and how its objects are stored."""

    encoding: str
    data_type: str
    channels: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    shape: Shape = EDGES
    sharding: Mapping[str, Any] | None = None
    stored: str = "plain"
    """How objects are compressed, and whether each is in folders of its own; see `Tool.stored`."""

    is_lossy: bool = False

    def __str__(self) -> str:
        words = [self.encoding, self.data_type, self.channels, *self.parameters.values(), self.shape.name, self.stored]
        if self.sharding is not None:
            words += [value for key, value in self.sharding.items() if key != "@type"]
        return " ".join(map(str, words))

    @property
    def info(self) -> Info:
        scale = {
            "key": "2mm",
            "size": self.shape.size,
            "voxel_offset": self.shape.voxel_offset,
            "resolution": (2_000_000, 2_000_000, 2_000_000),
            "chunk_sizes": [self.shape.chunk_size],
            "encoding": self.encoding,
            **self.parameters,
            **({} if self.sharding is None else {"sharding": self.sharding}),
        }
        return info_of("segmentation" if self.encoding in LABELS else "image", self.data_type, self.channels, [scale])

    @property
    def voxels(self) -> Array:
        """What is written, ``[x, y, z, channel]``."""
        x, y, z = self.shape.size
        make = labels if self.encoding in LABELS else image
        return make(self.data_type)[-x:, -y:, -z:, : self.channels]


UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
SIGNED = ("int8", "int16", "int32", "int64")
DATA_TYPES = (*UNSIGNED, *SIGNED, "float32", "float64")
LOSSLESS: Sequence[tuple[str, Sequence[str], Sequence[int]]] = (
    ("raw", DATA_TYPES, (1, 3)),
    ("raw", ("uint16",), (2, 4)),
    ("png", ("uint8", "uint16"), (1, 2, 3, 4)),
    ("jxl", ("uint8",), (1, 3, 4)),
    ("compressed_segmentation", ("uint32", "uint64"), (1, 2, 3)),
    ("compresso", UNSIGNED, (1,)),
    ("crackle", UNSIGNED, (1,)),
    ("fpzip", ("float32", "float64"), (1, 3)),
    ("zfpc", ("float32",), (1, 3)),  # of other types, the library makes float32
)
"""Encodings with the data types and numbers of channels that any of the tools stores."""

LOSSY = (
    *(Case("jpeg", "uint8", n, {"jpeg_quality": q}, is_lossy=True) for n in (1, 3) for q in (40, 85, 100)),
    *(Case("jxl", "uint8", n, {"jxl_quality": 85}, is_lossy=True) for n in (1, 3)),
    *(Case("kempressed", "float32", n, is_lossy=True) for n in (1, 3)),
    Case("fpzip", "float32", 3, {"fpzip_precision": 16}, is_lossy=True),
    *(
        Case("zfpc", "float32", 3, {**PARAMETERS["zfpc"], **limit}, is_lossy=True)
        for limit in ({"zfpc_tolerance": 0.25}, {"zfpc_rate": 8.0}, {"zfpc_precision": 12})
    ),
)
RAW = Case("raw", "uint16", 3)
SAMPLES = (
    RAW,
    Case("jpeg", "uint8", 1, {"jpeg_quality": 85}, is_lossy=True),
    Case("compressed_segmentation", "uint64", 1, PARAMETERS["compressed_segmentation"]),
)
MORE_SAMPLES = (
    Case("png", "uint8", 3),
    Case("jxl", "uint8", 3, PARAMETERS["jxl"]),
    Case("compresso", "uint32", 1),
    Case("crackle", "uint16", 1),
    Case("fpzip", "float32", 3),
    Case("zfpc", "float32", 3, PARAMETERS["zfpc"]),
)
COMPRESSED = ("gzip", "br", "zstd", "xz", "bz2", "plain folders", "gzip folders")
HASHES = ("identity", MURMUR)
SHARDINGS = (
    *(sharding_of((1, 1, 2), *each) for each in itertools.product(HASHES, ("raw", "gzip"), ("raw", "gzip"))),
    *(sharding_of(bits, each) for bits in ((0, 0, 0), (0, 3, 0), (9, 2, 1), (0, 0, 6)) for each in HASHES),
)


def cases(base: Shape, sharded: Shape) -> Iterator[Case]:
    """Go through the matrix; `base` and `sharded` are the usual shapes."""
    for encoding, data_types, channels in LOSSLESS:
        for data_type, count in itertools.product(data_types, channels):
            yield Case(encoding, data_type, count, PARAMETERS.get(encoding, {}), base)
    block_size = {"compressed_segmentation_block_size": (3, 8, 5)}
    yield Case("compressed_segmentation", "uint32", 3, block_size, base)
    for case in LOSSY:
        yield replace(case, shape=base)
    for case, shape in (*itertools.product(SAMPLES, SHAPES), *itertools.product(MORE_SAMPLES, FEW_CHUNKS)):
        if shape != base:
            yield replace(case, shape=shape)
    for case, stored in itertools.product(SAMPLES, COMPRESSED):
        yield replace(case, shape=base, stored=stored)
    for sharding in SHARDINGS:
        yield replace(RAW, shape=sharded, sharding=sharding)
    for case, hashed_by in itertools.product(SAMPLES[1:], HASHES):
        yield replace(case, shape=sharded, sharding=sharding_of((1, 1, 1), hashed_by))
    yield replace(RAW, shape=base, sharding=sharding_of((1, 1, 1), "identity"))


# --------------------------------------------------------------------------------------------------------- real voxels


def test_the_voxels_are_worth_reading() -> None:
    x, y, z = EDGES.chunk_size
    for data_type in DATA_TYPES:
        voxels = Case("raw", data_type, 4).voxels
        assert voxels.shape == (*EDGES.size, 4)
        assert voxels.dtype == data_type
        assert not voxels[:x, :y, :z].any(), "no chunk is empty"
        assert min(len(np.unique(voxels[..., channel])) for channel in range(4)) > 60
    assert all(size % chunk for size, chunk in zip(EDGES.size, EDGES.chunk_size, strict=True)), "no chunk is clipped"
    for shape in SHAPES:
        assert len(np.unique(Case("raw", "uint8", 1, shape=shape).voxels)) > 10
        assert len(np.unique(Case("compresso", "uint64", 1, shape=shape).voxels)) > 1
    assert len(np.unique(labels("uint64"))) == 6
    assert labels("uint64").max() == 2**64 - 1


def cases_for(peer: Tool) -> Iterator[Case]:
    return cases(ORIGIN, CUBES) if peer is NEUROGLANCER_SCRIPTS else cases(EDGES, EDGES)


# -------------------------------------------------------------------------------------------------- what they do not do


@dataclass(frozen=True)
class Limit:
    """Something that a tool does not do, or not rightly."""

    tool: Tool
    verbs: tuple[str, ...]
    reason: str
    excludes: Callable[[Case], object]


READS, WRITES, BOTH = ("reads",), ("writes",), ("reads", "writes")
LIMITS = (
    Limit(OURS, WRITES, "these are not of the format", lambda case: case.data_type in {"int64", "float64"}),
    Limit(TENSORSTORE, WRITES, "knows no such data type", lambda case: case.data_type in {"int64", "float64"}),
    Limit(
        TENSORSTORE,
        BOTH,
        "knows no such encoding",
        lambda case: case.encoding not in {"raw", "jpeg", "png", "compressed_segmentation"},
    ),
    Limit(
        TENSORSTORE,
        READS,
        "asks for plain names only, and takes what is absent for zeros",
        lambda case: case.stored.endswith("folders") or (case.stored == "gzip" and case.encoding != "jpeg"),
    ),
    Limit(CLOUD_VOLUME, READS, "looks into no folders", lambda case: case.stored.endswith("folders")),
    Limit(CLOUD_VOLUME, BOTH, "counts voxels in 32 bits", lambda case: case.shape is FAR),
    Limit(
        CLOUD_VOLUME,
        BOTH,
        "its library has no 16-bit PNG but with an alpha channel",
        lambda case: (case.encoding, case.data_type) == ("png", "uint16") and case.channels in {1, 3},
    ),
    Limit(
        CLOUD_VOLUME,
        WRITES,
        "squeezes the channels away",
        lambda case: case.encoding == "compressed_segmentation" and case.channels > 1,
    ),
    Limit(CLOUD_VOLUME, WRITES, "has grey and RGB only", lambda case: case.encoding == "jxl" and case.channels == 4),
    Limit(
        NEUROGLANCER_SCRIPTS,
        BOTH,
        "knows no such data type",
        lambda case: case.data_type in {*SIGNED, "float64"},
    ),
    Limit(
        NEUROGLANCER_SCRIPTS,
        BOTH,
        "knows no such encoding",
        lambda case: case.encoding not in {"raw", "jpeg", "compressed_segmentation"},
    ),
    Limit(NEUROGLANCER_SCRIPTS, BOTH, "has no voxel_offset", lambda case: any(case.shape.voxel_offset)),
    Limit(
        NEUROGLANCER_SCRIPTS,
        BOTH,
        "takes x for z in blocks that are clipped",
        lambda case: len(set(case.parameters.get("compressed_segmentation_block_size", ()))) > 1,
    ),
    Limit(
        NEUROGLANCER_SCRIPTS,
        BOTH,
        "has no hash but identity",
        lambda case: case.sharding and case.sharding["hash"] == MURMUR,
    ),
    Limit(
        NEUROGLANCER_SCRIPTS,
        BOTH,
        "shards no chunks but cubes",
        lambda case: case.sharding and len(set(case.shape.chunk_size)) > 1,
    ),
    Limit(
        NEUROGLANCER_SCRIPTS,
        READS,
        "takes zlib for gzip in shards",
        lambda case: case.sharding and "gzip" in case.sharding.values(),
    ),
    Limit(
        NEUROGLANCER_SCRIPTS,
        READS,
        "opens no shard with an empty minishard",
        lambda case: case.sharding and case.sharding["preshift_bits"] == 9,
    ),
)


def limits(writer: Tool, reader: Tool, case: Case) -> list[Limit]:
    verbs = {writer.name: "writes", reader.name: "reads"}
    return [each for each in LIMITS if verbs.get(each.tool.name) in each.verbs and each.excludes(case)]


def possible(writer: Tool, reader: Tool) -> Iterator[Case]:
    """Go through the cases that one can write, and the other can read."""
    for case in cases_for(reader if writer is OURS else writer):
        if case.stored in writer.stored and not limits(writer, reader, case):
            yield case


def named(name: str, writer: Tool, reader: Tool, case: Case | None) -> Any:
    """Make a test's parameters."""
    marks = []
    if case is not None and case.encoding == "png" and CLOUD_VOLUME in {writer, reader}:
        is_missing = importlib.util.find_spec("pyspng") is None
        marks.append(pytest.mark.skipif(is_missing, reason="cloud-volume needs pyspng-seunglab for PNG"))
    return pytest.param(writer, reader, case, id=name, marks=marks)


def limit_cases() -> Iterator[Any]:
    """Find a case for each limit that no other excludes."""
    for limit, verb in ((each, verb) for each in LIMITS for verb in each.verbs):
        other = CLOUD_VOLUME if limit.tool is OURS else OURS
        writer, reader = (limit.tool, other) if verb == "writes" else (other, limit.tool)
        cases = (each for each in cases_for(reader if writer is OURS else writer) if each.stored in writer.stored)
        case = next((each for each in cases if limits(writer, reader, each) == [limit]), None)
        yield named(f"{limit.tool.name} {verb}: {limit.reason}", writer, reader, case)


@pytest.mark.parametrize(("writer", "reader", "case"), list(limit_cases()))
def test_a_limit_is_one(tmp_path: Path, writer: Tool, reader: Tool, case: Case | None) -> None:
    assert case is not None, "no case of the matrix shows the limit"
    voxels = None
    with contextlib.suppress(Exception):
        writer.write(tmp_path, case.info, [case.voxels], **writer.stored[case.stored])
        _, voxels = reader.read(tmp_path, 0)
    assert voxels is None or not np.array_equal(voxels, case.voxels)


# ----------------------------------------------------------------------------------------------------------- the tests


def matrix(*directions: tuple[Tool, Tool]) -> list[Any]:
    return [
        named(f"{writer.name} to {reader.name}: {case}", writer, reader, case)
        for writer, reader in directions
        for case in possible(writer, reader)
    ]


def error(voxels: Array, case: Case) -> float:
    """Return the root mean square of what an encoding has changed."""
    return float(np.sqrt(np.mean((voxels.astype(np.float64) - case.voxels) ** 2)))


@pytest.fixture(scope="module")
def own_error(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Tool, Case], float]:
    """Return what a tool changes when it writes a case and reads it itself."""
    known: dict[str, float] = {}

    def measure(tool: Tool, case: Case) -> float:
        plain = replace(case, stored="plain", sharding=None)
        name = f"{tool.name} {plain}"
        if name not in known:
            folder = tmp_path_factory.mktemp("own")
            tool.write(folder, plain.info, [plain.voxels], **tool.stored["plain"])
            known[name] = error(tool.read(folder, 0)[1], plain)
        return known[name]

    return measure


@pytest.mark.parametrize(("writer", "reader", "case"), matrix(*((OURS, peer) for peer in PEERS)))
def test_ours_is_read(
    tmp_path: Path, own_error: Callable[[Tool, Case], float], writer: Tool, reader: Tool, case: Case
) -> None:
    writer.write(tmp_path, case.info, [case.voxels], **writer.stored[case.stored])
    voxel_offset, voxels = reader.read(tmp_path, 0)
    assert tuple(voxel_offset) == case.shape.voxel_offset
    assert voxels.dtype == case.data_type
    if case.is_lossy:
        np.testing.assert_array_equal(voxels, open_volume(tmp_path)[0][...])
        assert 0 < error(voxels, case) < 1.01 * own_error(reader, case)
    else:
        np.testing.assert_array_equal(voxels, case.voxels)


@pytest.mark.parametrize(("writer", "reader", "case"), matrix(*((peer, OURS) for peer in PEERS)))
def test_theirs_is_read(tmp_path: Path, writer: Tool, reader: Tool, case: Case) -> None:
    writer.write(tmp_path, case.info, [case.voxels], **writer.stored[case.stored])
    expected = writer.read(tmp_path, 0)[1] if case.is_lossy else case.voxels
    voxel_offset, voxels = reader.read(tmp_path, 0)
    assert voxel_offset == case.shape.voxel_offset
    assert voxels.dtype == case.data_type
    np.testing.assert_array_equal(voxels, expected)
    scale = open_volume(tmp_path)[0]
    for part in parts(expected.shape):
        np.testing.assert_array_equal(scale[moved(part, voxel_offset)], expected[part])
        np.testing.assert_array_equal(scale.array[part], expected[part])


def parts(shape: tuple[int, ...]) -> Iterator[tuple[int | slice, ...]]:
    """Go through some boxes that no chunks' borders agree with, counted from 0."""
    x, y, z, channels = shape
    yield slice(x // 3, x), slice(y // 4, y // 2 + 1), slice(z // 3, z)
    yield slice(None), y // 2, slice(None, None, 3), slice(channels - 1, channels)
    yield x - 1, y - 1, z - 1


def moved(part: tuple[int | slice, ...], voxel_offset: Sequence[int]) -> tuple[int | slice, ...]:
    """Make absolute coordinates of those that count from 0."""
    return tuple(
        each + low
        if isinstance(each, int)
        else slice(
            None if each.start is None else each.start + low, None if each.stop is None else each.stop + low, each.step
        )
        for each, low in zip(part, (*voxel_offset, 0), strict=False)
    )


def to_change() -> Iterator[Any]:
    for peer in PEERS:
        base = replace(RAW, shape=ORIGIN) if peer is NEUROGLANCER_SCRIPTS else RAW
        for stored in peer.stored:
            yield pytest.param(peer, replace(base, stored=stored), id=f"{peer.name} {stored}")
        for hashed_by in HASHES if peer is not NEUROGLANCER_SCRIPTS else ():
            sharding = sharding_of((1, 1, 1), hashed_by, "gzip", "gzip")
            yield pytest.param(peer, replace(base, sharding=sharding), id=f"{peer.name} {hashed_by}")


@pytest.mark.parametrize(("peer", "case"), list(to_change()))
def test_what_we_change_of_theirs_is_read(tmp_path: Path, peer: Tool, case: Case) -> None:
    peer.write(tmp_path, case.info, [case.voxels], **peer.stored[case.stored])
    part = (slice(3, 20), slice(0, 15), slice(10, 29))
    expected = case.voxels.copy()
    expected[part] = expected[part][::-1]
    changed = open_volume(tmp_path)[0]
    changed[moved(part, case.shape.voxel_offset)] = expected[part]
    np.testing.assert_array_equal(peer.read(tmp_path, 0)[1], expected)
    np.testing.assert_array_equal(open_volume(tmp_path)[0][...], expected)


@pytest.mark.parametrize(("encoding", "channels"), [(name, n) for name, counts in SCRAMBLED.items() for n in counts])
def test_cloud_volume_scrambles_images_when_it_reads_them(tmp_path: Path, encoding: str, channels: int) -> None:
    """Its reading is put right above, which is wrong once it is right."""
    if encoding == "png":
        pytest.importorskip("pyspng", reason="cloud-volume needs pyspng-seunglab for PNG")
    case = Case(encoding, "uint8", channels, PARAMETERS.get(encoding, {}))
    OURS.write(tmp_path, case.info, [case.voxels])
    volume = open_cloud_volume(tmp_path)
    read = np.array(volume[:, :, :]).astype(np.float64)
    assert np.abs(unscrambled(read, volume.chunk_size) - case.voxels).mean() < 10
    assert np.abs(read - case.voxels).mean() > 40


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
@pytest.mark.parametrize("is_written", [True, False], ids=["ours", "theirs"])
def test_what_is_no_number_keeps_its_bits(tmp_path: Path, peer: Tool, is_written: bool) -> None:
    case = Case("raw", "float32", 1, shape=ORIGIN)
    bits = case.voxels.view(np.uint32).copy()
    bits[::5, ::3, ::2, 0] = 0x7FC12345  # a NaN that says something
    bits[1::5, ::3, ::2, 0] = 0xFF800000  # minus infinity
    bits[2::5, ::3, ::2, 0] = 0x80000000  # minus zero
    writer, reader = (OURS, peer) if is_written else (peer, OURS)
    writer.write(tmp_path, case.info, [bits.view(np.float32)], **writer.stored["plain"])
    np.testing.assert_array_equal(reader.read(tmp_path, 0)[1].view(np.uint32), bits)


def test_jpeg_of_another_plane_is_read(tmp_path: Path) -> None:
    """In images of neuroglancer-scripts, a row may be a whole slice."""
    from neuroglancer_scripts.file_accessor import FileAccessor
    from neuroglancer_scripts.precomputed_io import get_IO_for_new_dataset

    case = Case("jpeg", "uint8", 3, shape=ORIGIN)
    options = {"jpeg_plane": "xz", "jpeg_quality": 85}
    writer = get_IO_for_new_dataset(case.info, FileAccessor(str(tmp_path)), encoder_options=options)
    for start, stop in boxes(case.shape.size, case.shape.chunk_size):
        part = case.voxels[tuple(map(slice, start, stop))]
        writer.write_chunk(part.T, "2mm", [*itertools.chain(*zip(start, stop, strict=True))])
    np.testing.assert_array_equal(open_volume(tmp_path)[0][...], NEUROGLANCER_SCRIPTS.read(tmp_path, 0)[1])


def test_tensorstore_takes_what_we_left_out_for_zeros(tmp_path: Path) -> None:
    create_volume(tmp_path, RAW.voxels, resolution=(8, 8, 8), chunk_size=RAW.shape.chunk_size, skip_empty=True)
    assert len(list(tmp_path.glob("8_8_8/*"))) == 17
    np.testing.assert_array_equal(TENSORSTORE.read(tmp_path, 0)[1], RAW.voxels)


# --------------------------------------------------------------------------------------------------------- lower scales


@dataclass(frozen=True)
class Level:
    """A scale of a pyramid."""

    voxel_offset: Triple
    size: Triple
    resolution: Triple
    factors: Triple
    """How many voxels of the scale before make one, along each axis."""


MM = 1_000_000
PYRAMIDS = {
    "offset": (
        Level((5, -30, 7), (35, 24, 29), (MM, MM, 2 * MM), (1, 1, 1)),
        Level((2, -15, 7), (18, 12, 29), (2 * MM, 2 * MM, 2 * MM), (2, 2, 1)),
        Level((1, -8, 3), (9, 7, 15), (4 * MM, 4 * MM, 4 * MM), (2, 2, 2)),
    ),
    "origin": (
        Level((0, 0, 0), (35, 24, 29), (MM, MM, 2 * MM), (1, 1, 1)),
        Level((0, 0, 0), (18, 12, 29), (2 * MM, 2 * MM, 2 * MM), (2, 2, 1)),
        Level((0, 0, 0), (9, 6, 15), (4 * MM, 4 * MM, 4 * MM), (2, 2, 2)),
    ),
}
PYRAMIDS_FOR = [(TENSORSTORE, "offset"), (CLOUD_VOLUME, "offset"), (NEUROGLANCER_SCRIPTS, "origin")]
SHARDED_PYRAMIDS_FOR = PYRAMIDS_FOR[:2]  # neuroglancer-scripts reads no gzip in shards
IMAGE = Case("raw", "uint8", 3)
SEGMENTS = Case("compressed_segmentation", "uint64", 1, PARAMETERS["compressed_segmentation"])


def summed(voxels: Array, before: Level, level: Level) -> Array:
    """Add up the voxels that fall into each voxel of a lower scale."""
    cells = [
        np.arange(low, low + count) // factor - first
        for low, count, factor, first in zip(
            before.voxel_offset, before.size, level.factors, level.voxel_offset, strict=True
        )
    ]
    sums = np.zeros((*level.size, voxels.shape[3]))
    np.add.at(sums, np.ix_(*cells), voxels)
    return sums


def lower_scales(voxels: Array, levels: Sequence[Level], *, are_labels: bool) -> list[Array]:
    """Return what each scale should be: rounded averages, or the most frequent label, the smallest of several."""
    scales = [voxels]
    for before, level in itertools.pairwise(levels):
        finer = scales[-1]
        if are_labels:
            chosen = np.unique(finer)
            votes = [summed(finer == label, before, level) for label in chosen]
            scales.append(chosen[np.argmax(votes, axis=0)])
        else:
            average = summed(finer, before, level) / summed(np.ones_like(finer), before, level)
            scales.append(np.floor(average + 0.5).astype(finer.dtype))
    return scales


@pytest.mark.parametrize(
    ("peer", "pyramid", "is_sharded"),
    [*((*each, False) for each in PYRAMIDS_FOR), *((*each, True) for each in SHARDED_PYRAMIDS_FOR)],
    ids=lambda value: getattr(value, "name", str(value)),
)
@pytest.mark.parametrize("case", [IMAGE, SEGMENTS], ids=["average", "mode"])
def test_each_scale_of_ours_is_read(tmp_path: Path, peer: Tool, pyramid: str, is_sharded: bool, case: Case) -> None:
    levels = PYRAMIDS[pyramid]
    create_volume(
        tmp_path,
        case.voxels,
        resolution=levels[0].resolution,
        voxel_offset=levels[0].voxel_offset,
        chunk_size=EDGES.chunk_size,
        encoding=case.encoding,
        sharding=is_sharded,
        scales=3,
    )
    expected = lower_scales(case.voxels, levels, are_labels=case is SEGMENTS)
    described = json.loads((tmp_path / "info").read_bytes())["scales"]
    for index, (level, scale, array) in enumerate(zip(levels, described, expected, strict=True)):
        assert scale["resolution"] == list(level.resolution)
        voxel_offset, voxels = peer.read(tmp_path, index)
        assert tuple(voxel_offset) == level.voxel_offset
        np.testing.assert_array_equal(voxels, array)


@pytest.mark.parametrize(("peer", "pyramid"), PYRAMIDS_FOR, ids=lambda value: getattr(value, "name", value))
def test_each_scale_of_theirs_is_read(tmp_path: Path, peer: Tool, pyramid: str) -> None:
    levels = PYRAMIDS[pyramid]
    arrays = lower_scales(IMAGE.voxels, levels, are_labels=False)
    scales = [
        {
            "key": f"level{index}",
            "size": level.size,
            "voxel_offset": level.voxel_offset,
            "resolution": level.resolution,
            "chunk_sizes": [EDGES.chunk_size],
            "encoding": "raw",
        }
        for index, level in enumerate(levels)
    ]
    peer.write(tmp_path, info_of("image", "uint8", 3, scales), arrays, **peer.stored["plain"])
    volume = open_volume(tmp_path)
    assert [scale.key for scale in volume] == ["level0", "level1", "level2"]
    for level, array in zip(levels, arrays, strict=True):
        scale = volume.at_resolution(level.resolution)
        assert (scale.voxel_offset, scale.shape) == (level.voxel_offset, (*level.size, 3))
        np.testing.assert_array_equal(scale[...], array)
