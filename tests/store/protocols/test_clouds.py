"""What is relied on of s3fs, gcsfs and adlfs alike."""

import asyncio
import functools

import pytest
from azure.core.exceptions import HttpResponseError
from gcsfs.retry import HttpError

from precomputed_fs.store.failures import status_of
from precomputed_fs.store.requests import HttpRequest
from tests.store.protocols.conftest import Place

REFUSALS = (OSError, HttpError, HttpResponseError)


def is_refused(exc: Exception) -> bool:
    return isinstance(exc, FileExistsError) or status_of(exc) in (409, 412)


def test_an_object_is_created_once(cloud: Place) -> None:
    cloud.write("a", b"one", create=True)
    with pytest.raises(REFUSALS, check=is_refused):
        cloud.write("a", b"two", create=True)
    assert cloud.run(cloud.protocol.read(cloud.fs, f"{cloud.root}/a")) == b"one"


def test_one_version_is_replaced(cloud: Place) -> None:
    path = f"{cloud.root}/a"
    cloud.write("a", b"one")
    version = cloud.run(cloud.protocol.version(cloud.fs, path))
    replace = functools.partial(cloud.protocol.replace, cloud.fs, path, version=version)
    cloud.run(replace(b"2", "text/plain", ""))
    assert cloud.run(cloud.protocol.version(cloud.fs, path)) not in ("", version)
    with pytest.raises(REFUSALS, check=is_refused):
        cloud.run(replace(b"3", "text/plain", ""))
    assert cloud.run(cloud.protocol.read(cloud.fs, path)) == b"2"


def test_parts_are_read_and_names_listed(cloud: Place) -> None:
    for name in ("aa", "ab", "b", "a-folder/c"):
        cloud.write(name, b"0123456789")
    assert cloud.run(cloud.protocol.read(cloud.fs, f"{cloud.root}/aa", 2, 5)) == b"234"
    assert sorted(cloud.run(cloud.protocol.list_names(cloud.fs, f"{cloud.root}/a", 9))) == ["a-folder", "aa", "ab"]
    assert len(cloud.run(cloud.protocol.list_names(cloud.fs, f"{cloud.root}/a", 1))) == 1


def test_an_object_is_deleted(cloud: Place) -> None:
    cloud.write("a", b"one")
    cloud.run(cloud.protocol.delete(cloud.fs, f"{cloud.root}/a"))
    with pytest.raises(FileNotFoundError):
        cloud.run(cloud.protocol.info(cloud.fs, f"{cloud.root}/a"))


def test_it_tells_the_request_for_an_object(cloud: Place) -> None:
    ask = cloud.protocol.http_requests(cloud.fs)
    for method in ("GET", "HEAD"):
        made = ask(method, f"{cloud.root}/a b")
        request = cloud.run(made) if asyncio.iscoroutine(made) else made
        assert isinstance(request, HttpRequest)
        assert "a%20b" in request.url
