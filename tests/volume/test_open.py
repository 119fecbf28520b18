"""Opening: what `info` is read, where it may redirect to, and with which credentials."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from precomputed_fs import (
    AccessDeniedError,
    InvalidInfoError,
    NotFoundError,
    URLError,
    open_volume,
)
from tests.support import servers
from tests.volume.samples import ONE_CHUNK, make, voxels


def test_an_absent_pyramid_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=re.escape(f"{tmp_path}/info")):
        open_volume(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"scales": []}', '{"@type": "neuroglancer_skeletons"}'])
def test_an_invalid_info_names_its_url(tmp_path: Path, text: str) -> None:
    (tmp_path / "info").write_text(text)
    with pytest.raises(InvalidInfoError, match=re.escape(str(tmp_path))):
        open_volume(tmp_path)


def test_a_redirect_is_followed(tmp_path: Path) -> None:
    make(tmp_path / "data")
    with servers.http_server(tmp_path) as server:
        (tmp_path / "first").mkdir()
        (tmp_path / "first/info").write_text(json.dumps({"redirect": f"precomputed://{server.url}/data"}))
        volume = open_volume(f"{server.url}/first")
        assert volume.url == f"{server.url}/data"
        assert np.array_equal(volume[0][...], voxels())


def test_redirects_in_a_circle_end(tmp_path: Path) -> None:
    with servers.http_server(tmp_path) as server:
        (tmp_path / "info").write_text(json.dumps({"redirect": server.url}))
        with pytest.raises(URLError, match="redirected 10 times"):
            open_volume(server.url)


@pytest.mark.parametrize("target", ["/etc", "file:///etc", "memory://tests/shared", "zip://a::http://127.0.0.1/b"])
def test_a_web_page_cannot_redirect_to_this_machine(tmp_path: Path, target: str) -> None:
    (tmp_path / "info").write_text(json.dumps({"redirect": target}))
    with servers.http_server(tmp_path) as server, pytest.raises(URLError, match="redirects to"):
        open_volume(server.url)


def test_options_are_not_sent_to_another_host(tmp_path: Path) -> None:
    make(tmp_path, ONE_CHUNK)
    secret = {"headers": {"Authorization": "Bearer sesame-sesame"}}
    seen: list[tuple[str, str | None]] = []

    def noting(where: str) -> Callable[[Any], Any]:
        async def handler(request: Any) -> Any:
            seen.append((where, request.headers.get("Authorization")))
            return await servers.files(tmp_path / where)(request)

        return handler

    (tmp_path / "there").mkdir()
    (tmp_path / "there/info").write_text((tmp_path / "info").read_text())
    (tmp_path / "here").mkdir()
    with servers.fault_server(noting("here")) as here, servers.fault_server(noting("there")) as there:
        (tmp_path / "here/info").write_text(json.dumps({"redirect": there.url}))
        open_volume(here.url, storage_options=secret)
    assert seen == [("here", "Bearer sesame-sesame"), ("there", None)]


AMBIENT = {"AWS_ACCESS_KEY_ID": "AMBIENT", "AWS_SECRET_ACCESS_KEY": "ambient", "AWS_SESSION_TOKEN": "ambient-token"}


FLAT = {"key": "FLAT", "secret": "flat"}


NESTED = {"s3": {"key": "NESTED", "secret": "nested"}}


class Redirect(NamedTuple):
    """How a pyramid is opened whose `info` redirects; ``{here}`` and ``{there}`` stand for servers."""

    url: str
    target: str
    options: dict[str, Any] = {}  # noqa: RUF012 - read only
    here: str | None = None
    """The key that the first server gets; None if no credentials."""
    there: str | None = None


REDIRECTS = {
    # credentials of the machine
    "from HTTP": Redirect("http://{here}/b/moved", "s3+http://{there}/b/data"),
    "from disk": Redirect("{folder}/b/moved", "s3+http://{there}/b/data"),
    "from S3": Redirect("s3+http://{here}/b/moved", "s3+http://{there}/b/data", {}, "AMBIENT"),
    "asked for": Redirect("http://{here}/b/moved", "s3+http://{there}/b/data", {"anon": False}),
    "to S3 from HTTP on the same host": Redirect("http://{there}/b/moved", "s3+http://{there}/b/data"),
    "to another bucket": Redirect("s3+http://{there}/b/moved", "s3+http://{there}/c/data", {}, None, None),
    "to the same bucket": Redirect("s3+http://{there}/b/moved", "s3+http://{there}/b/data", {}, None, "AMBIENT"),
    # credentials that were given for the first URL
    "given, to the same bucket": Redirect(
        "s3+http://{there}/b/moved", "s3+http://{there}/b/data", {"storage_options": FLAT}, None, "FLAT"
    ),
    "given, to a bucket of the same name": Redirect(
        "s3+http://{here}/b/moved", "s3+http://{there}/b/data", {"storage_options": FLAT}, "FLAT"
    ),
    "given, to where the option leads": Redirect(
        "s3://b/moved",
        "s3://b/data",
        {"storage_options": {**FLAT, "endpoint_url": "http://{there}"}},
        None,
        "FLAT",
    ),
    # credentials that were given for all of S3
    "nested, to S3": Redirect(
        "http://{here}/b/moved",
        "s3://b/data",
        {"storage_options": {"s3": {**NESTED["s3"], "endpoint_url": "http://{there}"}}},
        None,
        "NESTED",
    ),
    "nested, to another bucket": Redirect(
        "s3://b/moved",
        "s3://c/data",
        {"storage_options": {"s3": {**NESTED["s3"], "endpoint_url": "http://{there}"}}},
        None,
        "NESTED",
    ),
    "nested, to a server of its own": Redirect(
        "http://{here}/b/moved", "s3+http://{there}/b/data", {"storage_options": NESTED}
    ),
    "nested, to a server of its own, from S3": Redirect(
        "s3://b/moved",
        "s3+http://{there}/c/data",
        {"storage_options": {"s3": {**NESTED["s3"], "endpoint_url": "http://{here}"}}},
        "NESTED",
    ),
}


def filled(value: Any, **places: str) -> Any:
    """Fill places into all texts of a value."""
    if isinstance(value, dict):
        return {key: filled(item, **places) for key, item in value.items()}
    return value.format(**places) if isinstance(value, str) else value


def key_of(request: servers.Request) -> str | None:
    """Return the access key that a request to S3 is signed with."""
    assert "Signature" not in request.query
    match = re.search(r"Credential=(\w+)/", request.headers.get("Authorization", ""))
    assert match or not {"Authorization", "X-Amz-Security-Token"} & set(request.headers)
    return match[1] if match else None


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the buckets b and c, each with a pyramid "data"."""
    folder = tmp_path_factory.mktemp("buckets")
    for bucket in ("b", "c"):
        make(folder / bucket / "data", ONE_CHUNK)
    (folder / "b/moved").mkdir()
    return folder


