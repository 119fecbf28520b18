"""Chunks are the voxels that they were, to us as to other tools; bytes that are no chunk are refused at once."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import io
import itertools
import json
import math
import pickle
import random
import struct
import subprocess
import sys
import time
import tomllib
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import imagecodecs
import nibabel
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, PngImagePlugin

from precomputed_fs import CorruptDataError, InvalidInfoError
from precomputed_fs.codecs import ENCODINGS, Codec, codec_for, fpzip
from precomputed_fs.codecs.sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from precomputed_fs.format.grid import Triple

Array = np.ndarray[Any, np.dtype[Any]]

REPOSITORY = Path(__file__).parents[2]
SEGMENTATION = "compressed_segmentation"
BLOCK_SIZE = "compressed_segmentation_block_size"
LOSSLESS = {"jxl": {"jxl_quality": 100}}
"""Parameters that make an encoding lossless, where others are its defaults."""


def codec_of(encoding: str, data_type: str, num_channels: int = 1, **parameters: Any) -> Codec:
    """Return the codec of a new scale."""
    return codec_for(encoding, data_type, num_channels, ENCODINGS[encoding].defaults | parameters)


class Case(NamedTuple):
    encoding: str
    data_type: str
    num_channels: int

    def codec(self, **parameters: Any) -> Codec:
        return codec_of(*self, **parameters)

    def __str__(self) -> str:
        return "-".join(map(str, self))


def cases() -> Iterator[Case]:
    """Go through what can be written."""
    for encoding, row in ENCODINGS.items():
        for data_type, num_channels in itertools.product(row.data_types, row.channels or (1, 3)):
            yield Case(encoding, data_type, num_channels)


CASES = list(cases())
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_encoding = pytest.mark.parametrize("encoding", ENCODINGS)
FPZIP = ("fpzip", "kempressed")  # whose library crashes on damaged data, and has processes of its own for that
each_firm_encoding = pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name not in FPZIP])
each_fragile_encoding = pytest.mark.parametrize("encoding", FPZIP)


# --------------------------------------------------------------------------------------------------------- real voxels


@functools.cache
def brain() -> Array:
    """Cut a piece out of the MNI152 T1 template that nilearn ships, without importing nilearn: ``[x, y, z]``."""
    (folder,) = importlib.util.find_spec("nilearn").submodule_search_locations  # type: ignore[union-attr,misc]
    path = Path(folder) / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image: Any = nibabel.load(path)
    voxels = np.asarray(image.dataobj[60:124, 80:144, 60:84], dtype=np.uint8)
    assert len(np.unique(voxels)) > 100, "the voxels are worth reading"
    return voxels


def tissues(data_type: str) -> Array:
    """Label the brain by thresholds, with labels that use all of the type."""
    labels = np.array([0, 5, 200, np.iinfo(data_type).max], data_type)
    tissue: Array = labels[np.digitize(brain(), [60, 120, 170])]
    return tissue


@functools.cache
def voxels_of(case: Case) -> Array:
    """Return the brain, or its tissues, in the data type and number of channels of a case: ``[x, y, z, channel]``."""
    dtype = np.dtype(case.data_type)
    if dtype.kind == "f":
        volume = brain() / dtype.type(255)
    elif case.encoding in {SEGMENTATION, "compresso", "crackle"}:
        volume = tissues(case.data_type)
    elif dtype.kind == "i":
        volume = brain().astype(dtype) - dtype.type(100)
    else:
        volume = brain().astype(dtype) * dtype.type(1 if dtype.itemsize == 1 else 257)
    return np.stack([np.roll(volume, 7 * channel, axis=channel % 3) for channel in range(case.num_channels)], axis=-1)


SIZES = [(1, 1, 1), (5, 64, 3), (64, 64, 8), (1, 3, 1), (3, 1, 7), (33, 2, 1), (4, 4, 4), (17, 1, 1), (2, 9, 24)]


def assert_same(codec: Codec, decoded: Array, array: Array, worst: float = 0) -> None:
    """Compare what was decoded with what was encoded, which may differ by the worst of a lossy encoding."""
    assert decoded.shape == array.shape
    assert decoded.dtype == codec.dtype
    if codec.lossless:
        np.testing.assert_array_equal(decoded, array)
    else:
        np.testing.assert_allclose(decoded.astype(np.float64), array.astype(np.float64), rtol=0, atol=worst)


WORST = {"jpeg": 40, "jxl": 40, "kempressed": 2**-22}
"""The largest error that an encoding makes in the brain; the mean is far below."""


# ----------------------------------------------------------------------------------------------------------- the table


def test_the_encodings_are_those_that_readers_know() -> None:
    assert list(ENCODINGS) == [
        *("raw", "jpeg", "png", "jxl", SEGMENTATION),
        *("compresso", "crackle", "fpzip", "kempressed", "zfpc"),
    ]
    assert all(name == row.name == name.lower() for name, row in ENCODINGS.items())


@each_encoding
def test_a_row_of_the_table_is_consistent(encoding: str) -> None:
    row = ENCODINGS[encoding]
    assert set(row.data_types) <= set(ENCODINGS["raw"].data_types)
    assert row.channels is None or all(count > 0 for count in row.channels)
    assert (row.library is None) == (encoding == "raw")
    assert all(parameter.default is None or parameter.accepts(parameter.default) for parameter in row.parameters)
    assert json.loads(json.dumps(row.defaults)) == row.defaults
    codec = codec_of(encoding, row.data_types[0])
    codec.check()
    assert codec.info_parameters() == row.defaults
    assert codec.mime_type == row.mime_type


def test_a_key_of_info_belongs_to_one_encoding() -> None:
    keys = [parameter.key for row in ENCODINGS.values() for parameter in row.parameters]
    assert len(keys) == len(set(keys))
    assert all(key.startswith(row.name) for row in ENCODINGS.values() for key in row.defaults)


def test_an_extra_installs_the_libraries_that_are_not_always_there() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    always = " ".join(project["dependencies"]).replace("-", "_")
    for row in ENCODINGS.values():
        if row.extra is not None:
            extra = " ".join(project["optional-dependencies"][row.extra]).replace("-", "_")
            assert str(row.library) in extra
        elif row.library is not None:
            assert row.library in always


def test_importing_the_module_imports_no_codec() -> None:
    libraries = {row.library for row in ENCODINGS.values()} - {None}
    program = (
        "import sys, types; sys.modules['precomputed_fs'] = package = types.ModuleType('precomputed_fs');"
        "package.__path__ = ['precomputed_fs']; import precomputed_fs.codecs; print(*sys.modules)"
    )
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=REPOSITORY, text=True)
    imported = set(child.stdout.split())
    assert "numpy" in imported
    assert not libraries & imported


@each_encoding
def test_mime_types(encoding: str) -> None:
    images = {"jpeg": "image/jpeg", "png": "image/png", "jxl": "image/jxl"}
    row = ENCODINGS[encoding]
    assert codec_of(encoding, row.data_types[0]).mime_type == images.get(encoding, "application/octet-stream")


@each_encoding
def test_a_default_cannot_be_changed_by_accident(encoding: str) -> None:
    row = ENCODINGS[encoding]
    before = json.dumps(row.defaults)
    codec = codec_of(encoding, row.data_types[0])
    for values in (row.defaults, codec.info_parameters()):
        for value in values.values():
            if isinstance(value, list):
                value.clear()
    assert json.dumps(row.defaults) == json.dumps(codec.info_parameters()) == before


@each_case
def test_a_codec_can_be_pickled(case: Case) -> None:
    codec = case.codec()
    copied = pickle.loads(pickle.dumps(codec))
    assert copied == codec
    array = voxels_of(case)[:5, :6, :7]
    assert copied.encode(array) == codec.encode(array)


# --------------------------------------------------------------------------------------------------------- round trips


@each_case
def test_round_trip(case: Case) -> None:
    codec = case.codec(**LOSSLESS.get(case.encoding, {}))
    for x, y, z in SIZES:
        array = voxels_of(case)[-x:, -y:, -z:]
        data = codec.encode(array)
        assert type(data) is bytes
        assert_same(codec, codec.decode(data, (x, y, z)), array, WORST.get(case.encoding, 0))


@each_case
def test_extreme_values(case: Case) -> None:
    codec = case.codec(**LOSSLESS.get(case.encoding, {}))
    dtype = np.dtype(case.data_type)
    shape = (16, 12, 10, case.num_channels)
    if dtype.kind == "f":
        limits = np.array([0, -0.0, 1, -1], dtype)
    else:
        limits = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 0, 1, np.iinfo(dtype).max - 7], dtype)
    for array in (
        np.resize(limits, shape),
        np.full(shape, limits[1]),
        np.random.default_rng(1).choice(limits, shape),
    ):
        worst = {"jpeg": 255, "kempressed": 2**-22}.get(case.encoding, 0)
        assert_same(codec, codec.decode(codec.encode(array), shape[:3]), array, worst)


@each_case
def test_any_memory_order_gives_the_same_bytes(case: Case) -> None:
    codec = case.codec()
    array = np.ascontiguousarray(voxels_of(case)[:16, :12, :8])
    expected = codec.encode(array)
    frozen = array.copy()
    frozen.flags.writeable = False
    for other in (
        np.asfortranarray(array),
        np.ascontiguousarray(array.T).T,
        np.repeat(array, 2, axis=1)[:, ::2],
        array[::-1, :, ::-1].copy()[::-1, :, ::-1],
        array.astype(array.dtype.newbyteorder(">")),
        frozen,
        np.asfortranarray(frozen),
    ):
        assert codec.encode(other) == expected
    assert (array == frozen).all(), "an array that was encoded is left alone"


def small_arrays(dtype: np.dtype[Any], num_channels: int, largest: int = 9) -> st.SearchStrategy[Array]:
    sides = st.tuples(*[st.integers(1, largest)] * 3, st.just(num_channels))
    # few values make components, runs and shared tables; any value makes the rest
    few = st.sampled_from([0, 1, 2, 250])
    many = st.floats(-1e6, 1e6, width=32) if dtype.kind == "f" else hnp.from_dtype(dtype)
    return sides.flatmap(lambda shape: hnp.arrays(dtype, shape, elements=few) | hnp.arrays(dtype, shape, elements=many))


@pytest.mark.parametrize("case", [Case(name, row.data_types[-1], 1) for name, row in ENCODINGS.items()], ids=str)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip_of_anything(case: Case, data: st.DataObject) -> None:
    codec = case.codec(**LOSSLESS.get(case.encoding, {}))
    array = data.draw(small_arrays(np.dtype(case.data_type), 1))
    decoded = codec.decode(codec.encode(array), array.shape[:3])
    worst = 255 if case.encoding == "jpeg" else 2**-22 * (2 + float(np.abs(array.astype(np.float64)).max()))
    assert_same(codec, decoded, array, worst)


@settings(max_examples=60, deadline=None)
@given(
    array=small_arrays(np.dtype("uint64"), 2, largest=12),
    block_size=st.tuples(*[st.integers(1, 16)] * 3),
    data_type=st.sampled_from(["uint32", "uint64"]),
)
def test_blocks_need_not_be_cubes(array: Array, block_size: Triple, data_type: str) -> None:
    codec = codec_of(SEGMENTATION, data_type, 2, **{BLOCK_SIZE: list(block_size)})
    array = array.astype(data_type)
    assert_same(codec, codec.decode(codec.encode(array), array.shape[:3]), array)


@pytest.mark.parametrize("side", [64, 2**20, 2**31 - 1])
def test_blocks_may_be_larger_than_all_chunks(side: int) -> None:
    """Of one label, they take no room; of more, they take more than there is, which is noticed without overflow."""
    codec = codec_of(SEGMENTATION, "uint64", 1, **{BLOCK_SIZE: [side] * 3})
    data = struct.pack("<3IQ", 1, 2, 2, 7)
    np.testing.assert_array_equal(codec.decode(data, (4, 3, 2)), 7)
    for bits in (1, 2, 4, 8, 16):
        with pytest.raises(CorruptDataError, match="a block's voxels lie after the end"):
            codec.decode(struct.pack("<3I2Q", 1, bits << 24 | 2, 2, 7, 8), (4, 3, 2))


@pytest.mark.parametrize("labels", [1, 2, 3, 5, 17, 257, 60_000])
def test_blocks_of_any_number_of_bits(labels: int) -> None:
    codec = codec_of(SEGMENTATION, "uint64", 1, **{BLOCK_SIZE: [40, 40, 40]})
    array = (np.arange(64_000, dtype=np.uint64) % labels * 2**33).reshape(40, 40, 40, 1)
    assert_same(codec, codec.decode(codec.encode(array), (40, 40, 40)), array)


@pytest.mark.parametrize("num_channels", [1, 3])
def test_jpeg_is_close_to_the_brain(num_channels: int) -> None:
    case = Case("jpeg", "uint8", num_channels)
    array = np.stack([brain()] * num_channels, axis=-1)
    errors = []
    for quality in (20, 85, 100):
        codec = case.codec(jpeg_quality=quality)
        decoded = codec.decode(codec.encode(array), brain().shape)
        errors.append(np.abs(decoded.astype(int) - array).mean())
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 2
    assert errors[2] < 0.7


@pytest.mark.parametrize(("encoding", "worst"), [("jpeg", 8), ("jxl", 8)])
def test_each_colour_stays_in_its_channel(encoding: str, worst: int) -> None:
    codec = codec_of(encoding, "uint8", 3, **{f"{encoding}_quality": 95})
    x, y, z = np.indices((32, 24, 16)).astype(np.float64)
    array = np.stack([8 * x, 10 * y, 16 * z], axis=-1).astype(np.uint8)
    decoded = codec.decode(codec.encode(array), (32, 24, 16))
    assert np.abs(decoded.astype(int) - array).mean() < worst


@pytest.mark.parametrize(
    ("parameters", "worst"),
    [
        ({"zfpc_tolerance": 0.05}, 0.05),
        ({"zfpc_tolerance": 0}, 1e-6),
        ({"zfpc_rate": 16}, 0.01),
        ({"zfpc_precision": 20, "zfpc_rate": -1}, 0.01),
    ],
)
@pytest.mark.parametrize(
    "correlated", [[True, True, True, True], [True, True, False, False], [False, False, True, False]]
)
def test_zfpc_within_its_limits(parameters: dict[str, float], worst: float, correlated: list[bool]) -> None:
    codec = codec_of("zfpc", "float32", 2, zfpc_correlated_dims=correlated, **parameters)
    assert not codec.lossless
    array = voxels_of(Case("zfpc", "float32", 2))[:21, :17, :9]
    assert_same(codec, codec.decode(codec.encode(array), (21, 17, 9)), array, worst)
    without_loss = codec_of("zfpc", "float32", 2, zfpc_correlated_dims=correlated)
    assert without_loss.lossless
    assert_same(without_loss, without_loss.decode(without_loss.encode(array), (21, 17, 9)), array)


@pytest.mark.parametrize(("precision", "worst"), [(0, 0), (32, 0), (20, 2**-10), (12, 2**-2)])
def test_fpzip_keeps_as_many_bits_as_it_is_told(precision: int, worst: float) -> None:
    codec = codec_of("fpzip", "float32", 1, fpzip_precision=precision)
    assert codec.lossless == (worst == 0)
    array = voxels_of(Case("fpzip", "float32", 1))
    assert_same(codec, codec.decode(codec.encode(array), array.shape[:3]), array, worst)


@pytest.mark.parametrize(
    ("encoding", "parameters", "lossless"),
    [
        ("raw", {}, True),
        ("jpeg", {"jpeg_quality": 100}, False),
        ("png", {}, True),
        ("jxl", {}, False),
        ("jxl", {"jxl_quality": 100}, True),
        (SEGMENTATION, {}, True),
        ("compresso", {}, True),
        ("crackle", {}, True),
        ("kempressed", {}, False),
    ],
)
def test_what_is_lossless(encoding: str, parameters: dict[str, Any], *, lossless: bool) -> None:
    assert codec_of(encoding, ENCODINGS[encoding].data_types[0], **parameters).lossless == lossless


def test_raw_chunks_are_views_of_their_data() -> None:
    data = bytes(range(24))
    decoded = codec_of("raw", "uint8", 2).decode(data, (2, 3, 2))
    assert decoded.base is not None
    assert decoded[1, 2, 1, 1] == 23
    assert decoded[1, 0, 0, 0] == 1
    assert decoded[0, 0, 0, 1] == 12
    assert codec_of("raw", "uint16").decode(b"\x01\x02", (1, 1, 1)) == 0x0201
    assert codec_for("raw", "float64", 1, {}).decode(struct.pack("<d", 0.1), (1, 1, 1)) == 0.1


@each_case
def test_threads_decode_what_one_decodes(case: Case) -> None:
    codec = case.codec()
    size = (32, 24, 8)
    chunks = [codec.encode(np.roll(voxels_of(case), shift, axis=0)[:32, :24, :8]) for shift in (0, 5, 11)]
    alone = [codec.decode(data, size) for data in chunks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda data: codec.decode(data, size), chunks * 3))
    for decoded, expected in zip(together, alone * 3, strict=True):
        np.testing.assert_array_equal(decoded, expected)


# ------------------------------------------------------------------------------------------- other readers and writers

SIZE = (20, 17, 11)
CHUNK_SIZE = (16, 16, 8)

TENSORSTORE = [
    *(Case("raw", data_type, count) for data_type in ENCODINGS["raw"].data_types for count in (1, 3)),
    *(case for case in CASES if case.encoding in {"jpeg", "png"}),
    *(Case(SEGMENTATION, data_type, count) for data_type in ("uint32", "uint64") for count in (1, 3)),
]
# What cloud-volume writes PNG with has no grey and no three colours of 16 bits.
CLOUD_VOLUME = [
    *(case for case in CASES if case.num_channels in {1, 3} and case.encoding not in {SEGMENTATION, "png"}),
    *(case for case in CASES if case.encoding == "png" and (case.data_type, case.num_channels % 2) != ("uint16", 1)),
    *(Case(SEGMENTATION, data_type, 1) for data_type in ("uint32", "uint64")),
]
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "jpeg": {"jpeg_quality": 90},
    "png": {"png_level": 3},
    "jxl": {"jxl_quality": 90, "jxl_effort": 3, "jxl_decodingspeed": 1},
    SEGMENTATION: {BLOCK_SIZE: [8, 4, 5]},
    "fpzip": {"fpzip_precision": 24},
    "zfpc": {"zfpc_tolerance": 0.01, "zfpc_correlated_dims": [True, True, False, False]},
}
"""Parameters other than the defaults, to see that others use what is in `info`."""

each_tensorstore = pytest.mark.parametrize("case", TENSORSTORE, ids=str)
each_cloud_volume = pytest.mark.parametrize("case", CLOUD_VOLUME, ids=str)


def info_of(codec: Codec, size: Triple = SIZE, chunk_size: Triple = CHUNK_SIZE) -> dict[str, Any]:
    scale = {
        "key": "s",
        "size": list(size),
        "voxel_offset": [0, 0, 0],
        "resolution": [1, 1, 1],
        "chunk_sizes": [list(chunk_size)],
        "encoding": codec.encoding,
        **codec.info_parameters(),
    }
    kind = {"type": "image", "data_type": codec.data_type, "num_channels": codec.num_channels}
    return {"@type": "neuroglancer_multiscale_volume", **kind, "scales": [scale]}


def boxes(size: Triple, chunk_size: Triple) -> Iterator[tuple[str, tuple[slice, ...]]]:
    """Go through the chunks of a volume: their names, and what they cover."""
    for starts in itertools.product(*map(range, (0, 0, 0), size, chunk_size)):
        stops = [min(start + step, end) for start, step, end in zip(starts, chunk_size, size, strict=True)]
        box = tuple(map(slice, starts, stops))
        yield "_".join(f"{start}-{stop}" for start, stop in zip(starts, stops, strict=True)), box


def write_ours(folder: Path, codec: Codec, array: Array, chunk_size: Triple = CHUNK_SIZE) -> None:
    size = array.shape[:3]
    (folder / "info").write_text(json.dumps(info_of(codec, size, chunk_size)))
    (folder / "s").mkdir()
    for name, box in boxes(size, chunk_size):
        (folder / "s" / name).write_bytes(codec.encode(array[box]))


def read_ours(folder: Path, chunk_size: Triple = CHUNK_SIZE) -> tuple[Codec, Array]:
    """Read what another tool wrote, by its own `info`."""
    info = json.loads((folder / "info").read_text())
    (scale,) = info["scales"]
    codec = codec_for(scale["encoding"], info["data_type"], info["num_channels"], scale)
    array = np.zeros((*scale["size"], info["num_channels"]), codec.dtype)
    for name, box in boxes(scale["size"], chunk_size):
        x, y, z = (part.stop - part.start for part in box)
        array[box] = codec.decode((folder / "s" / name).read_bytes(), (x, y, z))
    return codec, array


def open_tensorstore(folder: Path, **options: Any) -> Any:
    tensorstore = importlib.import_module("tensorstore")
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", **options}
    return tensorstore.open(spec).result()


def write_tensorstore(folder: Path, codec: Codec, array: Array) -> None:
    info = info_of(codec)
    (scale,) = info["scales"]
    scale["chunk_size"] = scale.pop("chunk_sizes")[0]
    multiscale = {name: info[name] for name in ("type", "data_type", "num_channels")}
    options = {"create": True, "multiscale_metadata": multiscale, "scale_metadata": scale}
    options["store_data_equal_to_fill_value"] = True
    open_tensorstore(folder, **options).write(array).result()


def open_cloud_volume(folder: Path, info: Mapping[str, Any] | None = None) -> Any:
    cloudvolume = importlib.import_module("cloudvolume")
    return cloudvolume.CloudVolume(f"file://{folder}", info=info, progress=False, compress=False)


def write_cloud_volume(folder: Path, codec: Codec, array: Array) -> None:
    x, y, z = array.shape[:3]
    volume = open_cloud_volume(folder, info_of(codec, (x, y, z)))
    volume.commit_info()
    volume[:, :, :] = array


def read_cloud_volume(folder: Path) -> Array:
    return np.asarray(open_cloud_volume(folder)[:, :, :])


FOREIGN_WORST = {"jpeg": 90, "jxl": 30, "kempressed": 2**-22, "fpzip": 2**-14, "zfpc": 0.01}
"""The largest error with the parameters of these tests; tensorstore's JPEG blurs the colours."""


