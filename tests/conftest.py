"""What the tests share: a clean environment, servers, and a pyramid of one's own on each protocol.

`pyramid` runs a test on two protocols that stand for all, `each_pyramid` on each one that can be written to, and
`each_readable_pyramid` on the read-only ones, too; `make_pyramid("s3")` gives a pyramid on just one. With
PRECOMPUTED_FS_NO_SKIPS=1 a skip is a failure.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import signal
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

import hypothesis
import numpy as np
import pytest
from botocore.loaders import JSONFileLoader
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from precomputed_fs import FsspecAccessor, create_volume
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from tests.support.browser import Chromium, Neuroglancer


def _clean_environment(home: str) -> None:
    """Let no credentials, configuration or proxies of this machine reach the tests, nor any metadata service."""
    for name in list(os.environ):
        foreign = name.startswith(("AWS_", "AZURE_", "BOTO_", "CLOUDSDK_", "FSSPEC_", "GCE_", "GCLOUD_", "GOOGLE_"))
        if foreign or name.lower().endswith("_proxy"):
            del os.environ[name]
    os.environ |= {
        "AWS_EC2_METADATA_DISABLED": "true",
        # Looking at the frames of running threads, which dask's profiler does, can crash or block CPython 3.11.
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "GCE_METADATA_HOST": "127.0.0.1:9",  # where nothing listens
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gcsfs looks at this when it is imported
        "HOME": home,
        "NO_GCE_CHECK": "true",
    }


_HOME = tempfile.TemporaryDirectory(prefix="precomputed_fs-home-")
_clean_environment(_HOME.name)  # before any test module imports a driver

WRITABLE = ("memory", "local", "s3", "gcs", "azure", "sftp")
READ_ONLY = ("http", "nginx", "zip", "simplecache", "filecache", "blockcache")
"""The protocols of the fixtures; "http" is aiohttp's server and "nginx" is nginx, the caches are before "http"."""

