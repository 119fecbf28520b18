"""The table of encodings, and what holds for the codec of every one: round trips, parameters, refusals."""

from __future__ import annotations

import functools
import json
import math
import pickle
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from precomputed_fs import InvalidInfoError
from precomputed_fs.codecs import ENCODINGS, INCOMPRESSIBLE_MIME_TYPES, codec_for
from tests.codecs.samples import (
    BLOCK_SIZE,
    LOSSLESS,
    REPOSITORY,
    SEGMENTATION,
    Case,
    assert_same,
    codec_of,
    each_case,
    each_encoding,
    sample,
    small_arrays,
    voxels_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable


SIZES = [(1, 1, 1), (5, 64, 3), (64, 64, 8), (1, 3, 1), (3, 1, 7), (33, 2, 1), (4, 4, 4), (17, 1, 1), (2, 9, 24)]


WORST = {"jpeg": 40, "jxl": 40, "kempressed": 2**-22}
"""The largest error that an encoding makes in the brain; the mean is far below."""


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


@pytest.mark.processes
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


def test_gzip_is_left_off_for_json_jpeg_and_png() -> None:
    assert {"application/json", "image/jpeg", "image/png"} == INCOMPRESSIBLE_MIME_TYPES


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


@each_case
def test_round_trip(case: Case) -> None:
    codec = case.codec(**LOSSLESS.get(case.encoding, {}))
    for x, y, z in SIZES:
        array = voxels_of(case)[-x:, -y:, -z:]
        data = codec.encode(array)
        assert type(data) is bytes
        assert_same(codec, codec.decode(data, (x, y, z)), array, WORST.get(case.encoding, 0))


@each_case
def test_a_part_is_what_the_whole_has_there(case: Case) -> None:
    codec, data = sample(case)
    whole = codec.decode(data, (12, 10, 9))
    out = np.empty((1, 20, 9, case.num_channels), codec.dtype)[:, ::2]  # with any strides
    channels = slice(0, case.num_channels, 1)
    plane = (slice(11, 12), slice(0, 10), slice(0, 9), channels)
    assert codec.decode_part(data, (12, 10, 9), plane, out) is out
    np.testing.assert_array_equal(out, whole[plane])
    points = (np.array([0, 11, 3]), np.array([9, 0, 3]), np.array([8, 0, 8]), slice(case.num_channels - 1, None))
    np.testing.assert_array_equal(codec.decode_part(data, (12, 10, 9), points), whole[points])
    stepped = (slice(1, 9, 3), slice(0, 10), slice(2, 9, 2), channels)
    np.testing.assert_array_equal(codec.decode_part(data, (12, 10, 9), stepped), whole[stepped])


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


@pytest.mark.parametrize("case", [Case(name, row.data_types[-1], 1) for name, row in ENCODINGS.items()], ids=str)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_round_trip_of_anything(case: Case, data: st.DataObject) -> None:
    codec = case.codec(**LOSSLESS.get(case.encoding, {}))
    array = data.draw(small_arrays(np.dtype(case.data_type), 1))
    decoded = codec.decode(codec.encode(array), array.shape[:3])
    worst = 255 if case.encoding == "jpeg" else 2**-22 * (2 + float(np.abs(array.astype(np.float64)).max()))
    assert_same(codec, decoded, array, worst)


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
def test_lossless_encodings(encoding: str, parameters: dict[str, Any], *, lossless: bool) -> None:
    assert codec_of(encoding, ENCODINGS[encoding].data_types[0], **parameters).lossless == lossless


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
def test_unsupported_data_types_and_channels_are_refused(case: Case, message: str) -> None:
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
    near = "; did you mean 'raw'?" if "raw" in str(encoding) else ""
    assert str(raised.value) == f"scales[1].encoding: expected one of {known}, got {encoding!r}{near}"


@pytest.mark.parametrize("data_type", ["float16", "", None, 8, "bool", "bfloat16"])
def test_an_unknown_data_type(data_type: Any) -> None:
    with pytest.raises(InvalidInfoError, match=r"data_type: expected one of uint8, .*, float64, got ") as raised:
        codec_for("raw", data_type, 1, {})
    assert str(raised.value).endswith(repr(data_type))


@pytest.mark.parametrize("num_channels", [0, -1, 1.0, "1", None, True])
def test_an_invalid_number_of_channels(num_channels: Any) -> None:
    with pytest.raises(InvalidInfoError) as raised:
        codec_for("raw", "uint8", num_channels, {})
    assert str(raised.value) == f"num_channels: expected a positive integer, got {num_channels!r}"


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