def assert_volume(codec: Codec, volume: Array, array: Array) -> None:
    assert_same(codec, volume, array, FOREIGN_WORST.get(codec.encoding, 0))
    if array.dtype == np.uint8:
        assert np.abs(volume.astype(int) - array).mean() < 8


def used(case: Case) -> tuple[Codec, Array]:
    """Return a codec with parameters that are not the defaults, and a volume."""
    return case.codec(**PARAMETERS.get(case.encoding, {})), voxels_of(case)[: SIZE[0], : SIZE[1], : SIZE[2]]


@each_tensorstore
def test_tensorstore_reads_our_chunks(case: Case, tmp_path: Path) -> None:
    codec, array = used(case)
    write_ours(tmp_path, codec, array)
    volume = np.asarray(open_tensorstore(tmp_path, open=True).read().result())
    assert_volume(codec, volume, array)
    if not codec.lossless:
        np.testing.assert_allclose(volume.astype(int), read_ours(tmp_path)[1].astype(int), rtol=0, atol=1)


@each_tensorstore
def test_chunks_of_tensorstore_are_read(case: Case, tmp_path: Path) -> None:
    codec, array = used(case)
    write_tensorstore(tmp_path, codec, array)
    read, volume = read_ours(tmp_path)
    assert read == codec
    assert_volume(codec, volume, array)
    if not codec.lossless:
        theirs = open_tensorstore(tmp_path, open=True).read().result()
        np.testing.assert_allclose(volume.astype(int), theirs.astype(int), rtol=0, atol=1)


