"""What foreign errors mean: which of our exceptions they become, which are transient, and when to retry.

Only this module knows the exceptions of drivers.
"""

import errno
import functools
import http.client
import logging
import lzma
import random
import re
import socket
import time
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from precomputed_fs import errors
from precomputed_fs.errors import DataAccessError
from precomputed_fs.format.compression import TooLargeError
from precomputed_fs.store import explanations
from precomputed_fs.store.advice import advice
from precomputed_fs.store.explanations import NO_EXPLANATION, Explanation
from precomputed_fs.store.location import Location
from precomputed_fs.store.requests import ChangedLately, Delete, Exists, Get, List, Put, Walk
from precomputed_fs.store.storage_options import unknown_option

_log = logging.getLogger("precomputed_fs")

RETRY_SECONDS = 30.0
"""No attempt begins later than this many seconds after the first."""

_FIRST_WAIT, _LONGEST_WAIT, _JITTER = 0.2, 5.0, 0.2  # seconds; each wait is twice the one before
_FORBIDDEN = "Forbidden: "  # gcsfs gives an OSError without a number
_CONDITION = re.compile("if-(none-)?match", re.IGNORECASE)


class TransientError(DataAccessError):
    """A transient failure; ``final`` is the error to raise if retries do not help."""

    def __init__(self, message: str, final: type[DataAccessError], wait: float | None) -> None:
        super().__init__(message)
        self.final = final
        self.wait = wait
        """Seconds to wait, if the server says when to retry."""


class StatusError(Exception):
    """An HTTP answer with a status that means failure."""

    def __init__(self, status: int, headers: Mapping[str, str] = {}, body: bytes = b"") -> None:
        self.status = status
        self.explanation = explanations.explanation_in(headers, body)
        shown = f"{status} {http.client.responses.get(status, '')}".strip()
        super().__init__(": ".join(filter(None, (shown, *self.explanation))))
        self.wait = seconds_to_wait(headers.get("retry-after", ""))


class VersionError(Exception):
    """The version of an object that was to be replaced is no longer there."""

    def __init__(self) -> None:
        super().__init__("another writer has replaced it meanwhile; nothing was written")


class WrongThreadError(RuntimeError):
    """A synchronous call from the filesystem's own event loop, which would wait for itself."""


class BrokenAnswerError(Exception):
    """An answer does not match the request, or its own headers."""


class RangeIgnoredError(BrokenAnswerError):
    """A server ignored ``Range`` and sent the whole object."""


class TruncatedError(BrokenAnswerError):
    """An answer ended too early."""


class TransferError(Exception):
    """A transfer failed in libcurl, with its code; or was given up because it took too long."""


class CertificateError(Exception):
    """A server's certificate is not trusted."""


def seconds_to_wait(retry_after: str) -> float | None:
    """Read a Retry-After header: seconds, or a date."""
    if retry_after.isdecimal():
        return float(retry_after)
    date = seconds_since_1970(retry_after)
    return None if date is None else max(0.0, date - time.time())


@functools.lru_cache
def seconds_since_1970(date: str) -> float | None:
    """Read the date of a header."""
    import email.utils  # noqa: PLC0415 - takes long, and is rarely used

    try:
        return email.utils.parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


class Tries:
    """How often a request was sent, and when first, by the monotonic clock."""

    __slots__ = ("began", "count")

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.count = 1

    def next_time(self, error: TransientError, most: int) -> float | None:
        """Return when to retry, by the monotonic clock; None: give up."""
        wait = error.wait
        if wait is None:
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (self.count - 1)) + random.uniform(0, _JITTER)  # noqa: S311
        due = time.monotonic() + wait
        return due if self.count < most and due <= self.began + RETRY_SECONDS else None

    def given_up(self, error: TransientError) -> DataAccessError:
        """Turn a transient failure into the final error, after the last attempt."""
        text, seconds = str(error), time.monotonic() - self.began
        if self.count > 1:
            text += f" (gave up after trying {self.count} times in {seconds:.1f} s)"
        if error.wait is not None and error.wait > RETRY_SECONDS - seconds:
            text += f"; the server asks to wait {error.wait:.0f} s"
        final = error.final(text)
        final.__cause__ = error.__cause__
        return final


