"""Whether a web page of another origin may read the pyramid from its server (CORS)."""

import dataclasses
import http
import urllib.parse

from precomputed_fs.doctor.seen import PAGE_ORIGIN, ServerAnswer
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols.base import Asynchronous
from precomputed_fs.store.requests import Exchange, HttpRequest, Job
from precomputed_fs.store.url import join


def ask_as_page(pyramid: Pyramid, timeout: float) -> ServerAnswer | None:
    """Request the first byte of `info` as a web page does; None if pages cannot reach the store."""
    location = pyramid.location
    if len(location.links) > 1 or location.fs is not None or not location.protocol.is_asynchronous:
        return None
    url = _public_url(dataclasses.replace(location, anon=True), timeout)
    if url is None:
        return None
    exchange = Exchange(HttpRequest(_without_user(url), {"Origin": PAGE_ORIGIN}), 0, 1, limit=1)
    answer = pyramid.store.run(_exchanged(exchange))
    denied = answer.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    return ServerAnswer(
        answer.status,
        answer.headers.get("access-control-allow-origin", ""),
        is_anonymous=not denied,
        said=http.HTTPStatus(answer.status).phrase if denied else "",
    )


def _exchanged(exchange: Exchange) -> Job[Answer]:
    """Send one request as it is, and return the answer, whatever its status."""
    answer: Answer = yield exchange
    return answer


def _public_url(location: Location, timeout: float) -> str | None:
    """Return the URL of `info` for anonymous readers."""
    fs, root = location.open(timeout)
    path = join(root, "info")
    make = location.protocol.http_requests(fs) if isinstance(location.protocol, Asynchronous) else None
    if make is None:
        return path if "://" in path else None
    made = make("GET", path)
    if made is not None and not isinstance(made, HttpRequest):
        import fsspec.asyn  # noqa: PLC0415

        coroutine = made
        made = fsspec.asyn.sync(fs.loop, lambda: coroutine, timeout=timeout)
    return None if made is None else made.url


def _without_user(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
