"""Every request counts: what each operation sends, counted at the server."""

from __future__ import annotations

import gzip
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import DataAccessError, FsspecAccessor, NotFoundError, get_accessor_for_url
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.places import Place

KEY = "8_8_40"
INFO = b'{"type": "image", "data_type": "uint8", "num_channels": 1, "scales": []}'
BODY = bytes(range(256))
FIRST, SECOND, ABSENT = ((x, x + 64, 0, 64, 0, 64) for x in (0, 64, 128))
LAYOUTS = [(flat, suffix) for flat in (True, False) for suffix in ("", ".gz")]
SUFFIXES = ("", ".gz", ".br", ".zstd", ".xz", ".bz2")

buckets_and_web = pytest.mark.parametrize("protocol", ["s3", "gcs", "http", "nginx"])
buckets = pytest.mark.parametrize("protocol", ["s3", "gcs"])


def name_of(coords: tuple[int, ...], flat: bool = True, suffix: str = "") -> str:
    pattern = "{}/{}-{}_{}-{}_{}-{}{}" if flat else "{}/{}-{}/{}-{}/{}-{}{}"
    return pattern.format(KEY, *coords, suffix)


def put(pyramid: Place, coords: tuple[int, ...], flat: bool = True, suffix: str = "") -> None:
    pyramid.put(name_of(coords, flat, suffix), gzip.compress(BODY) if suffix else BODY)


