"""What failures advise: credentials, the bucket's name, the endpoint."""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import AccessDeniedError, DataAccessError, NotFoundError, URLError, open_volume
from precomputed_fs.store.failures import Failures, StatusError, Tries
from precomputed_fs.store.location import resolve
from precomputed_fs.store.protocols.s3 import S3
from precomputed_fs.store.requests import Get

if TYPE_CHECKING:
    from pathlib import Path

DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
NO_BUCKET = b"<Error><Code>NoSuchBucket</Code></Error>"


def told(url: str, exc: Exception, anon: bool | None = None, **options: Any) -> Exception:
    """Return what a failure to read `info` becomes."""
    failures = Failures(resolve(url, storage_options=options, anon=anon), attempts=1)
    return failures.judged(Get("info"), exc, Tries())[0]


@pytest.mark.parametrize(
    ("url", "hint"),
    [("s3://b/p", "AWS_PROFILE"), ("gs://b/p", "gcloud auth"), ("az://b/p", "{'account_key': ...}")],
)
def test_a_denial_says_that_nobody_was_named(url: str, hint: str) -> None:
    error = told(url, StatusError(403, {}, DENIED))
    assert isinstance(error, AccessDeniedError)
    said = "Access Denied; asked anonymously, as no credentials were found; pass storage_options={"
    assert said in str(error)
    assert hint in str(error)


def test_a_denial_says_so_where_that_was_wanted() -> None:
    assert str(told("s3://b/p", StatusError(403, {}, DENIED), anon=True)).endswith("anonymously, as anon=True says")


@pytest.mark.parametrize(("url", "options"), [("s3://b/p", {"key": "k", "secret": "s"}), ("https://host/p", {})])
def test_a_denial_with_credentials_says_no_more(url: str, options: dict[str, Any]) -> None:
    assert str(told(url, StatusError(403, {}, DENIED), **options)).endswith("Access Denied")


def test_credentials_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[object] = []

    def has_credentials(_: S3, options: object) -> bool:
        looks.append(options)
        return False

    monkeypatch.setattr(S3, "has_credentials", has_credentials)
    failures = Failures(resolve("s3://b/p"), attempts=1)
    for _ in range(3):
        failures.judged(Get("chunk"), StatusError(403, {}, DENIED), Tries())
    assert len(looks) == 1


def test_a_bucket_that_is_absent() -> None:
    error = told("s3://b/p", StatusError(404, {}, NO_BUCKET))
    assert isinstance(error, NotFoundError)
    assert str(error).endswith(
        "is its name right? One that is not at Amazon needs storage_options={'endpoint_url': ...}"
    )
    assert str(told("s3://b/p", StatusError(404, {}, NO_BUCKET), endpoint_url="http://h")).endswith("its name right?")


def test_an_endpoint_without_its_scheme() -> None:
    with pytest.raises(DataAccessError, match="endpoint_url begins with https:// or http://"):
        open_volume("s3://b/p", storage_options={"endpoint_url": "127.0.0.1:9", "key": "k", "secret": "s"})


def test_a_file_in_place_of_a_folder() -> None:
    exc = NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "brain.nii.gz/x")
    error = Failures(resolve("brain.nii.gz"), 1).judged(None, exc, Tries())[0]
    assert str(error).endswith("a part of this path is a file, not a folder")


def test_a_driver_that_lacks_a_package_is_an_url_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(URLError, match=r"^hdfs://node/brain: the driver .* is not installed: pip install pyarrow$"):
        open_volume("hdfs://node/brain")
