"""What a web page gets from a pyramid's server: the first byte of `info`, asked for from another origin."""

import dataclasses
import http
import urllib.parse

from precomputed_fs.doctor.seen import PAGE_ORIGIN, Server
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols.base import Asynchronous
from precomputed_fs.store.requests import Exchange, HttpRequest, Job
from precomputed_fs.store.url import join


def ask_as_page(pyramid: Pyramid, timeout: float) -> Server | None:
    """Ask for the first byte of `info` as a web page does: from elsewhere, without credentials; None where none can."""
    location = pyramid.location
    if len(location.links) > 1 or location.fs is not None or not location.protocol.is_asynchronous:
        return None
    url = _public_url(dataclasses.replace(location, anon=True), timeout)
    if url is None:
        return None
    exchange = Exchange(HttpRequest(_without_user(url), {"Origin": PAGE_ORIGIN}), 0, 1, limit=1)
    answer = pyramid.store.run(_exchanged(exchange))
    denied = answer.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    return Server(
        answer.status,
        answer.headers.get("access-control-allow-origin", ""),
        is_anonymous=not denied,
        said=http.HTTPStatus(answer.status).phrase if denied else "",
    )


def _exchanged(exchange: Exchange) -> Job[Answer]:
    """Send a request as it is, without credentials, and return whatever is answered."""
    answer: Answer = yield exchange
    return answer


def _public_url(location: Location, timeout: float) -> str | None:
    """Return the URL by which anybody would ask for `info`."""
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