class Counted:
    """A pyramid on a server that counts, with one accessor."""

    def __init__(self, pyramid: Place) -> None:
        self.pyramid = pyramid
        self.accessor = pyramid.accessor()
        self._forget()

    def _forget(self) -> None:
        (self.pyramid.server if self.pyramid.protocol == "nginx" else self.pyramid.server.log).clear()

    def requests(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> list[str]:
        """Return what one call sends; that it ends by NotFoundError is allowed."""
        self._forget()
        with suppress(NotFoundError):
            call(*args, **kwargs)
        log = self.pyramid.server.log
        methods: list[str] = log.methods()
        return methods


# --------------------------------------------------------------------------------------------------------------- none


@pytest.mark.parametrize("protocol", ["s3", "gcs", "http", "nginx", "simplecache"])
def test_the_constructor_sends_nothing(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    counted = Counted(pyramid)

    def construct() -> None:
        options: dict[str, Any] = {"storage_options": pyramid.storage_options}
        with FsspecAccessor(pyramid.url, **options) as one, get_accessor_for_url(pyramid.url, options) as other:
            repr(one)
            assert one.can_read
            assert other.can_write is pyramid.writable

    assert counted.requests(construct) == []


# ------------------------------------------------------------------------------------------------------------ reading


@buckets_and_web
@pytest.mark.parametrize(("flat", "suffix"), LAYOUTS)
def test_a_present_chunk_is_one_get_after_the_first_of_its_scale(
    make_pyramid: Callable[[str], Place], protocol: str, flat: bool, suffix: str
) -> None:
    pyramid = make_pyramid(protocol)
    for coords in (FIRST, SECOND):
        put(pyramid, coords, flat, suffix)
    counted = Counted(pyramid)
    assert counted.accessor.fetch_chunk(KEY, FIRST) == BODY
    assert counted.requests(counted.accessor.fetch_chunk, KEY, SECOND) == ["GET"]
    assert counted.requests(counted.accessor.fetch_chunk, KEY, FIRST) == ["GET"]


@buckets_and_web
def test_the_very_first_chunk_of_a_flat_scale_needs_no_probe_but_info(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    put(pyramid, FIRST)
    pyramid.put("info", INFO)
    counted = Counted(pyramid)
    requests = counted.requests(counted.accessor.fetch_chunk, KEY, FIRST)
    assert set(requests) == {"GET"}
    assert len(requests) <= 2


@buckets_and_web
def test_an_absent_chunk_is_one_get_once_the_layout_is_known(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    put(pyramid, FIRST)
    counted = Counted(pyramid)
    counted.accessor.fetch_chunk(KEY, FIRST)
    for _ in range(2):
        assert counted.requests(counted.accessor.fetch_chunk, KEY, ABSENT) == ["GET"]


@pytest.mark.parametrize("protocol", ["http", "nginx"])
@pytest.mark.parametrize(("flat", "suffix"), LAYOUTS)
def test_an_absent_chunk_is_one_get_in_any_layout_that_is_only_read(
    make_pyramid: Callable[[str], Place], protocol: str, flat: bool, suffix: str
) -> None:
    pyramid = make_pyramid(protocol)
    put(pyramid, FIRST, flat, suffix)
    counted = Counted(pyramid)
    counted.accessor.fetch_chunk(KEY, FIRST)
    assert counted.requests(counted.accessor.fetch_chunk, KEY, ABSENT) == ["GET"]


@buckets
@pytest.mark.parametrize(("flat", "suffix"), LAYOUTS[1:])
def test_an_absent_chunk_of_another_layout_is_also_looked_for_where_we_would_have_written_it(
    make_pyramid: Callable[[str], Place], protocol: str, flat: bool, suffix: str
) -> None:
    pyramid = make_pyramid(protocol)
    put(pyramid, FIRST, flat, suffix)
    counted = Counted(pyramid)
    counted.accessor.fetch_chunk(KEY, FIRST)
    assert counted.requests(counted.accessor.fetch_chunk, KEY, ABSENT) == ["GET", "GET"]


@buckets_and_web
def test_looking_for_an_absent_scale_is_bounded_by_the_names_there_are(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    counted = Counted(make_pyramid(protocol))
    counted.requests(counted.accessor.fetch_chunk, "other", FIRST)  # looks for `info` as well
    requests = counted.requests(counted.accessor.fetch_chunk, KEY, FIRST)
    assert set(requests) == {"GET"}
    assert len(requests) <= 2 * len(SUFFIXES) + len(SUFFIXES)


@buckets_and_web
def test_a_present_file_is_one_get_in_all(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("info", INFO)
    counted = Counted(pyramid)
    assert counted.requests(counted.accessor.fetch_file, "info") == ["GET"]


@buckets_and_web
def test_file_exists_is_at_most_one_head_per_name(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    for count, suffix in enumerate(SUFFIXES):
        pyramid.put(f"file-{count}{suffix}", BODY)
    counted = Counted(pyramid)
    for count in range(len(SUFFIXES)):
        requests = counted.requests(counted.accessor.file_exists, f"file-{count}")
        # The metadata of a GCS object are asked for by GET, without its content.
        assert set(requests) == {"GET" if protocol == "gcs" else "HEAD"}
        assert len(requests) <= count + 1


@buckets_and_web
def test_that_a_file_is_absent_is_at_most_one_head_per_name(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    counted = Counted(make_pyramid(protocol))
    requests = counted.requests(counted.accessor.file_exists, "file")
    assert set(requests) == {"GET" if protocol == "gcs" else "HEAD"}
    assert len(requests) <= len(SUFFIXES)


def test_probing_on_gcs_does_not_fetch_the_content(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("gcs")
    pyramid.put("file", BODY)
    counted = Counted(pyramid)
    counted.requests(counted.accessor.file_exists, "file")
    (request,) = pyramid.server.log.entries()
    assert "alt=media" not in request.query
    assert request.path.startswith("/storage/v1/")


# ------------------------------------------------------------------------------------------------------------ writing

WRITE = {"s3": "PUT", "gcs": "POST"}


@buckets
@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("mime_type", ["application/octet-stream", "image/jpeg"])
def test_a_stored_chunk_is_one_request_after_the_first_of_its_scale(
    make_pyramid: Callable[[str], Place], protocol: str, overwrite: bool, mime_type: str
) -> None:
    counted = Counted(make_pyramid(protocol))
    store = counted.accessor.store_chunk
    store(BODY, KEY, FIRST, mime_type=mime_type, overwrite=overwrite)
    for coords in (SECOND, ABSENT):
        sent = counted.requests(store, BODY, KEY, coords, mime_type=mime_type, overwrite=overwrite)
        assert sent == [WRITE[protocol]]


@buckets
def test_replacing_a_chunk_is_one_request_after_the_first_of_its_scale(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    counted = Counted(make_pyramid(protocol))
    counted.accessor.store_chunk(BODY, KEY, FIRST)
    assert counted.requests(counted.accessor.store_chunk, BODY[::-1], KEY, FIRST, overwrite=True) == [WRITE[protocol]]
    assert counted.accessor.fetch_chunk(KEY, FIRST) == BODY[::-1]


@buckets
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_stored_file_is_a_listing_and_one_request(
    make_pyramid: Callable[[str], Place], protocol: str, overwrite: bool
) -> None:
    counted = Counted(make_pyramid(protocol))
    counted.accessor.store_file("first", BODY, overwrite=overwrite)
    sent = counted.requests(counted.accessor.store_file, "second", BODY, overwrite=overwrite)
    assert sent == ["GET", WRITE[protocol]]


def test_a_first_chunk_asks_the_server_to_refuse_a_second_write(make_pyramid: Callable[[str], Place]) -> None:
    counted = Counted(make_pyramid("s3"))
    counted.accessor.store_chunk(BODY, KEY, FIRST)
    counted.requests(counted.accessor.store_chunk, BODY, KEY, SECOND)
    (put_request,) = counted.pyramid.server.log.entries()
    assert put_request.headers["If-None-Match"] == "*"


# ------------------------------------------------------------------------------------------------------------ failing

ATTEMPTS = 2
UNAVAILABLE: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    "http": lambda url: (f"{url}/brain", {}),
    "s3": lambda url: ("s3://bucket/brain", {"endpoint_url": url, "key": "test", "secret": "test"}),
    "gcs": lambda url: ("gs://bucket/brain", {"endpoint_url": url, "token": "anon"}),
}
CALLS: dict[str, Callable[[FsspecAccessor], Any]] = {
    "fetch_file": lambda accessor: accessor.fetch_file("info"),
    "fetch_chunk": lambda accessor: accessor.fetch_chunk(KEY, FIRST),
    "file_exists": lambda accessor: accessor.file_exists("info"),
    "store_file": lambda accessor: accessor.store_file("info", INFO),
    "store_file overwrite": lambda accessor: accessor.store_file("info", INFO, overwrite=True),
    "store_chunk": lambda accessor: accessor.store_chunk(BODY, KEY, FIRST),
    "store_chunk overwrite": lambda accessor: accessor.store_chunk(BODY, KEY, FIRST, overwrite=True),
}


WRITABLE_AND_NOT = [
    (protocol, verb) for protocol in UNAVAILABLE for verb in CALLS if protocol != "http" or not verb.startswith("store")
]


@pytest.mark.parametrize(("protocol", "verb"), WRITABLE_AND_NOT)
def test_503_for_ever_is_just_so_many_requests_as_attempts(protocol: str, verb: str) -> None:
    with servers.fault_server(servers.respond(503)) as server:
        url, options = UNAVAILABLE[protocol](server.url)
        accessor = FsspecAccessor(url, storage_options=options, attempts=ATTEMPTS)
        with accessor, pytest.raises(DataAccessError, match=re.escape(url)) as caught:
            CALLS[verb](accessor)
        assert not isinstance(caught.value, (FileNotFoundError, PermissionError, FileExistsError))
        assert server.log.count() == ATTEMPTS


@pytest.mark.parametrize("protocol", UNAVAILABLE)
def test_one_attempt_is_one_request(protocol: str) -> None:
    with servers.fault_server(servers.respond(503)) as server:
        url, options = UNAVAILABLE[protocol](server.url)
        accessor = FsspecAccessor(url, storage_options=options, attempts=1)
        with accessor, pytest.raises(DataAccessError, match="503"):
            accessor.fetch_file("info")
        assert server.log.count() == 1


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("protocol", UNAVAILABLE)
def test_a_definite_answer_is_not_asked_for_again(protocol: str, status: int) -> None:
    with servers.fault_server(servers.respond(status)) as server:
        url, options = UNAVAILABLE[protocol](server.url)
        accessor = FsspecAccessor(url, storage_options=options, attempts=ATTEMPTS)
        with accessor, pytest.raises(DataAccessError):
            accessor.fetch_file("info.gz")  # a name without variants
        assert server.log.count() == 1


def test_503_once_is_one_retry() -> None:
    with servers.fault_server(servers.fail_then(1, 503, servers.respond(200, INFO))) as server:
        with FsspecAccessor(server.url) as accessor:
            assert accessor.fetch_file("info") == INFO
        assert server.log.count() == 2
