"""What is relied on of fsspec's HTTP filesystem."""

import ssl
from typing import Any

import fsspec.implementations.http
import pytest

from precomputed_fs.store.requests import HttpRequest
from tests.store.protocols.conftest import open_place
from tests.support import servers


def test_the_headers_of_the_user_are_sent() -> None:
    options = {"headers": {"A": "of the user"}, "client_kwargs": {"headers": {"A": "of the client", "B": "1"}}}
    protocol, fs, root = open_place("http://127.0.0.1:9/lab", **options)
    ask = protocol.http_requests(fs)
    assert ask("HEAD", f"{root}/info") == HttpRequest(f"{root}/info", {"A": "of the user", "B": "1"}, "HEAD")


@pytest.mark.parametrize(
    "own",
    [{"ssl": ssl.create_default_context()}, {"client_kwargs": {"cookies": {}}}, {"get_client": lambda **_: None}],
    ids=" ".join,
)
def test_a_session_of_the_users_is_left_to_fsspec(own: dict[str, Any]) -> None:
    protocol, fs, _ = open_place("http://127.0.0.1:9/lab", **own)
    assert protocol.http_requests(fs) is None
    assert "get_client" in vars(fsspec.implementations.http)


def test_urls_go_out_as_they_are_and_bodies_come_as_they_were_sent(web_server: servers.HttpServer) -> None:
    place = open_place(f"{web_server.url}/lab?sig=a%2Fb")
    assert (place.fs.encode_url("http://h/a%2Fb").raw_path, place.fs.client_kwargs["auto_decompress"]) == (
        "/a%2Fb",
        False,
    )


def test_nothing_lists_a_web_server() -> None:
    place = open_place("http://127.0.0.1:9/lab")
    assert place.run(place.protocol.list_names(place.fs, f"{place.root}/a", 9)) == []
