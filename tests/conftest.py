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
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING

import hypothesis
import numpy as np
import pytest
from botocore.loaders import JSONFileLoader
from fsspec.implementations.memory import MemoryFileSystem

from precomputed_fs import create_volume
from precomputed_fs.store import failures
from tests.support import servers
from tests.support.places import READ_ONLY, WRITABLE, Place, make_place

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from distributed import Client

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


_MARKS_OF_FIXTURES = {"chromium": ["browser"], "dask_client": ["processes"], "taken": ["processes", "slow"]}
_HEAVY = frozenset({"browser", "processes", "slow"})
_REMOTE = frozenset({"s3", "gcs", "azure", "sftp"})
_UNMEASURED = (  # what takes long and runs hardly a line that other tests do not
    "copying/test_chunks",
    "copying/test_recut",
    "doctor/test_rules",
    "format/test_compression",
    "format/test_info",
    "format/test_sharding",
    "peers/",
    "pyramid/test_batches",
    "pyramid/test_robustness",
    "pyramid/test_shard_jobs",
    "pyramid/test_shards",
    "pyramid/test_storing",
    "pyramid/test_surroundings",
    "store/test_connections",
    "store/test_drivers",
    "store/test_location",
    "store/test_transfers",
    "support/",
    "test_benchmarks",
    "test_readme",
    "view/test_plots",
    "volume/test_indexing",
    "volume/test_labels",
    "volume/test_writing",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures that start a browser or processes, and those that run without coverage.

    Coverage doubles the time of a test, so it is measured on none that is heavy or talks to a remote store, nor on
    those of `_UNMEASURED`.
    """
    for item in items:
        for fixture in _MARKS_OF_FIXTURES.keys() & set(getattr(item, "fixturenames", ())):
            for name in _MARKS_OF_FIXTURES[fixture]:
                item.add_marker(name)
        callspec = getattr(item, "callspec", None)
        parameters = [] if callspec is None else [value for value in callspec.params.values() if isinstance(value, str)]
        if (
            not _HEAVY.isdisjoint(mark.name for mark in item.iter_markers())
            or not _REMOTE.isdisjoint(parameters)
            or item.nodeid.removeprefix("tests/").startswith(_UNMEASURED)
        ):
            item.add_marker("unmeasured")


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


@pytest.fixture(scope="session", autouse=True)
def usual_waits() -> Iterator[dict[str, float]]:
    """Wait hundredths of a second between attempts; return the constants that make it longer for users."""
    usual = {name: getattr(failures, name) for name in ("_FIRST_WAIT", "_JITTER")}
    with pytest.MonkeyPatch.context() as patch:
        for name in usual:
            patch.setattr(failures, name, 0.01)
        yield usual


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


_numbers = count()


@pytest.fixture
def make_pyramid(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Place]]:
    """Make an empty pyramid on a protocol; skips where its server is not installed."""
    with ExitStack() as stack:

        def make(protocol: str) -> Place:
            unique = f"t{next(_numbers)}"
            made = make_place(protocol, unique, request, tmp_path)
            stack.push(made.accessors)
            return made

        yield make
    for path in [path for path in MemoryFileSystem.store if path.startswith("/precomputed_fs-tests/")]:
        del MemoryFileSystem.store[path]


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
def pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Place]) -> Place:
    """Make an empty pyramid where a suffix marks compression and misses are cheap, and where neither is so."""
    return make_pyramid(request.param)


@pytest.fixture(params=WRITABLE)
def each_pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Place]) -> Place:
    """Make an empty pyramid, on each protocol that can be written to: for what differs between these."""
    return make_pyramid(request.param)


@pytest.fixture(params=("local", "s3", "nginx"))
def readable_pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Place]) -> Place:
    """Make an empty pyramid: fill it by `put`, then make an accessor, which may be one that cannot write."""
    return make_pyramid(request.param)


# fsspec's cache of blocks leaves closing its file to the garbage collector.
_MARKS = {"blockcache": pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")}


@pytest.fixture(params=[pytest.param(name, marks=_MARKS.get(name, ())) for name in (*WRITABLE, *READ_ONLY)])
def each_readable_pyramid(request: pytest.FixtureRequest, make_pyramid: Callable[[str], Place]) -> Place:
    """Make an empty pyramid on each protocol, the read-only ones included: for what differs between these."""
    return make_pyramid(request.param)


# ------------------------------------------------------------------------------------------------------------ dask


@pytest.fixture(scope="session")
def dask_client() -> Iterator[Client]:
    """Start two processes that compute for dask; they share what they have open with all tests that use them."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address="127.0.0.1:0", host="127.0.0.1") as cluster,
        Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


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
