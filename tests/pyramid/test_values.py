"""What a folder holds by key: found, fetched and stored like chunks, as files and in shards."""

from __future__ import annotations

import dataclasses
import random
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import AlreadyExistsError, CorruptDataError, FsspecAccessor
from precomputed_fs.format.compression import gzip_compress
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.values import Values

if TYPE_CHECKING:
    from pathlib import Path

    from precomputed_fs.pyramid.stored import Stored
    from precomputed_fs.store.requests import Job
    from tests.support.places import Place

SHARDING = Sharding(1, "murmurhash3_x86_128", 2, 1, "gzip", "gzip")
LAST = (1 << 64) - 1
ITEMS = {number: b"value %d" % number for number in (0, 1, 2, 77, 1 << 40, LAST)}

each_sharding = pytest.mark.parametrize("sharding", [None, SHARDING], ids=["files", "shards"])


def values(accessor: FsspecAccessor, sharding: Sharding | None = None, folder: str = "folder") -> Values[int]:
    return Values(accessor.pyramid, folder, sharding)


@each_sharding
@pytest.mark.parametrize("folder", ["folder", "a/b", ""])
def test_what_is_stored_by_key_is_found_by_it(pyramid: Place, sharding: Sharding | None, folder: str) -> None:
    with pyramid.accessor() as accessor:
        values(accessor, sharding, folder).store_many(ITEMS.items())
    reading = values(pyramid.accessor(), sharding, folder)
    assert {key: reading.fetch(key) for key in ITEMS} == ITEMS
    assert dict(reading.fetch_many([*ITEMS, 5])) == {**ITEMS, 5: None}
    assert reading.fetch(5) is None


def test_many_values_of_files_take_a_request_each(make_pyramid: Any) -> None:
    place = make_pyramid("s3")
    with place.accessor() as accessor:
        values(accessor).store_many(ITEMS.items())
    place.server.log.clear()
    assert dict(values(place.accessor()).fetch_many(ITEMS)) == ITEMS
    assert place.server.log.methods() == ["GET"] * len(ITEMS)


def test_a_writer_looks_for_twins_once_in_a_folder(make_pyramid: Any) -> None:
    place = make_pyramid("s3")
    place.server.log.clear()
    with place.accessor() as accessor:
        values(accessor).store_many(ITEMS.items(), overwrite=True, in_flight=1)
    assert place.server.log.methods() == ["GET", *["PUT"] * len(ITEMS)]


@each_sharding
def test_an_existing_value_is_replaced_only_if_asked(pyramid: Place, sharding: Sharding | None) -> None:
    with pyramid.accessor() as accessor:
        stored = values(accessor, sharding)
        stored.store_many([(1, b"old")])
        accessor.flush()
        with pytest.raises(AlreadyExistsError, match="overwrite=True"):
            stored.store_many([(1, b"new")])
        stored.store_many([(1, b"new")], overwrite=True)
    assert values(pyramid.accessor(), sharding).fetch(1) == b"new"


