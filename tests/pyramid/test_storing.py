"""How chunks and files are stored and changed while other clients are at work, by jobs that are answered by hand."""

from __future__ import annotations

import functools
import itertools
import random
from typing import TYPE_CHECKING, Any

import brotli
import pytest

from precomputed_fs import AccessDeniedError, AlreadyExistsError, DataAccessError, FsspecAccessor
from precomputed_fs.errors import ReplacedError
from precomputed_fs.format.compression import gzip_compress
from precomputed_fs.format.scale_layout import ScaleLayout
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.store import jobs
from precomputed_fs.store.protocols.clouds import Cloud
from precomputed_fs.store.protocols.memory import Memory
from precomputed_fs.store.requests import Delete, Get, List, Pause, Put
from tests.pyramid.names import CHUNK_NAMES, COORDS, FILE_NAMES, FLAT, KEY
from tests.support.jobs import Objects

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from precomputed_fs.format.grid import ChunkCoords
    from precomputed_fs.pyramid.stored import Stored
    from precomputed_fs.store.requests import Job

MIME = "application/octet-stream"
STANDING = {"absent": None, "raw": "", "gzip": ".gz", "brotli": ".br"}
"""How the chunk stands before it is changed: the suffix of its name."""

PACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": lambda data: gzip_compress(data, 1),
    ".br": lambda data: brotli.compress(data, quality=1),
}


class Archive(Memory):
    """In which nothing is replaced."""

    can_replace = False


KINDS = {"files": Memory(), "cloud": Cloud(), "archive": Archive()}
"""Misses are cheap and suffixes tell of compression; they are dear and headers do; nothing can be replaced."""

each_kind = pytest.mark.parametrize("kind", ["files", "cloud"])


class Client:
    """An accessor of a process of its own: it takes no turns with others."""

    def __init__(self, kind: str, **options: Any) -> None:
        self.accessor = FsspecAccessor(f"memory://process{next(_numbers)}", compresslevel=1, **options)
        self.accessor.pyramid.store.protocol = KINDS[kind]
        self.accessor.pyramid.known.expect({})

    def storing(self, data: bytes, *, overwrite: bool) -> Job[None]:
        return self.accessor.pyramid.storer.chunk(KEY, COORDS, lambda: data, MIME, overwrite=overwrite)

    def changing(self, letters: bytes) -> Job[None]:
        return self.accessor.pyramid.storer.chunk(
            KEY, COORDS, lambda: Update(letters, with_letters), MIME, overwrite=True
        )

    def read(self, objects: Objects) -> bytes | None:
        """Return what any reader of these objects finds: not by the names that this client has seen."""
        accessor = _reader()
        (_, found), *_ = Reader(objects).run(finding(accessor))
        return None if found is None else found.decoded()


def finding(accessor: FsspecAccessor) -> Any:
    return next(accessor.pyramid.finder.chunks(KEY, ScaleLayout(), [COORDS], window=1, range_size=1))


_numbers = itertools.count()


@functools.cache
def _reader() -> FsspecAccessor:
    return Client("files").accessor


class Reader(Objects):
    """Reads other objects without being counted among those who ask them."""

    def __init__(self, objects: Objects) -> None:
        super().__init__()
        self.kept = objects.kept


def with_letters(_: ChunkCoords, data: bytes | None, patches: Sequence[bytes]) -> bytes:
    """Change a chunk as voxels are changed: in any order, and twice as well as once."""
    return bytes(sorted({*(data or b""), *b"".join(patches)}))


def chunks_in(objects: Objects) -> list[str]:
    return [name for name in objects.kept if name in CHUNK_NAMES]


