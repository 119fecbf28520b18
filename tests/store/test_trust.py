"""Whom a store trusts, and through whom it asks: certificates, bundles of them, proxies."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import DataAccessError
from tests.store.conftest import Lane
from tests.support.certificates import certificate
from tests.support.faults import SOON, FaultServer, Peer, answering, fault_server, proxying, saying, sized

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from precomputed_fs.store.objects import ObjectStore

BODY = b"What is read must be what is stored. " * 3
NAME = "blob.bin"

pytestmark = pytest.mark.usefixtures("trusting_nobody_else")
SHORT = 0.3  # seconds of a timeout that is to run out


@pytest.fixture
def secure(tls: ssl.SSLContext) -> Iterator[Lane]:
    """Ask servers that nobody vouches for, unless a test has somebody do so."""
    with Lane(tls) as lane:
        yield lane


@pytest.fixture
def vouching() -> str:
    """Return the bundle in which somebody vouches for the servers."""
    return str(certificate().chain)


@pytest.fixture(scope="module")
def stranger() -> str:
    """Return a bundle in which nobody does."""
    return str(certificate.__wrapped__().chain)


def failure(store: ObjectStore) -> DataAccessError:
    with pytest.raises(DataAccessError) as caught:
        store.read(NAME)
    assert type(caught.value) is DataAccessError
    return caught.value


def s3(lane: Lane, endpoint: str, **options: Any) -> ObjectStore:
    client = {"region_name": "us-east-1", **options.pop("client_kwargs", {})}
    credentials = {} if "profile" in options else {"key": "test", "secret": "SECRET"}
    options = {"endpoint_url": endpoint, "client_kwargs": client, **credentials, **options}
    return lane.store("s3://bucket/p", attempts=3, options=options)


def web(lane: Lane, endpoint: str, **options: Any) -> ObjectStore:
    return lane.store(f"{endpoint}/p", attempts=3, options=options)


KINDS = {"https": web, "s3": s3}
on_both = pytest.mark.parametrize("kind", KINDS)

# -------------------------------------------------------------------------------------------------------- certificates


@on_both
def test_a_server_that_nobody_vouches_for_is_refused_and_the_error_says_what_to_do(secure: Lane, kind: str) -> None:
    server = secure.serve(answering(sized(BODY)))
    error = failure(KINDS[kind](secure, server.url))
    said = str(error)
    assert "certificate" in said
    assert "checked against" in said
    assert "SSL_CERT_FILE" in said
    assert ("AWS_CA_BUNDLE" in said) is (kind == "s3")
    assert ("s3://bucket" if kind == "s3" else server.url) in said
    assert (server.connections, server.requests) == (1, []), "it is not tried again"


VARIABLES = [
    ("https", "SSL_CERT_FILE"),
    ("https", "REQUESTS_CA_BUNDLE"),
    ("s3", "AWS_CA_BUNDLE"),
    ("s3", "SSL_CERT_FILE"),
]


@pytest.mark.parametrize("setting", VARIABLES, ids="-".join)
def test_a_variable_names_whom_to_trust(
    secure: Lane, setting: tuple[str, str], vouching: str, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, variable = setting
    server = secure.serve(answering(sized(BODY)))
    monkeypatch.setenv(variable, stranger)
    error = failure(KINDS[kind](secure, server.url))
    assert variable in str(error)
    assert stranger in str(error)
    monkeypatch.setenv(variable, vouching)
    store = KINDS[kind](secure, server.url)
    for _ in range(3):
        assert store.read(NAME).data == BODY
    assert server.connections == 2


@on_both
def test_a_bundle_that_is_not_there_is_named(secure: Lane, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE" if kind == "s3" else "SSL_CERT_FILE", "/no/such/bundle.pem")
    server = secure.serve(answering(sized(BODY)))
    assert "/no/such/bundle.pem" in str(failure(KINDS[kind](secure, server.url)))


@on_both
def test_a_bundle_without_certificates_is_named(
    secure: Lane, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nobody")
    monkeypatch.setenv("AWS_CA_BUNDLE" if kind == "s3" else "SSL_CERT_FILE", str(empty))
    server = secure.serve(answering(sized(BODY)))
    assert str(empty) in str(failure(KINDS[kind](secure, server.url)))


def test_a_profile_of_aws_names_whom_to_trust(
    secure: Lane, vouching: str, stranger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    keys = "aws_access_key_id = test\naws_secret_access_key = SECRET\n"
    config.write_text(f"[default]\nca_bundle = {stranger}\n{keys}[profile lab]\nca_bundle = {vouching}\n{keys}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    server = secure.serve(answering(sized(BODY)))
    assert s3(secure, server.url, profile="lab").read(NAME).data == BODY
    assert stranger in str(failure(s3(secure, server.url)))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert s3(secure, server.url).read(NAME).data == BODY


def test_a_server_that_is_another_than_it_says_is_refused(secure: Lane, trusting: None) -> None:
    server = secure.serve(answering(sized(BODY)), host="127.0.0.2")
    assert "another host" in str(failure(web(secure, server.url)))
    assert (server.connections, server.requests) == (1, [])


def test_a_server_without_tls_is_refused(plain: Lane, trusting: None) -> None:
    server = plain.serve(lambda peer: peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    error = failure(plain.store(server.url.replace("http", "https")))
    assert server.netloc in str(error)
    assert server.requests == []


def test_a_handshake_that_does_not_go_on_is_waited_for_so_long(plain: Lane, trusting: None) -> None:
    server = plain.serve(Peer.wait)
    assert "time" in str(failure(plain.store(server.url.replace("http", "https"), timeout=SHORT))).lower()


@pytest.mark.parametrize("end", ["hang_up", "reset"])
def test_a_handshake_that_breaks_off_leads_to_a_retry(secure: Lane, trusting: None, plain: Lane, end: str) -> None:
    secret = secure.serve(answering(sized(BODY)))

    def talk(peer: Peer) -> None:
        if peer.number == 0:
            peer.hear()
            getattr(peer, end)()
        else:
            peer.join("127.0.0.1", secret.port)

    before = plain.serve(talk)
    assert plain.store(before.url.replace("http", "https"), attempts=2).read(NAME).data == BODY
    assert before.connections == 2


# ------------------------------------------------------------------------------------------------------------- proxies

HOST = "brains.example"


@pytest.fixture
def proxy(plain: Lane, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """Make a proxy that answers itself what is not for https."""
    server = plain.serve(proxying({}, sized(BODY)))
    monkeypatch.setenv("http_proxy", server.url)
    return server


def test_http_goes_through_its_proxy(plain: Lane, proxy: FaultServer) -> None:
    store = plain.store(f"http://{HOST}/p?sig=a%2Fb", options={"headers": {"X-A": "b"}})
    for _ in range(3):
        assert store.read(NAME).data == BODY
    assert proxy.targets == [f"http://{HOST}/p/{NAME}?sig=a%2Fb"] * 3
    assert {asked.headers["x-a"] for asked in proxy.requests} == {"b"}
    assert proxy.connections == 1


def test_a_batch_goes_through_its_proxy(plain: Lane, proxy: FaultServer) -> None:
    boxes = [(i, i + 1, 0, 1, 0, 1) for i in range(50)]
    accessor = plain.accessor(f"http://{HOST}/p")
    proxy.talk = answering(lambda asked: sized(b"", "404 No") if "/info" in asked.target else sized(BODY))
    assert dict(accessor.fetch_chunks("1_1_1", boxes)) == dict.fromkeys(boxes, BODY)
    assert all(target.startswith(f"http://{HOST}/p/") for target in proxy.targets)


def test_s3_goes_through_its_proxy(plain: Lane, proxy: FaultServer) -> None:
    store = s3(plain, f"http://{HOST}")
    assert store.read(NAME).data == BODY
    assert proxy.targets == [f"http://{HOST}/bucket/p/{NAME}"]
    assert "AWS4-HMAC-SHA256" in proxy.requests[0].headers["authorization"]


@on_both
def test_https_goes_through_a_tunnel(
    plain: Lane, secure: Lane, kind: str, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy sees where it goes, and nothing else."""
    server = secure.serve(answering(sized(BODY)))
    proxy = plain.serve(proxying({"localhost": server.port}))
    monkeypatch.setenv("https_proxy", proxy.url)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate().chain))
    options = {} if kind == "s3" else {"headers": {"X-Api-Key": "SECRET", "Authorization": "SECRET"}}
    store = KINDS[kind](secure, "https://localhost", **options)
    for _ in range(2):
        assert store.read(NAME).data == BODY
    (asked,) = proxy.requests
    assert (asked.method, asked.target) == ("CONNECT", "localhost:443")
    assert b"SECRET" not in asked.head
    assert server.count == 2
    assert all(asked.target.endswith(f"/p/{NAME}") for asked in server.requests)


