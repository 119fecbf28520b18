"""Which exceptions this package raises: their tree.

A user can always tell absent, forbidden, broken and unreachable apart::

    Exception
    ├── DataAccessError        a store could not be read or written; names the URL and what was tried
    │   ├── NotFoundError      (also FileNotFoundError) the store said definitely: not there
    │   ├── AlreadyExistsError (also FileExistsError)   overwrite=False met existing data
    │   ├── AccessDeniedError  (also PermissionError)   401, 403, or credentials that are wrong or have expired
    │   ├── CorruptDataError   (also ValueError)        truncated, not decodable, of the wrong length
    │   ├── ReadOnlyError      (also NotImplementedError) the protocol cannot do this, see can_write
    │   └── OptionError        (also TypeError)         the filesystem has no such storage option
    ├── InvalidInfoError       (a ValueError) `info` is not valid; names the place
    └── URLError               the URL cannot be opened; names the scheme and what to install

A relative path that would leave the pyramid is a plain ``ValueError``, raised before any request.
Messages never show a query string, a password or a storage option.
"""

import reprlib
from collections.abc import Iterable, Mapping
from typing import Self

__all__ = [
    "AccessDeniedError",
    "AlreadyExistsError",
    "CorruptDataError",
    "DataAccessError",
    "InvalidInfoError",
    "NotFoundError",
    "OptionError",
    "ReadOnlyError",
    "URLError",
]


class _Replaceable(Exception):  # noqa: N818 - never raised
    """A base class that can be replaced by a class of another package; Python lets no built-in one be replaced."""


class DataAccessError(_Replaceable):
    """A store could not be read or written.

    Raised itself when no subclass fits: for an unreachable host, or a server error that outlasted
    the retries.
    """

    def alone(self) -> Self:
        """Return the same error without its traceback and cause, which keep alive what their frames know.

        `copy.copy` may copy both: tblib, which dask uses, makes it.
        """
        error = type(self)(*self.args)
        vars(error).update(vars(self))
        return error


class NotFoundError(DataAccessError, FileNotFoundError):
    """The store said definitely that the object is not there."""

    is_of_bucket = False
    """Whether the whole bucket is absent."""


class AlreadyExistsError(DataAccessError, FileExistsError):
    """``overwrite=False`` met an object that exists, under any of its possible names."""

    was_retried = False
    """Whether the write was a retry, so that the object may be its own."""


class ReplacedError(DataAccessError):
    """Another writer has replaced the version that was to be replaced; nothing was written."""

    was_retried = False
    """Whether the write was a retry, so that the other writer may be this one."""


class AccessDeniedError(DataAccessError, PermissionError):
    """The store refused: status 401 or 403, wrong or expired credentials (S3's 400), or a file permission."""

    may_mean_absent = False
    """Whether absent objects get the same answer, as on S3 with permission to read a bucket but not to list it."""


class CorruptDataError(DataAccessError, ValueError):
    """The bytes are damaged: truncated, not decodable, of the wrong length, or more than there can be."""


class NoRangesError(CorruptDataError):
    """The server ignores ``Range`` and sends a whole object instead of a part."""


class ReadOnlyError(DataAccessError, NotImplementedError):
    """The protocol cannot be written; or an archive that is being written cannot be read."""


class OptionError(DataAccessError, TypeError):
    """The filesystem has no such storage option."""


class InvalidInfoError(ValueError):
    """``info`` is not valid; the message names the place, such as ``scales[0].size``."""


class URLError(_Replaceable):
    """The URL is not one that this package can open."""


# ---------------------------------------------------------------------------------------- messages

_SHOWN = 80  # characters of a value
_BEGINNING = 3  # characters of a name that may stand for it


def shown(value: object) -> str:
    """Shorten the `repr` of a value for a message."""
    text = _REPR.repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def expected_one_of(what: str, known: Iterable[str], given: object, others: Mapping[str, str] = {}) -> str:
    """Return a message about an argument that is none of the known names; `others` are those of other tools.

    Examples
    --------
    >>> expected_one_of("type", ["image", "segmentation"], "seg")
    "type: expected one of image, segmentation, got 'seg'; did you mean 'segmentation'?"
    """
    names = list(known)
    return f"{what}: expected one of {', '.join(names)}, got {shown(given)}{did_you_mean(given, names, others)}"


def did_you_mean(given: object, known: Iterable[str], others: Mapping[str, str] = {}) -> str:
    """Return the end of a message, which asks for the nearest of the known names; empty if none is near.

    Parameters
    ----------
    given : object
    known : iterable of str
    others : mapping
        What is known by other names.

    Examples
    --------
    >>> did_you_mean("segmentatoin", ["image", "segmentation"])
    "; did you mean 'segmentation'?"
    """
    import difflib  # noqa: PLC0415 - only failures need it

    names = {**{name.lower(): name for name in known}, **others}
    word = str(given).lower()
    begun = [name for name in names if len(word) >= _BEGINNING and name.startswith(word)]
    near = begun if len(begun) == 1 else difflib.get_close_matches(word, names, 1)
    return f"; did you mean {names[near[0]]!r}?" if near else ""


def _short_repr() -> reprlib.Repr:
    made = reprlib.Repr()
    made.maxstring = made.maxlong = made.maxother = 2 * _SHOWN
    made.maxlevel = 3
    return made


_REPR = _short_repr()
