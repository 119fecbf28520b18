"""Which ids the values of a folder have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from precomputed_fs import CorruptDataError, FsspecAccessor
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.value_ids import NoListingError, stored_ids
from precomputed_fs.pyramid.values import Values
from tests.support.places import Place  # noqa: TC001 - for its fixture's sake

if TYPE_CHECKING:
    from pathlib import Path

LARGEST = (1 << 64) - 1
SHARDING = Sharding(0, "identity", 1, 3, "gzip", "raw")
IDS = [0, 3, 4, 5, 77, LARGEST]


def values(accessor: FsspecAccessor, sharding: Sharding | None) -> Values[int]:
    return Values(accessor.pyramid, "folder", sharding)


@pytest.mark.parametrize("sharding", [None, SHARDING], ids=["files", "shards"])
def test_all_ids_that_are_stored_are_found(pyramid: Place, sharding: Sharding | None) -> None:
    with pyramid.accessor() as accessor:
        stored = values(accessor, sharding)
        assert list(stored_ids(stored)) == []
        stored.store_many((each, b"value") for each in IDS)
        accessor.flush()
        for name in ("info", "007", f"{1 << 64}", "1:0", "-1", "x.shard", "below/8", "8/x", "below/0.shard"):
            pyramid.put(f"folder/{name}", b"{}")
        assert sorted(stored_ids(stored)) == IDS


def test_a_file_and_its_compressed_twin_are_one(make_pyramid: object) -> None:
    place: Place = make_pyramid("local")  # type: ignore[operator]
    for name in ("1", "1.gz", "2.gz", "3.br"):
        place.put(f"folder/{name}", b"")
    assert sorted(stored_ids(values(place.accessor(), None))) == [1, 2, 3]


def test_no_more_minishards_are_read_than_there_can_be(tmp_path: Path) -> None:
    with FsspecAccessor(tmp_path) as accessor:
        values(accessor, SHARDING).store_many((each, b"value") for each in IDS)
    hostile = Sharding(0, "identity", 32, 3)
    with pytest.raises(
        CorruptDataError, match=r"folder/\d.shard: \d+ bytes are fewer than the 68719476736 of a shard index"
    ):
        list(stored_ids(values(FsspecAccessor(tmp_path), hostile)))


def test_a_protocol_may_have_no_listings() -> None:
    with pytest.raises(NoListingError, match=r"http://127.0.0.1:9/x/folder: what there is cannot be listed"):
        list(stored_ids(values(FsspecAccessor("http://127.0.0.1:9/x"), None)))
