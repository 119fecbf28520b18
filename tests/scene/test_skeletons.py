"""How the skeletons of segments are found, read and stored."""

from __future__ import annotations

import pickle
import random
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    AlreadyExistsError,
    CorruptDataError,
    InvalidInfoError,
    NotFoundError,
    Skeleton,
    URLError,
    create_segment_properties,
    create_skeletons,
    open_skeletons,
    open_volume,
)
from precomputed_fs.errors import DataAccessError
from precomputed_fs.format.sharding import Sharding, propose_hashed_sharding
from tests.scene.samples import LARGEST, SEGMENTS, SKELETONS, labels, skeleton

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.places import Place

SHARDING = Sharding(0, "murmurhash3_x86_128", 1, 2, "gzip", "gzip").to_info()

each_sharding = pytest.mark.parametrize("sharding", [None, SHARDING], ids=["files", "shards"])


# ------------------------------------------------------------------------------------------------------------- reading


@each_sharding
def test_skeletons_are_read_as_they_were_stored(pyramid: Place, sharding: Any) -> None:
    options: Any = {"storage_options": pyramid.storage_options}
    with labels(pyramid.url, **options) as volume:
        volume.store_skeletons(SKELETONS, sharding=sharding)
        assert volume.info["skeletons"] == "skeletons"
    skeletons = open_volume(pyramid.url, **options).skeletons
    assert {segment: skeletons[segment] for segment in SEGMENTS} == SKELETONS
    assert skeletons.get(reversed(SEGMENTS)) == SKELETONS
    assert list(skeletons.get([7, 1, 7])) == [7, 1]
    assert dict(skeletons.stream(np.array(SEGMENTS, np.uint64))) == SKELETONS
    assert skeletons.ids.dtype == np.uint64
    assert (list(skeletons), len(skeletons)) == (sorted(SEGMENTS), len(SEGMENTS))
    assert [segment in skeletons for segment in (0, LARGEST, np.uint64(7), 8)] == [True, True, True, False]


@each_sharding
def test_an_absent_skeleton_is_not_found(tmp_path: Path, sharding: Any) -> None:
    skeletons = create_skeletons(tmp_path, SKELETONS, sharding=sharding)
    name = "/2" if sharding is None else ""
    with pytest.raises(NotFoundError, match=rf"{tmp_path}{name}: segment 2 has no skeleton"):
        skeletons[2]
    with pytest.raises(NotFoundError, match=rf"{tmp_path}: 2 segments have no skeleton: 2, 5; missing='skip' leaves"):
        skeletons.get([2, 7, 5])
    with pytest.raises(NotFoundError, match="segment 2 has no skeleton"):
        list(skeletons.stream([2]))
    assert skeletons.get([2, 7, 5], missing="skip") == {7: SKELETONS[7]}


@pytest.mark.parametrize("given", ["7", 7.0, None, True, -1, 1 << 64])
def test_what_is_no_segment_id_is_refused(tmp_path: Path, given: Any) -> None:
    skeletons = create_skeletons(tmp_path, SKELETONS)
    for use in (skeletons.__getitem__, skeletons.__contains__, lambda segment: skeletons.get([segment])):
        with pytest.raises((TypeError, ValueError), match="expected a segment id"):
            use(given)


def test_arguments_that_are_mistaken_are_explained(tmp_path: Path) -> None:
    skeletons = create_skeletons(tmp_path, SKELETONS)
    with pytest.raises(TypeError, match="expected several segment ids, such as"):
        skeletons.get(7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"get\(\) has no keyword 'mising'; did you mean 'missing'"):
        skeletons.get([7], mising="skip")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="sharding: expected True, False or a mapping, got 'yes'"):
        create_skeletons(tmp_path, SKELETONS, sharding="yes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing: expected one of error, skip, got 'raise'; did you mean 'error'"):
        skeletons.get([7], missing="raise")


