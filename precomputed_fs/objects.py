"""How bytes move: one filesystem's objects, read, written, probed and deleted.

`ObjectStore` has each verb once, as a function that waits for its answer in the thread that calls it. Foreign
exceptions are mapped to ours here and nowhere else, and transient ones are tried again here and nowhere else.
"""

import collections
import concurrent.futures
import contextlib
import errno
import functools
import http
import lzma
import mmap
import os
import random
import re
import socket
import threading
import time
import weakref
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    NotFoundError,
    ReadOnlyError,
    ReplacedError,
)
from precomputed_fs.flights import Flight, Job, More, in_thread, only_waiting
from precomputed_fs.format.compression import MAX_DECODED_SIZE, TooLargeError, stored_limit
from precomputed_fs.store.explanations import BUSY, DENIED, NO_BUCKET, WRONG_CREDENTIALS
from precomputed_fs.store.location import Location
from precomputed_fs.store.url import join
from precomputed_fs.transports import (
    Body,
    BrokenAnswerError,
    Connection,
    StatusError,
    Transport,
    VersionError,
    WrongThreadError,
    causes,
    explanation_of,
    status_of,
)

if TYPE_CHECKING:
    import stamina

_T = TypeVar("_T")

RETRY_SECONDS = 30.0
"""No attempt begins later than this many seconds after the first."""

_WAITS = {"wait_initial": 0.2, "wait_max": 5.0, "wait_jitter": 0.2}  # seconds; each twice the last
_MOST_CONFLICTS = 30  # times that a change is tried again because another writer came before
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 1.0  # seconds between these
_LONGEST_WAIT = 10.0  # seconds, of what a server asks for in Retry-After


class _TransientError(DataAccessError):
    """A failure that may pass; ``final`` is what it is if it does not."""

    def __init__(
        self,
        message: str,
        final: type[DataAccessError] = DataAccessError,
        wait: float | None = None,
    ) -> None:
        super().__init__(message)
        self.final = final
        self.wait = wait


