"""Under which of its names a chunk or a file is found, by jobs that are answered by hand."""

from __future__ import annotations

import gzip
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import AccessDeniedError, CorruptDataError, DataAccessError, FsspecAccessor, NotFoundError
from precomputed_fs.format.scale_layout import ScaleLayout
from precomputed_fs.pyramid.finding import _LOOKS
from precomputed_fs.store.requests import ChangedLately, Get
from tests.pyramid.names import CHUNK_NAMES, COORDS, DEEP, FILE_NAMES, FLAT, KEY
from tests.support.jobs import Objects

if TYPE_CHECKING:
    from precomputed_fs.pyramid.stored import Stored

DEAR = "http://127.0.0.1:9/lab"
"""Where a miss costs a request; nothing is asked of it here."""

CHEAP = "memory://lab"


def accessor_of(url: str, **options: Any) -> FsspecAccessor:
    accessor = FsspecAccessor(url, **options)
    accessor.pyramid.known.expect({})  # it was read, and tells nothing
    return accessor


def finding_chunk(accessor: FsspecAccessor, *, versioned: bool = False) -> Any:
    return accessor.pyramid.finder.unsharded(KEY, ScaleLayout(), COORDS, versioned=versioned)


def finding_one(accessor: FsspecAccessor) -> Any:
    """Return the job that finds a chunk for a batch."""
    return next(accessor.pyramid.finder.chunks(KEY, ScaleLayout(), [COORDS], window=1, range_size=1))


def finding_file(accessor: FsspecAccessor) -> Any:
    return accessor.pyramid.finder.file("mesh/1")


WHAT = {"chunk": (finding_chunk, CHUNK_NAMES), "file": (finding_file, FILE_NAMES)}
each = pytest.mark.parametrize(("find", "names"), WHAT.values(), ids=WHAT)
each_url = pytest.mark.parametrize("url", [DEAR, CHEAP], ids=["dear", "cheap"])


def denied(*, may_mean_absent: bool = True) -> AccessDeniedError:
    error = AccessDeniedError("403")
    error.may_mean_absent = may_mean_absent
    return error


def bucket_is_gone() -> NotFoundError:
    error = NotFoundError("404 NoSuchBucket")
    error.is_of_bucket = True
    return error


# --------------------------------------------------------------------------------------------------------------- names


@each_url
@each
@pytest.mark.parametrize("place", range(len(CHUNK_NAMES)))
def test_what_has_one_name_is_found_by_asking_for_those_before_it(url: str, find: Any, names: Any, place: int) -> None:
    name = names[place % len(names)]
    objects = Objects({name: b"there"})
    found: Stored = objects.run(find(accessor_of(url)))
    assert (found.name, found.body.data, found.suffix) == (name, b"there", name.removeprefix(name.split(".")[0]))
    assert objects.names_asked() == list(names[: place % len(names) + 1])


@each_url
@each
def test_of_twins_the_most_usual_is_found(url: str, find: Any, names: Any) -> None:
    for first, second in itertools.combinations(names, 2):
        objects = Objects({second: b"2", first: b"1"})
        assert objects.run(find(accessor_of(url))).name == first


@each
def test_what_has_no_name_is_absent_and_was_asked_for_once_under_each(find: Any, names: Any) -> None:
    objects = Objects()
    with pytest.raises(NotFoundError, match=f"under {len(names)} names"):
        objects.run(find(accessor_of(DEAR)))
    assert objects.names_asked() == [*names]


@each_url
@each
@pytest.mark.parametrize("error", [DataAccessError("unreachable"), CorruptDataError("truncated")])
def test_a_failure_is_not_absence_wherever_it_comes(url: str, find: Any, names: Any, error: Exception) -> None:
    for i, name in enumerate(names):
        objects = Objects(dict.fromkeys(names[i + 1 :], b"twin"))
        objects.failures[name] = error
        with pytest.raises(type(error), match=str(error)):
            objects.run(find(accessor_of(url)))
        assert objects.names_asked() == list(names[: i + 1])


def test_a_file_with_a_suffix_has_this_name_only() -> None:
    objects = Objects({"mesh/1.gz.gz": b"x"})
    with pytest.raises(NotFoundError, match="under 1 names"):
        objects.run(accessor_of(DEAR).pyramid.finder.file("mesh/1.gz"))
    assert objects.names_asked() == ["mesh/1.gz"]


def test_where_misses_are_dear_a_scale_is_asked_for_by_the_names_that_it_has() -> None:
    accessor = accessor_of(DEAR)
    Objects({f"{DEEP}.gz": b"x"}).run(finding_chunk(accessor))
    for contents, name in (({f"{DEEP}.gz": b"x", FLAT: b"y"}, f"{DEEP}.gz"), ({FLAT: b"y"}, None)):
        objects = Objects(contents)
        found = objects.run(next(accessor.pyramid.finder.chunks(KEY, ScaleLayout(), [COORDS], window=1, range_size=1)))[
            0
        ][1]
        assert (found and found.name) == name
        assert objects.names_asked() == [f"{DEEP}.gz"]
    other = Objects({FLAT.replace(KEY, "other"): b"x"})
    assert other.run(accessor.pyramid.finder.unsharded("other", ScaleLayout(), COORDS)).name.startswith("other")