@pytest.fixture(scope="module")
def here_and_there(buckets: Path) -> Iterator[list[servers.HttpServer]]:
    handler = servers.files(buckets)
    with servers.fault_server(handler) as here, servers.fault_server(handler) as there:
        yield [here, there]


@pytest.mark.parametrize("redirect", REDIRECTS.values(), ids=REDIRECTS)
def test_a_redirect_passes_credentials_on_only_where_meant(
    redirect: Redirect,
    buckets: Path,
    here_and_there: list[servers.HttpServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in AMBIENT.items():
        monkeypatch.setenv(name, value)
    for server in here_and_there:
        server.log.clear()
    here, there = here_and_there
    places = {name: server.url.removeprefix("http://") for name, server in (("here", here), ("there", there))}
    (buckets / "b/moved/info").write_text(json.dumps({"redirect": filled(redirect.target, **places)}))
    volume = open_volume(filled(redirect.url, **places, folder=str(buckets)), **filled(redirect.options, **places))
    assert np.array_equal(volume[0][...], ONE_CHUNK)
    assert {key_of(request) for request in here.log.entries()} <= {redirect.here}
    asked = [request for request in there.log.entries() if "/data/" in request.path]
    assert {key_of(request) for request in asked} == {redirect.there}


def test_headers_for_http_are_not_sent_to_another_host(tmp_path: Path) -> None:
    make(tmp_path / "data", ONE_CHUNK)
    (tmp_path / "moved").mkdir()
    options = {"https": {"headers": {"Authorization": "Bearer sesame"}}, "file": {"auto_mkdir": False}}
    with servers.fault_server(servers.files(tmp_path)) as server:
        (tmp_path / "moved/info").write_text(json.dumps({"redirect": f"{server.url}/data"}))
        open_volume(tmp_path / "moved", storage_options=options)
        open_volume(f"{server.url}/data", storage_options=options)
        assert [request.headers.get("Authorization") for request in server.log.entries()] == [None, "Bearer sesame"]


def test_options_for_a_second_redirect_are_kept(tmp_path: Path) -> None:
    make(tmp_path / "b/data", ONE_CHUNK)
    handler = servers.files(tmp_path)
    with servers.fault_server(handler) as first, servers.fault_server(handler) as last:
        for name, target in (("one", f"{first.url}/two"), ("two", "s3://b/data")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "info").write_text(json.dumps({"redirect": target}))
        options = {"auto_mkdir": False, "s3": {**NESTED["s3"], "endpoint_url": last.url}}
        open_volume(tmp_path / "one", storage_options=options)
        assert [key_of(request) for request in last.log.entries()] == ["NESTED"]


@pytest.mark.parametrize("target", ["sftp://127.0.0.1/brain", "ssh://127.0.0.1/brain", "github://org:repo@main/brain"])
def test_a_redirect_to_where_keys_would_be_sent_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "info").write_text(json.dumps({"redirect": target}))
    with pytest.raises(URLError, match="open that, if you mean it"):
        open_volume(tmp_path, storage_options={"sftp": {"password": "sesame"}})


def test_denied_after_a_redirect_says_that_no_credentials_were_sent(tmp_path: Path) -> None:
    with servers.fault_server(servers.respond(403)) as server:
        target = f"s3+{server.url}/b/data"
        (tmp_path / "info").write_text(json.dumps({"redirect": target}))
        with pytest.raises(AccessDeniedError, match="passes no credentials on: open s3://b/data itself"):
            open_volume(tmp_path)
        for anon in (True, None):
            with pytest.raises(AccessDeniedError) as caught:
                open_volume(tmp_path if anon else target, anon=anon)
            assert "redirect" not in str(caught.value)


def test_a_relative_redirect_is_refused(tmp_path: Path) -> None:
    (tmp_path / "info").write_text('{"redirect": "../real"}')
    with pytest.raises(URLError, match="not an absolute URL"):
        open_volume(tmp_path)