def test_skeletons_say_what_they_are(tmp_path: Path) -> None:
    details = "radius (float32), direction (float32 x 2)"
    assert repr(create_skeletons(tmp_path / "a", SKELETONS)) == f"<Skeletons {tmp_path}/a: {details}>"
    sharded = create_skeletons(tmp_path / "b", SKELETONS, sharding=True)
    assert repr(sharded) == f"<Skeletons {tmp_path}/b: {details}, sharded>"
    assert repr(create_skeletons(tmp_path / "c", {})) == f"<Skeletons {tmp_path}/c>"


def test_skeletons_can_be_pickled(tmp_path: Path) -> None:
    labels(tmp_path).store_skeletons(SKELETONS)
    volume = open_volume(tmp_path)
    assert pickle.loads(pickle.dumps(volume.skeletons))[7] == SKELETONS[7]
    assert pickle.loads(pickle.dumps(volume)).skeletons[7] == SKELETONS[7]


def test_a_transform_leads_to_nanometres(tmp_path: Path) -> None:
    stored = Skeleton([[1, 2, 3], [4, 5, 6]], [[0, 1]], {"radius": [1, 2]})
    folder = create_skeletons(tmp_path, {1: stored}).folder
    turned = [0, -8, 0, 100, 8, 0, 0, 0, 0, 0, 8, -0.5]
    folder.store_info({**folder.info(), "transform": turned}, overwrite=True)
    found = open_skeletons(tmp_path)[1]
    np.testing.assert_array_equal(found.vertices, [[84, 8, 23.5], [60, 32, 47.5]])
    np.testing.assert_array_equal(found.attributes["radius"], [8, 16])
    added = create_skeletons(tmp_path, {2: found})
    assert added[2] == found
    assert (tmp_path / "2").read_bytes() == (tmp_path / "1").read_bytes()


def test_a_radius_stays_as_it_is_where_the_transform_is_not_uniform(tmp_path: Path) -> None:
    folder = create_skeletons(tmp_path, {1: Skeleton([[1, 2, 3]], [], {"radius": [1]})}).folder
    folder.store_info({**folder.info(), "transform": [4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 40, 0]}, overwrite=True)
    with pytest.warns(UserWarning, match="the transform scales x, y and z differently, so that a radius stays"):
        found = open_skeletons(tmp_path)[1]
    assert found == Skeleton([[4, 8, 120]], [], {"radius": [1]})


# ------------------------------------------------------------------------------------------------------------ requests