def test_the_password_of_a_proxy_goes_to_the_proxy_alone(
    plain: Lane, secure: Lane, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = secure.serve(answering(sized(BODY)))
    proxy = plain.serve(proxying({"localhost": server.port}))
    monkeypatch.setenv("https_proxy", proxy.url.replace("://", "://me:pa%3Ass@"))
    assert web(secure, "https://localhost").read(NAME).data == BODY
    assert proxy.requests[0].headers["proxy-authorization"] == "Basic bWU6cGE6c3M="
    assert "proxy-authorization" not in server.requests[0].headers


@pytest.mark.parametrize("no_proxy", ["127.0.0.1", "*", "localhost,127.0.0.1"])
def test_no_proxy_is_asked_directly(
    plain: Lane, proxy: FaultServer, no_proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = plain.serve(answering(sized(BODY)))
    monkeypatch.setenv("no_proxy", no_proxy)
    assert web(plain, server.url).read(NAME).data == BODY
    assert (server.count, proxy.connections) == (1, 0)


def test_a_redirect_is_asked_through_the_proxy_of_where_it_leads(
    plain: Lane, secure: Lane, proxy: FaultServer, trusting: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = secure.serve(answering(sized(BODY)))
    tunnel = plain.serve(proxying({"localhost": server.port}))
    monkeypatch.setenv("https_proxy", tunnel.url)
    proxy.talk = proxying({}, sized(b"", "302 Found", "Location: https://localhost/x\r\n"))
    assert web(plain, f"http://{HOST}").read(NAME).data == BODY
    assert (proxy.count, tunnel.count, server.targets) == (1, 1, ["/x"])


def test_another_proxy_counts_from_then_on(plain: Lane, proxy: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    other, server = plain.serve(proxying({}, sized(BODY))), plain.serve(answering(sized(BODY)))
    for variable in (proxy.url, other.url, None):
        if variable is None:
            monkeypatch.delenv("http_proxy")
        else:
            monkeypatch.setenv("http_proxy", variable)
        assert web(plain, server.url).read(NAME).data == BODY
    assert (proxy.count, other.count, server.count) == (1, 1, 1)


@pytest.mark.parametrize("password", ["hunt#er2", "hunt er2", "hunt/er2", "hunter2@127.0.0.1:99999"])
@pytest.mark.parametrize("scheme", ["http", "gopher"])
def test_a_proxy_that_cannot_be_read_shows_no_password(
    plain: Lane, scheme: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", f"{scheme}://user:{password}@127.0.0.1:1")
    with pytest.raises(DataAccessError, match="http_proxy, https_proxy and all_proxy") as caught:
        web(plain, f"http://{HOST}").read(NAME)
    assert "hunt" not in "".join(traceback.format_exception(caught.value))


REFUSING: dict[str, Callable[[Peer], None]] = {
    "407": answering(sized(b"", "407 Proxy Authentication Required")),
    "502": answering(sized(b"", "502 Bad Gateway")),
    "closed": Peer.hang_up,
    "garbage": saying(b"220 SECRET\r\n\r\n"),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("how", REFUSING)
def test_a_proxy_that_refuses_is_told_of_and_shows_no_secret(
    plain: Lane, how: str, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_server(REFUSING[how]) as refusing:
        monkeypatch.setenv(f"{scheme}_proxy", refusing.url.replace("://", "://me:SECRET@"))
        with pytest.raises(DataAccessError) as caught:
            plain.store(f"{scheme}://{HOST}/p", timeout=SOON).read(NAME)
        assert not isinstance(caught.value, FileNotFoundError)
        assert f"{scheme}://{HOST}/p/{NAME}" in str(caught.value)
        assert "SECRET" not in f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"


@on_both
def test_the_option_verify_counts_more_than_variables(
    secure: Lane, kind: str, vouching: str, stranger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = secure.serve(answering(sized(BODY)))

    def store(verify: str | bool) -> ObjectStore:
        options: dict[str, Any] = {"client_kwargs": {"verify": verify}} if kind == "s3" else {"verify": verify}
        return KINDS[kind](secure, server.url, **options)

    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, stranger)
    assert store(vouching).read(NAME).data == BODY
    assert store(False).read(NAME).data == BODY
    for name in ("AWS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, vouching)
    failure(store(stranger))
    assert store(vouching).read(NAME).data == BODY


def test_who_trusts_less_gets_no_connection_of_who_trusts_more(secure: Lane, vouching: str, stranger: str) -> None:
    server = secure.serve(answering(sized(BODY)))
    for _ in range(3):
        assert web(secure, server.url, verify=vouching).read(NAME).data == BODY
        failure(web(secure, server.url, verify=stranger))
        assert web(secure, server.url, verify=False).read(NAME).data == BODY
        failure(web(secure, server.url))
