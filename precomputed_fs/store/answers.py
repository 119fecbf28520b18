"""What an HTTP answer means: whether it matches the request, and which version of the object it has."""

import functools
import http
import re
import time
from collections.abc import Mapping

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.compression import decode
from precomputed_fs.store.explanations import MOST_BYTES
from precomputed_fs.store.failures import BrokenAnswerError, StatusError, seconds_since_1970
from precomputed_fs.store.requests import Body, Get

_UNENCODED = frozenset({"", "identity", "none", "binary", "utf-8"})
"""Values of Content-Encoding that mean no encoding; all but the first two are mistakes of uploaders."""

_UNIQUE_VERSION = re.compile(r'"([0-9a-f]{32,}(-[0-9]+)?|0x[0-9a-f]{15})"', re.IGNORECASE)
"""An ETag that no other version of an object gets: a hash of the content, or Azure's."""

_SIGNATURE = re.compile(rb"\b[0-9a-f]{64}\b")  # AWS's, made by libcurl
_YOUNG = 2.0  # seconds: some servers and file systems count whole seconds
_LARGEST_SKEW = 86400.0  # seconds: a date further in the future is not from a clock


class Answer:
    """A server's answer.

    Parameters
    ----------
    status : int
    lines : list of bytes
        Lines of the head, as libcurl gives them: those of interim answers first, trailers last.
    parts : list of bytes
        Parts of the body, not decoded.
    """

    def __init__(self, status: int, lines: list[bytes], parts: list[bytes]) -> None:
        self.status = status
        self.parts = parts
        self._lines = lines
        self._text = b"".join(lines).lower()

    @property
    def _head(self) -> list[bytes]:
        """The lines from the last status line on: interim answers come before."""
        lines = self._lines
        return lines[max((place for place, line in enumerate(lines) if line.startswith(b"HTTP/")), default=0) :]

    @functools.cached_property
    def headers(self) -> Mapping[str, str]:
        """The headers, by their names in lower case."""
        headers: dict[str, str] = {}
        for line in self._head[1:]:
            if line in _ENDS:  # trailers come after
                break
            name, colon, value = line.decode("latin-1").partition(":")
            if colon:
                name, value = name.lower(), value.strip()
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    @property
    def encoding(self) -> str:
        """The Content-Encoding of the body, in lower case; empty if it has none."""
        if b"\ncontent-encoding:" not in self._text:
            return ""  # without parsing the headers
        encodings = self.headers.get("content-encoding", "").lower().split(",")
        return ", ".join(encoding.strip() for encoding in encodings if encoding.strip() not in _UNENCODED)

    @property
    def is_whole(self) -> bool:
        """Whether the head is complete: libcurl takes a truncated one for an answer without a body."""
        if self._lines and self._lines[-1] in _ENDS:
            return self.status >= _OK
        return not _ENDS.isdisjoint(self._head)

    @property
    def is_failure(self) -> bool:
        """Whether the status means failure, whether or not the body is complete."""
        return self.status >= http.HTTPStatus.MULTIPLE_CHOICES and self.is_whole

    @property
    def keeps_connection(self) -> bool:
        """Whether the server accepts another request on this connection."""
        if self._text.startswith(b"http/1.0"):
            return b"\nconnection: keep-alive" in self._text
        return b"\nconnection: close" not in self._text

    def error(self, secrets: tuple[str, ...]) -> StatusError:
        """Make an error of this answer, with the server's explanation, without secrets that it may repeat."""
        headers, body = self.headers, b"".join(self.parts)
        if len(body) > MOST_BYTES:
            body = b""
        try:
            body = decode(body, content_encoding=headers.get("content-encoding", ""), sniff=False, limit=MOST_BYTES)
        except CorruptDataError:
            body = b""
        for secret in secrets:
            body = body.replace(secret.encode(), b"***")
        return StatusError(self.status, headers, _SIGNATURE.sub(b"***", body))


_OK = 200  # quicker than the member of an enum
_ENDS = frozenset({b"\r\n", b"\n"})


def whole_body(answer: Answer, version_header: str, *, versioned: bool) -> Body:
    """Return the body of an answer with status 200."""
    return Body(answer.parts, answer.encoding, answer.headers.get(version_header, "") if versioned else "")


def range_body(answer: Answer, start: int, end: int, version_header: str) -> Body:
    """Return the body of an answer with status 206, which must have exactly the requested range."""
    headers, encoding = answer.headers, answer.encoding
    sent = headers.get("content-range", "")
    if encoding or not sent.startswith(f"bytes {start}-{end - 1}/"):
        raise BrokenAnswerError(
            f"asked for bytes {start}-{end - 1}, got Content-Range {sent!r}, Content-Encoding {encoding!r}"
        )
    version = headers.get(version_header, "")
    is_settled = version_header != "etag" or _is_for_good(headers, version)
    version = version or f"{headers.get('last-modified', '')} {sent.rpartition('/')[2]}"
    return checked_range(Body(answer.parts, "", version, is_settled=is_settled), start, end)


def has_pieces(answer: Answer, request: Get) -> bool:
    """Tell whether an answer is a range of an object that is as `Get.pieces` expects it."""
    if answer.status != http.HTTPStatus.PARTIAL_CONTENT or answer.encoding:
        return False
    sent = answer.headers.get("content-range", "")
    return sent == f"bytes {request.start}-{(request.end or 0) - 1}/{request.size}"


def checked_range(body: Body, start: int, end: int | None) -> Body:
    """Return a body, if it has as many bytes as the range."""
    if end is not None and len(body) != end - start:
        raise BrokenAnswerError(f"asked for bytes {start}-{end - 1}, got {len(body)} instead of {end - start} bytes")
    return body


def is_found(answer: Answer, secrets: tuple[str, ...]) -> bool:
    """Tell from the status of an answer whether the object exists; only 404 means that it does not."""
    if answer.status == http.HTTPStatus.NOT_FOUND:
        return False
    if answer.status in _PRESENT:
        return True
    raise answer.error(secrets)


_PRESENT = (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT, http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)


def is_young(modified: float, now: float) -> bool:
    """Tell whether a file was modified so recently that it may change again without a new date."""
    return -_LARGEST_SKEW < now - modified < _YOUNG


def _is_for_good(headers: Mapping[str, str], version: str) -> bool:
    """Tell whether no other version of an object can get the same ETag any more.

    Many servers make the ETag of the modification time, in seconds, and the size.
    """
    if "x-goog-generation" in headers or _UNIQUE_VERSION.fullmatch(version):
        return True
    modified, now = (seconds_since_1970(headers.get(name, "")) for name in ("last-modified", "date"))
    return modified is None or not is_young(modified, time.time() if now is None else now)