def test_a_skeleton_takes_one_request_and_many_one_each(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("s3")
    options: Any = {"storage_options": place.storage_options}
    labels(place.url, **options).store_skeletons(SKELETONS)
    volume = open_volume(place.url, **options)
    place.server.log.clear()
    assert volume.skeletons[7] == SKELETONS[7]
    assert place.server.log.methods() == ["GET", "GET"]  # `info`, once
    place.server.log.clear()
    assert volume.skeletons[1] == SKELETONS[1]
    assert place.server.log.methods() == ["GET"]
    place.server.log.clear()
    assert volume.skeletons.get(SEGMENTS) == SKELETONS
    assert place.server.log.methods() == ["GET"] * len(SEGMENTS)


@pytest.mark.parametrize("many", [False, True])
def test_a_skeleton_in_a_shard_takes_three_requests_and_then_one(
    make_pyramid: Callable[[str], Place], many: bool
) -> None:
    place = make_pyramid("s3")
    options: Any = {"storage_options": place.storage_options}
    create_skeletons(place.url, SKELETONS, sharding=Sharding(0, "identity", 0, 0).to_info(), **options)
    skeletons = open_skeletons(place.url, **options)
    for requests in (3, 1):
        place.server.log.clear()
        assert (skeletons.get([7])[7] if many else skeletons[7]) == SKELETONS[7]
        assert place.server.log.methods() == ["GET"] * requests


@each_sharding
def test_skeletons_are_read_over_http_but_not_listed(make_pyramid: Callable[[str], Place], sharding: Any) -> None:
    place = make_pyramid("http")
    folder = place.objects.folder  # type: ignore[attr-defined]
    create_skeletons(folder, SKELETONS, sharding=sharding, gzip=False)
    skeletons = open_skeletons(place.url)
    assert skeletons.get(SEGMENTS) == SKELETONS
    assert (7 in skeletons, 8 in skeletons, bool(skeletons)) == (True, False, True)
    with pytest.raises(DataAccessError, match="cannot be listed"):
        skeletons.ids  # noqa: B018


# ------------------------------------------------------------------------------------------------------------- storing


def test_info_names_the_folder_of_skeletons(tmp_path: Path) -> None:
    volume = labels(tmp_path / "volume")
    with pytest.raises(NotFoundError, match=r"volume/info names no skeletons: vol.store_skeletons\(...\) stores some"):
        volume.skeletons  # noqa: B018
    volume.store_skeletons({1: SKELETONS[1]}, folder="../beside")
    assert open_volume(tmp_path / "volume").info["skeletons"] == "../beside"
    volume.store_skeletons({7: SKELETONS[7]})
    assert open_volume(tmp_path / "volume").skeletons.get([1, 7]) == {1: SKELETONS[1], 7: SKELETONS[7]}
    with pytest.raises(AlreadyExistsError, match=r"names the folder '../beside' as skeletons: pass folder='../beside'"):
        volume.store_skeletons(SKELETONS, folder="other")
    volume.store_skeletons({0: SKELETONS[0]}, folder="other", overwrite=True)
    assert list(volume.skeletons) == [0]


def test_no_skeletons_are_not_named(tmp_path: Path) -> None:
    volume = labels(tmp_path)
    volume.store_skeletons({})
    assert "skeletons" not in volume.info
    volume.store_skeletons(SKELETONS)
    volume.store_skeletons({})
    assert len(volume.skeletons) == len(SKELETONS)


def test_writers_of_one_new_folder_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    create_skeletons(tmp_path, {7: SKELETONS[7]}, sharding=SHARDING)
    monkeypatch.setattr("precomputed_fs.scene.folder.Folder.info_if_any", lambda _: None)  # as before the other began
    assert create_skeletons(tmp_path, {1: SKELETONS[1]}).get([1, 7]) == {1: SKELETONS[1], 7: SKELETONS[7]}
    with pytest.raises(AlreadyExistsError, match="these have no attributes"):
        create_skeletons(tmp_path, {1: Skeleton([[0, 0, 0]])})


def test_a_folder_of_skeletons_may_have_properties_of_its_own(tmp_path: Path) -> None:
    skeletons = create_skeletons(tmp_path / "a/skeletons", SKELETONS)
    with pytest.raises(NotFoundError, match="skeletons/info names no segment properties"):
        skeletons.segment_properties  # noqa: B018
    create_segment_properties(tmp_path / "a/properties", {"size": [1, 2]}, ids=[1, 7])
    skeletons.folder.store_info({**skeletons.folder.info(), "segment_properties": "../properties/"}, overwrite=True)
    assert open_skeletons(tmp_path / "a/skeletons").segment_properties["size"].tolist() == [1, 2]


@pytest.mark.parametrize(("path", "error"), [("https://elsewhere/skeletons", URLError), ("../" * 99, InvalidInfoError)])
def test_a_folder_that_info_names_is_reached_by_a_path(tmp_path: Path, path: str, error: type[Exception]) -> None:
    volume = labels(tmp_path)
    text = (tmp_path / "info").read_text().replace('"type"', f'"skeletons": "{path}", "type"')
    (tmp_path / "info").write_text(text)
    with pytest.raises(error, match=r"info: skeletons"):
        open_volume(tmp_path).skeletons  # noqa: B018
    assert volume.info.skeletons is None


@each_sharding
def test_an_existing_skeleton_is_replaced_only_if_asked(tmp_path: Path, sharding: Any) -> None:
    volume = labels(tmp_path)
    volume.store_skeletons(SKELETONS, sharding=sharding)
    with pytest.raises(AlreadyExistsError, match="overwrite=True"):
        volume.store_skeletons({7: skeleton(99)})
    volume.store_skeletons({7: skeleton(99)}, overwrite=True)
    assert open_volume(tmp_path).skeletons.get(SEGMENTS) == {**SKELETONS, 7: skeleton(99)}


def test_a_block_of_the_volume_writes_each_shard_once(make_pyramid: Callable[[str], Place]) -> None:
    place = make_pyramid("s3")
    with labels(place.url, storage_options=place.storage_options) as volume:
        place.server.log.clear()
        for segment in SEGMENTS:
            volume.store_skeletons({segment: SKELETONS[segment]}, sharding=Sharding(0, "identity", 0, 0).to_info())
    written = [entry.path for entry in place.server.log.entries() if entry.method == "PUT" and "/skel" in entry.path]
    assert [path.rpartition("/")[2] for path in written] == ["info", "0.shard"]
    assert open_volume(place.url, storage_options=place.storage_options).skeletons.get(SEGMENTS) == SKELETONS


@pytest.mark.parametrize(
    ("others", "options", "message"),
    [
        (
            {9: Skeleton([[0, 0, 0]])},
            {},
            r"has skeletons with radius \(float32\), direction.* these have no attributes: ",
        ),
        ({9: skeleton(1)}, {"attributes": ["radius"]}, r"these have radius \(float32\): choose another folder"),
        ({9: skeleton(1)}, {"sharding": True}, "has skeletons that are not sharded: choose another folder"),
        ({9: skeleton(1)}, {"sharding": SHARDING}, "has skeletons that are not sharded"),
    ],
)
def test_a_folder_has_skeletons_of_one_kind(tmp_path: Path, others: Any, options: Any, message: str) -> None:
    create_skeletons(tmp_path, SKELETONS)
    with pytest.raises(AlreadyExistsError, match=message):
        create_skeletons(tmp_path, others, overwrite=True, **options)
    assert list(create_skeletons(tmp_path, {9: skeleton(1)}, sharding=False)) == sorted([*SEGMENTS, 9])


def test_a_sharded_folder_keeps_its_sharding(tmp_path: Path) -> None:
    create_skeletons(tmp_path, SKELETONS, sharding=SHARDING)
    assert len(create_skeletons(tmp_path, {9: skeleton(1)}, sharding=True)) == len(SEGMENTS) + 1
    with pytest.raises(AlreadyExistsError, match="has skeletons that are sharded: choose another folder"):
        create_skeletons(tmp_path, {10: skeleton(1)}, sharding=False)
    with pytest.raises(AlreadyExistsError, match="has skeletons that are sharded in another way"):
        create_skeletons(tmp_path, {10: skeleton(1)}, sharding={**SHARDING, "shard_bits": 5})


def test_chosen_attributes_are_stored_in_chosen_types(tmp_path: Path) -> None:
    arrays: Any = {"radius": [1, 2], "length": [0.1, 2.5], "level": [7, -1]}
    given = Skeleton([[0, 0, 0], [1, 1, 1]], [], arrays)
    with pytest.raises(TypeError, match=r"'length' is float64, and the format has .*: attributes={'length': 'f"):
        create_skeletons(tmp_path / "a", {1: given})
    assert not (tmp_path / "a").exists()
    with pytest.warns(
        UserWarning, match=r"Neuroglancer shows .* all attributes are float32: attributes={'level': 'float32"
    ):
        found = create_skeletons(tmp_path / "a", {1: given}, attributes={"level": "int8", "length": np.float32})[1]
    expected: Any = {"level": np.array([7, -1], np.int8), "length": np.array([0.1, 2.5], np.float32)}
    assert found == Skeleton(given.vertices, given.edges, expected)
    assert list(found.attributes) == ["level", "length"]
    assert not create_skeletons(tmp_path / "b", {1: given}, attributes=[])[1].attributes


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("a b", [1], "'a b': Neuroglancer may show no skeletons, as this name is not an identifier"),
        ("\u00fc", [1], "as this name is not an identifier"),
        ("many", [[1] * 5], "only if attributes have at most 4 components, and this one has 5"),
    ],
)
def test_what_neuroglancer_does_not_show_is_warned_of(tmp_path: Path, name: str, values: Any, message: str) -> None:
    made = Skeleton([[0, 0, 0]], [], {name: np.array(values, np.float32)})
    with pytest.warns(UserWarning, match=message):
        assert create_skeletons(tmp_path, {1: made})[1] == made


