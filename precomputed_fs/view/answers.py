"""How the server answers over HTTP: statuses, headers, ranges and entity tags (RFC 9110)."""

import asyncio
import hashlib
import http
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from precomputed_fs.errors import AccessDeniedError, CorruptDataError, DataAccessError, InvalidInfoError, NotFoundError
from precomputed_fs.view.shown_folder import OCTETS_TYPE, Content

if TYPE_CHECKING:
    from aiohttp import web


METHODS = "GET, HEAD, OPTIONS"
_TEXT = "text/plain; charset=utf-8"
_COMMON = {
    "Cache-Control": "private, no-cache",  # voxels may change, and asking by ETag is cheap
    "Referrer-Policy": "no-referrer",  # the token is part of the address
    "Server": "precomputed_fs",
    "X-Content-Type-Options": "nosniff",  # a pyramid's files are data, whatever they look like
}
CROSS_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Encoding, Content-Length, Content-Range, ETag",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
PREFLIGHT = {
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Methods": METHODS,
    "Access-Control-Allow-Private-Network": "true",
    "Access-Control-Max-Age": "7200",
}

STATUSES: tuple[tuple[type[Exception], http.HTTPStatus], ...] = (
    (NotFoundError, http.HTTPStatus.NOT_FOUND),
    (AccessDeniedError, http.HTTPStatus.BAD_GATEWAY),
    (CorruptDataError, http.HTTPStatus.BAD_GATEWAY),
    (InvalidInfoError, http.HTTPStatus.BAD_GATEWAY),
    (DataAccessError, http.HTTPStatus.SERVICE_UNAVAILABLE),
    (ImportError, http.HTTPStatus.NOT_IMPLEMENTED),
)
"""The status for an exception: the first that fits. All others are errors of this server."""


def respond(
    status: http.HTTPStatus, body: bytes = b"", headers: Mapping[str, str] = {}, mime_type: str = _TEXT
) -> "web.Response":
    """Return an answer with the common headers."""
    from aiohttp import web  # noqa: PLC0415

    return web.Response(status=status, body=body, headers={**_COMMON, "Content-Type": mime_type, **headers})


async def answer_with(request: "web.BaseRequest", content: Content) -> "web.Response":
    """Answer with content, or a part of it (RFC 9110, sections 13 and 14)."""
    data, mime_type = content
    etag = await asyncio.to_thread(_etag, data)
    headers = {**CROSS_ORIGIN, "Accept-Ranges": "bytes", "ETag": etag}
    if _has_etag(request, etag):
        return respond(http.HTTPStatus.NOT_MODIFIED, headers=headers, mime_type=mime_type)
    span = None
    if request.method == "GET" and request.headers.get("If-Range", etag) == etag:
        span = _span(request, len(data))
    if span is None:
        return respond(http.HTTPStatus.OK, data, headers, mime_type)
    if span.start >= span.stop:
        headers["Content-Range"] = f"bytes */{len(data)}"
        return respond(http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
    return answer_part(data[span], f"bytes {span.start}-{span.stop - 1}/{len(data)}", {"ETag": etag}, mime_type)


def answer_part(
    data: bytes, content_range: str, headers: Mapping[str, str] = {}, mime_type: str = OCTETS_TYPE
) -> "web.Response":
    """Return a 206 answer with a part of a file."""
    headers = {**CROSS_ORIGIN, "Accept-Ranges": "bytes", "Content-Range": content_range, **headers}
    return respond(http.HTTPStatus.PARTIAL_CONTENT, data, headers, mime_type)


def _etag(data: bytes) -> str:
    return f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'


def _has_etag(request: "web.BaseRequest", etag: str) -> bool:
    """Whether the client has these bytes already."""
    given = ",".join(request.headers.getall("If-None-Match", [])).strip()
    return given == "*" or etag in re.findall(r'"[^"]*"', given)


_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII | re.IGNORECASE)


def _span(request: "web.BaseRequest", size: int) -> slice | None:
    """Return the bytes that a request asks for: None for all, an empty slice for a range that cannot be satisfied.

    Malformed ranges, and several at once, may be ignored (RFC 9110, section 14.2).
    """
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return slice(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return slice(int(first), min(size, int(last) + 1) if last else size)


def range_without_size(request: "web.BaseRequest") -> slice | None:
    """Return the bytes that a request asks for, if the size of the whole does not matter; otherwise None."""
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or request.method != "GET" or {"If-Range", "If-None-Match"} & request.headers.keys():
        return None
    first, last = match.groups()
    return slice(int(first), int(last) + 1) if first and last and int(first) <= int(last) else None
