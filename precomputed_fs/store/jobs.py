"""Jobs about one object, and how jobs of all batches and threads take turns."""

import concurrent.futures
import os
import random
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, MutableMapping
from typing import TypeAlias, TypeVar

from precomputed_fs.errors import AccessDeniedError, AlreadyExistsError, DataAccessError, NotFoundError, ReplacedError
from precomputed_fs.format.compression import stored_limit
from precomputed_fs.store.requests import Body, Delete, Exists, Get, Job, Pause, Put, Wait

_T = TypeVar("_T")

_Load: TypeAlias = "_Claim[tuple[_T | None] | None]"
"""Of what is being loaded; None: that has failed."""

_MOST_CONFLICTS = 30  # times that a change is tried again because another writer came before
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 1.0  # seconds between these
_LONGEST_LOAD = 1.0  # seconds that others are waited for who load the same: their batch may stand still
_LOOK_AGAIN = 60.0  # seconds, after which it is looked again whose turn it is


def read(get: Get) -> Job[Body]:
    """Read an object, or a part of it."""
    body: Body = yield get
    return body


def chunk_failure(exc: DataAccessError, *, denied_is_missing: bool, knows_info: bool = True) -> DataAccessError:
    """Return what a failure to read an object means if it holds chunks, whose absence is told with care.

    To many, absent chunks are zeros, which nothing in a misspelt or deleted bucket should be: that is a
    DataAccessError. A 403 that may mean absence is a NotFoundError if `denied_is_missing`; if not, the
    AccessDeniedError names that option.

    Parameters
    ----------
    knows_info : bool
        Whether the pyramid's `info` was read. Where even that was refused, a 403 means what it says.
    """
    failure: DataAccessError = exc
    if isinstance(exc, NotFoundError) and exc.is_of_bucket:
        failure = DataAccessError(str(exc))
    elif isinstance(exc, AccessDeniedError) and exc.may_mean_absent and knows_info:
        said = "a bucket that may be read but not listed says so of absent chunks, too"
        denied = AccessDeniedError(f"{exc}; {said}: denied_is_missing=True takes it for that")
        denied.may_mean_absent = True
        failure = NotFoundError(str(exc)) if denied_is_missing else denied
    if failure is not exc:
        failure.__cause__ = exc
    return failure


def exists(name: str) -> Job[bool]:
    """Tell whether there is an object of this name; False is the store's own word for it."""
    try:
        return bool((yield Exists(name)))
    except NotFoundError:
        return False


def any_exists(names: Iterable[str]) -> Job[bool]:
    """Tell whether any of these objects exists."""
    for name in names:
        if (yield from exists(name)):
            return True
    return False


def write(put: Put) -> Job[None]:
    """Write an object, whole or not at all.

    The store itself decides whether it may take the place of another one where the protocol has a way to ask it:
    `Put.create` on S3, GCS, Azure, files and SFTP, `Put.replacing` on S3, GCS and Azure, and under a lock on files
    and SFTP. Elsewhere, and where S3 takes no conditions, it is checked before the write, which counts for the
    threads of this process.
    """
    try:
        yield put
    except AlreadyExistsError as exc:
        # A try whose answer was lost may have written just what the next one met.
        if not exc.was_retried or (yield Get(put.name, limit=stored_limit(len(put.data)))).data != put.data[:]:
            raise


def delete(name: str, version: str) -> Job[None]:
    """Delete one version of an object; another one is a ReplacedError."""
    try:
        yield Delete(name, version)
    except ReplacedError as exc:
        # A try whose answer was lost may have deleted what the next one missed.
        if not exc.was_retried or (yield from exists(name)):
            raise


class Batch:
    """The jobs of one call, which go on only while that call does; ``with batch:`` runs some of them."""

    __slots__ = ("_outer", "thread")

    def __init__(self) -> None:
        self.thread = 0  # the one that has run them last
        self._outer: Batch | None = None

    def __enter__(self) -> None:
        self._outer = getattr(_here, "batch", None)
        _here.batch = self
        self.thread = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        _here.batch = self._outer


class _Claim(concurrent.futures.Future[_T]):
    """What others wait for, until a job of some batch is done with it."""

    def __init__(self) -> None:
        super().__init__()
        self._batch: Batch | None = getattr(_here, "batch", None)

    @property
    def stands_still(self) -> bool:
        """Whether its batch is this thread's, and not the one that runs: it goes on when this one has ended."""
        batch, here = self._batch, getattr(_here, "batch", None)
        return batch is not None and batch is not here and batch.thread == threading.get_ident()


_here = threading.local()


def once(
    loads: MutableMapping[Hashable, "_Load[_T]"],
    key: Hashable,
    kept: Callable[[], _T | None],
    load: Callable[[], Job[_T | None]],
) -> Job[_T | None]:
    """Return what is kept, or load it.

    Of many jobs that ask at once, one loads and the others take its result, unless it fails: then each tries for
    itself, one after the other.

    Parameters
    ----------
    loads : mapping
        Of what is being loaded, shared by all who ask.
    """
    value = kept()
    if value is not None:
        return value
    mine: _Load[_T] = _Claim()
    outcome: tuple[_T | None] | None = None
    try:
        while (theirs := loads.setdefault(key, mine)) is not mine:
            if theirs.stands_still or not (yield Wait(theirs, _LONGEST_LOAD)):
                return (yield from load())
            if (loaded := theirs.result()) is not None:
                return loaded[0]
        value = kept()  # another may have ended since it was asked
        outcome = ((yield from load()) if value is None else value,)
        return outcome[0]
    finally:
        if loads.get(key) is mine:
            del loads[key]
            mine.set_result(outcome)


class NameLock:
    """One job's turn at a name: `yield from turn.begin()`, then ``with turn:``."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._future: _Claim[None] = _Claim()

    def begin(self) -> Job["NameLock"]:
        """Wait until no other job of this process has its turn; but not where this is called within that turn."""
        while (theirs := _locks.setdefault(self._shown, self._future)) is not self._future:
            if theirs.stands_still:
                break
            yield Wait(theirs, _LOOK_AGAIN)
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        if _locks.get(self._shown) is self._future:
            del _locks[self._shown]
            self._future.set_result(None)


_locks: dict[str, _Claim[None]] = {}
"""Of the objects that are being changed, with their twins; by what the object is shown as."""


def conflicts() -> Iterator[Pause]:
    """Yield as often as a change that another writer came before may be tried again: how long to wait before."""
    for tries in range(_MOST_CONFLICTS):
        longest = min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2**tries) if tries else 0.0
        yield Pause(random.uniform(0, longest))  # noqa: S311


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_locks.clear)