def test_the_twin_of_another_writer_is_replaced_too(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/1.gz").write_bytes(gzip_compress(b"old", 1))
    values(FsspecAccessor(tmp_path, gzip=False)).store_many([(1, b"new")], overwrite=True)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["1"]


def test_files_of_one_folder_may_be_compressed_or_not(make_pyramid: Any) -> None:
    place = make_pyramid("http")
    place.objects.put("folder/1", b"raw", None)
    place.objects.put("folder/2.gz", gzip_compress(b"gzip", 1), None)
    place.objects.put("folder/3.gz", gzip_compress(b"again", 1), None)
    reading = values(place.accessor())
    assert [reading.fetch(key) for key in (1, 2, 3, 1)] == [b"raw", b"gzip", b"again", b"raw"]
    place.server.log.clear()
    assert dict(reading.fetch_many([2, 3])) == {2: b"gzip", 3: b"again"}
    assert place.server.log.count() == 2 * 2


def test_files_of_which_ranges_are_read_are_stored_as_they_are(pyramid: Place) -> None:
    with pyramid.accessor() as accessor:
        values(accessor).store_many([(1, b"ranges")], compress=False)
    assert pyramid.objects.get("folder/1")[0] == b"ranges"


@each_sharding
def test_damage_is_told_with_the_name_of_the_file(tmp_path: Path, sharding: Sharding | None) -> None:
    def decode(_: int, data: bytes | None) -> None:
        raise CorruptDataError(f"{data!r} is damaged")

    with FsspecAccessor(tmp_path, gzip=False) as accessor:
        values(accessor, sharding).store_many([(7, b"seven")])
    name = "folder/7" if sharding is None else r"folder/[01]\.shard, 7"
    with pytest.raises(CorruptDataError, match=f"{name}: b'seven' is damaged"):
        list(values(FsspecAccessor(tmp_path), sharding).fetch_many([7], decode=decode))


@each_sharding
def test_each_value_may_be_followed_by_more_requests(pyramid: Place, sharding: Sharding | None) -> None:
    with pyramid.accessor() as accessor:
        stored = values(accessor, sharding)
        stored.store_many([(number, b"%d" % (number + 1)) for number in range(20)])
    reading = values(pyramid.accessor(), sharding)

    def following(key: int, stored: Stored | None) -> Job[tuple[int, bytes | None]]:
        assert stored is not None
        after = yield from reading.find(int(stored.decoded()))
        return key, None if after is None else after.decoded()

    expected = [(number, b"%d" % (number + 2)) for number in range(19)] + [(19, None)]
    assert sorted(reading.find_many(range(20), following)) == expected


def test_a_value_in_a_shard_knows_where_it_begins(tmp_path: Path) -> None:
    sharding = Sharding(0, "identity", 0, 0)
    data = {number: bytes([number]) * (number + 1) for number in range(50)}
    with FsspecAccessor(tmp_path) as accessor:
        values(accessor, sharding).store_many(data.items())
    file = (tmp_path / "folder/0.shard").read_bytes()
    reading = values(FsspecAccessor(tmp_path), sharding)

    def place(key: int, stored: Stored | None) -> Job[tuple[int, int]]:
        assert stored is not None
        yield []
        return key, stored.position

    keys = random.Random(1).sample(range(50), 20)
    for key, position in [*reading.find_many(keys, place), *reading.find_many([3], place)]:
        assert file[position : position + key + 1] == data[key]


def test_a_key_cannot_leave_the_pyramid(tmp_path: Path) -> None:
    reading: Values[str] = Values(FsspecAccessor(tmp_path / "pyramid").pyramid, "folder", name_of=str)
    with pytest.raises(ValueError, match=r"\.\."):
        reading.fetch("../../secret")


# ------------------------------------------------------------------------------- bytes right before a value, in shards


def length_of_lead(value: bytes) -> int:
    if not value.isdigit():
        raise CorruptDataError("not a number")
    return int(value)


LED = dataclasses.replace(SHARDING, lead=length_of_lead)
LEADS = {number: random.Random(number).randbytes(number % 50) for number in (7, 1, 30, 1 << 40, LAST)}


def store_led(accessor: FsspecAccessor, leads: dict[int, bytes], *, overwrite: bool = False) -> None:
    into = values(accessor, LED)
    for number, lead in leads.items():
        accessor.pyramid.store.run(into.store(number, b"%d" % len(lead), lead=lead, overwrite=overwrite))


def leads_in_shards(accessor: FsspecAccessor) -> dict[int, bytes]:
    """Read what stands before values in the files of shards."""
    found = {}
    for number in LEADS:
        stored = accessor.pyramid.store.run(values(accessor, LED).find(number))
        if stored is not None:
            file = accessor.fetch_file(stored.name)
            found[number] = file[stored.position - length_of_lead(stored.decoded()) : stored.position]
    return found


def test_what_belongs_before_a_value_stands_there_and_stays_when_others_are_added(pyramid: Place) -> None:
    first, second = dict([*LEADS.items()][:3]), dict([*LEADS.items()][2:])
    for some in (first, second):
        with pyramid.accessor() as accessor:
            store_led(accessor, some, overwrite=True)
    assert leads_in_shards(pyramid.accessor()) == LEADS


def test_what_belongs_before_a_value_is_replaced_with_it(tmp_path: Path) -> None:
    for lead in (b"old and longer", b"new"):
        with FsspecAccessor(tmp_path) as accessor:
            store_led(accessor, {**LEADS, 7: lead}, overwrite=True)
    assert leads_in_shards(FsspecAccessor(tmp_path)) == {**LEADS, 7: b"new"}
    sizes = sum(path.stat().st_size for path in (tmp_path / "folder").glob("*.shard"))
    with FsspecAccessor(tmp_path / "other") as accessor:
        store_led(accessor, {**LEADS, 7: b"new"})
    assert sizes == sum(path.stat().st_size for path in (tmp_path / "other/folder").glob("*.shard"))


def test_a_waiting_value_has_what_belongs_before_it_in_its_body(tmp_path: Path) -> None:
    accessor = FsspecAccessor(tmp_path)
    store_led(accessor, LEADS)
    for number, lead in LEADS.items():
        stored = accessor.pyramid.store.run(values(accessor, LED).find(number))
        assert stored is not None
        assert stored.decoded() == b"%d" % len(lead)
        assert stored.span is not None
        assert stored.body.data[: stored.span[0]] == lead
    accessor.pyramid.writer.drop()


@pytest.mark.parametrize(
    ("value", "message"), [(b"x", "not a number"), (b"999999", "there is no room for the 999999 bytes")]
)
def test_a_shard_whose_values_are_damaged_is_not_merged_with(tmp_path: Path, value: bytes, message: str) -> None:
    """What belongs before them would be lost."""
    with FsspecAccessor(tmp_path) as accessor:
        values(accessor, SHARDING).store_many([(7, value)])
    accessor = FsspecAccessor(tmp_path)
    everything = dict.fromkeys(range(8, 40), b"")
    store_led(accessor, everything, overwrite=True)
    with pytest.raises(CorruptDataError, match=f"chunk 7: {message}"):
        accessor.flush()
    accessor.pyramid.writer.drop()