def test_where_misses_are_cheap_each_name_is_asked_for_each_time() -> None:
    accessor = accessor_of(CHEAP)
    Objects({f"{DEEP}.gz": b"x"}).run(finding_chunk(accessor))
    assert Objects({FLAT: b"y", f"{DEEP}.gz": b"x"}).run(finding_chunk(accessor)).name == FLAT


@each_url
def test_a_version_is_asked_for_where_it_is_needed(url: str) -> None:
    for versioned in (False, True):
        objects = Objects({FLAT: b"x"})
        assert objects.run(finding_chunk(accessor_of(url), versioned=versioned)).body.version == ("v1" * versioned)


@each
def test_more_than_there_can_be_names_the_limit(find: Any, names: Any) -> None:
    for name in names:
        with pytest.raises(CorruptDataError, match="the option max_file_bytes allows more"):
            Objects({name: bytes(100_000)}).run(find(accessor_of(DEAR, max_file_bytes=10)))


# ----------------------------------------------------------------------------------------------- names that change


@pytest.mark.parametrize("point", range(1, 14))
@each
def test_what_is_moved_from_name_to_name_while_it_is_looked_for_is_found(find: Any, names: Any, point: int) -> None:
    """As by a writer that replaces one name by another: the new one is there before the old one goes."""
    for old, new in itertools.permutations(names[:4], 2):
        objects = Objects({old: b"old"})
        objects.is_changing = True

        def move(objects: Objects = objects, old: str = old, new: str = new) -> None:
            objects.put(new, b"new")
            objects.delete(old)

        objects.before[point] = move
        assert objects.run(find(accessor_of(CHEAP))).body.data in (b"old", b"new")


@each
@pytest.mark.parametrize("looks", range(1, _LOOKS + 1))
def test_while_names_change_they_are_looked_for_again_a_few_times(find: Any, names: Any, looks: int) -> None:
    """The object moves on before each look, until one finds it where it has stayed."""
    objects = Objects()
    objects.is_changing = True
    seen = 0

    def settle(request: Any) -> None:
        nonlocal seen
        seen += isinstance(request, Get) and request.name == names[0]
        if seen > looks:
            objects.put(names[1], b"there")

    objects.before_each = settle
    assert objects.run(find(accessor_of(CHEAP))).name == names[1]
    assert seen == looks + 1


@each
def test_names_that_never_stop_changing_are_absent_in_the_end(find: Any, names: Any) -> None:
    objects = Objects()
    objects.is_changing = True
    with pytest.raises(NotFoundError):
        objects.run(find(accessor_of(CHEAP)))
    assert objects.names_asked(Get) == [*names, *(_LOOKS * names[:4])]


@each
def test_where_nothing_has_changed_lately_absence_is_absence(find: Any, names: Any) -> None:
    objects = Objects()
    with pytest.raises(NotFoundError):
        objects.run(find(accessor_of(CHEAP)))
    assert objects.names_asked(Get) == [*names]
    folders = {
        folder for name in names[:4] for folder in (name.rpartition("/")[0], name.rpartition("/")[0].rpartition("/")[0])
    }
    assert {*objects.names_asked(ChangedLately)} == folders


@each
def test_a_failure_to_tell_whether_names_change_is_no_absence(find: Any, names: Any) -> None:
    """What is answered to requests at once may be an exception: it counts as a yes, as nothing is known."""
    objects = Objects()
    objects.failures = dict.fromkeys((KEY, f"{KEY}/0-64", f"{KEY}/0-64/0-64", "mesh", ""), DataAccessError("x"))
    with pytest.raises(NotFoundError):
        objects.run(find(accessor_of(CHEAP)))
    assert objects.names_asked(Get) == [*names, *(_LOOKS * names[:4])]


# --------------------------------------------------------------------------------------------------- refused, or gone


@each_url
@pytest.mark.parametrize("place", range(len(CHUNK_NAMES)))
def test_a_chunk_is_found_behind_names_that_are_refused(url: str, place: int) -> None:
    for refused in (denied(), denied(may_mean_absent=False)):
        objects = Objects({CHUNK_NAMES[place]: b"x"})
        objects.failures = dict.fromkeys(CHUNK_NAMES[:place], refused)
        assert objects.run(finding_chunk(accessor_of(url))).name == CHUNK_NAMES[place]