class Failures:
    """Maps failures at one location to our exceptions, which name the location and show no secrets.

    Parameters
    ----------
    location : Location
    attempts : int
        The most times that a request is sent.
    """

    def __init__(self, location: Location, attempts: int) -> None:
        self.location = location
        self._attempts = attempts
        self._secrets = location.secrets

    def judged(self, request: Any, exc: Exception, tries: Tries) -> tuple[Exception, float | None]:  # noqa: ANN401
        """Map a foreign exception; also returns when to retry, by the monotonic clock, or None.

        Parameters
        ----------
        request : Request or None
            The request that failed; None: making the filesystem failed.
        """
        error = self._mapped(request, exc)
        if not isinstance(error, TransientError):
            if isinstance(error, (errors.AlreadyExistsError, errors.ReplacedError)):
                error.was_retried = tries.count > 1
            return error, None
        due = tries.next_time(error, self._attempts)
        if due is None:
            return tries.given_up(error), None
        if tries.count == 1:
            _log.info("%s; retrying", error)
        tries.count += 1
        return error, due

    def _mapped(self, request: Any, exc: Exception) -> Exception:  # noqa: ANN401
        """Map a foreign exception, which becomes the cause unless it shows a secret."""
        verb, name = _asked(request)
        if isinstance(exc, TooLargeError):
            return TooLargeError(f"{self.location.display(name)}: {exc}")
        if isinstance(exc, (DataAccessError, MemoryError, WrongThreadError)):
            return exc
        if refusal := self._refusal(exc):
            return refusal
        said = explanation_of(exc)
        rule = _rule_for(verb, exc, said.code)
        message = f"cannot {verb} {self.location.display(name)}: {self._detail(exc, said)}"
        if rule.advises_anonymity and verb in _READING and self.location.may_go_without_credentials:
            message = f"{message.rstrip('.')}; anon=True reads public data without credentials"
        message += advice(self.location, rule.error, exc, said, lambda: self._is_anonymous)
        may_pass = self.location.protocol.is_remote or verb == "open"  # an archive is opened over whatever it lies on
        error = rule.error(message)
        if rule.transient and may_pass:
            error = TransientError(message, rule.error, getattr(exc, "wait", None))
        if isinstance(error, errors.NotFoundError):
            error.is_of_bucket = said.code in explanations.NO_BUCKET
        if isinstance(error, errors.AccessDeniedError):
            error.may_mean_absent = status_of(exc) == http.HTTPStatus.FORBIDDEN and said.may_mean_absent
        error.__cause__ = None if self._shows_secret(exc) else exc
        return error

    def _refusal(self, exc: Exception) -> Exception | None:
        """Map what a driver refuses before it asks a store: its own dependencies, and keywords."""
        where = self.location.links[0]
        if isinstance(exc, ImportError):
            package = (exc.name or self.location.protocol.package).partition(".")[0]
            what = f"pip install {package}" if package else str(exc)
            return errors.URLError(f"{where.display}: the driver of {where.protocol}:// is not installed: {what}")
        refused = _UNKNOWN_KEYWORD.search(str(exc)) if isinstance(exc, TypeError) else None
        return unknown_option(self.location.links, refused[1]) if refused else None

    @functools.cached_property
    def _is_anonymous(self) -> bool:
        return self.location.goes_without_credentials

    def _detail(self, exc: Exception, said: Explanation) -> str:
        if _shows_url(exc):
            return type(exc).__name__
        detail = str(exc)
        if not isinstance(exc, _OWN):
            detail = f"{status_of(exc)} {said}" if any(said) else f"{type(exc).__name__}: {exc}"
        for secret in self._secrets:
            detail = detail.replace(secret, "***")
        return detail

    def _shows_secret(self, exc: Exception) -> bool:
        said = " ".join(f"{link!r} {link}" for link in causes(exc))
        return _shows_url(exc) or bool(_SIGNED_TEXT.search(said)) or any(secret in said for secret in self._secrets)


