"""What `info` says: what is accepted, refused and kept, and in which words."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import pickle
import sys
import time
import tracemalloc
from collections import UserDict
from dataclasses import FrozenInstanceError
from typing import TYPE_CHECKING, Any

import cloudvolume
import nibabel
import numpy as np
import pytest
import tensorstore
from hypothesis import given, settings
from hypothesis import strategies as st
from neuroglancer_scripts.scripts.generate_scales_info import generate_scales_info
from neuroglancer_scripts.volume_reader import nibabel_image_to_info

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.grid import ChunkGrid
from precomputed_fs.format.info import MAX_SCALES, Info, redirect_of
from precomputed_fs.format.info_members import MAX_CHANNELS, MAX_CHUNK_SIZES, MAX_COORDINATE
from precomputed_fs.format.info_text import MAX_INFO_BYTES
from precomputed_fs.format.sharding import Sharding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

VOLUME_TYPE = "neuroglancer_multiscale_volume"
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "hash": "identity",
    "minishard_bits": 2,
    "shard_bits": 3,
}


# -------------------------------------------------------------------------------------------------------------- models


def scale(**members: Any) -> dict[str, Any]:
    """Return a scale as `info` lists it; a member that is ... is left out."""
    given = {
        "key": "8_8_40",
        "size": [100, 80, 60],
        "resolution": [8, 8, 40.5],
        "voxel_offset": [-5, 0, 7],
        "chunk_sizes": [[64, 32, 16]],
        "encoding": "raw",
    }
    return {name: value for name, value in {**given, **members}.items() if value is not ...}


def volume(*scales: Any, **members: Any) -> dict[str, Any]:
    """Return an `info`; a member that is ... is left out."""
    given = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": list(scales) or [scale()]}
    return {name: value for name, value in {**given, **members}.items() if value is not ...}


def of_scale(**members: Any) -> dict[str, Any]:
    return volume(scale(**members))


def exactly(value: Any) -> str:
    """Represent JSON so that 1, 1.0 and true differ, and the order of members does not matter."""
    return json.dumps(value, sort_keys=True)


def message_of(given: Any, where: str = "info") -> str:
    with pytest.raises(InvalidInfoError) as caught:
        Info.parse(given, where)
    return str(caught.value)


def test_an_info_says_what_the_volume_is() -> None:
    read = Info.parse(
        volume(
            scale(sharding=SHARDING, hidden=True, jpeg_quality=80, mine={"a": [1]}),
            scale(key="16_16_40", chunk_sizes=[[64, 64, 64], [512, 512, 1]]),
            num_channels=3,
            mesh="mesh",
        )
    )
    assert (read.type, read.data_type, read.num_channels, len(read.scales)) == ("image", "uint8", 3, 2)
    first, second = read.scales
    assert first.key == "8_8_40"
    assert (first.size, first.voxel_offset, first.resolution) == ((100, 80, 60), (-5, 0, 7), (8, 8, 40.5))
    assert (first.chunk_sizes, first.encoding, first.hidden) == (((64, 32, 16),), "raw", True)
    assert first.sharding == Sharding(1, "identity", 2, 3)
    assert first.parameters == {"jpeg_quality": 80, "mine": {"a": [1]}}
    assert first.grid == ChunkGrid((100, 80, 60), (64, 32, 16), (-5, 0, 7))
    assert (second.sharding, second.hidden, second.parameters) == (None, False, {})
    assert second.chunk_sizes == ((64, 64, 64), (512, 512, 1))
    assert second.grid.chunk_size == (64, 64, 64)


def test_what_is_absent_has_its_default_and_stays_absent() -> None:
    given = volume(scale(voxel_offset=...), type=...)
    read = Info.parse(given)
    assert read.type == "image"
    assert (read.scales[0].voxel_offset, read.scales[0].sharding, read.scales[0].hidden) == ((0, 0, 0), None, False)
    assert exactly(read.to_dict()) == exactly(given)


@pytest.mark.parametrize("convert", [json.dumps, lambda given: json.dumps(given).encode(), dict, UserDict])
def test_an_info_is_read_from_json_and_from_what_it_says(convert: Callable[[Any], Any]) -> None:
    given = of_scale(sharding=SHARDING, mine=[1, {"a": None}])
    assert exactly(Info.parse(convert(given)).to_dict()) == exactly(given)


def test_a_mapping_may_hold_tuples_mappings_and_numpy() -> None:
    made = of_scale(
        size=np.array([100, 80, 60]),
        resolution=(np.float32(0.5), np.float64(8), np.int16(3)),
        chunk_sizes=((64, 32, np.uint64(16)),),
        sharding=UserDict(SHARDING),
        mine=np.array([[1.5]]),
    )
    plain = of_scale(resolution=[0.5, 8.0, 3], sharding=SHARDING, mine=[[1.5]])
    assert exactly(Info.parse(made).to_dict()) == exactly(plain)


def test_a_byte_order_mark_is_skipped() -> None:
    text = json.dumps(volume())
    assert Info.parse("\ufeff" + text) == Info.parse(b"\xef\xbb\xbf" + text.encode()) == Info.parse(text)


def test_a_model_cannot_be_changed_and_is_not_when_what_was_given_or_taken_is() -> None:
    given = of_scale(sharding={**SHARDING, "mine": [1]}, mine=[{"a": 1}])
    unchanged = copy.deepcopy(given)
    read = Info.parse(given)
    with pytest.raises(FrozenInstanceError):
        read.data_type = "int8"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        read.scales[0].hidden = True  # type: ignore[misc]
    for change in (given, read.to_dict()):
        change["scales"][0]["sharding"]["shard_bits"] = 0
        change["scales"][0]["sharding"]["mine"].append(2)
        change["scales"][0]["mine"][0]["a"] = 2
    read["scales"][0]["size"][0] = 1
    read.scales[0]["mine"].append(2)
    read.scales[0].parameters["mine"][0]["a"] = 2
    assert read.to_dict() == unchanged


def test_models_compare_hash_copy_and_pickle() -> None:
    read = Info.parse(of_scale(sharding={**SHARDING, "mine": 1}, mine=[1]))
    assert read == Info.parse(read.to_json())
    assert hash(read) == hash(Info.parse(read.to_json()))
    assert read != Info.parse(of_scale(sharding=SHARDING, mine=[1]))
    for same in (pickle.loads(pickle.dumps(read)), copy.deepcopy(read)):
        assert same == read
        assert same.to_json() == read.to_json()


def test_a_copy_cannot_be_changed_without_what_it_says_in_json() -> None:
    read = Info.parse(of_scale(sharding=SHARDING))
    for model, change in ((read, {"data_type": "int8"}), (read.scales[0], {"sharding": None})):
        with pytest.raises((TypeError, ValueError)):
            dataclasses.replace(model, **change)


# ---------------------------------------------------------------------------------------------------- reading like JSON


def test_a_model_reads_like_the_json() -> None:
    given = volume(scale(sharding={**SHARDING, "mine": 1}, hidden=False), scale(key="b"), mesh="mesh")
    read = Info.parse(given)
    assert {name: read[name] for name in given} == given
    for model, said in zip(read.scales, given["scales"], strict=True):
        assert {name: model[name] for name in said} == said
    assert read["scales"][0]["size"] == [100, 80, 60]
    assert [each["key"] for each in read["scales"]] == ["8_8_40", "b"]


def test_a_member_that_is_not_given_is_a_key_error() -> None:
    read = Info.parse(volume(scale(voxel_offset=...), type=...))
    for model, names in ((read, ["type", "mesh", "to_dict"]), (read.scales[0], ["voxel_offset", "sharding", "grid"])):
        for name in names:
            assert name not in model
            assert model.get(name, 7) == 7
            with pytest.raises(KeyError, match=name):
                model[name]
    assert "size" in read.scales[0]
    assert read.get("mesh") is None
    assert read.get("num_channels") == 1


def test_unknown_members_may_have_any_name() -> None:
    names = ["", "grid", "get", "to_dict", "model_fields", "model_config", "self", "__class__", "_given_sharding", "µ"]
    members = {name: [i] for i, name in enumerate(names)}
    given = {**volume({**scale(sharding=SHARDING), **members}), **members}
    read = Info.parse(given)
    assert read.to_dict() == given
    assert read.scales[0].parameters == members
    assert read["grid"] == read.scales[0]["grid"] == [1]
    assert read.scales[0].grid.chunk_size == (64, 32, 16)


# --------------------------------------------------------------------------------------------------- what is read alike


@pytest.mark.parametrize(
    ("given", "alike"),
    [
        (volume(data_type="UInt8"), volume()),
        (volume(type="IMAGE"), volume()),
        (volume(type=None), volume()),
        (volume(**{"@type": "Neuroglancer_Multiscale_VOLUME"}), volume(**{"@type": "neuroglancer_multiscale_volume"})),
        (volume(num_channels=1.0), volume()),
        (of_scale(encoding="Compressed_Segmentation"), of_scale(encoding="compressed_segmentation")),
        (of_scale(voxel_offset=None), of_scale(voxel_offset=[0, 0, 0])),
        (of_scale(voxel_offset=[-5.0, -0.0, 7]), volume()),
        (of_scale(size=[100.0, 80, 6e1]), volume()),
        (of_scale(chunk_sizes=[[64.0, 32, 16]]), volume()),
        (of_scale(hidden=None), of_scale(hidden=False)),
        (of_scale(hidden="true"), of_scale(hidden=True)),
        (of_scale(hidden="false"), of_scale(hidden=False)),
        (of_scale(sharding={**SHARDING, "hash": "IDENTITY"}), of_scale(sharding=SHARDING)),
    ],
    ids=lambda given: str({**given, **given["scales"][0]}),
)
def test_a_clear_meaning_is_read_in_any_spelling_and_written_in_one(given: Any, alike: Any) -> None:
    read = Info.parse(given)
    assert read == Info.parse(alike) or "hash" in str(given)
    assert exactly(read.to_dict()) == exactly(alike)


@pytest.mark.parametrize(
    "members",
    [
        {"sharding": None},
        {"hidden": True},
        {"resolution": [1, 1.5, 2.0]},
        {"resolution": [5e-324, 1e308, 10**300]},
        {"size": [2**53 + 1] * 3},
        {"size": [MAX_COORDINATE] * 3, "voxel_offset": [0, -1, -MAX_COORDINATE]},
        {"size": [1, 1, 1], "voxel_offset": [MAX_COORDINATE - 1] * 3},
        {"chunk_sizes": [[MAX_COORDINATE] * 3]},
        {"chunk_sizes": [[1, 1, 1]] * MAX_CHUNK_SIZES},
        {"encoding": "not known yet"},
        {"mine": [2**64, -(2**200), 1e-7, 1.0, None, {"": {}}]},
        {"mine": "\ud800", "encoding": "\udfff"},
        {"sharding": {**SHARDING, "minishard_index_encoding": "gzip", "data_encoding": "raw", "mine": {"a": [1]}}},
        {"sharding": SHARDING, "size": [2**20, 2**20, 2**24], "chunk_sizes": [[1, 1, 1]]},
    ],
)
def test_what_a_scale_may_be_goes_round(members: dict[str, Any]) -> None:
    given = of_scale(**members)
    read = Info.parse(json.dumps(given))
    assert exactly(read.to_dict()) == exactly(given)
    assert exactly(json.loads(read.to_json())) == exactly(given)
    assert Info.parse(given) == read


@pytest.mark.parametrize(
    "key",
    ["..", "../other/8_8_8", "1e+06_1e+06_1e+06", "a/b", "a//b/", ".", "a b", "s3:b", "%2e%2e", "\\", "µm", "\ud800"],
)
def test_a_key_is_a_relative_path(key: str) -> None:
    read = Info.parse(of_scale(key=key))
    assert read.scales[0].key == read["scales"][0]["key"] == key
    assert json.loads(read.to_json())["scales"][0]["key"] == key


@pytest.mark.parametrize("data_type", [f"{kind}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)])
def test_integers_of_every_width_are_data_types(data_type: str) -> None:
    assert Info.parse(volume(data_type=data_type)).data_type == data_type


@pytest.mark.parametrize("data_type", ["float32", "float64"])
def test_floats_are_data_types(data_type: str) -> None:
    assert Info.parse(volume(data_type=data_type)).data_type == data_type


def test_there_are_limits_to_channels_and_scales() -> None:
    assert Info.parse(volume(num_channels=MAX_CHANNELS)).num_channels == MAX_CHANNELS
    scales = [scale(key=str(i)) for i in range(MAX_SCALES)]
    assert [each.key for each in Info.parse(volume(*scales)).scales] == [str(i) for i in range(MAX_SCALES)]


# ---------------------------------------------------------------------------------------------------- scales of one key


@pytest.mark.parametrize(
    "members", [{}, {"size": [50, 40, 60], "resolution": [16, 16, 40]}, {"chunk_sizes": [[8, 8, 8]]}]
)
def test_scales_may_share_a_key_if_they_are_stored_alike(members: dict[str, Any]) -> None:
    given = volume(scale(), scale(**members))
    assert Info.parse(given).to_dict() == given


@pytest.mark.parametrize(
    "members",
    [
        {"sharding": None},
        {"encoding": "jpeg"},
        {"sharding": {**SHARDING, "shard_bits": 0}},
        {"size": [50, 40, 60]},
        {"voxel_offset": [0, 0, 0]},
        {"chunk_sizes": [[8, 8, 8]]},
        {"encoding": "jpeg", "key": "./8_8_40"},
    ],
    ids=str,
)
def test_scales_that_are_stored_differently_need_different_keys(members: dict[str, Any]) -> None:
    sharded = scale(sharding=SHARDING)
    said = message_of(volume(scale(key="a"), sharded, {**sharded, **members}))
    assert said.startswith(
        "info: scales[2].key: expected another key than that of scales[1], which is stored otherwise"
    )
    assert len(Info.parse(volume(sharded, {**sharded, **members, "key": "b"})).scales) == 2


# ------------------------------------------------------------------------------------------------------------ redirects


def test_a_redirect_needs_nothing_else() -> None:
    assert redirect_of({"redirect": "gs://bucket/moved"}) == "gs://bucket/moved"
    assert redirect_of({}) is None


@pytest.mark.parametrize("redirect", [None, "", 3, ["gs://bucket"], {}])
def test_a_redirect_is_a_string(redirect: Any) -> None:
    with pytest.raises(InvalidInfoError) as caught:
        redirect_of({"redirect": redirect}, "s3://b/info")
    assert str(caught.value) == f"s3://b/info: redirect: expected a non-empty string, got {redirect!r}"


# ------------------------------------------------------------------------------------------------------------- messages

MOST = "4611686018427387903"  # 2**62 - 1
REQUIRED = ("size", "chunk_sizes", "key", "resolution", "encoding")  # of a scale
DATA_TYPES = "uint8, int8, uint16, int16, uint32, int32, float32, uint64, int64, float64"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (of_scale(size=[1, 2]), "scales[0].size: expected 3 integers, got [1, 2]"),
        (of_scale(size=[1, 2, 3.5]), "scales[0].size: expected 3 integers, got [1, 2, 3.5]"),
        (of_scale(size=[1, 2, True]), "scales[0].size: expected 3 integers, got [1, 2, True]"),
        (of_scale(size=["1", 2, 3]), "scales[0].size: expected 3 integers, got ['1', 2, 3]"),
        (of_scale(size="123"), "scales[0].size: expected 3 integers, got '123'"),
        (of_scale(size=None), "scales[0].size: expected 3 integers, got None"),
        (of_scale(size=...), "scales[0].size: missing"),
        (of_scale(size=[1, 2, 0]), "scales[0].size: expected integers of at least 1, got [1, 2, 0]"),
        (of_scale(size=[1, -2, 3]), "scales[0].size: expected integers of at least 1, got [1, -2, 3]"),
        (
            of_scale(size=[1, 2, 2**62]),
            f"scales[0].size: expected integers of at most {MOST}, got [1, 2, 4611686018427387904]",
        ),
        (of_scale(voxel_offset=[0, 0]), "scales[0].voxel_offset: expected 3 integers, got [0, 0]"),
        (of_scale(voxel_offset=[0, 0, False]), "scales[0].voxel_offset: expected 3 integers, got [0, 0, False]"),
        (
            of_scale(voxel_offset=[0, 0, -(2**62)]),
            f"scales[0].voxel_offset: expected integers of at least -{MOST}, got [0, 0, -4611686018427387904]",
        ),
        (
            of_scale(voxel_offset=[0, 0, 2**62 - 60]),
            f"scales[0].voxel_offset: expected at most {MOST} with the size added, got [0, 0, 4611686018427387844]",
        ),
        (
            volume(scale(), scale(key="b", chunk_sizes=[[1, 2, 3], [1, 2]])),
            "scales[1].chunk_sizes[1]: expected 3 integers, got [1, 2]",
        ),
        (of_scale(chunk_sizes=[]), "scales[0].chunk_sizes: expected at least 1, got []"),
        (of_scale(chunk_sizes=[64, 64, 64]), "scales[0].chunk_sizes[0]: expected 3 integers, got 64 (and 2 more)"),
        (of_scale(chunk_sizes="64"), "scales[0].chunk_sizes: expected a list, got '64'"),
        (of_scale(chunk_sizes=[[1, 1, 1]] * 65), "scales[0].chunk_sizes: expected at most 64, got 65"),
        (
            of_scale(chunk_sizes=[[1, 2, 3], [4, 5, 6]], sharding=SHARDING),
            "scales[0].chunk_sizes: expected one chunk size, as the scale is sharded, got [[1, 2, 3], [4, 5, 6]]",
        ),
        (
            of_scale(size=[2**22] * 3, chunk_sizes=[[1] * 3], sharding=SHARDING),
            f"scales[0].size: a grid of {(2**22,) * 3} chunks needs 66 bits to number its chunks; shards have 64",
        ),
        (of_scale(resolution=[8, 8]), "scales[0].resolution: expected 3 positive numbers, got [8, 8]"),
        (of_scale(resolution=[8, 8, "8"]), "scales[0].resolution: expected 3 positive numbers, got [8, 8, '8']"),
        (of_scale(resolution=[8, 8, True]), "scales[0].resolution: expected 3 positive numbers, got [8, 8, True]"),
        (of_scale(resolution=[8, -0.0, 1]), "scales[0].resolution: expected 3 positive numbers, got [8, -0.0, 1]"),
        (of_scale(resolution=...), "scales[0].resolution: missing"),
        (of_scale(encoding=None), "scales[0].encoding: expected a string, got None"),
        (of_scale(hidden=1), "scales[0].hidden: expected true or false, got 1"),
        (of_scale(hidden=[]), "scales[0].hidden: expected true or false, got []"),
        (of_scale(hidden="yes"), "scales[0].hidden: expected true or false, got 'yes'"),
        (of_scale(key=""), "scales[0].key: expected a non-empty string, got ''"),
        (of_scale(key=8), "scales[0].key: expected a non-empty string, got 8"),
        (of_scale(key="/etc"), "scales[0].key: expected a relative path, got '/etc'"),
        (of_scale(key="gs://b/k"), "scales[0].key: expected a relative path, got 'gs://b/k'"),
        (of_scale(key="a\0"), "scales[0].key: expected a relative path, got 'a\\x00'"),
        (of_scale(sharding=[]), "scales[0].sharding: expected an object, got []"),
        (
            of_scale(sharding={**SHARDING, "hash": "md5"}),
            "scales[0].sharding.hash: expected one of identity, murmurhash3_x86_128, got 'md5'",
        ),
        (volume(3), "scales[0]: expected an object, got 3"),
        (volume(scale(), []), "scales[1]: expected an object, got []"),
        (volume(scales=[]), "scales: expected at least 1, got []"),
        (volume(scales={}), "scales: expected a list, got {}"),
        (volume(scales="scales"), "scales: expected a list, got 'scales'"),
        (volume(scales=...), "scales: missing"),
        (volume(num_channels=...), "num_channels: missing"),
        (volume(num_channels=0), "num_channels: expected an integer from 1 to 2147483647, got 0"),
        (volume(num_channels=1.5), "num_channels: expected an integer from 1 to 2147483647, got 1.5"),
        (volume(num_channels=True), "num_channels: expected an integer from 1 to 2147483647, got True"),
        (volume(num_channels=2**40), "num_channels: expected an integer from 1 to 2147483647, got 1099511627776"),
        (volume(data_type="complex64"), f"data_type: expected one of {DATA_TYPES}, got 'complex64'"),
        (volume(data_type=8), f"data_type: expected one of {DATA_TYPES}, got 8"),
        (volume(data_type=...), "data_type: missing"),
        (volume(type=3), "type: expected a string, got 3"),
        (
            volume(**{"@type": "neuroglancer_skeletons"}),
            f"@type: expected {VOLUME_TYPE!r}, got 'neuroglancer_skeletons': open_skeletons opens these skeletons",
        ),
        ({"@type": 3}, "@type: expected 'neuroglancer_multiscale_volume', got 3: this is not a volume"),
        ({}, "data_type, num_channels, scales: missing"),
        (volume(num_channels=..., scales=...), "num_channels, scales: missing"),
        (volume(data_type="u1", num_channels=0), f"data_type: expected one of {DATA_TYPES}, got 'u1' (and 1 more)"),
        (
            volume({}, data_type="u1"),
            "; ".join(
                (
                    f"data_type: expected one of {DATA_TYPES}, got 'u1'",
                    f"{', '.join(f'scales[0].{name}' for name in REQUIRED)}: missing",
                )
            ),
        ),
        (volume(**{"\ud800": 1}), "expected a name that is Unicode, got '\\ud800'"),
        (of_scale(**{"\ud800": 1}), "scales[0]: expected a name that is Unicode, got '\\ud800'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_names_the_place_what_was_expected_and_what_was_got(given: Any, said: str) -> None:
    assert message_of(given) == f"info: {said}"
    assert message_of(json.dumps(given), "s3://bucket/info") == f"s3://bucket/info: {said}"


@pytest.mark.parametrize("value", [None, 3, [1], b"[]", "null", "1.5"])
def test_what_is_no_object_is_no_volume(value: Any) -> None:
    assert message_of(value).startswith("info: expected ")


@pytest.mark.parametrize("value", [{1, 2}, object(), 1j, b"bytes", {(1, 2): 3}])
def test_what_json_cannot_say_is_an_error(value: Any) -> None:
    assert message_of(of_scale(mine=value)).startswith("info: expected what JSON can say: ")


def test_what_contains_itself_is_an_error() -> None:
    given = volume()
    given["mine"] = given
    assert message_of(given).startswith("info: expected what JSON can say: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
def test_a_number_that_is_none_is_kept_where_it_is_not_known_and_never_written(number: str) -> None:
    text = json.dumps(volume(mine=...))[:-1] + f', "mine": {number}}}'
    read = Info.parse(text)
    assert repr(read["mine"]) == repr(float(number))
    with pytest.raises(InvalidInfoError, match=r"^info: expected what JSON can say: "):
        read.to_json()


# -------------------------------------------------------------------------------------------------------- hostile infos


SOON = 1 if sys.gettrace() is None else 10
"""Seconds of the processor's time; a tracer, such as coverage's, takes several times as many."""


def with_member(value: bytes) -> bytes:
    return json.dumps(volume()).encode()[:-1] + b', "mine": ' + value + b"}"


def filled(unit: bytes, last: bytes) -> bytes:
    """Return an `info` of the greatest length, that lists a unit in an unknown member."""
    return with_member(b"[" + unit * ((MAX_INFO_BYTES - 1000) // len(unit)) + last + b"]")


HOSTILE: Mapping[str, tuple[Callable[[], Any], str]] = {
    "100 MB": (lambda: b" " * 100_000_000, rf"expected at most {MAX_INFO_BYTES} bytes, got 100000000$"),
    "100 MB of str": (lambda: " " * 100_000_000, rf"expected at most {MAX_INFO_BYTES} bytes, got 100000000$"),
    "a million scales": (lambda: volume(*[scale()] * 1_000_000), rf"expected at most {MAX_INFO_BYTES} bytes"),
    "many scales": (lambda: volume(*[scale()] * (MAX_SCALES + 1)), r"scales: expected at most 1024, got 1025$"),
    "many numbers": (
        lambda: b'{"scales": [' + b"1," * 500_000 + b"1]}",
        r"data_type, num_channels: missing \(and 1 more\)$",
    ),
    "many empty scales": (lambda: volume(*[{}] * MAX_SCALES), r"scales\[2\]\.chunk_sizes: missing \(and 5108 more\)$"),
    "many chunk sizes": (
        lambda: of_scale(chunk_sizes=[[1]] * 100_000),
        r"chunk_sizes: expected at most 64, got 100000$",
    ),
    "a long size": (lambda: of_scale(size=[1] * 200_000), r"size: expected 3 integers, got \[1, 1, .*\.\.\.\]$"),
    "nested sizes": (lambda: of_scale(size=[[[[1] * 20] * 20] * 20] * 3), r"size: expected 3 integers, got \[\[\["),
    "deep": (lambda: with_member(b"[" * 500_000 + b"]" * 500_000), r"expected JSON: "),
    "deep objects": (lambda: with_member(b'{"a":' * 90_000 + b"1" + b"}" * 90_000), r"expected JSON: "),
    "rather deep": (lambda: with_member(b"[" * 500 + b"]" * 500), r"expected JSON of at most 64 levels$"),
    "deep size": (lambda: json.dumps(of_scale(size="@")).replace('"@"', "[" * 70 + "]" * 70), r"at most 64 levels$"),
    "many digits": (lambda: with_member(b"1" * 1_000_000), r"expected JSON: .*digit"),
    "many digits in a mapping": (lambda: volume(mine=10**5000), r"expected what JSON can say: .*digit"),
    "4000 digits": (lambda: of_scale(size=[1, 1, 10**4000]), r"size: expected integers of at most"),
    "a huge float": (lambda: of_scale(size=[1, 1, 1e300]), r"size: expected integers of at most"),
    "2**63": (lambda: of_scale(size=[2**63, 1, 1]), r"size: expected integers of at most"),
    "an offset of 2**63": (lambda: of_scale(voxel_offset=[2**63, 1, 1]), r"voxel_offset: expected integers of at most"),
    "a negative chunk": (
        lambda: of_scale(chunk_sizes=[[1, -1, 1]]),
        r"chunk_sizes\[0\]: expected integers of at least 1",
    ),
    "an empty chunk": (lambda: of_scale(chunk_sizes=[[1, 0, 1]]), r"chunk_sizes\[0\]: expected integers of at least 1"),
    "NaN": (
        lambda: of_scale(resolution=[1, 1, math.nan]),
        r"resolution: expected 3 positive numbers, got \[1, 1, nan\]$",
    ),
    "Infinity": (lambda: of_scale(resolution=[1, 1, math.inf]), r"resolution: expected 3 positive numbers"),
    "1e400": (lambda: json.dumps(of_scale(resolution=[1, 1, 7])).replace("7]", "1e400]", 2), r"expected"),
    "a huge resolution": (lambda: of_scale(resolution=[1, 1, 10**400]), r"resolution: expected 3 positive numbers"),
    "no resolution": (lambda: of_scale(resolution=[1, 1, 0]), r"resolution: expected 3 positive numbers"),
    "a negative resolution": (lambda: of_scale(resolution=[1, 1, -1]), r"resolution: expected 3 positive numbers"),
    "NaN for a size": (lambda: of_scale(size=[1, 1, math.nan]), r"size: expected 3 integers, got \[1, 1, nan\]$"),
    "a member twice": (lambda: b'{"type": "image", "type": "image"}', r"expected JSON: the member 'type' occurs twice"),
    "a member twice, of many": (
        lambda: b"{" + b"".join(b'"%d":1,' % i for i in range(90_000)) + b'"89999":1}',
        r"expected JSON: the member '89999' occurs twice",
    ),
    "a member twice within": (
        lambda: with_member(b'[{"a": 1, "a": 1}]'),
        r"expected JSON: the member 'a' occurs twice",
    ),
    "Latin-1": (lambda: with_member(b'"\xb5m"'), r"expected JSON: .*utf-8"),
    "a surrogate in UTF-8": (lambda: with_member(b'"\xed\xa0\x80"'), r"expected JSON: .*utf-8"),
    "UTF-16": (lambda: json.dumps(volume()).encode("utf-16"), r"expected JSON: .*utf-8"),
    "a long string": (lambda: of_scale(size="x" * 900_000), r"size: expected 3 integers, got 'x+\.\.\.$"),
    "a long data type": (lambda: volume(data_type="x" * 900_000), r"data_type: expected one of .*, got 'x+\.\.\.$"),
    "a long hash": (
        lambda: of_scale(sharding={**SHARDING, "hash": "x" * 900_000}),
        r"hash: expected one of .*'x{70,}$",
    ),
    "a long name twice": (
        lambda: b'{"%b": 1, "%b": 1}' % (b"x" * 400_000, b"x" * 400_000),
        r"the member 'x+\.\.\. occurs twice in an object$",
    ),
    "a long @type": (lambda: volume(**{"@type": ["x" * 900_000]}), r"got \['x+\.\.\.: this is not a volume$"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_info_is_an_error_soon(name: str) -> None:
    make, said = HOSTILE[name]
    hostile = make()
    begin = time.thread_time()
    with pytest.raises(InvalidInfoError, match=rf"^info: .*{said}") as caught:
        Info.parse(hostile)
    assert time.thread_time() - begin < SOON
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("unit", [b"[],", b"1.5,", b'"",', b'{"a":1},'])
def test_the_longest_info_is_read_soon(unit: bytes) -> None:
    text = filled(unit, unit.rstrip(b","))
    begin = time.thread_time()
    read = Info.parse(text)
    assert time.thread_time() - begin < SOON
    assert len(read["mine"]) > 100_000


def test_memory_is_bounded() -> None:
    much = volume(mine=["x" * 1000] * 100_000)
    hostile: list[tuple[Any, int]] = [(b"[" * 20_000_000, 1), (filled(b"[],", b"[]"), 60), (much, 10)]
    for text, most in hostile:
        tracemalloc.start()
        try:
            with contextlib.suppress(InvalidInfoError):
                Info.parse(text)
            assert tracemalloc.get_traced_memory()[1] < most * 2**20
        finally:
            tracemalloc.stop()


# ----------------------------------------------------------------------------------------------------------- round trip

COORDINATES = st.integers(-MAX_COORDINATE // 2, MAX_COORDINATE // 2)
SIZES = st.integers(1, MAX_COORDINATE // 2)
TEXTS = st.text(st.characters(exclude_categories=[]))
"""With surrogates, which JSON can say."""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=5,
)
KNOWN = {"@type", "type", "data_type", "num_channels", "scales"} | scale(sharding=1, hidden=1).keys()
UNKNOWN = st.dictionaries(st.text().filter(lambda name: name not in KNOWN), VALUES, max_size=3)


def triples(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, min_size=3, max_size=3)


@st.composite
def scales(draw: st.DrawFn) -> dict[str, Any]:
    optional: dict[str, st.SearchStrategy[Any]] = {
        "voxel_offset": triples(COORDINATES),
        "hidden": st.booleans(),
        "sharding": st.none(),
    }
    size, chunks = SIZES, 3
    if draw(st.booleans()):
        encodings = {f"{name}_encoding": st.sampled_from(["raw", "gzip"]) for name in ("data", "minishard_index")}
        sharding = st.fixed_dictionaries({name: st.just(value) for name, value in SHARDING.items()}, optional=encodings)
        unknown = st.dictionaries(st.text().filter(lambda name: name not in encodings), VALUES, max_size=2)
        optional["sharding"] = st.builds(lambda known, unknown: {**unknown, **known}, sharding, unknown)
        size, chunks = st.integers(1, 2**21), 1
    required = {
        "size": triples(size),
        "chunk_sizes": st.lists(triples(SIZES), min_size=1, max_size=chunks),
        "resolution": triples(st.integers(1) | st.floats(0, exclude_min=True, allow_infinity=False)),
        "encoding": st.sampled_from(["raw", "jpeg", "compressed_segmentation", "new"]),
    }
    return {**draw(UNKNOWN), **draw(st.fixed_dictionaries(required, optional=optional))}


@st.composite
def volumes(draw: st.DrawFn) -> dict[str, Any]:
    required = {
        "data_type": st.sampled_from(DATA_TYPES.split(", ")),
        "num_channels": st.integers(1, MAX_CHANNELS),
        "scales": st.lists(scales(), min_size=1, max_size=3).map(
            lambda drawn: [{**each, "key": f"{i}"} for i, each in enumerate(drawn)]
        ),
    }
    optional = {
        "type": st.sampled_from(["image", "segmentation", "other"]),
        "@type": st.just("neuroglancer_multiscale_volume"),
    }
    return {**draw(UNKNOWN), **draw(st.fixed_dictionaries(required, optional=optional))}


@settings(max_examples=30, deadline=None)
@given(volumes())
def test_every_volume_goes_round(given: dict[str, Any]) -> None:
    text = json.dumps(given)
    read = Info.parse(text)
    assert exactly(read.to_dict()) == exactly(json.loads(text))
    assert exactly(Info.parse(given).to_dict()) == exactly(read.to_dict())
    written = read.to_json()
    assert written.isascii()
    assert written.endswith(b"}\n")
    assert exactly(json.loads(written)) == exactly(json.loads(text))
    assert Info.parse(dict(reversed(given.items()))).to_json() == written
    for model, said in zip(read.scales, given["scales"], strict=True):
        assert model.grid.size == tuple(said["size"])
        assert model.grid.voxel_offset == tuple(said.get("voxel_offset", [0, 0, 0]))
        assert model.parameters.keys() == said.keys() - KNOWN


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KNOWN)), VALUES | st.lists(VALUES)), st.booleans())
def test_whatever_is_said_is_a_volume_or_an_error(members: dict[str, Any], within: bool) -> None:
    given = of_scale(**members) if within else volume(**members)
    try:
        read = Info.parse(given)
    except InvalidInfoError:
        assert message_of(given).startswith("info: ")
    else:
        assert Info.parse(read.to_json()) == read


# ---------------------------------------------------------------------------------------------------------- other tools


def assert_goes_round(text: bytes) -> Info:
    read = Info.parse(text)
    assert exactly(read.to_dict()) == exactly(json.loads(text))
    assert exactly(json.loads(read.to_json())) == exactly(json.loads(text))
    return read


TENSORSTORE_SCALES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "raw": ({"data_type": "int32", "num_channels": 3}, {"encoding": "raw"}),
    "jpeg": ({"data_type": "uint8", "num_channels": 1}, {"encoding": "jpeg", "jpeg_quality": 75}),
    "png": ({"data_type": "uint16", "num_channels": 1}, {"encoding": "png", "png_level": 4}),
    "compressed_segmentation": (
        {"data_type": "uint64", "num_channels": 1, "type": "segmentation"},
        {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 4, 2]},
    ),
    "sharded": (
        {"data_type": "float32", "num_channels": 1},
        {"encoding": "raw", "sharding": {**SHARDING, "data_encoding": "gzip"}},
    ),
}


@pytest.mark.parametrize("name", TENSORSTORE_SCALES)
def test_an_info_of_tensorstore_goes_round(tmp_path: Path, name: str) -> None:
    multiscale, of_encoding = TENSORSTORE_SCALES[name]
    for resolution in ([8.0, 8, 40], [16.5, 1e6, 40]):
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{tmp_path}/",
            "multiscale_metadata": multiscale,
            "scale_metadata": {
                "size": [100, 80, 60],
                "voxel_offset": [-5, 0, 7],
                "chunk_size": [64, 32, 16],
                "resolution": resolution,
                **of_encoding,
            },
        }
        tensorstore.open(spec, create=True, open=True).result()
    read = assert_goes_round((tmp_path / "info").read_bytes())
    assert [each.resolution for each in read.scales] == [(8, 8, 40), (16.5, 1e6, 40)]
    assert {each.encoding for each in read.scales} == {of_encoding["encoding"]}
    assert read.data_type == multiscale["data_type"]
    assert (read.scales[0].sharding is None) == (name != "sharded")


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "compressed_segmentation", "sharded"])
def test_an_info_of_cloud_volume_goes_round(tmp_path: Path, encoding: str) -> None:
    segmentation = encoding == "compressed_segmentation"
    made = cloudvolume.CloudVolume.create_new_info(
        num_channels=1,
        layer_type="segmentation" if segmentation else "image",
        data_type="uint64" if segmentation else "uint8",
        encoding="raw" if encoding == "sharded" else encoding,
        resolution=[4, 4.5, 40],
        voxel_offset=[-5, 0, 7],
        volume_size=[1000, 800, 60],
        chunk_size=[64, 32, 16],
        mesh="mesh" if segmentation else None,
        max_mip=2,
    )
    there = cloudvolume.CloudVolume(f"file://{tmp_path}", info=made, progress=False)
    there.add_scale((8, 8, 1))
    if encoding == "sharded":
        there.scales[0]["sharding"] = SHARDING
    there.commit_info()
    read = assert_goes_round((tmp_path / "info").read_bytes())
    assert len(read.scales) == 4
    assert (read.scales[0].sharding is not None) == (encoding == "sharded")
    for mip, each in enumerate(read.scales):
        assert each.size == tuple(there.mip_volume_size(mip))
        assert each.voxel_offset == tuple(there.mip_voxel_offset(mip))
        assert each.resolution == tuple(there.mip_resolution(mip).tolist())
        assert each.key == there.mip_key(mip)
    assert Info.parse(there.info) == read


@pytest.mark.parametrize("encoding", ["raw", "jpeg", "compressed_segmentation", "sharded"])
def test_an_info_of_neuroglancer_scripts_goes_round(tmp_path: Path, encoding: str) -> None:
    make_image: Any = nibabel.Nifti1Image  # whose types are incomplete
    image = make_image(np.zeros((300, 200, 100), np.uint8), np.diag([0.1, 0.15, 1, 1]))
    options = {"sharding": "1,2,3"} if encoding == "sharded" else {}
    fullres, *_ = nibabel_image_to_info(image, options=options)
    (tmp_path / "info_fullres.json").write_text(fullres)
    (tmp_path / "volume").mkdir()
    wanted = "raw" if encoding == "sharded" else encoding
    generate_scales_info(str(tmp_path / "info_fullres.json"), str(tmp_path / "volume"), encoding=wanted)
    (written,) = (tmp_path / "volume").glob("info*")
    read = assert_goes_round(written.read_bytes())
    assert read.scales[0].size == (300, 200, 100)
    assert len(read.scales) > 1
    assert {each.encoding for each in read.scales} == {wanted}
    assert all((each.sharding is not None) == (encoding == "sharded") for each in read.scales)


def opens_in_tensorstore(folder: Path, text: bytes) -> bool:
    (folder / "info").write_bytes(text)
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/", "scale_index": 0}
    try:
        tensorstore.open(spec).result()
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(
    "given",
    [
        volume(**{"@type": "neuroglancer_multiscale_volume"}),
        volume(type="TYPE"),
        volume(num_channels=1.0),
        volume(num_channels=MAX_CHANNELS),
        volume(scale(), scale(size=[5, 5, 5], resolution=[16, 16, 16])),
        of_scale(voxel_offset=...),
        of_scale(size=[64.0, 64, 64]),
        of_scale(size=[MAX_COORDINATE] * 3, voxel_offset=[0] * 3),
        of_scale(size=[60] * 3, voxel_offset=[MAX_COORDINATE - 60] * 3),
        of_scale(chunk_sizes=[[64, 64, 64], [512, 512, 1]]),
        of_scale(chunk_sizes=[[MAX_COORDINATE] * 3]),
        of_scale(sharding=None),
        of_scale(hidden=None),
        of_scale(key="../1e+06_1e+06_1e+06"),
        of_scale(mine=2**200),
    ],
)
def test_what_tensorstore_opens_is_read(tmp_path: Path, given: dict[str, Any]) -> None:
    text = "\ufeff" + json.dumps(given)
    assert opens_in_tensorstore(tmp_path, text.encode())
    assert Info.parse(text).scales[0].size == tuple(given["scales"][0]["size"])


@pytest.mark.parametrize(
    "given",
    [
        volume(num_channels=MAX_CHANNELS + 1),
        of_scale(size=[MAX_COORDINATE + 1] * 3, voxel_offset=[0] * 3),
        of_scale(size=[60] * 3, voxel_offset=[MAX_COORDINATE - 59] * 3),
        of_scale(sharding=SHARDING, size=[2**40] * 3),
        of_scale(size=[True, 1, 1]),
        volume(**{"@type": "neuroglancer_skeletons"}),
    ],
    ids=str,
)
def test_limits_are_those_of_tensorstore(tmp_path: Path, given: dict[str, Any]) -> None:
    assert not opens_in_tensorstore(tmp_path, json.dumps(given).encode())
    message_of(given)


@pytest.mark.parametrize(
    "given",
    [
        volume(data_type="UINT8"),
        volume(**{"@type": "NEUROGLANCER_MULTISCALE_VOLUME"}),
        volume(type=None),
        of_scale(encoding="RAW"),
        of_scale(voxel_offset=None),
        of_scale(sharding={**SHARDING, "hash": "Identity"}),
    ],
    ids=str,
)
def test_what_tensorstore_does_not_open_is_written_so_that_it_does(tmp_path: Path, given: dict[str, Any]) -> None:
    text = json.dumps(given).encode()
    assert not opens_in_tensorstore(tmp_path, text)
    assert opens_in_tensorstore(tmp_path, Info.parse(text).to_json())