def scrambled_by_cloud_volume(case: Case) -> bool:
    """Whether cloud-volume mixes up the channels when it reads; what it writes is right."""
    return case.num_channels > 1 and case.encoding in {"jpeg", "png", "jxl"}


@pytest.mark.parametrize("case", [case for case in CLOUD_VOLUME if not scrambled_by_cloud_volume(case)], ids=str)
def test_cloud_volume_reads_our_chunks(case: Case, tmp_path: Path) -> None:
    codec, array = used(case)
    write_ours(tmp_path, codec, array)
    volume = read_cloud_volume(tmp_path)
    assert_volume(codec, volume, array)
    np.testing.assert_allclose(volume.astype(float), read_ours(tmp_path)[1].astype(float), rtol=0, atol=1e-6)


@each_cloud_volume
def test_chunks_of_cloud_volume_are_read(case: Case, tmp_path: Path) -> None:
    codec, array = used(case)
    write_cloud_volume(tmp_path, codec, array)
    read, volume = read_ours(tmp_path)
    assert read == codec
    assert_volume(codec, volume, array)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_narrow_colour_chunks_of_cloud_volume_are_read(width: int, tmp_path: Path) -> None:
    codec = codec_of("jxl", "uint8", 3, jxl_quality=100)
    array = voxels_of(Case("jxl", "uint8", 3))[:width, :16, :8]
    write_cloud_volume(tmp_path, codec, array)
    _, volume = read_ours(tmp_path)
    assert_same(codec, volume, array)


def test_the_keys_of_another_encoding_are_refused_by_tensorstore(tmp_path: Path) -> None:
    """Otherwise there would be no need of `info_parameters`."""
    codec, array = used(Case("raw", "uint8", 1))
    write_ours(tmp_path, codec, array)
    info = json.loads((tmp_path / "info").read_text())
    info["scales"][0]["jpeg_quality"] = 85
    (tmp_path / "info").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="jpeg_quality"):
        open_tensorstore(tmp_path, open=True)


# -------------------------------------------------------------------------------------------------- forms of one image


def gradient(num_channels: int = 1, data_type: str = "uint8") -> Array:
    """Return a chunk of 16 x 12 x 10 voxels that JPEG likes."""
    x, y, z = np.indices((16, 12, 10))
    return np.stack([(5 * x + 4 * y + 3 * z + 20 * c) for c in range(num_channels)], axis=-1).astype(data_type)


def rows_of(array: Array) -> Array:
    """Lay a chunk out as the specification says: ``[z y, x]``, or ``[z y, x, channel]``."""
    x, y, z, channels = array.shape
    image = array.transpose(2, 1, 0, 3).reshape(z * y, x, channels)
    return image if channels > 1 else image[..., 0]