@each_url
@pytest.mark.parametrize("place", range(len(CHUNK_NAMES)))
def test_a_chunk_that_may_be_refused_is_not_absent_unless_told_so(url: str, place: int) -> None:
    def outcome(refusal: AccessDeniedError, *, denied_is_missing: bool, knows_info: bool = True) -> DataAccessError:
        objects = Objects()
        objects.failures[CHUNK_NAMES[place]] = refusal
        accessor = accessor_of(url, denied_is_missing=denied_is_missing)
        if not knows_info:
            accessor.pyramid.known.current.error = AccessDeniedError("info: 403")
        with pytest.raises(DataAccessError) as caught:
            objects.run(finding_chunk(accessor))
        assert objects.names_asked(Get) == [*CHUNK_NAMES]
        return caught.value

    error = outcome(denied(), denied_is_missing=False)
    assert isinstance(error, AccessDeniedError)
    assert "denied_is_missing=True" in str(error)
    assert isinstance(outcome(denied(), denied_is_missing=True), NotFoundError)
    for refusal in (denied(may_mean_absent=False), denied()):
        error = outcome(refusal, denied_is_missing=True, knows_info=not refusal.may_mean_absent)
        assert isinstance(error, AccessDeniedError)
        assert "denied_is_missing" not in str(error)


@each_url
def test_a_chunk_without_a_known_info_is_not_absent(url: str) -> None:
    """It may be in a shard."""
    accessor = accessor_of(url, denied_is_missing=True)
    accessor.pyramid.known.current.error = AccessDeniedError("info: 403")
    with pytest.raises(AccessDeniedError, match="info: 403"):
        Objects().run(finding_chunk(accessor))
    accessor.pyramid.known.current.error = NotFoundError("info: 404")
    with pytest.raises(NotFoundError):
        Objects().run(finding_chunk(accessor))


@pytest.mark.parametrize("denied_is_missing", [True, False])
def test_a_file_that_is_refused_is_refused(*, denied_is_missing: bool) -> None:
    for i, name in enumerate(FILE_NAMES):
        objects = Objects()
        objects.failures[name] = denied()
        with pytest.raises(AccessDeniedError):
            objects.run(finding_file(accessor_of(DEAR, denied_is_missing=denied_is_missing)))
        assert objects.names_asked() == list(FILE_NAMES[: i + 1])


@each_url
@pytest.mark.parametrize("place", range(len(CHUNK_NAMES)))
def test_a_chunk_of_a_bucket_that_is_gone_is_not_absent(url: str, place: int) -> None:
    objects = Objects()
    objects.failures[CHUNK_NAMES[place]] = bucket_is_gone()
    with pytest.raises(DataAccessError, match="NoSuchBucket") as caught:
        objects.run(finding_one(accessor_of(url)))
    assert not isinstance(caught.value, NotFoundError)


@each_url
def test_a_file_of_a_bucket_that_is_gone_is_said_to_be_of_it_at_once(url: str) -> None:
    objects = Objects()
    objects.failures["mesh/1"] = bucket_is_gone()
    with pytest.raises(NotFoundError, match="NoSuchBucket"):
        objects.run(finding_file(accessor_of(url)))
    assert objects.names_asked() == ["mesh/1"]


# ---------------------------------------------------------------------------------------------------------------- info

INFO = b'{"type": "image", "data_type": "uint8", "num_channels": 1, "scales": []}'


def finding(url: str, **options: Any) -> tuple[FsspecAccessor, Any]:
    accessor = FsspecAccessor(url, **options)
    return accessor, lambda: accessor.pyramid.finder.chunk(KEY, COORDS)


def test_info_is_read_before_the_first_chunk_and_not_again() -> None:
    _, find = finding(CHEAP)
    objects = Objects({"info.gz": gzip.compress(INFO), FLAT: b"x"})
    for _ in range(2):
        assert objects.run(find()).name == FLAT
    assert objects.names_asked() == ["info", "info.gz", FLAT, FLAT]


def test_an_absent_info_is_asked_for_once_and_hides_no_chunk() -> None:
    _, find = finding(CHEAP)
    objects = Objects({FLAT: b"x"})
    for _ in range(2):
        assert objects.run(find()).name == FLAT
    assert objects.names_asked(Get).count("info") == 1


def test_an_info_that_fails_is_asked_for_again() -> None:
    _, find = finding(CHEAP)
    objects = Objects({"info": INFO, FLAT: b"x"})
    objects.failures["info"] = DataAccessError("unreachable")
    with pytest.raises(DataAccessError, match="unreachable"):
        objects.run(find())
    objects.failures.clear()
    assert objects.run(find()).name == FLAT


def test_an_info_that_is_stored_while_it_is_read_is_read_again() -> None:
    accessor, find = finding(CHEAP)
    objects = Objects({"info": INFO, FLAT: b"x"})
    objects.before[1] = lambda: accessor.pyramid.known.expect(None)  # as when another thread stores it
    for _ in range(2):
        objects.run(find())
    assert objects.names_asked() == ["info", FLAT, "info", FLAT]


def test_sub_directories_that_a_listing_shows_are_asked_for_from_then_on() -> None:
    accessor = accessor_of(DEAR)
    for _ in range(2):  # the second time by the name that is known
        Objects({FLAT: b"x"}).run(finding_chunk(accessor))
    Objects({DEEP: b"x"}).run(accessor.pyramid.finder.variants_to_clear(KEY))
    assert Objects({f"{DEEP}.gz": b"x"}).run(finding_chunk(accessor)).name == f"{DEEP}.gz"
