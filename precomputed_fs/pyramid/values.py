"""What a folder holds by key, such as meshes, skeletons and annotations: each in a file of its own, or in shards."""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from precomputed_fs.errors import NotFoundError
from precomputed_fs.format.names import joined
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.batches import IN_FLIGHT, Callback, checked_in_flight, counted, report
from precomputed_fs.pyramid.buffers import OCTET_STREAM, Buffer, bytes_of
from precomputed_fs.pyramid.late_writes import expect_end
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.stored import Stored, file_limit
from precomputed_fs.store.requests import Compute, FollowUps, Job, Put

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")
_Tag = TypeVar("_Tag")

Then = Callable[[_Key, Stored | None], Job[_Result]]
"""Makes a job that goes on from a stored value, or from None if it is absent."""


class Values(Generic[_Key]):
    """The values of one folder, by key.

    Parameters
    ----------
    pyramid : Pyramid
    folder : str
        The path of the folder in the pyramid; empty for its root.
    sharding : Sharding, optional
        By default, each value is a file.
    name_of : callable
        Returns the name of a key's file in the folder.
    id_of : callable
        Returns the uint64 by which shards know a key.
    is_uniform : bool
        Whether all files have one suffix, if any: see `Finder.one_of_many`.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        folder: str,
        sharding: Sharding | None = None,
        *,
        name_of: Callable[[_Key], str] = str,
        id_of: Callable[[_Key], int] = int,  # type: ignore[assignment] # of keys that are numbers
        is_uniform: bool = False,
    ) -> None:
        self.pyramid = pyramid
        self.folder = folder
        self.sharding = sharding
        self.name_of = name_of
        self._id_of = id_of
        self._is_uniform = is_uniform

    def find(self, key: _Key) -> Job[Stored | None]:
        """Find one value; None if it is absent."""
        finder = self.pyramid.finder
        if self.sharding is not None:
            described = functools.partial(self._described, key)
            return finder.in_shards.one(self.folder, self.sharding, self._id_of(key), described)
        return _or_none(finder.one_of_many(self.folder, self._checked_name(key), is_uniform=self._is_uniform))

    def fetch(self, key: _Key) -> bytes | None:
        """Fetch one value, without the compression it is stored with; None if it is absent."""
        self.check_readable()
        stored = self.pyramid.store.run(self.find(key))
        return None if stored is None else stored.decoded()

    def fetch_many(
        self,
        keys: Iterable[_Key],
        *,
        decode: Callable[[_Key, bytes | None], Any] | None = None,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> Iterator[tuple[_Key, Any]]:
        """Fetch many values at once.

        Parameters
        ----------
        decode : callable, optional
            Makes the result from a key and its value, which is None if it is absent; called in threads of the pool. A
            CorruptDataError that it raises gets the name of the file.
        in_flight : int
            How many values are requested at a time.
        callback : fsspec.callbacks.Callback, optional
            Told of each value.

        Yields
        ------
        key, result
            In the order in which they arrive.
        """
        self.check_readable()
        jobs = self._finding(counted(keys, callback), checked_in_flight(in_flight))
        for results in self.pyramid.store.run_many(jobs, in_flight, functools.partial(_finished, decode)):
            for result in results:
                report(callback)
                yield result

    def find_many(
        self,
        keys: Iterable[_Key],
        then: Then[_Key, _Result],
        *,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> Iterator[_Result]:
        """Find many values at once, each followed by a job that may ask for more.

        Parameters
        ----------
        then : callable
            Takes a key and its value as stored, which is None if it is absent; see `Then`.
        in_flight, callback
            See `fetch_many`.

        Yields
        ------
        result
            Of the jobs, in the order in which they end.
        """
        self.check_readable()
        jobs = self._finding(counted(keys, callback), checked_in_flight(in_flight))
        for results in self.pyramid.store.run_many((_followed(job, then) for job in jobs), in_flight):
            for result in results:
                report(callback)
                yield result

    def store_many(
        self,
        items: Iterable[tuple[_Key, Buffer]],
        *,
        mime_type: str = OCTET_STREAM,
        compress: bool = True,
        overwrite: bool = False,
        in_flight: int = IN_FLIGHT,
        callback: Callback = None,
    ) -> None:
        """Store many values at once; those of shards wait for `Pyramid.flush`.

        Parameters
        ----------
        compress : bool
            Whether files may be stored compressed: not if ranges of them are to be read.

        Raises
        ------
        AlreadyExistsError
            If ``overwrite=False`` and one of them exists.
        """
        self.check_writable()
        jobs = (
            _listed(None, self.store(key, bytes_of(data), mime_type, compress=compress, overwrite=overwrite))
            for key, data in counted(items, callback)
        )
        for stored in self.pyramid.store.run_many(jobs, checked_in_flight(in_flight)):
            report(callback, len(stored))

    # -------------------------------------------------------------------------------------------------------- one each

    def check_writable(self) -> None:
        """Check that values may be stored; jobs of `store` need that.

        Raises
        ------
        ReadOnlyError
            If the protocol cannot be written.
        """
        self.pyramid.storer.checked(joined(self.folder, "info"))

    def check_readable(self) -> None:
        """Check that values may be read; jobs of `find` need that.

        Raises
        ------
        ReadOnlyError
            If this is an archive that is being written.
        """
        self.pyramid.finder.checked(joined(self.folder, "info"))

    def _checked_name(self, key: _Key) -> str:
        name = self.name_of(key)
        self.pyramid.finder.checked(joined(self.folder, name))
        return name

    def _described(self, key: _Key, stored: Stored) -> Stored:
        return stored._replace(limit=file_limit("", self.pyramid.options), part=self.name_of(key))

    def _finding(self, keys: Iterable[_Key], window: int) -> Iterator[Job[Any]]:
        """Plan how to find values: jobs that return lists of ``(key, Stored or None)``, or follow-up jobs."""
        if self.sharding is None:
            return (_listed(key, self.find(key)) for key in keys)
        return self.pyramid.finder.in_shards.many(
            self.folder,
            self.sharding,
            ((self._id_of(key), key) for key in keys),
            self._described,
            window=window,
            range_size=self.pyramid.options.max_range,
        )

    def store(
        self,
        key: _Key,
        data: bytes,
        mime_type: str = OCTET_STREAM,
        *,
        compress: bool = True,
        overwrite: bool = False,
        lead: bytes = b"",
    ) -> Job[None]:
        """Store one value; one of a shard waits for `Pyramid.flush`.

        Parameters
        ----------
        compress, overwrite
            See `store_many`.
        lead : bytes
            What is to stand right before it in its shard: see `Sharding.lead`.
        """
        storer = self.pyramid.storer
        if self.sharding is None:
            name = self.name_of(key)
            storer.checked(joined(self.folder, name))
            stem = joined(self.folder, name)
            put = Put(stem, data, mime_type)
            if compress:
                put = yield Compute(functools.partial(storer.packed, stem, data, mime_type))
            yield from storer.one_of_many(self.folder, name, put, overwrite=overwrite)
        else:
            expect_end()
            number = self._id_of(key)
            yield from self.pyramid.writer.add(self.folder, self.sharding, number, data, overwrite=overwrite, lead=lead)


def fetch_from_several(
    wanted: Iterable[tuple[Values[Any], Any]],
    *,
    decode: Callable[[Any, bytes | None], Any],
    in_flight: int = IN_FLIGHT,
    callback: Callback = None,
) -> Iterator[tuple[Any, Any]]:
    """Fetch values of several folders of a pyramid at once; those of shards each by itself.

    Parameters
    ----------
    wanted : iterable of (Values, key)
    decode, in_flight, callback
        See `Values.fetch_many`.

    Yields
    ------
    key, result
        In the order in which they arrive.
    """
    first = next(items := iter(wanted), None)
    if first is None:
        return
    jobs = (_listed(key, values.find(key)) for values, key in itertools.chain([first], items))
    store = first[0].pyramid.store
    for results in store.run_many(jobs, checked_in_flight(in_flight), functools.partial(_finished, decode)):
        for result in results:
            report(callback)
            yield result


def _or_none(job: Job[Stored]) -> Job[Stored | None]:
    try:
        return (yield from job)
    except NotFoundError:
        return None


def _listed(key: _Tag, job: Job[_Result]) -> Job[list[tuple[_Tag, _Result]]]:
    return [(key, (yield from job))]


def _followed(job: Job[Any], then: Then[_Key, _Result]) -> Job[FollowUps]:
    """Go on from each value that a job finds."""
    found = yield from job
    if isinstance(found, FollowUps):
        return FollowUps([_followed(each, then) for each in found.jobs])
    return FollowUps([_only(then(key, stored)) for key, stored in found])


def _only(job: Job[_Result]) -> Job[list[_Result]]:
    return [(yield from job)]


def _finished(
    decode: Callable[[_Key, bytes | None], Any] | None, found: tuple[_Key, Stored | None]
) -> tuple[_Key, Any]:
    key, stored = found
    data = None if stored is None else stored.decoded()
    if decode is None:
        return key, data
    if stored is None:
        return key, decode(key, None)
    with stored.naming():
        return key, decode(key, data)
