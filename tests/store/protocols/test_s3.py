"""What is relied on of s3fs and botocore."""

import inspect
import urllib.parse

import pytest
import s3fs
from aiobotocore.httpsession import AIOHTTPSession

from precomputed_fs.store.requests import HttpRequest, Signer
from tests.store.protocols.conftest import TIMEOUT, Place, open_place
from tests.support import servers


def test_where_a_bucket_is_and_who_asks_is_learnt_from_a_signed_url(on_s3: Place, s3_server: servers.S3Server) -> None:
    request = on_s3.run(on_s3.protocol.http_requests(on_s3.fs)("GET", f"{on_s3.root}/1e+06/a b"))
    url = f"{s3_server.endpoint}/{on_s3.root}/1e%2B06/a%20b"
    assert request == HttpRequest(url, {}, "GET", Signer("us-east-1", "test", "test"))


def test_a_bucket_is_looked_for_once(on_s3: Place) -> None:
    ask = on_s3.protocol.http_requests(on_s3.fs)
    on_s3.run(ask("GET", f"{on_s3.root}/a"))
    assert isinstance(ask("HEAD", f"{on_s3.root}/b"), HttpRequest)


def test_a_session_token_is_a_header(s3_server: servers.S3Server) -> None:
    place = open_place("s3://bucket/lab", **s3_server.storage_options, token="a+token")
    request = place.run(place.protocol.http_requests(place.fs)("GET", "bucket/lab/info"))
    assert request.headers == {"x-amz-security-token": "a+token"}


def test_a_request_without_credentials_is_not_signed(s3_server: servers.S3Server) -> None:
    place = open_place("s3://bucket/lab", anon=True, endpoint_url=s3_server.endpoint)
    request = place.run(place.protocol.http_requests(place.fs)("HEAD", "bucket/lab/info"))
    assert request == HttpRequest(f"{s3_server.endpoint}/bucket/lab/info", {}, "HEAD", None)


def test_another_signature_is_left_to_the_sdk(s3_server: servers.S3Server) -> None:
    options = {**s3_server.storage_options, "config_kwargs": {"signature_version": "s3"}}
    place = open_place("s3://bucket/lab", **options)
    request = place.run(place.protocol.http_requests(place.fs)("GET", "bucket/lab/info"))
    assert request.signer is None
    assert "Signature=" in request.url


@pytest.mark.parametrize(
    ("key", "secret"), [("test:tester", "a+b"), ("me@lab.example", "ab"), ("lab$me", "ab"), ("AKIA", "caf\xe9")]
)
def test_what_libcurl_would_quote_is_signed_by_the_sdk(s3_server: servers.S3Server, key: str, secret: str) -> None:
    place = open_place("s3://bucket/lab", **{**s3_server.storage_options, "key": key, "secret": secret})
    request = place.run(place.protocol.http_requests(place.fs)("GET", "bucket/lab/info"))
    credential = urllib.parse.parse_qs(urllib.parse.urlsplit(request.url).query)["X-Amz-Credential"][0]
    assert (request.signer, credential.rsplit("/", 4)[0]) == (None, key)


def test_what_is_set_for_all_requests_is_left_to_s3fs(s3_server: servers.S3Server) -> None:
    proxies = {"config_kwargs": {"proxies": {"http": s3_server.endpoint}}}
    for own in (
        {"requester_pays": True},
        {"s3_additional_kwargs": {"ACL": "private"}},
        {"version_aware": True},
        proxies,
    ):
        place = open_place("s3://bucket/lab", **{**s3_server.storage_options, **own})
        assert place.protocol.http_requests(place.fs) is None
    assert "_session_is_owned" in inspect.getsource(s3fs.S3FileSystem)


def test_each_request_is_sent_once(on_s3: Place) -> None:
    config = on_s3.fs.config_kwargs
    assert (on_s3.fs.retries, config["retries"], config["read_timeout"]) == (1, {"max_attempts": 0}, TIMEOUT)
    assert issubclass(config["http_session_cls"], AIOHTTPSession)
    assert list(inspect.signature(AIOHTTPSession._get_session).parameters) == ["self", "proxy_url"]

    async def session() -> object:
        own = config["http_session_cls"]()
        async with own:
            return (await own._get_session(None))._retry_connection

    assert on_s3.run(session()) is False


def test_a_read_and_a_listing_are_one_request_each(on_s3: Place, s3_server: servers.S3Server) -> None:
    on_s3.write("a", b"one")
    s3_server.log.clear()
    on_s3.run(on_s3.protocol.read(on_s3.fs, f"{on_s3.root}/a"))
    on_s3.run(on_s3.protocol.list_names(on_s3.fs, f"{on_s3.root}/", 1))
    assert s3_server.log.methods() == ["GET", "GET"]
