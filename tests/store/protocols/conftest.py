"""How the tests of protocols reach one: its object, a filesystem of its own, and the path of a folder in that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec.asyn
import pytest

from precomputed_fs.store.location import resolve
from precomputed_fs.store.protocols.clouds import Cloud

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from tests.support import servers

TIMEOUT = 7.0


class Place(NamedTuple):
    """A filesystem, as `Location.open` makes it."""

    protocol: Any
    fs: Any
    root: str

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine of the protocol on the filesystem's event loop."""
        return fsspec.asyn.sync(self.fs.loop, lambda: coroutine)

    def write(self, name: str, data: bytes, *, create: bool = False) -> None:
        self.run(self.protocol.write(self.fs, f"{self.root}/{name}", data, "text/plain", "", create=create))


def open_place(url: str, **options: Any) -> Place:
    location = resolve(url, storage_options=options)
    return Place(location.protocol, *location.open(TIMEOUT))


@pytest.fixture(params=["s3", "gs", "az"])
def cloud(request: pytest.FixtureRequest) -> Place:
    return make_cloud(request.param, request)


@pytest.fixture
def on_s3(request: pytest.FixtureRequest) -> Place:
    return make_cloud("s3", request)


@pytest.fixture
def on_gcs(request: pytest.FixtureRequest) -> Place:
    return make_cloud("gs", request)


@pytest.fixture
def on_azure(request: pytest.FixtureRequest) -> Place:
    return make_cloud("az", request)


_made = iter(range(1_000_000))


def make_cloud(scheme: str, request: pytest.FixtureRequest) -> Place:
    """Make a bucket, and open it."""
    server = request.getfixturevalue({"s3": "s3_server", "gs": "gcs_server", "az": "azure_server"}[scheme])
    bucket = f"protocols-{next(_made)}"
    (server.create_container if scheme == "az" else server.create_bucket)(bucket)
    place = open_place(f"{scheme}://{bucket}/lab", **server.storage_options)
    assert isinstance(place.protocol, Cloud)
    return place


@pytest.fixture
def on_sftp(sftp_server: servers.SftpServer) -> Iterator[Place]:
    place = open_place(sftp_server.url, **sftp_server.storage_options)
    yield place
    place.protocol.close(place.fs)