_OWN = (StatusError, BrokenAnswerError, VersionError, TransferError, CertificateError)
_UNKNOWN_KEYWORD = re.compile(r"unexpected keyword argument '(\w+)'")
_READING = frozenset({"open", "read", "probe", "list"})
_SIGNED_TEXT = re.compile("string ?to ?sign", re.IGNORECASE)  # of a request, with its signature
_SHOWING_URLS = frozenset({"ClientResponseError", "InvalidURL", "RequestException"})


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which foreign failures become one of our exceptions."""

    error: type[DataAccessError]
    transient: bool = False
    statuses: AbstractSet[int] = frozenset()
    types: tuple[type[Exception], ...] = ()
    names: AbstractSet[str] = frozenset()
    """Names of drivers' exception classes, so that no driver must be imported."""

    codes: AbstractSet[str] = frozenset()
    """The store's own codes, which take precedence over the status."""

    verbs: AbstractSet[str] = frozenset({"open", "read", "probe", "write", "create", "delete", "list"})
    """The operations that the rule applies to."""

    advises_anonymity: bool = False
    """Whether credentials are at fault, so that public data could be read without."""


_UNKNOWN = _Rule(DataAccessError)
_RULES = (
    _Rule(errors.ReplacedError, types=(VersionError,)),
    _Rule(errors.NotFoundError, statuses={404}, types=(FileNotFoundError,)),
    # A folder is not an object, and nothing is below a file.
    _Rule(errors.NotFoundError, types=(NotADirectoryError, IsADirectoryError), verbs={"read", "probe"}),
    _Rule(
        errors.AccessDeniedError,
        statuses={401, 403},
        codes=explanations.DENIED,
        types=(PermissionError,),
        names={"AuthenticationException", "ClientAuthenticationError"},  # paramiko, azure
    ),
    _Rule(
        errors.AccessDeniedError,
        codes=explanations.WRONG_CREDENTIALS,
        names={"DefaultCredentialsError", "NoCredentialsError", "PartialCredentialsError", "RefreshError"},
        advises_anonymity=True,
    ),
    _Rule(errors.AlreadyExistsError, types=(FileExistsError,), verbs={"create"}),
    _Rule(errors.CorruptDataError, transient=True, types=(TruncatedError,)),
    _Rule(
        errors.CorruptDataError, transient=True, names={"ClientPayloadError", "IncompleteRead", "IncompleteReadError"}
    ),
    _Rule(errors.NoRangesError, types=(RangeIgnoredError,)),
    _Rule(errors.CorruptDataError, statuses={416}, types=(BrokenAnswerError,)),
    _Rule(errors.CorruptDataError, types=(zipfile.BadZipFile, zlib.error, lzma.LZMAError)),
    # No server is there.
    _Rule(DataAccessError, types=(ConnectionRefusedError, socket.gaierror)),
    _Rule(DataAccessError, names={"ClientConnectorError", "NoValidConnectionsError", "ServiceRequestError"}),
    _Rule(
        DataAccessError,
        transient=True,
        statuses={408, 409, 425, 429, 500, 502, 503, 504},
        codes=explanations.BUSY,
        types=(TimeoutError, ConnectionError, EOFError),
        names={"ClientOSError", "ServerDisconnectedError"}  # aiohttp
        | {"ConnectionClosedError", "EndpointConnectionError", "Timeout"}  # botocore, which has requests' Timeout, too
        | {"SSHException", "ServiceResponseError"},  # paramiko, azure
    ),
)


def _rule_for(verb: str, exc: Exception, code: str) -> _Rule:
    """Find the rule for a foreign failure: by the store's own code, else by its status, else by its type."""
    rules = [rule for rule in _RULES if verb in rule.verbs]
    if named := next((rule for rule in rules if code in rule.codes), None):
        return named
    status = None if isinstance(exc, (FileExistsError, VersionError)) else status_of(exc)
    if status is not None:
        return next((rule for rule in rules if status in rule.statuses), _UNKNOWN)
    if isinstance(exc, OSError) and exc.errno == errno.ENAMETOOLONG and verb in ("read", "probe"):
        return _Rule(errors.NotFoundError)  # an impossible name cannot exist
    if str(exc) == "Invalid data stream":
        return _Rule(errors.CorruptDataError)  # bz2 gives an OSError without a number
    names = _class_names(exc)
    matching = (rule for rule in rules if isinstance(exc, rule.types) or names & rule.names)
    return next(matching, _UNKNOWN)


