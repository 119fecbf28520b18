"""What is relied on of gcsfs."""

import inspect
import os
import subprocess
import sys

import gcsfs
import pytest

from precomputed_fs.store.requests import HttpRequest
from tests.store.protocols.conftest import TIMEOUT, Place, open_place
from tests.support import servers


def test_a_request_has_the_token(on_gcs: Place, gcs_server: servers.GcsServer) -> None:
    def with_token(out: dict[str, str] | None) -> dict[str, str]:
        return {**(out or {}), "Authorization": "Bearer t"}

    on_gcs.fs.credentials.apply = lambda out: out.update(with_token(None))
    ask = on_gcs.protocol.http_requests(on_gcs.fs)
    bucket = on_gcs.root.partition("/")[0]
    read, probe = (ask(method, f"{on_gcs.root}/a b") for method in ("GET", "HEAD"))
    assert read.headers == probe.headers == on_gcs.fs._get_headers(None)
    assert read.headers["Authorization"] == "Bearer t"
    assert probe == HttpRequest(f"{gcs_server.endpoint}/storage/v1/b/{bucket}/o/lab%2Fa%20b?fields=name", probe.headers)
    assert read.method == "GET"


def test_who_pays_or_shows_a_certificate_is_left_to_gcsfs(gcs_server: servers.GcsServer) -> None:
    place = open_place("gs://bucket/lab", **gcs_server.storage_options, requester_pays=True)
    assert place.protocol.http_requests(place.fs) is None
    place = open_place("gs://bucket/lab", **gcs_server.storage_options)
    assert place.fs._use_client_cert is False
    place.fs._use_client_cert = True
    assert place.protocol.http_requests(place.fs) is None


@pytest.mark.processes
def test_a_bucket_is_not_asked_for_its_layout() -> None:
    """Gcsfs takes another class where the variable does not say that it shall not, which it reads when imported."""
    code = (
        "import precomputed_fs, fsspec; precomputed_fs.FsspecAccessor('gs://bucket/lab', anon=True); "
        "print(fsspec.get_filesystem_class('gs').__name__)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"}
    made = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert made.stdout.strip() == "GCSFileSystem"


def test_each_request_is_sent_once(on_gcs: Place) -> None:
    assert on_gcs.fs._request.__func__ is gcsfs.GCSFileSystem._request.__wrapped__
    assert on_gcs.fs.requests_timeout == TIMEOUT


def test_uploads_go_through_one_method_that_takes_what_is_added() -> None:
    assert inspect.iscoroutinefunction(gcsfs.GCSFileSystem._call)
    inspect.signature(gcsfs.GCSFileSystem._call).bind(None, "POST", "path", uploadType="media", ifGenerationMatch="1")
    inspect.signature(gcsfs.GCSFileSystem._pipe_file).bind(
        None, "path", b"", content_type="text/plain", fixed_key_metadata={"content_encoding": "gzip"}
    )


def test_a_listing_is_one_request(on_gcs: Place, gcs_server: servers.GcsServer) -> None:
    on_gcs.write("a", b"one")
    gcs_server.log.clear()
    on_gcs.run(on_gcs.protocol.list_names(on_gcs.fs, f"{on_gcs.root}/", 1))
    assert gcs_server.log.methods() == ["GET"]
