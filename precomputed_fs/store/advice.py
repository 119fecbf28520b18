"""What a user can do about a failure: the end of its message."""

from collections.abc import Callable, Mapping

from precomputed_fs.errors import AccessDeniedError, DataAccessError, NotFoundError
from precomputed_fs.store.explanations import NO_BUCKET, Explanation
from precomputed_fs.store.location import Location

_ENDPOINT = "endpoint_url"


def advice(
    location: Location,
    kind: type[DataAccessError],
    exc: BaseException,
    said: Explanation,
    is_anonymous: Callable[[], bool],
) -> str:
    """Return the end of a message; empty if there is nothing to advise.

    Parameters
    ----------
    location : Location
    kind : type
        What the failure was mapped to.
    exc : Exception
        The driver's exception.
    said : Explanation
        The store's.
    is_anonymous : callable
        Tells whether the store was asked without credentials; only called if it matters.
    """
    if said.code in NO_BUCKET:
        return _no_bucket(location)
    if issubclass(kind, AccessDeniedError):
        return _anonymous(location) if is_anonymous() else ""
    if issubclass(kind, NotFoundError):  # of a chunk, too, which is no mistake
        return ""
    text = str(exc)
    return next((f"; {told}" for sign, told in _BY_TEXT.items() if sign in text), "")


_BY_TEXT: Mapping[str, str] = {
    "Invalid endpoint": f"{_ENDPOINT} begins with https:// or http://",
    "Not a directory": "a part of this path is a file, not a folder",
    "wrong version number": "the server seems to expect http:// instead of https://",
}
"""What to do about failures that only the text of the driver tells from others."""


def _no_bucket(location: Location) -> str:
    takes_endpoint = location.protocol.package == "s3fs"
    if takes_endpoint and _ENDPOINT not in location.links[0].options:
        return f"; is its name right? One that is not at Amazon needs storage_options={{{_ENDPOINT!r}: ...}}"
    return "; is its name right?"


def _anonymous(location: Location) -> str:
    if location.anon:
        return "; asked anonymously, as anon=True says"
    hint = location.protocol.credentials_hint
    return f"; asked anonymously, as no credentials were found; pass {hint}" if hint else ""