def saved(image: Array, kind: str, **options: Any) -> bytes:
    """Encode an image with Pillow."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def rearranged(array: Array, width: int) -> Array:
    image = rows_of(array)
    return np.ascontiguousarray(image).reshape(-1, width, *image.shape[2:])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True, "comment": b"\xff\xd9 \xff\xda"}])
@pytest.mark.parametrize("width", [16, 192, 160, 40])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_any_jpeg_of_enough_pixels_is_read(num_channels: int, width: int, options: Any) -> None:
    array = gradient(num_channels)
    data = saved(rearranged(array, width), "JPEG", quality=95, subsampling=0, **options)
    codec = codec_of("jpeg", "uint8", num_channels)
    for variant in (data, data + b"\n", data[:2] + b"\xff" + data[2:]):
        assert_same(codec, codec.decode(variant, (16, 12, 10)), array, 9)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_subsampled_jpeg_is_read(subsampling: int) -> None:
    array = gradient(3)
    data = saved(rows_of(array), "JPEG", quality=95, subsampling=subsampling)
    decoded = codec_of("jpeg", "uint8", 3).decode(data, (16, 12, 10))
    assert np.abs(decoded.astype(int) - array).mean() < 3


def jpeg_frame(data: bytes) -> tuple[int, int, int, bytes]:
    """Return the kind of frame, width, height and components of a JPEG."""
    position = 2
    while data[position + 1] not in {0xC0, 0xC1, 0xC2}:
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    height, width, count = struct.unpack_from(">HHB", data, position + 5)
    return data[position + 1], width, height, data[position + 10 : position + 10 + 3 * count]


@pytest.mark.parametrize("num_channels", [1, 3])
def test_jpeg_is_written_baseline_and_without_subsampling(num_channels: int) -> None:
    data = codec_of("jpeg", "uint8", num_channels).encode(gradient(num_channels))
    kind, width, height, components = jpeg_frame(data)
    assert (kind, width, height) == (0xC0, 16, 120)
    assert [components[i] for i in range(1, len(components), 3)] == [0x11] * num_channels
    assert Image.open(io.BytesIO(data)).mode == {1: "L", 3: "RGB"}[num_channels]


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        ((2, 300, 218), (2, 65400)),
        ((2, 300, 219), (600, 219)),
        ((1, 1, 65535), (1, 65535)),
        ((1, 1, 65536), (256, 256)),
    ],
)
def test_an_image_that_is_too_high_is_written_in_another_shape(size: Triple, sides: tuple[int, int]) -> None:
    codec = codec_of("jpeg", "uint8")
    array = np.full((*size, 1), 77, np.uint8)
    data = codec.encode(array)
    assert jpeg_frame(data)[1:3] == sides
    assert_same(codec, codec.decode(data, size), array, 1)


def test_the_largest_sides_of_each_kind_of_image() -> None:
    size = (1, 1 << 10, 1 << 10)
    array = np.zeros((*size, 1), np.uint8)
    png, jxl = codec_of("png", "uint8"), codec_of("jxl", "uint8", 1, jxl_quality=100, jxl_effort=1)
    assert struct.unpack_from(">II", png.encode(array), 16) == (1 << 10, 1 << 10)
    assert jxl.encode(array)[:2] == b"\xff\n", "a bare codestream"
    for codec in (png, jxl):
        assert_same(codec, codec.decode(codec.encode(array), size), array)


def test_no_image_has_sides_that_are_small_enough() -> None:
    with pytest.raises(
        ValueError, match="no image with sides of at most 65535 pixels has 65537; use smaller chunks, or raw"
    ):
        codec_of("jpeg", "uint8").encode(np.zeros((65537, 1, 1, 1), np.uint8))


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("data_type", ["uint8", "uint16"])
def test_png_is_what_the_standard_says(data_type: str, num_channels: int) -> None:
    """Undo the container by hand: most significant byte first, the channels of a pixel together."""
    array = voxels_of(Case("png", data_type, num_channels))[:16, :12, :10]
    data = codec_of("png", data_type, num_channels, png_level=0).encode(array)
    width, height, bits, colour_type, *methods = struct.unpack_from(">IIBBBBB", data, 16)
    expected_type = {1: 0, 2: 4, 3: 2, 4: 6}[num_channels]
    assert (width, height, bits, colour_type, methods) == (16, 120, 8 * array.itemsize, expected_type, [0, 0, 0])
    image = Image.open(io.BytesIO(data))
    if data_type == "uint8":
        np.testing.assert_array_equal(np.asarray(image), rows_of(array))
    elif num_channels == 1:
        np.testing.assert_array_equal(np.asarray(image, np.uint16), rows_of(array))
    else:  # Pillow keeps the upper bytes only
        np.testing.assert_array_equal(np.asarray(image)[..., -1], rows_of(array)[..., -1] >> 8)


@pytest.mark.parametrize("level", [0, 9])
@pytest.mark.parametrize("size", [(1, 64, 64), (2, 1, 900), (64, 64, 4)])
def test_png_of_noise_is_written(size: Triple, level: int) -> None:
    """Where nothing can be made smaller, each row takes a byte more."""
    codec = codec_of("png", "uint8", 1, png_level=level)
    array = np.random.default_rng(1).integers(0, 256, (*size, 1), np.uint8)
    assert_same(codec, codec.decode(codec.encode(array), size), array)


def with_png_chunks(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """Put chunks before the pixels of a PNG."""
    inserted = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + inserted + data[33:]


@pytest.mark.parametrize("width", [16, 192, 40])
def test_any_png_of_enough_pixels_is_read(width: int, caplog: pytest.LogCaptureFixture) -> None:
    array = gradient(3)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "IEND", zip=True)
    codec = codec_of("png", "uint8", 3)
    plain = saved(rearranged(array, width), "PNG")
    for data in (
        plain,
        plain + b"\n",
        saved(rearranged(array, width), "PNG", pnginfo=text, dpi=(300, 300), icc_profile=b"nonsense"),
        with_png_chunks(
            plain, (b"tRNS", bytes(6)), (b"gAMA", b"\0\0\0\1"), (b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))
        ),
    ):
        assert_same(codec, codec.decode(data, (16, 12, 10)), array)
    assert not caplog.records, "nothing is logged of what does not matter"


def png_of(image: Array, pixels: bytes, *, adam7: bool = False, parts: int = 1) -> bytes:
    """Make a PNG of filtered rows, compressed by zlib, in so many chunks."""
    height, width, channels = (*image.shape, 1)[:3]
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8 * image.itemsize, colour_type, 0, 0, adam7)
    length = max(1, -(-len(pixels) // parts))
    body = [(b"IDAT", pixels[begin : begin + length]) for begin in range(0, len(pixels), length)]
    return with_png_chunks(b"\x89PNG\r\n\x1a\n", (b"IHDR", header), *body, (b"IEND", b""))


def unfiltered(image: Array) -> bytes:
    """Write rows as they are, most significant byte first, each after the number of its filter, 0."""
    return b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in image)


def interlaced(image: Array) -> bytes:
    """Write the passes of an interlaced image one after the other (PNG specification, 8.2)."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    return b"".join(unfiltered(image[y::step_y, x::step_x]) for x, y, step_x, step_y in passes)


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4])
@pytest.mark.parametrize("data_type", ["uint8", "uint16"])
def test_png_of_any_structure_is_read(data_type: str, num_channels: int) -> None:
    """In one chunk or many, with each filter, in each way of compressing, interlaced."""
    codec = codec_of("png", data_type, num_channels)
    array = voxels_of(Case("png", data_type, num_channels))[:33, :20, :9]
    image = rows_of(array)
    for level, parts, behind in itertools.product((0, 6), (1, 3, 1000), (b"", b"behind")):
        data = png_of(image, zlib.compress(unfiltered(image), level) + behind, parts=parts)
        assert_same(codec, codec.decode(data, (33, 20, 9)), array)
    for png_filter in (8, 16, 32, 64, 128, 248):
        data = bytes(imagecodecs.png_encode(image, filter=png_filter))
        assert_same(codec, codec.decode(data, (33, 20, 9)), array)
    data = png_of(image, zlib.compress(interlaced(image)), adam7=True)
    assert_same(codec, codec.decode(data, (33, 20, 9)), array)


@pytest.mark.parametrize("size", [(33, 20, 9), (6, 5, 4)], ids=["large", "small"])
def test_png_of_another_number_of_pixels_is_corrupt(size: Triple, caplog: pytest.LogCaptureFixture) -> None:
    """Its header is right, and so are all checksums, but the last."""
    codec = codec_of("png", "uint8")
    x, y, z = size
    image = rows_of(brain()[:x, :y, :z, np.newaxis])
    whole = unfiltered(image)
    assert_same(codec, codec.decode(png_of(image, zlib.compress(whole)), size), brain()[:x, :y, :z, np.newaxis])
    wrong = zlib.compress(whole)[:-1] + b"?"
    for pixels in (b"", zlib.compress(b""), zlib.compress(whole[:-1]), zlib.compress(whole)[:-5], wrong, whole):
        with pytest.raises(CorruptDataError):
            codec.decode(png_of(image, pixels), size)
    with pytest.raises(CorruptDataError):
        codec.decode(png_of(image, zlib.compress(b"\5" + whole[1:])), size)  # there is no filter 5
    assert not caplog.records


@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_jxl_is_written_as_grey_planes_which_neuroglancer_reads(num_channels: int) -> None:
    array = gradient(num_channels)
    data = codec_of("jxl", "uint8", num_channels, jxl_quality=100).encode(array)
    planes = imagecodecs.jpegxl_decode(data)
    assert planes.shape == ((num_channels, 120, 16) if num_channels > 1 else (120, 16))
    assert planes.tobytes() == array.tobytes(order="F")


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("width", [16, 192, 40])
@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_any_jxl_of_enough_pixels_is_read(num_channels: int, width: int, *, container: bool) -> None:
    array = gradient(num_channels)
    image = rearranged(array, width)
    codec = codec_of("jxl", "uint8", num_channels, jxl_quality=100)
    together = bytes(imagecodecs.jpegxl_encode(image, lossless=True, usecontainer=container))
    assert_same(codec, codec.decode(together, (16, 12, 10)), array)
    if num_channels > 1:
        planes = np.ascontiguousarray(image.transpose(2, 0, 1))
        apart = imagecodecs.jpegxl_encode(planes, lossless=True, photometric="GRAY", usecontainer=container)
        assert_same(codec, codec.decode(bytes(apart), (16, 12, 10)), array)


@pytest.mark.parametrize(
    "size", [(1, 1, 1), (8, 8, 1), (8, 8, 8), (16, 9, 1), (9, 16, 1), (40, 7, 3), (5, 4, 1), (300, 300, 1)]
)
def test_jxl_of_any_size_is_read(size: Triple) -> None:
    """Its header tells sizes in several ways."""
    codec = codec_of("jxl", "uint8", 1, jxl_quality=100, jxl_effort=1)
    array = np.resize(brain(), (*size, 1))
    assert_same(codec, codec.decode(codec.encode(array), size), array)


def with_jxl_fields(*, orientation: int = 1, preview: bool = False) -> bytes:
    """Encode three planes, and add a field that no encoder here writes to the header: how large it is to be shown."""
    planes = np.ascontiguousarray(rows_of(gradient(3)).transpose(2, 0, 1))
    data = imagecodecs.jpegxl_encode(planes, lossless=True, photometric="GRAY", effort=1)
    bits = int.from_bytes(data, "little")
    before = 16 + (1 + 5 + 3 + 5) + 1 + 1 + 3  # signature, size, "all default", "extra fields", orientation
    assert bits >> before - 5 & 0xFF == 0b1000_0010, (
        "extra fields, the image upright, no other size, no preview, animated"
    )
    added, count = 1, 1  # there is such a size
    for value, width in ((0, 1), (2, 2), (99, 18), (0, 3), (3, 2), (99, 30)):
        added |= value << count
        count += width
    assert count == 1 + 56, "whole bytes more"
    bits |= orientation - 1 << before - 3
    rest = bits >> before + 1 | preview
    return ((bits & (1 << before) - 1) | added << before | rest << before + count).to_bytes(len(data) + 7, "little")


def test_jxl_with_another_size_to_be_shown_at_is_read() -> None:
    data = with_jxl_fields()
    assert imagecodecs.jpegxl_decode(data).shape == (3, 120, 16), "the field is where it should be"
    codec = codec_of("jxl", "uint8", 3, jxl_quality=100)
    assert_same(codec, codec.decode(data, (16, 12, 10)), gradient(3))
    on_its_side = with_jxl_fields(orientation=6)
    assert imagecodecs.jpegxl_decode(on_its_side).shape == (3, 16, 120)
    assert_same(codec, codec.decode(on_its_side, (16, 12, 10)), gradient(3))  # there is no such thing in a volume
    with pytest.raises(CorruptDataError, match="its header says that it has a preview, or extra channels"):
        codec.decode(with_jxl_fields(preview=True), (16, 12, 10))


def test_jxl_in_a_large_box_is_read() -> None:
    data = bytes(imagecodecs.jpegxl_encode(rows_of(gradient()), lossless=True, usecontainer=True))
    begin = data.index(b"jxlc") - 4
    image = data[begin + 8 :]
    codec = codec_of("jxl", "uint8", 1, jxl_quality=100)
    parts = [b"".join((struct.pack(">I4s", 12 + len(part), b"jxlp"), number, part)) for number, part in (
        (b"\0\0\0\0", image[:3]), (b"\x80\0\0\1", image[3:]),
    )]  # fmt: skip
    for box in (
        struct.pack(">I4sQ", 1, b"jxlc", 16 + len(image)) + image,
        struct.pack(">I4s", 0, b"jxlc") + image,
        struct.pack(">I4s", 12, b"free") + b"free" + struct.pack(">I4s", 0, b"jxlc") + image,
        b"".join(parts),
    ):
        assert_same(codec, codec.decode(data[:begin] + box, (16, 12, 10)), gradient())


def test_a_jpeg_inside_of_jxl_is_read() -> None:
    """cloud-volume turns chunks of one into the other without loss, in a container."""
    array = gradient()
    jpeg = codec_of("jpeg", "uint8", 1, jpeg_quality=95).encode(array)
    data = bytes(imagecodecs.jpegxl_encode_jpeg(jpeg, usecontainer=True))
    assert data[4:8] == b"JXL "
    codec = codec_of("jxl", "uint8")
    assert_same(codec, codec.decode(data, (16, 12, 10)), array, 9)


