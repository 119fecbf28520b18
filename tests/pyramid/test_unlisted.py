"""Buckets that may be read but not listed: what is absent is denied, and taken for absent where the user says so."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import requests
import xarray
from aiohttp import web

from precomputed_fs import (
    AccessDeniedError,
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
    __main__,
    copy_pyramid,
    create_volume,
    doctor,
    get_accessor_for_url,
    open_volume,
    serve,
)
from tests.support import browser, servers
from tests.support.tools import open_cloud_volume, read_with_tensorstore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "8_8_8"
THERE, ABSENT = (0, 8, 0, 8, 0, 8), (8, 16, 0, 8, 0, 8)
VOXELS = np.zeros((32, 16, 8), np.uint8)
VOXELS[:8] = VOXELS[16:24, 8:] = 7
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "hash": "identity",
    "preshift_bits": 0,
    "minishard_bits": 0,
    "shard_bits": 3,
}
ACCESS_DENIED = ("AccessDenied", "Access Denied")


class Unlisted:
    """A server whose pyramids may be read, and of which nobody may know what else there is not."""

    def __init__(self, root: Path) -> None:
        self.endpoint = ""
        self.log = servers.RequestLog()
        self.status, self.said = 403, ACCESS_DENIED
        self.denies_info = False
        self._files = servers.files(root)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        is_denied = self.denies_info and request.path.endswith("/info")
        response = await self._files(request)
        if response.status != 404 and not is_denied:
            return response
        code, message = self.said
        body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return web.Response(status=self.status, text=body, content_type="application/xml")

    def place(self, protocol: str, name: str) -> tuple[str, dict[str, Any]]:
        """Return the URL and the options to read a pyramid by."""
        if protocol == "http":
            return f"{self.endpoint}/bucket/{name}", {"attempts": 1}
        more = {"requester_pays": True} if protocol == "s3, by the driver" else {}
        region = {"region_name": "us-east-1"}
        given = {"endpoint_url": self.endpoint, "client_kwargs": region, "key": "test", "secret": "test", **more}
        return f"s3://bucket/{name}", {"storage_options": given, "attempts": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make pyramids with chunks and shards of zeros left out."""
    folder = tmp_path_factory.mktemp("unlisted") / "bucket"
    kinds: dict[str, dict[str, Any]] = {"plain": {}, "sharded": {"sharding": SHARDING}}
    for name, options in kinds.items():
        given = {"chunk_size": (8, 8, 8), "scales": 1, "gzip": False, "skip_empty": True, **options}
        create_volume(folder / name, VOXELS, resolution=(8, 8, 8), **given)
    assert len(list((folder / "plain" / KEY).iterdir())) == 3
    assert len(list((folder / "sharded" / KEY).iterdir())) == 3
    (folder / "beside").mkdir()
    info = (folder / "plain" / "info").read_text()
    (folder / "beside" / "info").write_text(info.replace(f'"{KEY}"', f'"../plain/{KEY}"'))
    return folder


@pytest.fixture
def unlisted(root: Path) -> Iterator[Unlisted]:
    made = Unlisted(root.parent)
    with servers.fault_server(browser.cors(made.handle)) as server:
        made.endpoint, made.log = server.url, server.log
        yield made


