"""What the tests of stores share: places that are asked over TCP and over TLS."""

from __future__ import annotations

import gc
import ssl
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import FsspecAccessor
from precomputed_fs.store.location import resolve
from precomputed_fs.store.objects import ObjectStore
from tests.support.certificates import BUNDLE_VARIABLES, certificate
from tests.support.faults import SOON, FaultServer, Talk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self


class Lane:
    """Fault servers, and accessors and stores before them, closed at the end of the test."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._stack = ExitStack()

    @property
    def is_secure(self) -> bool:
        return self._tls is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def serve(self, talk: Talk, **options: Any) -> FaultServer:
        server = FaultServer(talk, **{"tls": self._tls, **options})
        self._stack.callback(server.close)
        return server

    def accessor(self, url: str, *, timeout: float = SOON, **options: Any) -> FsspecAccessor:
        return self._stack.enter_context(FsspecAccessor(url, timeout=timeout, **options))

    def store(
        self, url: str, *, attempts: int = 1, timeout: float = SOON, options: dict[str, Any] | None = None
    ) -> ObjectStore:
        store = ObjectStore(resolve(url, storage_options=options), attempts=attempts, timeout=timeout)
        self._stack.callback(store.close)
        return store

    def asked(self, talk: Talk, **options: Any) -> tuple[ObjectStore, FaultServer]:
        """Make a server, and a store before it."""
        server = self.serve(talk)
        return self.store(server.url, **options), server


@pytest.fixture(scope="session")
def tls() -> ssl.SSLContext:
    """Make the context of servers that only those trust who are told to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate().chain, certificate().key)
    return context


@pytest.fixture
def trusting_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no bundles of this machine count."""
    for name in (*BUNDLE_VARIABLES, "CURL_CA_BUNDLE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def trusting(trusting_nobody_else: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate().chain))


@pytest.fixture
def collected() -> Iterator[None]:
    """Collect a test's garbage: what was not closed warns then, which is an error. Older objects take no time."""
    gc.collect()
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture(params=["http", "https"])
def lane(request: pytest.FixtureRequest, collected: None) -> Iterator[Lane]:
    """Ask over TCP, and over TLS."""
    context = None
    if request.param == "https":
        request.getfixturevalue("trusting")
        context = request.getfixturevalue("tls")
    with Lane(context) as lane:
        yield lane


@pytest.fixture
def plain(collected: None) -> Iterator[Lane]:
    """Ask over TCP alone, where TLS makes no difference."""
    with Lane() as lane:
        yield lane