@pytest.mark.parametrize(
    ("attributes", "options", "message"),
    [
        ({}, {}, "skeleton 2 has no attribute 'size', which others have"),
        ({"size": np.ones((1, 2))}, {}, "skeleton 2: attribute 'size' has 2 components, and others have 1"),
        ({"size": [2**24 + 1]}, {}, "skeleton 2: attribute 'size': np.int64(16777217) is no float32"),
        ({"size": [1e300]}, {}, "skeleton 2: attribute 'size': np.float64(1e+300) is no float32"),
        ({"size": [1]}, {"attributes": ["sizes"]}, "expected one of size, got 'sizes'; did you mean 'size'"),
    ],
)
def test_attributes_are_never_changed_silently(tmp_path: Path, attributes: Any, options: Any, message: str) -> None:
    first = Skeleton([[0, 0, 0]], [], {"size": np.array([1], np.float32)})
    with pytest.raises(ValueError, match=re.escape(message)):
        create_skeletons(tmp_path, {1: first, 2: Skeleton([[0, 0, 0]], [], attributes)}, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, "expected a mapping of segment ids to skeletons, or an iterable of pairs, got 5"),
        ("12", "expected a mapping of segment ids to skeletons"),
        ([5], "expected skeletons in pairs, each with its segment id first, got 5"),
        ({"a": skeleton(1)}, "expected a segment id"),
        ({1: [[0, 0, 0]]}, "expected a skeleton with vertices and edges"),
    ],
)
def test_what_are_no_skeletons_is_refused(tmp_path: Path, given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        create_skeletons(tmp_path, given)
    assert not (tmp_path / "info").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_coordinates_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="skeleton 7: a vertex has a coordinate that is not a finite number"):
        create_skeletons(tmp_path, {7: Skeleton([[0.0, 0.0, 0.0], [0.0, value, 0.0]], [[0, 1]])})