@pytest.mark.parametrize(
    "options",
    [{"random_access_z_index": False}, {"steps": (8, 8, 1)}, {"steps": (4, 4, 2), "random_access_z_index": False}],
)
@pytest.mark.parametrize("data_type", ENCODINGS["compresso"].data_types)
def test_other_forms_of_compresso_are_read(data_type: str, options: Any) -> None:
    compresso = importlib.import_module("compresso")
    codec = codec_of("compresso", data_type)
    array = tissues(data_type)[..., np.newaxis]
    assert_same(codec, codec.decode(compresso.compress(array, **options), brain().shape), array)


@pytest.mark.parametrize("data_type", ENCODINGS["crackle"].data_types)
def test_other_forms_of_crackle_are_read(data_type: str) -> None:
    crackle = importlib.import_module("crackle")
    codec = codec_of("crackle", data_type)
    for labels in (tissues(data_type), np.random.default_rng(1).integers(0, 200, (20, 30, 4)).astype(data_type)):
        size = labels.shape
        c_order = crackle.compress(np.ascontiguousarray(labels), parallel=1)
        assert not crackle.header(c_order).fortran_order
        assert_same(codec, codec.decode(c_order, size), labels[..., np.newaxis])
        assert_same(codec, codec.decode(without_checksums(c_order), size), labels[..., np.newaxis])


def without_checksums(data: bytes) -> bytes:
    """Turn a crackle stream into version 0 of the format."""
    z = struct.unpack_from("<I", data, 15)[0]
    labels = struct.unpack_from("<Q", data, 20)[0]
    header = data[:4] + b"\0" + data[5:20] + struct.pack("<I", labels)
    return header + data[29 : 29 + 4 * z] + data[33 + 4 * z : len(data) - 4 * (z + 1)]


@pytest.mark.parametrize("options", [{"allow_pins": 1}, {"markov_model_order": 3}])
def test_forms_of_crackle_that_nobody_writes_are_refused(options: Any) -> None:
    data = importlib.import_module("crackle").compress(np.asfortranarray(tissues("uint32")), **options)
    with pytest.raises(CorruptDataError, match=r"pins, a Markov model .* which cloud-volume does not write"):
        codec_of("crackle", "uint32").decode(data, brain().shape)


# -------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            Case("jpeg", "uint16", 1),
            "jpeg stores uint8 only, in 1 or 3 channels, got 1 channel of uint16; use raw or png",
        ),
        (
            Case("jpeg", "uint8", 2),
            "jpeg stores uint8 only, in 1 or 3 channels, got 2 channels of uint8; use raw or png",
        ),
        (Case("png", "uint32", 1), "got 1 channel of uint32; use raw or compressed_segmentation"),
        (Case("png", "uint8", 5), "in 1 or 2 or 3 or 4 channels, got 5 channels of uint8; use raw"),
        (Case("jxl", "uint8", 2), "got 2 channels of uint8; use raw or png"),
        (Case(SEGMENTATION, "uint16", 1), "stores uint32 or uint64 only, got 1 channel of uint16; use raw or png"),
        (Case("compresso", "uint8", 2), "only, in 1 channel, got 2 channels of uint8; use raw or png"),
        (Case("crackle", "int32", 1), "got 1 channel of int32; use raw"),
        (Case("fpzip", "float64", 1), "fpzip stores float32 only, got 1 channel of float64; no encoding stores that"),
        (Case("raw", "float64", 1), "got 1 channel of float64; no encoding stores that"),
    ],
    ids=str,
)
def test_what_an_encoding_does_not_store(case: Case, message: str) -> None:
    codec = codec_for(*case, ENCODINGS[case.encoding].defaults, "scales[2]")
    array = np.zeros((2, 2, 2, case.num_channels), case.data_type)
    for refused in (codec.check, functools.partial(codec.encode, array)):
        with pytest.raises(ValueError, match=r"^scales\[2\]\.encoding: ") as raised:
            refused()
        assert str(raised.value).endswith(message)


@pytest.mark.parametrize(
    ("encoding", "key", "values", "expected"),
    [
        ("jpeg", "jpeg_quality", [-1, 101, 50.5, "x", True, [1]], "an integer from 0 to 100"),
        ("png", "png_level", [-1, 10, "9"], "an integer from 0 to 9"),
        ("jxl", "jxl_quality", [-1, 101, "x"], "an integer from 0 to 100"),
        ("jxl", "jxl_effort", [0, 10, 1.5], "an integer from 1 to 9"),
        ("jxl", "jxl_decodingspeed", [-1, 5], "an integer from 0 to 4"),
        ("fpzip", "fpzip_precision", [-1, 1, 33, 2.5, "x"], "0 for all bits, or 2 to 32 of them"),
        ("zfpc", "zfpc_rate", [0, -2, 65, "x", math.nan], "a number of bits from 1 to 64, or -1 for none"),
        ("zfpc", "zfpc_precision", [0, 33, 1.5], "a number of bits from 1 to 32, or -1 for none"),
        ("zfpc", "zfpc_tolerance", [-0.5, "x", math.nan], "a number of at least 0, or -1 for none"),
        ("zfpc", "zfpc_correlated_dims", [[True] * 3, [False] * 4, [1, 1, 1, 1], "yes"], "4 booleans, not all false"),
    ],
)
def test_a_parameter_matters_when_writing_only(encoding: str, key: str, values: list[Any], expected: str) -> None:
    data_type = ENCODINGS[encoding].data_types[0]
    array = voxels_of(Case(encoding, data_type, 1))[:8, :8, :8]
    good = codec_of(encoding, data_type)
    data = good.encode(array)
    for value in values:
        codec = codec_for(encoding, data_type, 1, {key: value}, "scales[0]")
        np.testing.assert_array_equal(codec.decode(data, (8, 8, 8)), good.decode(data, (8, 8, 8)))
        for refused in (codec.check, functools.partial(codec.encode, array)):
            with pytest.raises(ValueError, match="expected") as raised:
                refused()
            assert str(raised.value) == f"scales[0].{key}: expected {expected}, got {value!r}"


@pytest.mark.parametrize("value", [0, 100])
def test_limits_of_parameters_are_inclusive(value: int) -> None:
    codec = codec_of("jpeg", "uint8", 1, jpeg_quality=value)
    codec.check()
    assert codec.info_parameters() == {"jpeg_quality": value}


def test_zfpc_has_one_limit() -> None:
    codec = codec_of("zfpc", "float32", 1, zfpc_rate=8, zfpc_precision=-1, zfpc_tolerance=0.5)
    with pytest.raises(ValueError, match="zfpc") as raised:
        codec.check()
    expected = "expected at most one of zfpc_rate, zfpc_precision, zfpc_tolerance, got ['zfpc_rate', 'zfpc_tolerance']"
    assert str(raised.value) == f"scale.zfpc_rate: {expected}"


def test_large_blocks_are_not_written() -> None:
    """The library counts for ever where a block has more labels than 16 bits can tell apart."""
    codec = codec_of(SEGMENTATION, "uint32", 1, **{BLOCK_SIZE: [64, 64, 17]})
    with pytest.raises(
        ValueError, match=r"scale\.compressed_.*_size: expected at most 65536 voxels, got \[64, 64, 17\]; use"
    ):
        codec.check()
    codec_of(SEGMENTATION, "uint32", 1, **{BLOCK_SIZE: [64, 64, 16]}).check()


def test_a_chunk_that_is_too_large_for_compressed_segmentation() -> None:
    codec = codec_of(SEGMENTATION, "uint32", 1, **{BLOCK_SIZE: [1, 1, 1]})
    with pytest.raises(ValueError, match="a chunk of so many labels is too large for compressed_segmentation; use raw"):
        codec.encode(np.zeros((256, 256, 129, 1), np.uint32))


def test_a_chunk_that_is_too_large_for_compresso() -> None:
    codec = codec_of("compresso", "uint8")
    for size in ((65534, 1, 1), (1, 65534, 1), (1, 1, 65534)):
        array = np.arange(65534, dtype=np.uint32).reshape(*size, 1).astype(np.uint8)
        assert_same(codec, codec.decode(codec.encode(array), size), array)
    with pytest.raises(ValueError, match=r"compresso stores at most 65534 voxels a side, got \(65535, 1, 1\)"):
        codec.encode(np.zeros((65535, 1, 1, 1), np.uint8))
    data = importlib.import_module("compresso").compress(np.zeros((1, 1, 65535), np.uint8))
    with pytest.raises(CorruptDataError, match="at the very limit of the format"):
        codec.decode(data, (1, 1, 65535))


def test_values_that_fpzip_would_make_larger_are_refused() -> None:
    """The library would go on, and write behind its buffer."""
    bits = np.random.default_rng(1).integers(0, 2**32, (64, 64, 8, 1), np.uint32)
    with pytest.raises(ValueError, match="scale: fpzip cannot make these values smaller; use raw"):
        codec_of("fpzip", "float32").encode(bits.view(np.float32))


@each_case
def test_an_array_of_another_kind_is_refused(case: Case) -> None:
    codec = case.codec()
    shape = (4, 3, 2, case.num_channels)
    for other in (
        (4, 3, 2),
        (4, 3, 2, case.num_channels + 1),
        (0, 3, 2, case.num_channels),
        (1, 4, 3, 2, case.num_channels),
    ):
        with pytest.raises(
            ValueError, match=r"scale: expected an array of shape \(x, y, z, \d\) that is not empty, got \("
        ):
            codec.encode(np.zeros(other, case.data_type))
    for data_type in ("bool", "complex64", *ENCODINGS["raw"].data_types):
        if data_type != case.data_type:
            with pytest.raises(ValueError, match=f"scale: expected an array of {case.data_type}, got {data_type}"):
                codec.encode(np.zeros(shape, data_type))


# ---------------------------------------------------------------------------------------------------------------- info


@pytest.mark.parametrize("encoding", ["RAW", "Raw", "raw"])
def test_encodings_are_read_without_case(encoding: str) -> None:
    codec = codec_for(encoding, "UInt16", 2, {"chunk_sizes": [[64, 64, 64]]})
    assert codec == codec_for("raw", "uint16", 2, {})
    assert (codec.encoding, codec.data_type) == ("raw", "uint16")