_VERBS = {
    Get: "read",
    Exists: "probe",
    Put: "write",
    Delete: "delete",
    List: "list",
    Walk: "list",
    ChangedLately: "list",
}


def _asked(request: Any) -> tuple[str, str]:  # noqa: ANN401
    """Return the operation that was requested, and the name of the object."""
    verb = _VERBS.get(type(request), "open")
    members = (getattr(request, member, "") for member in ("name", "prefix", "folder"))
    return "create" if verb == "write" and request.create else verb, next(filter(None, members), "")


def _class_names(exc: BaseException) -> set[str]:
    return {base.__name__ for link in causes(exc) for base in type(link).__mro__}


def _shows_url(exc: BaseException) -> bool:
    """Tell whether an exception's text may contain a URL with a signature."""
    return bool(_class_names(exc) & _SHOWING_URLS)


# ----------------------------------------------------------------- reading drivers' exceptions


def is_unmet(exc: Exception) -> bool:
    """Tell whether a store refused a write because its condition was not met."""
    return isinstance(exc, FileExistsError) or status_of(exc) == http.HTTPStatus.PRECONDITION_FAILED


def is_gone(exc: Exception) -> bool:
    """Tell whether the object does not exist, according to the store."""
    return isinstance(exc, FileNotFoundError) or status_of(exc) == http.HTTPStatus.NOT_FOUND


def refuses_conditions(exc: Exception) -> bool:
    """Tell whether a store does not support conditional writes: 501, or a 400 that names the header."""
    status = status_of(exc)
    if status != http.HTTPStatus.BAD_REQUEST:
        return status == http.HTTPStatus.NOT_IMPLEMENTED
    return any(_CONDITION.search(f"{link} {getattr(link, 'response', '')}") for link in causes(exc))


def status_of(exc: BaseException) -> int | None:
    """Find the HTTP status in an exception of any driver."""
    return next((status for link in causes(exc) if (status := _own_status(link)) is not None), None)


def _own_status(exc: BaseException) -> int | None:
    if type(exc).__module__ == "aiohttp.http_exceptions":
        return None  # their code is the status that a server would answer, not one that it has answered
    if str(exc).startswith(_FORBIDDEN):
        return http.HTTPStatus.FORBIDDEN
    response = getattr(exc, "response", None)
    places = ((exc, "status"), (exc, "status_code"), (response, "status_code"), (exc, "code"))
    # aiohttp and ours, azure, requests, gcsfs; lazily, because aiohttp's `code` gives a warning
    found: Iterable[Any] = (getattr(holder, name, None) for holder, name in places)
    if isinstance(response, dict):  # botocore
        found = [response.get("ResponseMetadata", {}).get("HTTPStatusCode")]
    return next((int(status) for status in found if isinstance(status, int)), None)


def explanation_of(exc: BaseException) -> Explanation:
    """Find the store's explanation in an exception of any driver."""
    return next((said for link in causes(exc) if any(said := _own_explanation(link))), NO_EXPLANATION)


def _own_explanation(exc: BaseException) -> Explanation:
    if isinstance(exc, StatusError):
        return exc.explanation
    response = getattr(exc, "response", None)
    if isinstance(response, dict):  # botocore
        code, message = (response.get("Error", {}).get(name) for name in ("Code", "Message"))
        return NO_EXPLANATION if str(code).isdecimal() else Explanation.of(code, message)  # HEAD: the status
    if hasattr(exc, "error_code"):  # azure
        return Explanation.of(getattr(exc.error_code, "value", exc.error_code), getattr(exc, "message", ""))
    if type(exc).__name__ == "HttpError":  # gcsfs
        return Explanation.of("", str(exc).removesuffix(f", {getattr(exc, 'code', None)}"))
    if str(exc).startswith(_FORBIDDEN):
        return Explanation.of("", str(exc).partition("\n")[2])
    return NO_EXPLANATION


def causes(exc: BaseException) -> list[BaseException]:
    """List an exception and its causes."""
    chain = [exc]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    return chain