@pytest.mark.parametrize("value", [256, 0.5])
def test_integers_are_stored_as_they_are_or_not_at_all(tmp_path: Path, value: float) -> None:
    first, second = (Skeleton([[0, 0, 0]], [], {"size": np.array([each])}) for each in (255, value))
    with pytest.warns(UserWarning, match="all attributes are float32"), pytest.raises(ValueError, match="is no uint8"):
        create_skeletons(tmp_path, {1: first, 2: second}, attributes={"size": "uint8"})


def test_arrays_that_were_changed_are_checked_again(tmp_path: Path) -> None:
    made = skeleton(1, 3)
    made.attributes["level"] = [1.0, 2.0, 3.0]  # type: ignore[assignment]
    made.edges = np.array([[0, 7]], np.uint32)
    with pytest.raises(ValueError, match="edges: expected indices of 3 vertices"):
        create_skeletons(tmp_path, {1: made})


def test_any_number_of_skeletons_comes_from_a_generator(tmp_path: Path) -> None:
    waiting = [0]

    def made() -> Any:
        for segment in range(2000):
            waiting[0] = segment
            yield segment, skeleton(segment % 3, 3)

    assert len(create_skeletons(tmp_path, made())) == 2000
    with pytest.raises(TypeError, match="sharding=True has to know how many there are: pass a mapping"):
        create_skeletons(tmp_path / "other", made(), sharding=True)