def test_other_keys_of_the_scale_are_ignored() -> None:
    scale = {"key": "s", BLOCK_SIZE: "x", "jxl_quality": {}, "png_level": 9, "jpeg_quality": None, "sharding": None}
    assert codec_for("jpeg", "uint8", 1, scale).info_parameters() == {"jpeg_quality": 85}
    assert codec_for("raw", "uint8", 1, scale).info_parameters() == {}
    assert codec_for("png", "uint8", 1, scale).info_parameters() == {"png_level": 9}


@pytest.mark.parametrize("encoding", ["gif", "", None, 5, ["raw"], "raw "])
def test_an_unknown_encoding(encoding: Any) -> None:
    with pytest.raises(InvalidInfoError) as raised:
        codec_for(encoding, "uint8", 1, {}, "scales[1]")
    known = "raw, jpeg, png, jxl, compressed_segmentation, compresso, crackle, fpzip, kempressed, zfpc"
    assert str(raised.value) == f"scales[1].encoding: expected one of {known}, got {encoding!r}"


@pytest.mark.parametrize("data_type", ["float16", "", None, 8, "bool", "bfloat16"])
def test_an_unknown_data_type(data_type: Any) -> None:
    with pytest.raises(InvalidInfoError, match=r"data_type: expected one of uint8, .*, float64, got ") as raised:
        codec_for("raw", data_type, 1, {})
    assert str(raised.value).endswith(repr(data_type))


@pytest.mark.parametrize("num_channels", [0, -1, 1.0, "1", None, True])
def test_channels_that_cannot_be(num_channels: Any) -> None:
    with pytest.raises(InvalidInfoError) as raised:
        codec_for("raw", "uint8", num_channels, {})
    assert str(raised.value) == f"num_channels: expected a positive integer, got {num_channels!r}"


@pytest.mark.parametrize(
    "block_size", [None, 8, [8, 8], [8, 8, 0], [8, 8, -8], [8, 8, 8.0], "888", [8, 8, 1 << 40], [True] * 3]
)
def test_a_block_size_is_needed_for_reading(block_size: Any) -> None:
    with pytest.raises(InvalidInfoError) as raised:
        codec_for(SEGMENTATION, "uint32", 1, {BLOCK_SIZE: block_size}, "scales[0]")
    assert str(raised.value) == f"scales[0].{BLOCK_SIZE}: expected 3 positive integers, got {block_size!r}"


# -------------------------------------------------------------------------------------------------------------- damage


@functools.cache
def sample(case: Case, size: Triple = (12, 10, 9)) -> tuple[Codec, bytes]:
    """Return a small chunk with something in it."""
    codec = case.codec(**LOSSLESS.get(case.encoding, {}))
    x, y, z = size
    return codec, codec.encode(voxels_of(case)[20 : 20 + x, 20 : 20 + y, 5 : 5 + z])


@each_case
def test_a_chunk_of_another_size_is_corrupt(case: Case) -> None:
    codec, data = sample(case)
    sizes = [(12, 10, 900), (10**4, 10**4, 10**4)]
    if case.encoding != SEGMENTATION:  # which is the same for any size of as many blocks
        sizes += [(12, 10, 8), (13, 10, 9), (1, 1, 1)]
    for size in sizes:
        with pytest.raises(CorruptDataError) as raised:
            codec.decode(data, size)
        x, y, z = size
        channels = f"{case.num_channels} channel{'s' * (case.num_channels > 1)}"
        expected = f"expected a {case.encoding} chunk of {x} x {y} x {z} voxels, {channels} of {case.data_type}, "
        assert str(raised.value).startswith(f"{expected}got {len(data)} bytes: ")


@each_encoding
def test_a_chunk_of_another_kind_is_corrupt(encoding: str) -> None:
    row = ENCODINGS[encoding]
    (x, y, z), case = (12, 10, 9), Case(encoding, row.data_types[0], 1)
    _, data = sample(case, (x, y, z))
    for data_type in (*ENCODINGS["raw"].data_types, "float64"):
        for num_channels in (1, 2, 3, 4):
            other = codec_of(encoding, data_type, num_channels)
            if (data_type, num_channels) == case[1:] or (
                encoding == "raw" and len(data) == x * y * z * num_channels * other.dtype.itemsize
            ):
                continue
            if encoding == SEGMENTATION and num_channels == 1 and data_type in {"uint32", "uint64"}:
                continue  # nothing in the data tells
            if row.channels == (1,) and data_type == case.data_type:
                continue  # they are not asked for channels
            with pytest.raises(CorruptDataError):
                other.decode(data, (x, y, z))


@pytest.mark.parametrize("case", [case for case in CASES if case.num_channels in {1, 3}], ids=str)
def test_a_chunk_that_ends_too_early_is_corrupt(case: Case) -> None:
    codec, data = sample(case, (6, 5, 4))
    stops = range(28) if case.encoding in FPZIP else range(len(data))
    for stop in stops:
        with pytest.raises(CorruptDataError):
            codec.decode(data[:stop], (6, 5, 4))


@pytest.mark.parametrize("case", [case for case in CASES if case.num_channels in {1, 3}], ids=str)
def test_what_follows_a_chunk(case: Case) -> None:
    """A format that says where it ends may be followed by anything; others must have the right length."""
    codec, data = sample(case)
    if case.encoding in {"jpeg", "png", "jxl", "fpzip", "kempressed"}:
        np.testing.assert_array_equal(codec.decode(data + b"\0", (12, 10, 9)), codec.decode(data, (12, 10, 9)))
    else:
        with pytest.raises(CorruptDataError):
            codec.decode(data + b"\0", (12, 10, 9))


HUGE = 100_000


def png_bombs(data: bytes) -> Iterator[bytes]:
    for sides in ((HUGE, HUGE), (1 << 31, 1), ((1 << 32) - 1, (1 << 32) - 1), (0, 1080)):
        header = b"IHDR" + struct.pack(">II", *sides) + data[24:29]
        yield data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    yield data[:8] + data[33:]  # without a header
    yield data[:33] + data[-12:]  # without pixels


def jpeg_bombs(data: bytes) -> Iterator[bytes]:
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    for sides in ((65535, 65535), (0, 1080), (1080, 0)):
        yield data[: frame + 5] + struct.pack(">HH", *sides) + data[frame + 9 :]
    yield data[: frame + 13] + data[frame:]
    yield data[:-2] + data[scan:-2] * 200 + data[-2:]
    progressive = saved(np.zeros((108, 10), np.uint8), "JPEG", progressive=True)
    last = progressive.rindex(b"\xff\xda")
    assert imagecodecs.jpeg8_decode(progressive[:-2] + progressive[last:-2] * 200 + progressive[-2:]).any() == 0
    yield progressive[:-2] + progressive[last:-2] * 200 + progressive[-2:]


def jxl_bombs(data: bytes) -> Iterator[bytes]:
    for shape, options in (
        ((4000, 4000), {}),
        ((200, 108, 10), {"photometric": "GRAY"}),  # frames
        ((20, 108, 10), {"planar": True}),  # extra channels
    ):
        yield bytes(imagecodecs.jpegxl_encode(np.zeros(shape, np.uint8), lossless=True, effort=1, **options))
    for bits in (0xFFFFFFFFFF, 0b110 | (1 << 30) << 3):
        yield b"\xff\x0a" + bits.to_bytes(8, "little") + data[2:]
    container = imagecodecs.jpegxl_encode(np.zeros((108, 10), np.uint8), lossless=True, usecontainer=True)
    for length in (0, 1, 3, 8, 0xFFFFFFFF):
        yield bytes(container[:12]) + struct.pack(">I", length) + b"jxlc" + bytes(8)


def segmentation_bombs(_: bytes) -> Iterator[bytes]:
    """Change a block of 5 labels, 4 bits a voxel, whatever it leads to being there."""
    block = np.arange(512, dtype=np.uint32).reshape(8, 8, 8, 1) % 5
    data = codec_of(SEGMENTATION, "uint32").encode(np.tile(block, (2, 2, 2, 1))[:12, :10, :9]) + bytes(4000)
    words = np.frombuffer(data, "<u4")
    table = int(words[1]) & 0xFFFFFF
    for position, values in (
        (0, (0, 2, len(words), len(words) - 1, 0xFFFFFFFF)),  # where the channel begins
        (1, (4 << 24, 4 << 24 | 15, 0x04FFFFFF, 4 << 24 | len(words) - 5)),  # bits and table of the first block
        (1, tuple(bits << 24 | table for bits in (3, 5, 32, 33, 64, 255))),
        (2, (len(words) - 1, len(words) - 64, 0xFFFFFFFF)),  # its voxels
    ):
        for value in values:
            changed = words.copy()
            changed[position] = value
            yield changed.tobytes()


def header_bombs(data: bytes, kind: str, *fields: int) -> Iterator[bytes]:
    """Change one field of a header at a time, given by their offsets."""
    width = struct.calcsize(kind)
    for field, value in itertools.product(fields, (0, 1, 200, 0xFFFF, 0xFFFFFFFF, (1 << 64) - 1)):
        changed = data[:field] + struct.pack(kind, value & (1 << 8 * width) - 1) + data[field + width :]
        if changed != data:
            yield changed


def compresso_bombs(data: bytes) -> Iterator[bytes]:
    yield from header_bombs(data, "<H", 6, 8, 10)
    yield from header_bombs(data, "<B", 4, 5, 12, 13, 35)
    yield from header_bombs(data, "<Q", 15, 27)
    yield from header_bombs(data, "<I", 23)


def crackle_bombs(data: bytes) -> Iterator[bytes]:
    yield from header_bombs(data, "<I", 7, 11, 15)
    yield from header_bombs(data, "<Q", 20)
    plain = without_checksums(data)
    yield from header_bombs(plain, "<I", 7, 11, 15, 20, 24)


def zfpc_of(stream: bytes, size: Triple) -> bytes:
    """Put one zfp stream into a container."""
    kind = 3 | 5 << 3  # float32, without loss
    return struct.pack("<4sBB4IBQQ", b"zfpc", 0, kind, *size, 1, 0b0111, 39, len(stream)) + stream