PROTOCOLS = ["http", "s3", "s3, by the driver"]
KINDS = ["plain", "sharded", "beside"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_names_the_option(unlisted: Unlisted, protocol: str, kind: str) -> None:
    url, options = unlisted.place(protocol, kind)
    volume = open_volume(url, **options)
    accessor, key = volume.pyramid_for(volume[0].key)
    for read in (
        lambda: volume[0][...],
        lambda: accessor.fetch_chunk(key, ABSENT),
        lambda: list(accessor.fetch_chunks(key, [THERE, ABSENT])),
    ):
        with pytest.raises(AccessDeniedError, match=r"AccessDenied: Access Denied; .*denied_is_missing=True"):
            read()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_denied_is_absent_if_the_user_says_so(unlisted: Unlisted, protocol: str, kind: str) -> None:
    url, options = unlisted.place(protocol, kind)
    volume = pickle.loads(pickle.dumps(open_volume(url, denied_is_missing=True, **options)))
    np.testing.assert_array_equal(volume[0][..., 0], VOXELS)
    with pytest.raises(NotFoundError):
        volume[0].read(volume[0].bounds, missing="raise")
    accessor, key = volume.pyramid_for(volume[0].key)
    with pytest.raises(NotFoundError):
        accessor.fetch_chunk(key, ABSENT)
    found = dict(accessor.fetch_chunks(key, [THERE, ABSENT]))
    assert found == {THERE: VOXELS[:8, :8].tobytes(order="F"), ABSENT: None}


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_chunk_takes_as_many_requests_as_elsewhere(unlisted: Unlisted, kind: str) -> None:
    url, options = unlisted.place("s3", kind)
    volume = open_volume(url, denied_is_missing=True, **options)
    accessor, key = volume.pyramid_for(volume[0].key)
    accessor.fetch_chunk(key, THERE)
    unlisted.log.clear()
    with pytest.raises(NotFoundError):
        accessor.fetch_chunk(key, ABSENT)
    assert unlisted.log.methods() == ["GET"] * (2 if kind == "sharded" else 1), "of a shard, the older pair too"


def test_a_server_that_says_nothing_else_is_taken_at_its_word(unlisted: Unlisted) -> None:
    unlisted.said = ("", "")
    url, options = unlisted.place("http", "plain")
    np.testing.assert_array_equal(open_volume(url, denied_is_missing=True, **options)[0][..., 0], VOXELS)


OTHERWISE = {
    "not authenticated": (401, "Unauthorized", "Who is it?"),
    "an expired token": (400, "ExpiredToken", "The provided token has expired."),
    "an unknown key": (403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."),
    "a wrong key": (403, "SignatureDoesNotMatch", "The signatures do not match."),
    "a wrong clock": (403, "RequestTimeTooSkewed", "The difference between the times is too large."),
    "in the archive": (403, "InvalidObjectState", "The operation is not valid for the storage class."),
    "encrypted": (403, "AccessDenied", "User: u is not authorized to perform: kms:Decrypt"),
    "a signed URL that has expired": (403, "AccessDenied", "Request has expired"),
    "no bucket": (404, "NoSuchBucket", "The specified bucket does not exist"),
    "another failure": (500, "InternalError", "We have encountered an internal error."),
}


@pytest.mark.parametrize("reason", OTHERWISE)
@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_nothing_else_is_absent(unlisted: Unlisted, kind: str, reason: str) -> None:
    status, *said = OTHERWISE[reason]
    unlisted.status, unlisted.said = status, (said[0], said[1])
    url, options = unlisted.place("s3", kind)
    volume = open_volume(url, denied_is_missing=True, **options)
    with pytest.raises(DataAccessError, match=said[1]) as caught:
        volume[0][...]
    assert not isinstance(caught.value, NotFoundError)
    assert isinstance(caught.value, AccessDeniedError) == (status not in {404, 500})
    assert "denied_is_missing" not in str(caught.value)


@pytest.mark.parametrize("denied_is_missing", [True, False])
def test_nothing_is_absent_where_info_is_denied(unlisted: Unlisted, *, denied_is_missing: bool) -> None:
    unlisted.denies_info = True
    url, options = unlisted.place("s3", "plain")
    options["denied_is_missing"] = denied_is_missing
    with pytest.raises(AccessDeniedError, match="/info: 403"):
        open_volume(url, **options)
    accessor = FsspecAccessor(url, **options)
    for coords in (ABSENT, (80, 88, 0, 8, 0, 8)):
        with pytest.raises(AccessDeniedError) as caught:
            accessor.fetch_chunk(KEY, coords)
        assert "denied_is_missing" not in str(caught.value)
        with pytest.raises(AccessDeniedError):
            list(accessor.fetch_chunks(KEY, [coords]))


def test_files_are_denied_all_the_same(unlisted: Unlisted) -> None:
    url, options = unlisted.place("s3", "plain")
    accessor = FsspecAccessor(url, denied_is_missing=True, **options)
    assert accessor.file_exists("info")
    for name in ("mesh/info", f"{KEY}/8-16_0-8_0-8"):
        with pytest.raises(AccessDeniedError):
            accessor.file_exists(name)
        with pytest.raises(AccessDeniedError):
            accessor.fetch_file(name)


def test_the_contract_takes_the_option(unlisted: Unlisted) -> None:
    url, options = unlisted.place("s3", "plain")
    accessor = get_accessor_for_url(url, {**options, "denied_is_missing": True})
    with pytest.raises(NotFoundError):
        accessor.fetch_chunk(KEY, ABSENT)


def test_what_is_there_and_denied_is_not_written_over(unlisted: Unlisted) -> None:
    url, options = unlisted.place("s3", "plain")
    scale = open_volume(url, denied_is_missing=True, **options)[0]
    with pytest.raises(DataAccessError):
        scale[8:10, 0:2, 0:2] = 1
    assert "PUT" not in {entry.method for entry in unlisted.log.entries() if "If-None-Match" not in entry.headers}


# --------------------------------------------------------------------------------------------- through the other faces


def test_through_dask(unlisted: Unlisted) -> None:
    url, options = unlisted.place("http", "plain")
    lazy = open_volume(url, denied_is_missing=True, **options)[0].to_dask(chunks=(8, 8, 8))
    np.testing.assert_array_equal(lazy.compute(scheduler="threads")[..., 0], VOXELS)
    with pytest.raises(AccessDeniedError, match="denied_is_missing=True"):
        open_volume(url, **options)[0].to_dask().compute(scheduler="threads")


def test_through_xarray(unlisted: Unlisted) -> None:
    url, options = unlisted.place("http", "sharded")
    with xarray.open_dataset(url, engine="precomputed", denied_is_missing=True, **options) as dataset:
        np.testing.assert_array_equal(dataset.voxels.values[..., 0], VOXELS)


def test_through_the_server(unlisted: Unlisted) -> None:
    url, options = unlisted.place("http", "plain")
    for denied_is_missing, status in ((True, 404), (False, 502)):
        with serve(url, denied_is_missing=denied_is_missing, **options) as server:
            place = server.source.removeprefix("precomputed://")
            assert requests.get(f"{place}/{KEY}/0-8_0-8_0-8", timeout=9).status_code == 200
            assert requests.get(f"{place}/{KEY}/8-16_0-8_0-8", timeout=9).status_code == status


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_through_a_copy(unlisted: Unlisted, root: Path, tmp_path: Path, kind: str) -> None:
    url, _ = unlisted.place("http", kind)
    with pytest.raises(AccessDeniedError, match="denied_is_missing=True"):
        copy_pyramid(url, tmp_path / "denied")
    changes: list[dict[str, Any]] = [{}, {"chunk_size": (16, 8, 8)}, {"sharding": True}]
    for i, change in enumerate(changes):
        copied = copy_pyramid(url, tmp_path / str(i), denied_is_missing=True, verify=True, **change)
        np.testing.assert_array_equal(copied[0][..., 0], VOXELS)
    assert sorted(path.name for path in (tmp_path / "0" / KEY).iterdir()) == sorted(
        path.name for path in (root / kind / KEY).iterdir()
    )
    with pytest.raises(TypeError, match="denied_is_missing"):
        copy_pyramid(open_volume(url), tmp_path / "never", denied_is_missing=True)


def test_through_the_command_line(unlisted: Unlisted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url, _ = unlisted.place("http", "plain")
    chunk = f"{KEY}/8-16_0-8_0-8"
    assert __main__.main(["cat", url, chunk]) == 4
    assert "denied_is_missing=True" in capsys.readouterr().err
    assert __main__.main(["cat", url, chunk, "--denied-is-missing"]) == 3
    assert __main__.main(["copy", url, str(tmp_path / "copy")]) == 4
    assert __main__.main(["copy", url, str(tmp_path / "copy"), "--denied-is-missing"]) == 0
    np.testing.assert_array_equal(open_volume(tmp_path / "copy")[0][..., 0], VOXELS)
    assert __main__.main(["slice", url, "--out", str(tmp_path / "a.png"), "--denied-is-missing"]) == 0


# -------------------------------------------------------------------------------------------- what others make of it


@pytest.mark.parametrize("kind", ["plain", "sharded"])
def test_doctor_judges_each_reader_as_it_is(unlisted: Unlisted, kind: str) -> None:
    import cloudvolume

    url, options = unlisted.place("http", kind)
    report = doctor(url, **options)
    assert {reader: verdict.ok for reader, verdict in report.verdicts.items()} == {
        "precomputed_fs": False,
        "neuroglancer": True,
        "cloud-volume": False,
        "tensorstore": False,
        "neuroglancer-scripts": False,
    }, report
    advice = {
        reader: f.rule.advice for f in report.findings if f.rule.id == "chunks-denied" for reader in f.rule.readers
    }
    assert "denied_is_missing=True" in advice["precomputed_fs"]
    assert "fill_missing=True" in advice["cloud-volume"]
    for told in (
        doctor(url, denied_is_missing=True, **options),
        doctor(open_volume(url, denied_is_missing=True, **options)),
    ):
        assert told["precomputed_fs"].ok
        assert not told["tensorstore"].ok
    filled = open_cloud_volume(url, fill_missing=True)[:, :, :]
    np.testing.assert_array_equal(np.asarray(filled)[..., 0], VOXELS)
    with pytest.raises(cloudvolume.exceptions.EmptyVolumeException):
        open_cloud_volume(url)[:, :, :]
    with pytest.raises(ValueError, match="403"):
        read_with_tensorstore(url)