def test_a_sharding_is_proposed_for_the_number_and_the_size_of_values() -> None:
    assert propose_hashed_sharding(0, 0).to_info() == {
        "@type": "neuroglancer_uint64_sharded_v1",
        "hash": "murmurhash3_x86_128",
        "preshift_bits": 0,
        "minishard_bits": 0,
        "shard_bits": 0,
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }
    proposed = {
        (n, size): propose_hashed_sharding(n, size) for n in (1, 511, 1024, 10**5, 10**8) for size in (100, 50_000)
    }
    bits = {key: (each.minishard_bits, each.shard_bits) for key, each in proposed.items()}
    assert bits == {
        (1, 100): (0, 0),
        (1, 50_000): (0, 0),
        (511, 100): (0, 0),
        (511, 50_000): (0, 0),
        (1024, 100): (2, 0),
        (1024, 50_000): (2, 0),
        (100_000, 100): (8, 0),
        (100_000, 50_000): (4, 4),
        (10**8, 100): (13, 5),
        (10**8, 50_000): (4, 14),
    }


# -------------------------------------------------------------------------------------------------------------- damage


@each_sharding
def test_damaged_files_are_corrupt_or_still_skeletons(tmp_path: Path, sharding: Any) -> None:
    create_skeletons(tmp_path, SKELETONS, sharding=sharding, gzip=False)
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    chance = random.Random(5)
    errors = []
    for _ in range(150):
        path, body = chance.choice(list(files.items()))
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        path.write_bytes(damaged[: chance.choice([len(damaged), chance.randrange(len(damaged))])])
        try:
            skeletons = open_skeletons(tmp_path)
            skeletons.get(SEGMENTS, missing="skip")
            len(skeletons)
        except (CorruptDataError, InvalidInfoError) as exc:
            errors.append(exc)
        path.write_bytes(body)
    assert len(errors) > 60
    assert {type(exc) for exc in errors} == {CorruptDataError, InvalidInfoError}
    assert all(str(tmp_path) in str(exc) for exc in errors)


@pytest.mark.parametrize("value", [2**53 + 1, 2**64 - 1])
def test_large_ids_are_not_rounded_to_floats(tmp_path: Path, value: int) -> None:
    made = Skeleton([[0, 0, 0]], [], {"synapse": np.array([value], np.uint64)})
    with pytest.raises(ValueError, match=f"skeleton 5: attribute 'synapse': .*{value}.* is no float32"):
        create_skeletons(tmp_path, {5: made}, attributes={"synapse": "float32"})


def test_a_segment_that_is_given_twice_is_refused(tmp_path: Path) -> None:
    one = Skeleton([[0, 0, 0]], [])
    with pytest.raises(ValueError, match="segment 5 is given twice"):
        create_skeletons(tmp_path, [(5, one), (6, one), (5, one)], overwrite=True)


def test_what_is_not_a_skeleton_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="skeleton 7: expected a skeleton with vertices and edges, got 'x'"):
        create_skeletons(tmp_path, [(5, Skeleton([[0, 0, 0]], [])), (7, "x")])


def test_attributes_may_be_in_any_order(tmp_path: Path) -> None:
    one, two = np.ones(1, np.float32), np.full(1, 2, np.float32)
    create_skeletons(tmp_path, {5: Skeleton([[0, 0, 0]], [], {"a": one, "b": two})})
    made = Skeleton([[0, 0, 0]], [], {"b": two, "a": one})
    assert create_skeletons(tmp_path, {7: made})[7] == made


def test_vertices_that_float32_has_not_are_errors(tmp_path: Path) -> None:
    made = create_skeletons(tmp_path, {5: Skeleton([[1e30, 0, 0]], [])})
    scaled = {**made.folder.info(), "transform": [1e30, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]}
    made.folder.store_info(scaled, overwrite=True)
    with pytest.raises(CorruptDataError, match="5: a vertex is farther away than float32 can tell"):
        open_skeletons(tmp_path)[5]
    made.folder.store_info({**scaled, "transform": [1e-30, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0]}, overwrite=True)
    with pytest.raises(ValueError, match="skeleton 6: a vertex is farther away than float32"):
        create_skeletons(tmp_path, {6: Skeleton([[1e30, 0, 0]], [])})