def zfpc_bombs(data: bytes) -> Iterator[bytes]:
    yield from header_bombs(data, "<I", 6, 10, 14, 18)
    yield from header_bombs(data, "<Q", 23, 31)
    yield from header_bombs(data, "<B", 4)
    stream = data.index(b"zfp", 4)
    yield data[: stream + 4] + b"\xff" * 16 + data[stream + 20 :]
    for other in (np.zeros((12, 10, 8), np.float32), np.zeros((12, 10, 9)), np.zeros((500, 500), np.float32)):
        yield zfpc_of(importlib.import_module("zfpy").compress_numpy(other), (12, 10, 9))


def fpzip_bombs(_: bytes) -> Iterator[bytes]:
    fpzip = importlib.import_module("fpzip")
    for array in (
        np.zeros((12, 10, 9, 1)),
        np.zeros((64, 64, 64, 4), np.float32),
        np.zeros((12, 9, 10, 1), np.float32),
    ):
        yield fpzip.compress(array, order="F")


BOMBS: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {
    "png": png_bombs,
    "jpeg": jpeg_bombs,
    "jxl": jxl_bombs,
    SEGMENTATION: segmentation_bombs,
    "compresso": compresso_bombs,
    "crackle": crackle_bombs,
    "zfpc": zfpc_bombs,
    "fpzip": fpzip_bombs,
    "kempressed": fpzip_bombs,
}
"""Headers that ask for a lot of memory, or for what there is not."""


@each_encoding
def test_bombs_are_refused_quickly_and_without_memory(encoding: str) -> None:
    codec, data = sample(Case(encoding, ENCODINGS[encoding].data_types[0], 1))
    codec.decode(data, (12, 10, 9))  # the library is there now
    bombs = BOMBS[encoding](data) if encoding in BOMBS else []
    for bomb in (b"", b"\0", data[:1], bytes(1000), b"\xff" * 1000, data[:16] + b"\xff" * 40, *bombs):
        tracemalloc.start()
        try:
            begin = time.perf_counter()
            with pytest.raises(CorruptDataError):
                codec.decode(bomb, (12, 10, 9))
            assert time.perf_counter() - begin < 2
            assert tracemalloc.get_traced_memory()[1] < 10**6 + 4 * len(bomb)
        finally:
            tracemalloc.stop()


def fat_blocks() -> tuple[Codec, bytes, Triple]:
    """Make a chunk of which each voxel has a block of its own, whose table of labels lies at the end of the data."""
    count, block, at = 256, (256, 256, 1), 1 + 2 * 256
    labels = at + math.prod(block) // 32
    header = [1 << 24 | labels - 1, at - 1]
    words = [1, *header * count, *[0] * (labels - at), 7]
    parameters = {"compressed_segmentation_block_size": list(block)}
    return codec_of(SEGMENTATION, "uint32", 1, **parameters), struct.pack(f"<{len(words)}I", *words), (1, 1, count)


def deep_windows() -> tuple[Codec, bytes, Triple]:
    """Make a chunk of one slice, of which one window for each voxel reaches over 64 slices."""
    header = struct.pack("<4sBB3H3BQIQB", b"cpso", 0, 1, 256, 256, 1, 1, 1, 64, 1, 1, 0, 4)
    return codec_of("compresso", "uint8"), header + bytes(9) + struct.pack("<Q", 1 << 17 | 1), (256, 256, 1)


def wasteful_blocks() -> tuple[Codec, bytes, Triple]:
    """Make a chunk of 4096 zfp streams, whose header says that each block of 4 values takes 4 KiB."""
    stream = importlib.import_module("zfpy").compress_numpy(np.zeros(64, np.float32), tolerance=0.1)
    mode = 0xFFF | 0x7FFF << 12 | 0x7FFF << 27 | 31 << 42 | 15421 << 49  # the longest blocks
    stream = (int.from_bytes(stream, "little") & (1 << 84) - 1 | mode << 84).to_bytes(32, "little")
    header = struct.pack("<4sBB4IB", b"zfpc", 0, 3 | 5 << 3, 64, 64, 64, 1, 0b0001)
    index = struct.pack("<4097Q", len(header) + 8 * 4097, *[len(stream)] * 4096)
    return codec_of("zfpc", "float32"), header + index + stream * 4096, (64, 64, 64)


@pytest.mark.parametrize("make", [fat_blocks, deep_windows, wasteful_blocks])
def test_what_data_ask_for_beyond_their_voxels_takes_no_memory(make: Callable[[], tuple[Codec, bytes, Triple]]) -> None:
    codec, data, size = make()
    codec.decode(codec.encode(np.zeros((4, 4, 4, 1), codec.dtype)), (4, 4, 4))  # the library is there now
    tracemalloc.start()
    try:
        with contextlib.suppress(CorruptDataError):
            codec.decode(data, size)
        assert tracemalloc.get_traced_memory()[1] < 20 * 10**6 + 4 * math.prod(size) * codec.dtype.itemsize
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (Case("raw", "uint16", 3), "got 6480 bytes: it has 12960 bytes"),
        (Case("jpeg", "uint8", 1), "its header says 10 x 108 pixels, 1 channels of 8 bits"),
        (Case("png", "uint16", 3), "its header says 10 x 108 pixels, 3 channels of 16 bits"),
        (Case("jxl", "uint8", 1), "its header says 10 x 108 pixels"),
        (Case("compresso", "uint32", 1), "its header says 10 x 12 x 9 voxels of 4 bytes"),
        (Case("crackle", "uint8", 1), "its header says 10 x 12 x 9 voxels of 1 bytes"),
        (Case("fpzip", "float32", 2), "its header says 10 x 12 x 9 x 2 values of float32"),
        (Case("kempressed", "float32", 2), "its header says 10 x 12 x 2 x 9 values of float32"),
        (Case("zfpc", "float32", 2), "its header says 10 x 12 x 9 x 2 values of type 3"),
    ],
    ids=str,
)
def test_messages_say_what_came(case: Case, reason: str) -> None:
    codec, data = sample(case, (10, 12, 9))
    with pytest.raises(CorruptDataError) as raised:
        codec.decode(data, (10, 24, 9))
    assert str(raised.value).endswith(reason)


def test_a_colour_image_is_no_grey_one() -> None:
    for encoding in ("jpeg", "png", "jxl"):
        for ours, theirs in ((1, 3), (3, 1)):
            data = codec_of(encoding, "uint8", theirs).encode(gradient(theirs))
            with pytest.raises(CorruptDataError):
                codec_of(encoding, "uint8", ours).decode(data, (16, 12, 10))


@each_firm_encoding
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), keep=st.integers(0, 40))
@example(data=b"", keep=0)
def test_garbage_is_corrupt(encoding: str, data: bytes, keep: int) -> None:
    codec, whole = sample(Case(encoding, ENCODINGS[encoding].data_types[0], 1))
    with pytest.raises(CorruptDataError):
        codec.decode(whole[:keep] + data, (12, 10, 9))


@each_fragile_encoding
@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300))
def test_garbage_is_not_fpzip(encoding: str, data: bytes) -> None:
    with pytest.raises(CorruptDataError):
        codec_of(encoding, "float32").decode(data, (12, 10, 9))


@each_fragile_encoding
def test_damage_that_kills_the_library_does_not_kill_us(encoding: str) -> None:
    """And what is decoded next is right."""
    codec, data = sample(Case(encoding, "float32", 1))
    size = (12, 10, 9)
    expected = codec.decode(data, size)
    crashes = 0
    for seed in range(30):
        chance = random.Random(seed)
        changed = bytearray(data)
        for _ in range(5):
            changed[chance.randrange(28, len(changed))] = chance.randrange(256)
        try:
            assert codec.decode(bytes(changed), size).shape == expected.shape
        except CorruptDataError as exc:
            crashes += "did not survive" in str(exc)
    assert crashes
    assert np.array_equal(codec.decode(data, size), expected)


def test_a_process_that_was_killed_while_idle_is_no_damage() -> None:
    codec, data = sample(Case("fpzip", "float32", 1))
    expected = codec.decode(data, (12, 10, 9))
    for children in fpzip._SANDBOX._idle.values():
        for child in children:
            child.kill()
    assert np.array_equal(codec.decode(data, (12, 10, 9)), expected)


def test_a_process_that_cannot_be_started_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, data = sample(Case("fpzip", "float32", 1))
    monkeypatch.setattr(fpzip, "_SANDBOX", Sandbox("fpzip", "decompress", order="F"))
    for executable in ("/no/python", "/bin/true"):
        monkeypatch.setattr("sys.executable", executable)
        with pytest.raises(RuntimeError, match=f"{executable} .*to decode in"):
            codec.decode(data, (12, 10, 9))


def test_fpzip_is_decoded_by_several_threads_at_once() -> None:
    codec, data = sample(Case("fpzip", "float32", 1))
    expected = codec.decode(data, (12, 10, 9))
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: codec.decode(data, (12, 10, 9)), range(40)))
    assert all(np.array_equal(result, expected) for result in results)


