"""Places for pyramids: what a test puts there and finds there, around the code under test, on each protocol."""

from __future__ import annotations

import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from precomputed_fs import FsspecAccessor

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.support import servers

WRITABLE = ("memory", "local", "s3", "gcs", "azure", "sftp")
READ_ONLY = ("http", "nginx", "zip", "simplecache", "filecache", "blockcache")
"""The protocols of the fixtures; "http" is aiohttp's server and "nginx" is nginx, the caches are before "http"."""


class Objects(Protocol):
    """The stored objects below a pyramid's root, around the code under test."""

    def put(self, name: str, body: bytes, content_encoding: str | None) -> None: ...

    def get(self, name: str) -> tuple[bytes, dict[str, Any]]: ...

    def names(self) -> list[str]: ...

    def delete(self, name: str) -> None: ...


@dataclass
class Place:
    """An empty place of one test's own. Its helpers go around the code under test, and into no server's log."""

    protocol: str
    """One of `WRITABLE` and `READ_ONLY`."""

    url: str
    storage_options: dict[str, Any]
    objects: Objects
    writable: bool = True

    keeps_headers: bool = False
    """Whether a write can say Content-Encoding and Content-Type."""

    server: Any = None
    """The server in `tests.support.servers`, if there is one: `server.log`."""

    accessors: ExitStack = field(default_factory=ExitStack)
    """Closed at the test's end."""

    def accessor(self, **options: Any) -> FsspecAccessor:
        """Return a new accessor, to be closed at the test's end."""
        return self.accessors.enter_context(
            FsspecAccessor(self.url, **{"storage_options": self.storage_options, **options})
        )

    def put(self, name: str, body: bytes, content_encoding: str | None = None) -> None:
        """Store bytes as they are, in place of others."""
        self.objects.put(name, body, content_encoding)

    def get(self, name: str) -> bytes:
        """Return the bytes as they are stored."""
        return self.objects.get(name)[0]

    def fields(self, name: str) -> dict[str, Any]:
        """Return ``ContentEncoding`` and ``ContentType`` (or None), where `keeps_headers`; else nothing."""
        return self.objects.get(name)[1]

    def names(self) -> list[str]:
        """Return the sorted names of all stored objects."""
        return self.objects.names()

    def delete(self, name: str) -> None:
        self.objects.delete(name)

    def contents(self) -> dict[str, bytes]:
        """Return all that is stored."""
        return {name: self.get(name) for name in self.names()}


@dataclass
class _Files:
    folder: Path

    def put(self, name: str, body: bytes, content_encoding: str | None) -> None:
        assert content_encoding is None, "files have no Content-Encoding"
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)

    def get(self, name: str) -> tuple[bytes, dict[str, Any]]:
        return (self.folder / name).read_bytes(), {}

    def names(self) -> list[str]:
        paths = (path for path in self.folder.rglob("*") if path.is_file())
        return sorted(path.relative_to(self.folder).as_posix() for path in paths)

    def delete(self, name: str) -> None:
        (self.folder / name).unlink()


@dataclass
class _Memory:
    root: str

    def put(self, name: str, body: bytes, content_encoding: str | None) -> None:
        assert content_encoding is None, "memory has no Content-Encoding"
        path = self.root + name
        MemoryFileSystem.store[path] = MemoryFile(None, path, body)

    def get(self, name: str) -> tuple[bytes, dict[str, Any]]:
        return MemoryFileSystem.store[self.root + name].getvalue(), {}

    def names(self) -> list[str]:
        return sorted(path.removeprefix(self.root) for path in MemoryFileSystem.store if path.startswith(self.root))

    def delete(self, name: str) -> None:
        del MemoryFileSystem.store[self.root + name]


@dataclass
class _Zip:
    archive: Path
    root: str

    def __post_init__(self) -> None:
        self._write({})

    def put(self, name: str, body: bytes, content_encoding: str | None) -> None:
        assert content_encoding is None, "archives have no Content-Encoding"
        self._write(self._read() | {name: body})

    def get(self, name: str) -> tuple[bytes, dict[str, Any]]:
        return self._read()[name], {}

    def names(self) -> list[str]:
        return sorted(self._read())

    def delete(self, name: str) -> None:
        self._write({other: body for other, body in self._read().items() if other != name})

    def _read(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.archive) as file:
            return {name.removeprefix(self.root): file.read(name) for name in file.namelist()}

    def _write(self, contents: dict[str, bytes]) -> None:
        with zipfile.ZipFile(self.archive, "w") as file:
            for name, body in contents.items():
                file.writestr(self.root + name, body)


@dataclass
class _Bucket:
    server: servers.S3Server | servers.GcsServer | servers.AzureServer
    bucket: str
    root: str

    def put(self, name: str, body: bytes, content_encoding: str | None) -> None:
        self.server.put(self.bucket, self.root + name, body, content_encoding=content_encoding)

    def get(self, name: str) -> tuple[bytes, dict[str, Any]]:
        return self.server.get(self.bucket, self.root + name)

    def names(self) -> list[str]:
        return [key.removeprefix(self.root) for key in self.server.keys(self.bucket)]

    def delete(self, name: str) -> None:
        self.server.delete(self.bucket, self.root + name)


def make_place(protocol: str, unique: str, request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Make an empty place; skips where its server is not installed."""
    if protocol == "memory":
        root = f"/precomputed_fs-tests/{unique}"
        return Place(protocol, f"memory:/{root}", {}, _Memory(f"{root}/"))
    if protocol == "local":
        folder = tmp_path / unique / "a brain"
        return Place(protocol, str(folder), {}, _Files(folder))
    if protocol == "zip":
        archive = tmp_path / f"{unique}.zip"
        return Place(protocol, f"zip://brain::{archive}", {}, _Zip(archive, "brain/"), writable=False)
    if protocol in _BUCKETS:
        return _in_bucket(protocol, unique, request.getfixturevalue(f"{protocol}_server"))
    folder = request.getfixturevalue("served_folder") / unique
    folder.mkdir()
    server = request.getfixturevalue({"sftp": "sftp_server", "nginx": "nginx_server"}.get(protocol, "web_server"))
    url = f"{server.url}/{unique}"
    if protocol == "sftp":
        return Place(protocol, url, server.storage_options, _Files(folder), server=server)
    options: dict[str, Any] = {}
    if protocol not in {"http", "nginx"}:
        url, options = f"{protocol}::{url}", {protocol: {"cache_storage": str(tmp_path / f"cache-{unique}")}}
    return Place(protocol, url, options, _Files(folder), writable=False, server=server)


_BUCKETS = {"s3": ("s3", "create_bucket"), "gcs": ("gs", "create_bucket"), "azure": ("az", "create_container")}


def _in_bucket(protocol: str, unique: str, server: Any) -> Place:
    scheme, create = _BUCKETS[protocol]
    bucket = f"bucket-{unique}"
    getattr(server, create)(bucket)
    return Place(
        protocol,
        f"{scheme}://{bucket}/lab/brain",
        server.storage_options,
        _Bucket(server, bucket, "lab/brain/"),
        keeps_headers=True,
        server=server,
    )
