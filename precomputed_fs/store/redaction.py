"""What messages must not show: query strings, passwords, keys and tokens, in URLs, options and requests."""

import base64
import re
import urllib.parse
from collections.abc import Iterable, Mapping

from precomputed_fs.store.requests import HttpRequest

_LONGEST_PUBLIC_PART = 16  # characters of the parts of an Authorization header that are public: AWS4-HMAC-SHA256
_AT_IN_NAMES = ("abfs", "abfss", "az", "github", "git")


def without_secrets(text: str) -> str:
    """Strip the query from a URL, and the user and the password unless the @ is part of a name."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)", text)
    if not match:
        return text
    rest = text[match.end() :].partition("?")[0]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", rest):  # a URL in a URL
        return match[0] + without_secrets(rest)
    if match[1].lower() not in _AT_IN_NAMES:
        authority, slash, path = rest.partition("/")
        rest = authority.rpartition("@")[2] + slash + path
    return match[0] + rest


_SECRET_OPTION = re.compile(
    r"key$|secret|token|pass|credential|connection_string|auth|headers|cookies|signature", re.IGNORECASE
)


def secret_values(options: object, *, secret: bool) -> Iterable[str]:
    """Find the texts in storage options whose names suggest a secret."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            yield from secret_values(value, secret=secret or bool(_SECRET_OPTION.search(str(key))))
    elif isinstance(options, (list, tuple)):
        for value in options:
            yield from secret_values(value, secret=secret)
    elif isinstance(options, str):
        yield from (*secrets_in_url(options), options if secret and options != "anon" else "")


def secrets_of(request: HttpRequest) -> tuple[str, ...]:
    """Return the secrets of a request: the query, passwords, signatures, keys and tokens."""
    told = {value for name, value in request.headers.items() if _SECRET_OPTION.search(name)}
    parts = {part for value in told for part in re.split(r"[\s,=/]", value) if len(part) > _LONGEST_PUBLIC_PART}
    user = urllib.parse.urlsplit(request.url).netloc.rpartition("@")[0]
    told.add(base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode())  # as in an Authorization header
    keys = (request.signer.access_key, request.signer.secret_key) if request.signer else ()
    return longest_first(told | parts | {*secrets_in_url(request.url), *keys})


def longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    """Sort secrets, the longest first, so that replacing one leaves no part of another; drops very short ones."""
    return tuple(sorted((text for text in secrets if len(text) > 5), key=len, reverse=True))  # noqa: PLR2004


def secrets_in_url(text: str) -> Iterable[str]:
    """Find the query and the password of a URL, in whole and in part."""
    if "://" in text:
        parts = urllib.parse.urlsplit(text)
        password = parts.netloc.rpartition("@")[0].partition(":")[2]
        yield from (parts.query, password, urllib.parse.unquote(password))
        for _, value in urllib.parse.parse_qsl(parts.query):
            yield from (value, urllib.parse.quote(value, safe=""))
