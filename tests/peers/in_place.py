"""A pytest plugin: neuroglancer-scripts' own tests, with our names in the place of those of its accessor module.

`tests.peers.test_contract` runs them in a process of its own, as the names stay replaced.
"""

from __future__ import annotations

import gc
import http.server
import importlib
import os
import threading
import warnings
from typing import TYPE_CHECKING

import neuroglancer_scripts.accessor
import pytest
import requests
import requests_mock

import precomputed_fs
from precomputed_fs import FsspecAccessor

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

NOT_APPLICABLE = {
    "unit_tests/test_accessor.py::test_get_accessor_for_url": (
        "asserts which of their classes is returned, and attributes of these that are not in the contract; "
        "tests.peers.test_contract has the rest of it"
    ),
    "unit_tests/test_accessor.py::test_sharded_accessor_via_info": (
        "asserts that another one of their classes is returned where `info` has shards; ours has one class for both"
    ),
}
"""Tests that cannot pass with our names in place, by how their ids begin, and why not."""

NOBODY = 65534  # the user
MOCKED = "http://h.test"


def pytest_configure() -> None:
    """Replace the names before any module of theirs imports them, and only where this is a plugin."""
    for name in neuroglancer_scripts.accessor.__all__:
        setattr(neuroglancer_scripts.accessor, name, getattr(precomputed_fs, name))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    unused = set(NOT_APPLICABLE)
    for item in items:
        for start, reason in NOT_APPLICABLE.items():
            if item.nodeid.startswith(start):
                unused.discard(start)
                item.add_marker(pytest.mark.xfail(strict=True, reason=reason))
    if unused:
        message = f"there are no such tests: {', '.join(sorted(unused))}"
        raise pytest.UsageError(message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and report.nodeid.startswith("script_tests/"):
        report.outcome = "failed"  # they skip where an image is missing
    return report


# ----------------------------------------------------------------------------------------------------- script_tests


def _call(command: list[str], env: object = None) -> int:
    """Run a tool as its command line would, but in this process: that takes a tenth of the time."""
    module = importlib.import_module(f"neuroglancer_scripts.scripts.{command[0].replace('-', '_')}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code: int | None = module.main(command)
        gc.collect()  # as if the process had ended
    return code or 0


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.call", _call)


# ------------------------------------------------------------------------------------------------------- unit_tests


class _Mocked(http.server.BaseHTTPRequestHandler):
    """Answers what requests-mock would have answered to the library requests, which our accessor does not use."""

    def do_GET(self) -> None:
        try:
            answer = requests.request(self.command, f"{MOCKED}{self.path}", timeout=10)
        except requests_mock.NoMockAddress:
            self.send_error(404)
            return
        except requests.RequestException:
            return  # and close the connection
        self.send_response(answer.status_code)
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(answer.content)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def _http_accessor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the tests of their accessor of HTTP make one of ours."""
    if request.module.__name__ != "test_http_accessor":
        yield
        return
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Mocked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"

        def accessor(base_url: str) -> FsspecAccessor:
            return FsspecAccessor(base_url.replace(MOCKED, here), attempts=1)

        monkeypatch.setattr(request.module, "HttpAccessor", accessor)
        yield
        server.shutdown()


@pytest.fixture(autouse=True)
def _file_accessor(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Have the tests of their accessor of files make one of ours, as a user whom permissions bind."""
    if request.module.__name__ != "test_file_accessor":
        yield
        return
    monkeypatch.setattr(request.module, "FileAccessor", FsspecAccessor)
    if os.geteuid() != 0:
        yield
        return
    if "tmpdir" in request.fixturenames:
        tmp_path_factory.getbasetemp().chmod(0o711)
        os.chown(request.getfixturevalue("tmpdir"), NOBODY, NOBODY)
    FsspecAccessor(tmp_path_factory.getbasetemp()).file_exists("info")  # imports what this user might not read
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