class ObjectStore:
    """The objects below one root, on one filesystem.

    The filesystem is built when it is first needed, once per process: a store may be pickled, used
    by threads and inherited by a fork.

    Parameters
    ----------
    location : Location
        Where the pyramid is.
    attempts : int
        How often a request is sent at most, if its failures are transient.
    timeout : float
        Seconds without an answer, or without a byte of it, after which a request has failed.
    denied_is_missing : bool
        Whether `read_chunks` takes a 403 for absence, where it may mean that.
    """

    def __init__(self, location: Location, *, attempts: int, timeout: float, denied_is_missing: bool = False) -> None:
        self.location = location
        self.denied_is_missing = denied_is_missing
        self.protocol = location.protocol
        self.attempts = attempts
        self.timeout = timeout
        self._secrets = location.secrets
        self._connections: dict[int, Connection] = {}
        self._is_used = False
        self._is_confined = False

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.location.readable:
            message = f"{self.location.display()} is being written: one process can"
            raise TypeError(message)
        rebuild = functools.partial(
            ObjectStore, attempts=self.attempts, timeout=self.timeout, denied_is_missing=self.denied_is_missing
        )
        return rebuild, (self.location,)

    def confined(self) -> "ObjectStore":
        """Return a store of the same objects and connections that, to read, follows no link out of its root."""
        if self._is_confined:
            return self
        twin = object.__new__(type(self))
        vars(twin).update({**vars(self), "_is_confined": True})
        return twin

    # ------------------------------------------------------------------------------- batches

    def run_many(self, jobs: Iterable[Job], limit: int) -> Iterator[Any]:
        """Do jobs with this store, up to `limit` at once; their results as they come.

        A new one is taken only while fewer than `limit` are under way or wait to be consumed. The
        first failure ends the iteration, and ending it cancels what is under way.
        """
        upcoming = _Upcoming(jobs)
        flight = self._flight()
        pid = os.getpid()
        try:
            while (new := upcoming.take(limit - len(flight))) or len(flight):
                if os.getpid() != pid:
                    message = f"{self.location.display()}: a batch goes on in the process that began it"
                    raise DataAccessError(message)
                yield from upcoming.sifted(flight.advance(new, are_last=upcoming.is_over()))
            upcoming.end()
        finally:
            flight.cancel()
            flight.join()

    async def run_many_async(self, jobs: Iterable[Job], limit: int) -> AsyncIterator[Any]:
        """Do jobs with this store: `run_many`, with ``async for`` in any event loop."""
        upcoming = _Upcoming(jobs)
        flight = await in_thread(self._flight)
        try:
            while (new := upcoming.take(limit - len(flight))) or len(flight):
                for result in upcoming.sifted(
                    await in_thread(functools.partial(flight.advance, new, are_last=upcoming.is_over()))
                ):
                    yield result
            upcoming.end()
        finally:
            flight.cancel()
            await in_thread(flight.join)

    def _flight(self) -> Flight:
        self.open()
        return Flight(self._connection.transport.crew)

    # ------------------------------------------------------------------------------ the verbs

    def open(self) -> None:
        """Make the filesystem, if need be; so that its failure is not taken for that of an object."""
        connection = self._connection
        if not connection.is_open:
            self._retried(lambda: self._opened(connection))

    @property
    def is_incomplete(self) -> bool:
        """Whether this process writes an archive, which is complete when it is closed."""
        return not self.location.readable and self.location.fs is None and os.getpid() in self._connections

    def close(self) -> None:
        """Let go of the filesystem; a store that is used again makes a new one."""
        connection = self._connections.pop(os.getpid(), None)
        if connection is not None:
            connection.close()

    def read(
        self,
        name: str,
        start: int | None = None,
        end: int | None = None,
        limit: int = MAX_DECODED_SIZE,
        *,
        versioned: bool = False,
    ) -> Body:
        """Read an object, or the bytes from ``start`` up to ``end`` of what is stored.

        Parameters
        ----------
        limit : int
            How many bytes an object may have that is read as a whole.
        versioned : bool
            Whether the version is needed, so that `write` can replace just that one. Ranges always have it.

        Raises
        ------
        NotFoundError, AccessDeniedError
        TooLargeError
            If there are more bytes.
        CorruptDataError
            If the body is shorter than announced, or not the range that was asked for.
        DataAccessError
            If the store cannot be reached, or fails in another way.
        """
        if start is not None and start == end:
            return Body(b"")
        most = limit if start is None or end is None else end - start

        def read(link: Transport, path: str) -> Body:
            if self._is_confined:
                path = link.inside(self._connection.root, path)
            return link.read(path, start, end, most, versioned=versioned)

        return self._attempt("read", name, read)

    def read_chunks(
        self,
        name: str,
        start: int | None = None,
        end: int | None = None,
        limit: int = MAX_DECODED_SIZE,
        *,
        versioned: bool = False,
        knows_info: bool = True,
    ) -> Body:
        """Read an object that holds chunks: `read`, but for what tells that it is absent.

        Absent chunks are zeros to many, which nothing of a misspelt or deleted bucket should be: that is a
        DataAccessError. A 403 that may mean absence is a NotFoundError if `denied_is_missing`; if not, the
        AccessDeniedError names that option.

        Parameters
        ----------
        limit, versioned
            See `read`.
        knows_info : bool
            Whether the pyramid's `info` was read; where even that was refused, a 403 is what it says.
        """
        try:
            return self.read(name, start, end, limit, versioned=versioned)
        except NotFoundError as exc:
            if not exc.is_of_bucket:
                raise
            raise DataAccessError(str(exc)) from exc
        except AccessDeniedError as exc:
            if not (exc.may_mean_absent and knows_info):
                raise
            if self.denied_is_missing:
                raise NotFoundError(str(exc)) from exc
            error = AccessDeniedError(
                f"{exc}; a bucket that may be read but not listed says so of absent chunks, too: "
                "denied_is_missing=True takes it for that"
            )
            error.may_mean_absent = True
            try:
                raise error from exc
            finally:
                del error  # see `_once`

    def exists(self, name: str) -> bool:
        """Tell whether there is an object of this name; False is the store's own word for it."""
        try:
            return self._attempt("probe", name, lambda link, path: link.exists(path))
        except NotFoundError:
            return False

    def write(
        self,
        name: str,
        data: bytes | mmap.mmap,
        *,
        content_type: str,
        content_encoding: str = "",
        create: bool,
        replacing: str = "",
    ) -> None:
        """Write an object, whole or not at all.

        Parameters
        ----------
        create : bool
            Whether an existing object is an AlreadyExistsError. The store itself decides where the
            protocol has a way to ask it; otherwise the name is checked before the write.
        replacing : str
            The version that is replaced; if another one is there, or none, that is a ReplacedError. Decided by
            the store itself on S3, GCS and Azure, and under a lock on files and SFTP; elsewhere, and where S3
            takes no conditions, it is checked before the write, which counts for the threads of this process.
        """
        tries = 0

        def put(transport: Transport, path: str) -> None:
            nonlocal tries
            tries += 1
            transport.write(path, data, (content_type, content_encoding), create=create, replacing=replacing)

        try:
            self._attempt("create" if create else "write", name, put)
        except AlreadyExistsError:
            # A try whose answer was lost may have written just what the next one met.
            if tries == 1 or self.read(name, limit=stored_limit(len(data))).data != data[:]:
                raise

    def delete(self, name: str, *, replacing: str = "") -> None:
        """Delete an object, or one version of it as `write` replaces it; that there is none is no error."""
        with contextlib.suppress(NotFoundError):
            self._attempt("delete", name, lambda link, path: link.delete(path, replacing=replacing))

    def list_names(self, prefix: str, limit: int) -> list[str]:
        """List the last parts of up to `limit` names that begin with a prefix, in one request."""
        return self._attempt("list", prefix, lambda link, path: link.list_names(path, limit))

    def changed_lately(self, folder: str) -> bool:
        """Tell whether names in a folder may have changed in the last second."""
        return self._attempt("list", folder, lambda link, path: link.changed_lately(path))

    # ----------------------------------------------------------------------------- the inside

    @property
    def _connection(self) -> "Connection":
        pid = os.getpid()
        connection = self._connections.get(pid)
        if connection is None:  # setdefault: of two threads, one wins
            if self._is_used and not self.location.readable:
                message = f"{self.location.display()} is complete, or another process writes it: make a new accessor"
                raise ReadOnlyError(message)
            connection = self._connections.setdefault(pid, Connection(self.location, self.timeout))
            self._is_used = True
        return connection

    def in_turn(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """Have the threads of this process take turns at one name."""
        shown = self.location.display(name)
        with _turns_lock:
            known = _turns.get(shown)
            turn = known() if known is not None else None
            if turn is None:
                _forget_turns()
                turn = threading.RLock()
                _turns[shown] = weakref.ref(turn)
            return turn

    def load_once(self, key: Hashable, kept: Callable[[], _T | None], load: Callable[[], _T | None]) -> _T | None:
        """Return what is kept, or load it.

        Of many threads that ask at once, one loads and the others take its result, unless
        it fails: then each tries for itself, one after the other.
        """
        value = kept()
        if value is not None:
            return value
        connection = self._connection
        mine: concurrent.futures.Future[tuple[_T | None] | None] = concurrent.futures.Future()
        mine.set_running_or_notify_cancel()  # a waiter that is cancelled must not cancel it
        outcome: tuple[_T | None] | None = None
        try:
            while (flight := connection.loads.setdefault(key, mine)) is not mine:
                with only_waiting():
                    theirs: tuple[_T | None] | None = flight.result()
                if theirs is not None:
                    return theirs[0]
            value = kept()  # another may have ended since it was asked
            outcome = (load() if value is None else value,)
            return outcome[0]
        finally:
            if connection.loads.get(key) is mine:
                del connection.loads[key]
                mine.set_result(outcome)

    def _opened(self, connection: "Connection") -> Transport:
        try:
            return connection.transport
        except Exception as exc:  # noqa: BLE001 - each becomes one of ours
            error = self._error("open", "", exc)
        try:
            raise error
        finally:
            del error  # see `_once`

    def _attempt(self, verb: str, name: str, operation: Callable[[Transport, str], _T]) -> _T:
        return self._retried(functools.partial(self._once, verb, name, operation))

    def _once(self, verb: str, name: str, operation: Callable[[Transport, str], _T]) -> _T:
        connection = self._connection
        transport = self._opened(connection)
        try:
            return operation(transport, join(connection.root, name))
        except Exception as exc:  # noqa: BLE001 - each becomes one of ours
            error = self._error(verb, name, exc if transport.is_alive() else _lost_connection(exc))
        try:
            raise error  # outside of the handler: a cause with secrets would follow as context
        finally:
            del error  # its traceback has this frame, which would keep all that it knows

    def _retried(self, once: Callable[[], _T]) -> _T:
        """Do something, and again where its failure may pass."""
        failures: list[_TransientError] = []
        try:
            return once()  # without the machinery of retries, which takes longer than a request
        except _TransientError as exc:
            failures.append(exc)
        # From here on outside of the handler: what comes next does not come from this.

        def again() -> _T:
            if failures:
                raise failures.pop()  # what has happened counts as the first attempt
            return once()

        with _giving_up():
            attempts = iter(_retrying(self.attempts))
            while True:
                with only_waiting():
                    attempt = next(attempts)
                with attempt:
                    return again()

    def _error(self, verb: str, name: str, exc: Exception) -> Exception:
        """Map a foreign exception; the cause goes along unless it shows a secret."""
        if isinstance(exc, TooLargeError):
            return TooLargeError(f"{self.location.display(name)}: {exc}")
        if isinstance(exc, (DataAccessError, MemoryError, WrongThreadError)):
            return exc
        secrets = self._secrets
        said = explanation_of(exc)
        texts = [f"{link!r} {link}" for link in causes(exc)]
        shows_secret = (
            _shows_url(exc)
            or any(secret in text for text in texts for secret in secrets)
            or any(_SIGNED_TEXT.search(text) for text in texts)
        )
        detail = f"{type(exc).__name__}: {exc}" if not isinstance(exc, _OWN) else str(exc)
        if _shows_url(exc):
            detail = type(exc).__name__
        elif any(said) and not isinstance(exc, _OWN):
            detail = f"{status_of(exc)} {said}"
        for secret in secrets:
            detail = detail.replace(secret, "***")
        may_pass = self.protocol.is_remote or verb == "open"  # an archive is opened over whatever it lies on
        rule = _rule_for(verb, exc, said.code)
        message = f"cannot {verb} {self.location.display(name)}: {detail}"
        if rule.advises_anonymity and verb in _READING and self.location.may_go_without_credentials:
            message = f"{message.rstrip('.')}; anon=True reads public data without credentials"
        error = _made(rule, message, exc, may_pass=may_pass)
        if isinstance(error, NotFoundError):
            error.is_of_bucket = said.code in NO_BUCKET
        if isinstance(error, AccessDeniedError):
            error.may_mean_absent = status_of(exc) == http.HTTPStatus.FORBIDDEN and said.may_mean_absent
        error.__cause__ = None if shows_secret else exc
        return error


class _Upcoming:
    """Jobs that are still to be started: those that others asked for first."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        self._given = iter(jobs)
        self._more: collections.deque[Job] = collections.deque()
        self._is_read = False
        self._failure: Exception | None = None

    def take(self, count: int) -> list[Job]:
        """Take some; an exception of the iterable is kept until those before it are done."""
        taken = [self._more.popleft() for _ in range(min(count, len(self._more)))]
        while len(taken) < count and not self._is_read:
            try:
                taken.append(next(self._given))
            except StopIteration:
                self._is_read = True
            except Exception as exc:  # noqa: BLE001 - `end` raises it
                self._is_read, self._failure = True, exc
        return taken

    def is_over(self) -> bool:
        """Tell whether there is nothing more to take, unless something follows from what is under way."""
        return self._is_read and not self._more

    def end(self) -> None:
        """Raise what the iterable raised."""
        if self._failure is not None:
            raise self._failure

    def sifted(self, results: Iterable[Any]) -> Iterator[Any]:
        for result in results:
            if isinstance(result, More):
                self._more.extend(result.jobs)
            else:
                yield result


# ---------------------------------------------------------------------- retries and mapping


def _retrying(attempts: int) -> "stamina._core._RetryContextIterator":
    import stamina  # noqa: PLC0415 - only where something has failed

    return stamina.retry_context(on=_retry_after, attempts=attempts, timeout=RETRY_SECONDS, **_WAITS)


@contextlib.contextmanager
def _giving_up() -> Iterator[None]:
    """Turn a failure that was tried again in vain into what it is."""
    began = time.monotonic()
    try:
        yield
    except _TransientError as exc:
        seconds = time.monotonic() - began
        final = exc.final(f"{exc} (gave up after trying again for {seconds:.1f} s)")
        final.__cause__ = exc.__cause__
    else:
        return
    try:
        raise final
    finally:
        del final  # see `ObjectStore._once`


def _lost_connection(exc: Exception) -> ConnectionResetError:
    lost = ConnectionResetError(f"the connection was lost: {exc}")
    lost.__cause__ = exc
    return lost


def _retry_after(exc: Exception) -> bool | float:
    """Tell whether to try again; where the server says when, the seconds to wait."""
    if not isinstance(exc, _TransientError):
        return False
    return True if exc.wait is None else min(exc.wait, _LONGEST_WAIT)


_OWN = (StatusError, BrokenAnswerError, VersionError)
_READING = frozenset({"open", "read", "probe", "list"})
_SIGNED_TEXT = re.compile("string ?to ?sign", re.IGNORECASE)  # of a request, with its signature
_SHOWING_URLS = frozenset({"ClientResponseError", "InvalidURL", "RequestException"})


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which foreign failures are one of ours."""

    error: type[DataAccessError]
    transient: bool = False
    statuses: frozenset[int] = frozenset()
    types: tuple[type[Exception], ...] = ()
    names: frozenset[str] = frozenset()
    """Names of drivers' exception classes, so that no driver is imported to ask."""

    codes: frozenset[str] = frozenset()
    """What the store calls it, which counts more than the status."""

    verbs: frozenset[str] = frozenset({"open", "read", "probe", "write", "create", "delete", "list"})
    """What was being done."""

    advises_anonymity: bool = False
    """Whether the credentials are to blame, which public data do not need."""


_UNKNOWN = _Rule(DataAccessError)
_RULES = (
    _Rule(
        NotFoundError,
        statuses=frozenset({404}),
        types=(FileNotFoundError,),
    ),
    _Rule(
        NotFoundError,  # a folder is no object, and there are none below a file
        types=(NotADirectoryError, IsADirectoryError),
        verbs=frozenset({"read", "probe"}),
    ),
    _Rule(
        AccessDeniedError,
        statuses=frozenset({401, 403}),
        codes=DENIED,
        types=(PermissionError,),
        names=frozenset({"AuthenticationException", "ClientAuthenticationError"}),
    ),
    _Rule(
        AccessDeniedError,
        codes=WRONG_CREDENTIALS,
        names=frozenset(
            {
                "DefaultCredentialsError",
                "NoCredentialsError",
                "PartialCredentialsError",
                "RefreshError",
            }
        ),
        advises_anonymity=True,
    ),
    _Rule(AlreadyExistsError, types=(FileExistsError,), verbs=frozenset({"create"})),
    _Rule(
        CorruptDataError,
        statuses=frozenset({416}),
        types=(BrokenAnswerError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    ),
    _Rule(
        CorruptDataError,
        transient=True,
        names=frozenset({"ClientPayloadError", "IncompleteRead", "IncompleteReadError", "SSLEOFError"}),
    ),
    _Rule(
        DataAccessError,  # unreachable
        types=(ConnectionRefusedError, socket.gaierror),
        names=frozenset({"ClientConnectorError", "NoValidConnectionsError", "ServiceRequestError"}),
    ),
    _Rule(
        DataAccessError,
        transient=True,
        statuses=frozenset({408, 409, 425, 429, 500, 502, 503, 504}),
        codes=BUSY,
        types=(TimeoutError, ConnectionError, EOFError),
        names=frozenset(
            {
                "ClientOSError",
                "ConnectTimeoutError",
                "ConnectionClosedError",
                "EndpointConnectionError",
                "FSTimeoutError",
                "ReadTimeoutError",
                "SSHException",
                "ServiceResponseError",
                "ServerDisconnectedError",
                "Timeout",
            }
        ),
    ),
)


def _made(rule: _Rule, message: str, exc: Exception, *, may_pass: bool) -> DataAccessError:
    """Make the exception of ours for a foreign one."""
    if rule.transient and may_pass:
        return _TransientError(message, final=rule.error, wait=getattr(exc, "wait", None))
    return rule.error(message)


def _rule_for(verb: str, exc: Exception, code: str) -> _Rule:
    """Find what a foreign failure is: by the store's own name for it, else by its status, else by its type."""
    if isinstance(exc, VersionError):
        return _Rule(ReplacedError)
    rules = [rule for rule in _RULES if verb in rule.verbs]
    named = next((rule for rule in rules if code in rule.codes), None)
    if named is not None:
        return named
    status = None if isinstance(exc, FileExistsError) else status_of(exc)
    if status is not None:
        return next((rule for rule in rules if status in rule.statuses), _UNKNOWN)
    if isinstance(exc, OSError) and exc.errno == errno.ENAMETOOLONG and verb in ("read", "probe"):
        return _Rule(NotFoundError)  # a name that cannot be is not there
    if str(exc) == "Invalid data stream":
        return _Rule(CorruptDataError)  # bz2 gives an OSError without a number
    names = _class_names(exc)
    matching = (rule for rule in rules if isinstance(exc, rule.types) or names & rule.names)
    return next(matching, _UNKNOWN)


def _class_names(exc: BaseException) -> set[str]:
    return {base.__name__ for link in causes(exc) for base in type(link).__mro__}


def _shows_url(exc: BaseException) -> bool:
    """Whether an exception's text may hold a URL with a signature in it."""
    return bool(_class_names(exc) & _SHOWING_URLS)


def conflicts() -> Iterator[None]:
    """Yield as often as a change that another writer came before may be tried again, and wait in between."""
    for tries in range(_MOST_CONFLICTS):
        if tries:
            with only_waiting():
                time.sleep(random.uniform(0, min(_LONGEST_PAUSE, _SHORTEST_PAUSE * 2**tries)))  # noqa: S311
        yield


_MOST_TURNS = 1024  # that are remembered before those that nobody takes are forgotten
_turns_lock = threading.RLock()  # as collecting garbage may take a turn in any line
_turns: "dict[str, weakref.ref[contextlib.AbstractContextManager[Any]]]" = {}
"""Held while an object and its twins are changed; by what the object is shown as.

No WeakValueDictionary: it has each lock call Python code when it goes, in which a Ctrl-C would be lost.
"""


def _forget_turns() -> None:
    if len(_turns) >= _MOST_TURNS:
        for shown, turn in _turns.copy().items():
            if turn() is None and _turns.get(shown) is turn:
                del _turns[shown]


def _renew_locks() -> None:
    global _turns, _turns_lock  # one held by another thread at the fork is held for ever
    _turns_lock, _turns = threading.RLock(), {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