hypothesis.settings.register_profile(
    "tests",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("tests")


def pytest_configure() -> None:
    # In the background of a shell SIGINT is ignored, and what is started here would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Keep imported modules out of garbage collection, which is on, as for users, and which some tests start."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    _HOME.cleanup()


# -------------------------------------------------------------------------------------------------------------- skips


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skip(report)
    return report


def _refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    if os.environ.get("PRECOMPUTED_FS_NO_SKIPS") == "1" and report.skipped and not hasattr(report, "wasxfail"):
        report.longrepr = f"skipped, while PRECOMPUTED_FS_NO_SKIPS=1 says that nothing may:\n{report.longreprtext}"
        report.outcome = "failed"


# ------------------------------------------------------------------------------------------------------------ servers


@pytest.fixture(scope="session", autouse=True)
def _parse_sdk_models_once() -> Iterator[None]:
    """Keep what botocore parses anew for each client, a tenth of a second each time."""
    parse = functools.cache(functools.partial(JSONFileLoader.load_file, JSONFileLoader()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _self, path: parse(path))
        yield


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that `web_server`, `nginx_server` and `sftp_server` serve."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="session")
def web_server(served_folder: Path) -> Iterator[servers.HttpServer]:
    with servers.http_server(served_folder) as server:
        yield server


@pytest.fixture(scope="session")
def nginx_server(served_folder: Path) -> Iterator[servers.NginxServer]:
    if not servers.nginx_installed():
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    with servers.nginx_server(served_folder) as server:
        yield server


@pytest.fixture(scope="module")  # moto's state is one for all servers in a process, and some tests empty it
def s3_server() -> Iterator[servers.S3Server]:
    with servers.s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[servers.GcsServer]:
    with servers.gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def azure_server() -> Iterator[servers.AzureServer]:
    if servers.azurite_command() is None:
        pytest.skip("azurite is not installed (npm install azurite)")
    with servers.azure_server() as server:
        yield server


@pytest.fixture(scope="session")
def sftp_server(served_folder: Path) -> Iterator[servers.SftpServer]:
    if not servers.sshd_installed():
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    with servers.sftp_server(served_folder) as server:
        yield server


# ----------------------------------------------------------------------------------------------------------- pyramids


class Objects(Protocol):
    """The stored objects below a pyramid's root, around the code under test."""

    def put(self, name: str, body: bytes, content_encoding: str | None) -> None: ...

    def get(self, name: str) -> tuple[bytes, dict[str, Any]]: ...

    def names(self) -> list[str]: ...

    def delete(self, name: str) -> None: ...


@dataclass
class Pyramid:
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

    _accessors: ExitStack = field(default_factory=ExitStack)

    def accessor(self, **options: Any) -> FsspecAccessor:
        """Return a new accessor, to be closed at the test's end."""
        return self._accessors.enter_context(
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


_numbers = count()


@pytest.fixture
def make_pyramid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Pyramid]]:
    """Make an empty pyramid on a protocol; skips where its server is not installed."""
    with ExitStack() as stack:

        def make(protocol: str) -> Pyramid:
            unique = f"t{next(_numbers)}"
            made = _make(protocol, unique, request, tmp_path)
            stack.push(made._accessors)
            return made

        yield make
    for path in [path for path in MemoryFileSystem.store if path.startswith("/precomputed_fs-tests/")]:
        del MemoryFileSystem.store[path]


def _make(protocol: str, unique: str, request: pytest.FixtureRequest, tmp_path: Path) -> Pyramid:
    if protocol == "memory":
        root = f"/precomputed_fs-tests/{unique}"
        return Pyramid(protocol, f"memory:/{root}", {}, _Memory(f"{root}/"))
    if protocol == "local":
        folder = tmp_path / unique / "a brain"
        return Pyramid(protocol, str(folder), {}, _Files(folder))
    if protocol == "zip":
        archive = tmp_path / f"{unique}.zip"
        return Pyramid(protocol, f"zip://brain::{archive}", {}, _Zip(archive, "brain/"), writable=False)
    if protocol in _BUCKETS:
        return _in_bucket(protocol, unique, request.getfixturevalue(f"{protocol}_server"))
    folder = request.getfixturevalue("served_folder") / unique
    folder.mkdir()
    server = request.getfixturevalue({"sftp": "sftp_server", "nginx": "nginx_server"}.get(protocol, "web_server"))
    url = f"{server.url}/{unique}"
    if protocol == "sftp":
        return Pyramid(protocol, url, server.storage_options, _Files(folder), server=server)
    options: dict[str, Any] = {}
    if protocol not in {"http", "nginx"}:
        url, options = f"{protocol}::{url}", {protocol: {"cache_storage": str(tmp_path / f"cache-{unique}")}}
    return Pyramid(protocol, url, options, _Files(folder), writable=False, server=server)


_BUCKETS = {"s3": ("s3", "create_bucket"), "gcs": ("gs", "create_bucket"), "azure": ("az", "create_container")}


def _in_bucket(protocol: str, unique: str, server: Any) -> Pyramid:
    scheme, create = _BUCKETS[protocol]
    bucket = f"bucket-{unique}"
    getattr(server, create)(bucket)
    return Pyramid(
        protocol,
        f"{scheme}://{bucket}/lab/brain",
        server.storage_options,
        _Bucket(server, bucket, "lab/brain/"),
        keeps_headers=True,
        server=server,
    )


@pytest.fixture
def coarsest_first(tmp_path: Path) -> Path:
    """Make a pyramid of scales that `info` lists in the wrong order: "16_16_16", "8_8_8", "4_4_4"."""
    folder = tmp_path / "coarsest first"
    array = np.arange(32 * 24 * 16, dtype=np.uint32).reshape(32, 24, 16)
    create_volume(folder, array, resolution=(4, 4, 4), chunk_size=(16, 16, 16), scales=3, type="image")
    info = json.loads((folder / "info").read_text())
    info["scales"].reverse()
    (folder / "info").write_text(json.dumps(info))
    return folder


@pytest.fixture(params=("local", "s3"))
def pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Pyramid]) -> Pyramid:
    """Make an empty pyramid where a suffix marks compression and misses are cheap, and where neither is so."""
    return make_pyramid(request.param)


@pytest.fixture(params=WRITABLE)
def each_pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Pyramid]) -> Pyramid:
    """Make an empty pyramid, on each protocol that can be written to: for what differs between these."""
    return make_pyramid(request.param)


@pytest.fixture(params=("local", "s3", "nginx"))
def readable_pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Pyramid]) -> Pyramid:
    """Make an empty pyramid: fill it by `put`, then make an accessor, which may be one that cannot write."""
    return make_pyramid(request.param)


# fsspec's cache of blocks leaves closing its file to the garbage collector.
_MARKS = {"blockcache": pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")}


@pytest.fixture(params=[pytest.param(name, marks=_MARKS.get(name, ())) for name in (*WRITABLE, *READ_ONLY)])
def each_readable_pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Pyramid]) -> Pyramid:
    """Make an empty pyramid on each protocol, the read-only ones included: for what differs between these."""
    return make_pyramid(request.param)


# --------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chromium]:
    from tests.support import browser

    if not browser.chromium_installed():
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with browser.chromium() as running:
        yield running


@pytest.fixture(scope="session")
def neuroglancer(chromium: Chromium) -> Iterator[Neuroglancer]:
    """Serve Neuroglancer's client from an origin of its own."""
    from tests.support import browser

    with browser.neuroglancer(chromium) as client:
        yield client
