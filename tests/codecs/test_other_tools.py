"""Chunks that tensorstore and cloud-volume write are read, and they read ours."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs.codecs import ENCODINGS, Codec, codec_for
from tests.codecs.samples import (
    BLOCK_SIZE,
    CASES,
    SEGMENTATION,
    Array,
    Case,
    assert_same,
    codec_of,
    voxels_of,
)
from tests.support.tools import read_with_cloud_volume, read_with_tensorstore, write_with_cloud_volume

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from precomputed_fs.format.grid import Triple


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


def write_tensorstore(folder: Path, codec: Codec, array: Array) -> None:
    import tensorstore

    info = info_of(codec)
    (scale,) = info["scales"]
    scale["chunk_size"] = scale.pop("chunk_sizes")[0]
    multiscale = {name: info[name] for name in ("type", "data_type", "num_channels")}
    options = {"create": True, "multiscale_metadata": multiscale, "scale_metadata": scale}
    options["store_data_equal_to_fill_value"] = True
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", **options}
    tensorstore.open(spec).result().write(array).result()


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
    volume = read_with_tensorstore(tmp_path)[1]
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
        theirs = read_with_tensorstore(tmp_path)[1]
        np.testing.assert_allclose(volume.astype(int), theirs.astype(int), rtol=0, atol=1)


def scrambled_by_cloud_volume(case: Case) -> bool:
    """Whether cloud-volume mixes up the channels when it reads; what it writes is right."""
    return case.num_channels > 1 and case.encoding in {"jpeg", "png", "jxl"}


@pytest.mark.parametrize("case", [case for case in CLOUD_VOLUME if not scrambled_by_cloud_volume(case)], ids=str)
def test_cloud_volume_reads_our_chunks(case: Case, tmp_path: Path) -> None:
    codec, array = used(case)
    write_ours(tmp_path, codec, array)
    volume = read_with_cloud_volume(tmp_path)[1]
    assert_volume(codec, volume, array)
    np.testing.assert_allclose(volume.astype(float), read_ours(tmp_path)[1].astype(float), rtol=0, atol=1e-6)


@each_cloud_volume
def test_chunks_of_cloud_volume_are_read(case: Case, tmp_path: Path) -> None:
    codec, array = used(case)
    write_with_cloud_volume(tmp_path, info_of(codec, array.shape[:3]), [array], compress=False)
    read, volume = read_ours(tmp_path)
    assert read == codec
    assert_volume(codec, volume, array)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_narrow_colour_chunks_of_cloud_volume_are_read(width: int, tmp_path: Path) -> None:
    codec = codec_of("jxl", "uint8", 3, jxl_quality=100)
    array = voxels_of(Case("jxl", "uint8", 3))[:width, :16, :8]
    write_with_cloud_volume(tmp_path, info_of(codec, array.shape[:3]), [array], compress=False)
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
        read_with_tensorstore(tmp_path)
