"""What can go wrong: the tree of this package's exceptions.

A user can always tell absent, forbidden, broken and unreachable apart::

    Exception
    ├── DataAccessError        a store could not be read or written; names the URL and what was tried
    │   ├── NotFoundError      (also FileNotFoundError) the store said definitely: not there
    │   ├── AlreadyExistsError (also FileExistsError)   overwrite=False met existing data
    │   ├── AccessDeniedError  (also PermissionError)   401, 403, or credentials that are wrong or have expired
    │   ├── CorruptDataError   (also ValueError)        truncated, not decodable, of the wrong length
    │   └── ReadOnlyError      (also NotImplementedError) the protocol cannot do this, see can_write
    ├── InvalidInfoError       (a ValueError) `info` says what cannot be; names the place
    └── URLError               not a URL that can be opened; names the scheme and what to install

A relative path that would leave the pyramid is a plain ``ValueError``, raised before any request.
Messages never show a query string, a password or a storage option.
"""

import reprlib

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "CorruptDataError",
    "DataAccessError",
    "InvalidInfoError",
    "NotFoundError",
    "ReadOnlyError",
    "URLError",
]


class DataAccessError(Exception):
    """A store could not be read or written.

    Raised as such for what is neither absent, forbidden, in the way nor corrupt: an unreachable
    host, a server's error that outlived the retries, a write to a read-only protocol.
    """


class NotFoundError(DataAccessError, FileNotFoundError):
    """The store said definitely that the object is not there."""

    is_of_bucket = False
    """Whether it is the whole bucket that is not there."""


class AlreadyExistsError(DataAccessError, FileExistsError):
    """``overwrite=False`` met an object that exists, under any of its possible names."""

    was_retried = False
    """Whether the write was tried before, so that this may be what it has written."""


class ReplacedError(DataAccessError):
    """Another writer has replaced what was to be replaced; nothing was written."""

    was_retried = False
    """Whether this was tried before, so that the other writer may be ourselves."""


class AccessDeniedError(DataAccessError, PermissionError):
    """The store refused: status 401 or 403, wrong or expired credentials (S3's 400), or a file permission."""

    may_mean_absent = False
    """Whether the store says the same of what is not there, as S3 does to who may read a bucket but not list it."""


class CorruptDataError(DataAccessError, ValueError):
    """The bytes that came back cannot be what was stored: truncated, not decodable, or more than there can be."""


class NoRangesError(CorruptDataError):
    """The server sends a whole object where a part of it was asked for."""


class ReadOnlyError(DataAccessError, NotImplementedError):
    """The protocol cannot be written to (or, an archive being written, not be read from)."""


class InvalidInfoError(ValueError):
    """``info`` says what cannot be; the message names the place, such as ``scales[0].size``."""


class URLError(Exception):
    """Not a URL that this package can open."""


# ---------------------------------------------------------------------------------------- messages

_SHOWN = 80  # characters of a value


def shown(value: object) -> str:
    """Represent a value in a message, in a few characters however long it is."""
    text = _REPR.repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _short_repr() -> reprlib.Repr:
    made = reprlib.Repr()
    made.maxstring = made.maxlong = made.maxother = 2 * _SHOWN
    made.maxlevel = 3
    return made


_REPR = _short_repr()