def in_each_case(
    points: Iterable[int], suffixes: Iterable[str | None]
) -> Callable[[Callable[..., None]], Callable[[int], None]]:
    """Run a test at each point, for files and clouds and for chunks that stand in several ways."""
    cases = list(itertools.product(("files", "cloud"), suffixes))

    def decorate(check: Callable[..., None]) -> Callable[[int], None]:
        def test(point: int) -> None:
            for kind, suffix in cases:
                check(kind, suffix, point)

        marked: Callable[[int], None] = pytest.mark.parametrize("point", points)(test)
        return marked

    return decorate


# ------------------------------------------------------------------------------------------------------------- creating


@pytest.mark.parametrize("kind", ["files", "archive"])
@pytest.mark.parametrize("name", CHUNK_NAMES)
def test_any_twin_of_a_chunk_is_in_the_way_of_a_create(kind: str, name: str) -> None:
    for options in ({}, {"gzip": False}, {"flat": False}):
        objects = Objects({name: b"old"})
        with pytest.raises(AlreadyExistsError, match="overwrite=True"):
            objects.run(Client(kind, **options).storing(b"new", overwrite=False))
        assert objects.contents == {name: b"old"}


@pytest.mark.parametrize("name", CHUNK_NAMES)
def test_in_a_cloud_a_twin_is_in_the_way_where_the_scale_has_such_names(name: str) -> None:
    """Which is learnt by one listing; below folders, that shows no suffixes, and all are asked for."""
    objects = Objects({name: b"old"})
    with pytest.raises(AlreadyExistsError):
        objects.run(Client("cloud").storing(b"new", overwrite=False))
    assert objects.contents == {name: b"old"}
    assert objects.names_asked(List) == [f"{KEY}/"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_create_is_one_write_on_the_condition_that_there_is_none(kind: str) -> None:
    objects = Objects()
    objects.run(Client(kind, gzip=False).storing(b"new", overwrite=False))
    assert objects.contents == {FLAT: b"new"}
    assert [put.create for put in objects.asked if isinstance(put, Put)] == [True]
    assert objects.names_asked(Delete) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("point", [1, 2, 6, 11, 12, 13])
def test_what_another_creates_under_this_name_at_any_time_is_not_replaced(kind: str, point: int) -> None:
    objects = Objects()
    objects.before[point] = lambda: FLAT in objects.kept or objects.put(FLAT, b"other")  # type: ignore[func-returns-value]
    client = Client(kind, gzip=False)
    try:
        objects.run(client.storing(b"new", overwrite=False))
    except AlreadyExistsError:
        assert objects.contents == {FLAT: b"other"}
    else:
        assert objects.contents == {FLAT: b"new"}


@each_kind
def test_a_create_whose_answer_was_lost_is_a_success(kind: str) -> None:
    objects = Objects()
    objects.lost = set(range(1, 20))
    objects.run(Client(kind).storing(b"new", overwrite=False))
    assert Client(kind).read(objects) == b"new"


@each_kind
def test_a_create_that_was_sent_again_and_meets_what_another_wrote_is_refused(kind: str) -> None:
    objects = Objects()
    objects.lost = set(range(1, 20))

    def come_first(request: Any) -> None:
        if isinstance(request, Put):
            objects.put(request.name, b"other")

    objects.before_each = come_first
    with pytest.raises(AlreadyExistsError):
        objects.run(Client(kind).storing(b"new", overwrite=False))
    assert set(objects.contents.values()) == {b"other"}


def test_a_create_whose_answer_was_lost_and_that_is_gone_says_so() -> None:
    objects = Objects()
    put = Put("a", b"x", "", create=True)
    objects.lost = {1}
    objects.before[2] = lambda: objects.delete("a")
    with pytest.raises(DataAccessError):
        objects.run(jobs.write(put))


def test_credentials_that_may_not_list_may_write() -> None:
    objects = Objects()
    objects.failures[f"{KEY}/"] = AccessDeniedError("403")
    objects.run(Client("cloud").storing(b"new", overwrite=True))
    assert chunks_in(objects) == [FLAT]


def test_a_listing_that_fails_is_a_failure() -> None:
    objects = Objects()
    objects.failures[f"{KEY}/"] = DataAccessError("503")
    with pytest.raises(DataAccessError, match="503"):
        objects.run(Client("cloud").storing(b"new", overwrite=True))
    assert objects.contents == {}


# ----------------------------------------------------------------------------------------------------------- replacing


class KilledError(BaseException):
    """The process ends here."""


@each_kind
@pytest.mark.parametrize("options", [{}, {"gzip": False}, {"flat": False}], ids=str)
@pytest.mark.parametrize("twins", [[], *([place] for place in range(12)), range(12), range(2, 5)], ids=str)
def test_replacing_leaves_one_of_all_twins_and_removes_none_before_the_new_one_is_there(
    kind: str, options: dict[str, Any], twins: Sequence[int]
) -> None:
    objects = Objects({CHUNK_NAMES[place]: b"old" for place in twins})
    client = Client(kind, **options)

    def check(request: Any) -> None:
        if isinstance(request, Delete):
            assert [
                put.data for put in objects.asked if isinstance(put, Put) and objects.kept[put.name].data == put.data
            ]

    objects.before_each = check
    objects.run(client.storing(b"new", overwrite=True))
    assert len(objects.kept) == 1
    assert client.read(objects) == b"new"


@in_each_case(range(1, 26), PACK)
def test_a_replacement_that_is_killed_leaves_the_old_chunk_or_the_new(kind: str, suffix: str, point: int) -> None:
    def kill() -> None:
        raise KilledError

    objects = Objects({f"{FLAT}{suffix}": PACK[suffix](b"old")})
    objects.before[point] = kill
    try:
        objects.run(Client(kind).storing(b"new", overwrite=True))
    except KilledError:
        assert Client(kind).read(objects) in (b"old", b"new")
    else:
        assert Client(kind).read(objects) == b"new"
    objects.before.clear()
    objects.run(Client(kind).storing(b"newest", overwrite=True))
    assert Client(kind).read(objects) == b"newest"
    assert len(objects.kept) == 1


@pytest.mark.parametrize("times", [1, 2])
def test_what_another_takes_for_a_twin_of_its_own_is_written_again(times: int) -> None:
    objects = Objects()
    left = times

    def delete_ours(request: Any) -> None:
        nonlocal left
        if left and isinstance(request, Delete) and FLAT in objects.kept:
            left -= 1
            objects.delete(FLAT)

    objects.before_each = delete_ours
    objects.run(Client("files", gzip=False).storing(b"new", overwrite=True))
    assert objects.contents == {FLAT: b"new"}
    assert len(objects.names_asked(Put)) == times + 1


OPTIONS: tuple[dict[str, Any], ...] = ({}, {"gzip": False}, {"flat": False}, {"flat": False, "gzip": False})
PAIRS = list(itertools.combinations_with_replacement(OPTIONS, 2))


@each_kind
@pytest.mark.parametrize("point", range(1, 29))
def test_two_that_replace_a_chunk_under_names_of_their_own_leave_it_there(kind: str, point: int) -> None:
    """One does all of it between two requests of the other."""
    for ours, theirs in [*PAIRS, (OPTIONS[2], OPTIONS[1])]:
        objects = Objects({FLAT: b"old"})
        first, second = Client(kind, **ours), Client(kind, **theirs)
        objects.before[point] = lambda objects=objects, second=second: objects.run(second.storing(b"2", overwrite=True))  # type: ignore[misc]
        objects.run(first.storing(b"1", overwrite=True))
        assert first.read(objects) in (b"1", b"2")


@each_kind
@pytest.mark.parametrize("seed", range(8))
def test_two_that_replace_a_chunk_in_any_order_leave_it_there(kind: str, seed: int) -> None:
    order = random.Random(seed).choices(range(2), k=100)
    for ours, theirs in PAIRS:
        objects = Objects({FLAT: b"old"})
        first, second = Client(kind, **ours), Client(kind, **theirs)
        writing = [first.storing(b"1", overwrite=True), second.storing(b"2", overwrite=True)]
        assert objects.run_together(writing, order) == [None, None]
        assert first.read(objects) in (b"1", b"2")


@pytest.mark.parametrize("name", CHUNK_NAMES)
def test_in_an_archive_nothing_is_replaced(name: str) -> None:
    objects = Objects({name: b"old"})
    with pytest.raises(DataAccessError, match="cannot replace"):
        objects.run(Client("archive", gzip=False).storing(b"new", overwrite=True))
    assert objects.contents == {name: b"old"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_jobs_of_one_process_take_turns_at_a_chunk(*, overwrite: bool) -> None:
    for seed in range(10):
        order = random.Random(seed).choices(range(2), k=100)
        objects = Objects()
        client = Client("files", gzip=False)
        writing = [client.storing(b"1", overwrite=overwrite), client.storing(b"2", overwrite=overwrite)]
        results = objects.run_together(writing, order)
        assert len(objects.kept) == 1
        if not overwrite:
            assert sorted(type(result).__name__ for result in results) == ["AlreadyExistsError", "NoneType"]


# --------------------------------------------------------------------------------------------------------------- files


def putting(client: Client, data: bytes, *, overwrite: bool) -> Job[None]:
    storer = client.accessor.pyramid.storer
    put = storer.packed("mesh/1", data, MIME)
    others = [name for name in FILE_NAMES if name != put.name]
    return storer.file(put, "mesh/1", others, overwrite=overwrite)


@each_kind
@pytest.mark.parametrize("name", FILE_NAMES)
def test_any_twin_of_a_file_is_in_the_way_of_a_create_and_goes_with_a_replacement(kind: str, name: str) -> None:
    objects = Objects({name: b"old"})
    with pytest.raises(AlreadyExistsError, match=f"{name.replace('.', '[.]')} exists"):
        objects.run(putting(Client(kind), b"new", overwrite=False))
    assert objects.contents == {name: b"old"}
    objects.run(putting(Client(kind), b"new", overwrite=True))
    assert list(objects.contents) == ["mesh/1" if kind == "cloud" else "mesh/1.gz"]


# ---------------------------------------------------------------------------------------------------- changing a chunk

each_standing = pytest.mark.parametrize("suffix", STANDING.values(), ids=STANDING)


def standing(suffix: str | None, data: bytes = b"a") -> Objects:
    """Return objects among which the chunk is stored in some way."""
    return Objects({} if suffix is None else {f"{FLAT}{suffix}": PACK[suffix](data)})


@each_kind
@each_standing
def test_a_change_is_made_of_what_is_there_and_leaves_one_object(kind: str, suffix: str | None) -> None:
    for options in OPTIONS:
        objects = standing(suffix)
        client = Client(kind, **options)
        objects.run(client.changing(b"x"))
        assert client.read(objects) == (b"x" if suffix is None else b"ax")
        assert len(objects.kept) == 1
        (_, found), *_ = Reader(objects).run(finding(client.accessor))
        assert found is not None, "the client itself knows under which name"
        objects.run(client.changing(b"y"))
        assert client.read(objects) == (b"xy" if suffix is None else b"axy")
        assert len(objects.kept) == 1


@in_each_case(range(1, 30), STANDING.values())
def test_two_changes_of_a_chunk_are_both_in_it_whenever_the_other_comes(
    kind: str, suffix: str | None, point: int
) -> None:
    for ours, theirs in itertools.product(OPTIONS, repeat=2):
        objects = standing(suffix)
        first, second = Client(kind, **ours), Client(kind, **theirs)
        objects.before[point] = lambda objects=objects, second=second: objects.run(second.changing(b"y"))  # type: ignore[misc]
        objects.run(first.changing(b"x"))
        came = point in objects.before and len(objects.asked) >= point
        expected = b"".join([b"" if suffix is None else b"a", b"x", b"y" if came else b""])
        assert first.read(objects) == expected, (ours, theirs)
        assert len(objects.kept) == 1, (ours, theirs)


@in_each_case(range(8), STANDING.values())
def test_changes_of_a_chunk_are_all_in_it_in_whatever_order(kind: str, suffix: str | None, point: int) -> None:
    order = random.Random(point).choices(range(3), k=200)
    triples = [] if suffix == ".br" else [[each] * 3 for each in OPTIONS]
    for options in (*PAIRS, *triples):
        objects = standing(suffix)
        clients = [Client(kind, **each) for each in options]
        changes = [client.changing(letter) for client, letter in zip(clients, (b"x", b"y", b"z"), strict=False)]
        assert objects.run_together(changes, order) == [None] * len(changes)
        expected = b"" if suffix is None else b"a"
        assert clients[0].read(objects) == expected + b"xyz"[: len(changes)], options


@in_each_case(range(1, 20), ("", ".gz"))
def test_what_replaces_a_chunk_while_it_is_changed_is_changed_or_stays(kind: str, suffix: str, point: int) -> None:
    objects = standing(suffix)
    name = f"{FLAT}{suffix}"
    wrote: list[str] = []

    def replace() -> None:
        wrote.extend(objects.names_asked(Put))
        objects.put(name, PACK[suffix](b"o"))

    objects.before[point] = replace
    client = Client(kind, gzip=suffix == ".gz")
    objects.run(client.changing(b"x"))
    found = client.read(objects)
    if len(objects.asked) < point:
        assert found == b"ax"
    else:
        assert found == b"ox" or (wrote and found == b"o"), "what came before the write is in it"


@in_each_case(range(1, 20), ("", ".gz", ".br"))
def test_a_chunk_that_is_deleted_while_it_is_changed_does_not_come_back(
    kind: str, suffix: str | None, point: int
) -> None:
    objects = standing(suffix)

    def delete() -> None:
        for name in chunks_in(objects):
            objects.delete(name)

    objects.before[point] = delete
    client = Client(kind)
    objects.run(client.changing(b"x"))
    assert client.read(objects) in ([b"ax"] if len(objects.asked) < point else [b"x", None])


@pytest.mark.parametrize("point", range(1, 30))
@each_kind
@pytest.mark.parametrize("name", CHUNK_NAMES[:2])
def test_a_chunk_that_another_creates_while_it_is_first_changed_is_changed(kind: str, name: str, point: int) -> None:
    objects = Objects()
    pack = PACK[name.removeprefix(FLAT)]

    def create() -> None:
        if not chunks_in(objects):
            objects.put(name, pack(b"o"))

    objects.before[point] = create
    client = Client(kind, gzip=False)
    objects.run(client.changing(b"x"))
    assert client.read(objects) in (b"x", b"ox")
    if name in objects.kept and name != FLAT:
        assert client.read(objects) == b"ox"
    assert len(objects.kept) == 1


@in_each_case(range(1, 24), STANDING.values())
def test_a_change_whose_answer_was_lost_is_made(kind: str, suffix: str | None, point: int) -> None:
    objects = standing(suffix)
    objects.lost = {point}
    client = Client(kind)
    objects.run(client.changing(b"x"))
    assert client.read(objects) == (b"x" if suffix is None else b"ax")
    assert len(objects.kept) == 1


@in_each_case(range(1, 24), STANDING.values())
def test_a_change_that_is_killed_leaves_the_old_chunk_or_the_new(kind: str, suffix: str | None, point: int) -> None:
    def kill() -> None:
        raise KilledError

    objects = standing(suffix)
    objects.before[point] = kill
    old = Client(kind).read(objects)
    new = b"x" if suffix is None else b"ax"
    try:
        objects.run(Client(kind).changing(b"x"))
    except KilledError:
        assert Client(kind).read(objects) in (old, new)
    else:
        assert Client(kind).read(objects) == new
    objects.before.clear()
    objects.run(Client(kind).changing(b"x"))
    assert Client(kind).read(objects) == new


@each_kind
def test_a_chunk_that_others_always_replace_first_is_an_error_in_the_end(kind: str) -> None:
    objects = standing("")
    pauses: list[float] = []

    def replace(request: Any) -> None:
        if isinstance(request, Put):
            objects.put(FLAT, b"o")

    objects.before_each = replace
    client = Client(kind, gzip=False)
    answer = objects.answer
    objects.answer = lambda request: (  # type: ignore[method-assign]
        pauses.append(request.seconds) if isinstance(request, Pause) else answer(request)
    )
    with pytest.raises(DataAccessError, match="another writer changed it again and again") as caught:
        objects.run(client.changing(b"x"))
    assert isinstance(caught.value.__cause__, ReplacedError)
    assert objects.contents == {FLAT: b"o"}
    assert len(pauses) == len(objects.names_asked(Put)) == jobs._MOST_CONFLICTS
    assert (pauses[0], max(pauses) <= jobs._LONGEST_PAUSE) == (0, True)
    objects.before_each = lambda _: None
    objects.run(client.changing(b"x"))  # its turn is not kept
    assert objects.contents == {FLAT: b"ox"}


@pytest.mark.parametrize("times", [1, 2, 29])
@each_kind
def test_a_chunk_that_others_replace_a_few_times_is_changed(kind: str, times: int) -> None:
    objects = standing("")

    def replace(request: Any) -> None:
        if isinstance(request, Put) and len(objects.names_asked(Put)) <= times:
            objects.put(FLAT, b"o")

    objects.before_each = replace
    objects.run(Client(kind, gzip=False).changing(b"x"))
    assert objects.contents == {FLAT: b"ox"}


@each_kind
@each_standing
def test_a_change_that_changes_nothing_writes_nothing(kind: str, suffix: str | None) -> None:
    def unchanged(_: ChunkCoords, data: bytes | None, patches: Sequence[bytes]) -> bytes | None:
        return None

    objects = standing(suffix)
    before = objects.contents
    update = Update(b"x", unchanged)
    objects.run(Client(kind).accessor.pyramid.storer.chunk(KEY, COORDS, lambda: update, MIME, overwrite=True))
    assert objects.contents == before
    assert {type(request) for request in objects.asked} <= {Get, type(objects.asked[-1])}


def test_in_an_archive_nothing_is_changed() -> None:
    objects = standing("")
    with pytest.raises(DataAccessError, match="cannot replace"):
        objects.run(Client("archive").changing(b"x"))
    assert objects.contents == {FLAT: b"a"}


# ----------------------------------------------------------------------------------------------------- changing a file


@pytest.mark.parametrize("name", ["info", "info.gz"])
@each_kind
def test_no_change_of_a_file_is_lost_wherever_another_is_made_between(kind: str, name: str) -> None:
    def changing(client: Client, letter: bytes) -> Job[None]:
        return client.accessor.pyramid.storer.file_update("info", lambda old: old + letter, "application/json")

    made: list[bytes] = []
    for point in range(1, 12):
        objects = Objects({name: PACK[name.removeprefix("info")](b"a")})
        made = [b"x"]

        def change_too(objects: Objects = objects, made: list[bytes] = made) -> None:
            objects.run(changing(Client(kind), b"y"))
            made.append(b"y")

        objects.before[point] = change_too
        client = Client(kind)
        objects.run(changing(client, b"x"))
        found: Stored = Reader(objects).run(client.accessor.pyramid.finder.file("info"))
        assert sorted(found.decoded()) == sorted(b"a" + b"".join(made)), point
        assert len(objects.kept) == 1
    assert len(made) == 1, "there are points after the last request, too"