CHECKED = ("png", "crackle")
"""Encodings with checksums of everything that matters."""


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Change a chunk as disks, networks and enemies do."""
    changed = bytearray(data)
    position = chance.randrange(len(changed))
    match chance.randrange(6):
        case 0:
            del changed[position:]
        case 1:
            for _ in range(chance.choice((1, 1, 2, 5, 20))):
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        case 2:
            changed[chance.randrange(min(64, len(changed)))] ^= 1 << chance.randrange(8)
        case 3:
            changed[position : position + chance.randrange(8)] = chance.randbytes(chance.randrange(8))
        case 4:
            changed[position : position + chance.choice((2, 4, 8))] = chance.choice((b"\0", b"\xff")) * 4
        case _:
            other = chance.randrange(len(changed))
            changed[position : position + 50] = changed[other : other + 50]
    return bytes(changed)


def fuzz(count: int) -> None:
    """Decode changed chunks of all encodings that are not fragile, in a process that may die of it."""
    for encoding, row in ENCODINGS.items():
        if encoding in FPZIP:
            continue
        samples = [
            sample(Case(encoding, data_type, num_channels), size)
            for data_type in row.data_types[-2:]
            for num_channels in ((row.channels or (1, 2))[0], (row.channels or (1, 2))[-1])
            for size in ((12, 10, 9), (24, 20, 16))
        ]
        for seed in range(count):
            print(encoding, seed, flush=True)  # noqa: T201  what a child says that died
            chance = random.Random(seed)
            codec, data = chance.choice(samples)
            size = (12, 10, 9) if samples.index((codec, data)) % 2 == 0 else (24, 20, 16)
            expected = codec.decode(data, size)
            changed = mutated(data, chance)
            try:
                decoded = codec.decode(changed, size)
            except CorruptDataError:
                continue
            assert decoded.shape == expected.shape
            assert decoded.dtype == expected.dtype
            assert encoding not in CHECKED or np.array_equal(decoded, expected), "a checksum did not match"


def test_damage_ends_no_process() -> None:
    program = "from tests.codecs.test_codecs import fuzz; fuzz(250)"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, cwd=REPOSITORY, text=True)
    last = child.stdout.splitlines()[-1:]
    assert child.returncode == 0, f"at {last}: {child.stderr}"
    assert last == ["zfpc 249"]


@pytest.mark.parametrize("case", [Case(SEGMENTATION, "uint64", 2), Case("compresso", "uint16", 1)], ids=str)
def test_what_lies_outside_is_not_read(case: Case) -> None:
    """Each index of the data, set to just what is outside, is noticed."""
    codec, data = sample(case, (9, 9, 2))
    expected = codec.decode(data, (9, 9, 2)).copy()
    for position in range(0, len(data) - 1, 2):
        changed = bytearray(data)
        changed[position : position + 2] = b"\xff\xff"
        with_zeros = bytes(changed)
        try:
            decoded = codec.decode(with_zeros, (9, 9, 2))
        except CorruptDataError:
            continue
        assert decoded.shape == expected.shape


def test_a_zfp_stream_that_ends_too_early_does_not_go_on_in_memory() -> None:
    codec = codec_of("zfpc", "float32")
    values = np.random.default_rng(1).random((64, 64, 64), np.float32)
    stream = importlib.import_module("zfpy").compress_numpy(values)
    np.testing.assert_array_equal(codec.decode(zfpc_of(stream, (64, 64, 64)), (64, 64, 64))[..., 0], values)
    short, padded = stream[:1000], stream[:1000] + bytes(len(stream))
    expected = codec.decode(zfpc_of(padded, (64, 64, 64)), (64, 64, 64))
    np.testing.assert_array_equal(codec.decode(zfpc_of(short, (64, 64, 64)), (64, 64, 64)), expected)


def test_a_damaged_png_says_where_and_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    codec, data = sample(Case("png", "uint8", 1))
    for position, kind in ((20, "IHDR"), (len(data) // 2, "IDAT"), (len(data) - 1, "IEND")):
        changed = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises(CorruptDataError, match=f"the checksum of its b'{kind}' does not match"):
            codec.decode(changed, (12, 10, 9))
    assert not caplog.records


def test_labels_that_are_not_there_are_noticed() -> None:
    """A table at the end of the data may be short, but not shorter than its indices say."""
    codec = codec_of(SEGMENTATION, "uint32")
    array = np.arange(512, dtype=np.uint32).reshape(8, 8, 8, 1) % 5
    data = codec.encode(array)
    assert len(data) == 4 * (1 + 2 + 64 + 5), "offset, header, 4 bits a voxel, labels"
    assert_same(codec, codec.decode(data, (8, 8, 8)), array)
    with pytest.raises(CorruptDataError, match="a block's labels lie after the end"):
        codec.decode(data[:-4], (8, 8, 8))


def test_compresso_without_an_id_is_noticed() -> None:
    """Labels are not guessed, and are not what happens to be in memory."""
    codec = codec_of("compresso", "uint8")
    array = np.repeat(np.arange(4, dtype=np.uint8), 8)[:, np.newaxis, np.newaxis, np.newaxis] * np.ones(
        (1, 8, 2, 1), np.uint8
    )
    data = codec.encode(array)
    ids = struct.unpack_from("<Q", data, 15)[0]
    shortened = data[:15] + struct.pack("<Q", ids - 1) + data[23 : 36 + ids - 1] + data[36 + ids :]
    with pytest.raises(CorruptDataError, match="it does not tell the labels of all voxels"):
        codec.decode(shortened, (32, 8, 2))


def test_compresso_with_too_many_windows_is_noticed() -> None:
    """Their number is not only right modulo 2**64."""
    codec, library = codec_of("compresso", "uint8"), importlib.import_module("compresso")
    data = library.compress(np.zeros((16, 16, 2), np.uint8), steps=(8, 8, 1), random_access_z_index=False)
    assert data[-8:] == struct.pack("<Q", 8 << 1 | 1), "a run of 8 windows"
    assert_same(codec, codec.decode(data, (16, 16, 2)), np.zeros((16, 16, 2, 1), np.uint8))
    for run in (7, 9, 1 << 40):
        with pytest.raises(CorruptDataError, match="it does not have 8 windows"):
            codec.decode(data[:-8] + struct.pack("<Q", run << 1 | 1), (16, 16, 2))
    with pytest.raises(CorruptDataError, match="it does not have 8 windows"):
        codec.decode(data + struct.pack("<4Q", *[1 << 63 | 1] * 4), (16, 16, 2))


def crackle_of(node: tuple[int, int], path: str) -> bytes:
    """Draw one crack, from (column, row), in a slice of 8 x 4 voxels: up, right, down, left, "rl" for the end."""
    moves = ["urdl".index(move) for move in path]
    bits = sum((move - last) % 4 << 2 * i for i, (last, move) in enumerate(itertools.pairwise([0, *moves])))
    column, row = node
    code = struct.pack("<IBBBB", 4, 1, row, 1, column) + bits.to_bytes(-(-len(moves) // 4), "little")
    labels = struct.pack("<QBBBBB", 2, 5, 6, 2, 0, 1)  # 2 labels, 5 and 6, for 2 components
    kind = 1 << 7  # uint8, in Fortran order
    return struct.pack("<4sBHIIIBII", b"crkl", 0, kind, 8, 4, 1, 31, len(labels), len(code)) + labels + code


def test_a_crack_lies_between_voxels() -> None:
    codec = codec_of("crackle", "uint8")
    expected = np.repeat(np.array([5, 6], np.uint8), 4)[:, None, None, None] * np.ones((1, 4, 1, 1), np.uint8)
    assert_same(codec, codec.decode(crackle_of((4, 0), "ddddrl"), (8, 4, 1)), expected)
    assert_same(codec, codec.decode(crackle_of((4, 4), "uuuurl"), (8, 4, 1)), expected)
    for node, path in (
        *(((column, 0), "ddddrl") for column in (0, 8, 9, 255)),
        *(((0, row), "rrrrdu") for row in (0, 4, 5, 255)),
        *(((4, row), "dddddrl") for row in (0, 1, 4)),
        *(((4, row), "uuuuurl") for row in (0, 1, 4, 9)),
        *(((column, 2), "rrrrrrrrrdu") for column in (0, 4)),
        ((4, 2), "lllll" + "du"),
        ((4, 0), "dd" + "lr" + "rrrrr" + "du" + "dd" + "rl"),  # on a branch
        ((4, 0), "dd" + "lr" + "rrrr" + "du" + "ddd" + "rl"),  # after a branch
    ):
        with pytest.raises(CorruptDataError, match="a crack leads out of its slice"):
            codec.decode(crackle_of(node, path), (8, 4, 1))
    with pytest.raises(CorruptDataError, match="the code of a slice ends too early"):
        codec.decode(crackle_of((4, 0), "dddd"), (8, 4, 1))


def test_crackle_without_a_label_is_noticed() -> None:
    labels = np.repeat(np.arange(4, dtype=np.uint32), 4)
    codec, array = codec_of("crackle", "uint32"), np.broadcast_to(labels[:, None, None, None], (16, 8, 2, 1))
    data = without_checksums(codec.encode(array))
    length = struct.unpack_from("<I", data, 20)[0]
    counts = 24 + 4 * 2 + 8 + 4  # after header, index, number of labels, labels
    assert data[counts : counts + 10] == b"\4\4" + bytes([0, 1, 2, 3]) * 2, "of components, and the label of each"
    shortened = data[:counts] + b"\4\3" + data[counts + 2 : counts + 9] + data[counts + 10 :]
    shortened = shortened[:20] + struct.pack("<I", length - 1) + shortened[24:]
    with pytest.raises(CorruptDataError, match="it does not tell the labels of all components"):
        codec.decode(shortened, (16, 8, 2))


def test_crackle_that_leads_out_of_its_slice_is_noticed() -> None:
    """Without checksums, too: the library would write where the cracks lead."""
    codec = codec_of("crackle", "uint32")
    data = without_checksums(codec.encode(tissues("uint32")[:24, :20, :4, np.newaxis]))
    expected = codec.decode(data, (24, 20, 4)).copy()
    outcomes = set()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 0xA5
        try:
            same = np.array_equal(codec.decode(bytes(changed), (24, 20, 4)), expected)
            outcomes.add("the same" if same else "other labels")
        except CorruptDataError as exc:
            outcomes.add(str(exc).split(": ")[-1])
    assert {"a crack leads out of its slice", "the code of a slice ends too early", "other labels"} <= outcomes


def test_a_lack_of_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, data = sample(Case("png", "uint8", 1))

    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(imagecodecs, "png_decode", fail)
    with pytest.raises(MemoryError):
        codec.decode(data, (12, 10, 9))


# ------------------------------------------------------------------------------------------------ what is not installed


@pytest.mark.parametrize("encoding", [name for name, row in ENCODINGS.items() if row.library])
def test_a_missing_library_says_how_to_install_it(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = ENCODINGS[encoding]
    case = Case(encoding, row.data_types[0], 1)
    codec, data = sample(case)
    monkeypatch.setitem(sys.modules, str(row.library), None)
    package = "precomputed-fs[codecs]" if row.extra else "precomputed-fs"
    calls: tuple[Callable[[], object], ...] = (
        functools.partial(codec.decode, data, (12, 10, 9)),
        functools.partial(codec.encode, voxels_of(case)),
    )
    for call in calls:
        with pytest.raises(ImportError) as raised:
            call()
        assert str(raised.value) == f"scale.encoding: {encoding} needs {row.library}: pip install '{package}'"
        assert raised.value.name == row.library
