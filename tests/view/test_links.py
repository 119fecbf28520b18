"""Links to Neuroglancer."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.view.serving import linked, raw_info, state_of


@pytest.mark.parametrize(
    ("url", "options", "source"),
    [
        ("https://example.org/lab/brain", {}, "https://example.org/lab/brain"),
        ("http://example.org:8080/a%20b/", {}, "http://example.org:8080/a%20b/"),
        ("precomputed://gs://bucket/lab/brain", {}, "gs://bucket/lab/brain"),
        ("gcs://bucket/lab/brain", {}, "gs://bucket/lab/brain"),
        ("s3://bucket/lab/a brain", {"anon": True}, "s3://bucket/lab/a%20brain"),
        ("s3a://bucket/lab", {}, "s3://bucket/lab"),
        ("s3://bucket/lab", {"storage_options": {"anon": True, "key": None, "token": ""}}, "s3://bucket/lab"),
        ("gs://bucket/lab", {"storage_options": {"token": "anon", "project": "mine"}}, "gs://bucket/lab"),
        ("s3+https://example.org/bucket/lab", {}, "s3+https://example.org/bucket/lab"),
        ("s3://bucket/lab", {"storage_options": {"requester_pays": False, "profile": None}}, "s3://bucket/lab"),
        ("https://example.org/lab", {"storage_options": {"headers": {}, "block_size": 9}}, "https://example.org/lab"),
        (
            "s3://bucket/lab",
            {"storage_options": {"client_kwargs": {"endpoint_url": "http://example.org:9000/"}}},
            "s3+http://example.org:9000/bucket/lab",
        ),
    ],
)
def test_a_link_to_public_data(url: str, options: dict[str, Any], source: str) -> None:
    link = linked(url, **options).neuroglancer_url()
    assert link.startswith("https://neuroglancer-demo.appspot.com/#!%7B")
    (layer,) = state_of(link)["layers"]
    assert layer["source"] == f"precomputed://{source}"


def test_a_link_to_jpeg_is_possible() -> None:
    assert linked("gs://bucket/lab", raw_info(encoding="jpeg")).neuroglancer_url()


def test_a_link_leads_where_one_likes() -> None:
    link = linked("gs://bucket/lab").neuroglancer_url("https://example.org/ng/", layout="xy")
    assert link.startswith("https://example.org/ng/#!")
    assert state_of(link)["layout"] == "xy"


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("memory://lab/brain", {}),
        ("lab/brain", {}),
        ("zip://brain::https://example.org/brain.zip", {}),
        ("simplecache::https://example.org/brain", {}),
        ("az://container/brain", {"storage_options": {"account_name": "lab", "anon": True}}),
        ("https://example.org/brain?signature=SECRETSECRET", {}),
        ("https://user:SECRETSECRET@example.org/brain", {}),
        ("https://example.org/brain", {"storage_options": {"headers": {"Authorization": "SECRETSECRET"}}}),
        ("s3://bucket/brain", {"storage_options": {"key": "SECRETSECRET", "secret": "SECRETSECRET"}}),
        ("s3://bucket/brain", {"storage_options": {"endpoint_url": "https://me:pw@example.org"}}),
        ("s3+https://me:pw@example.org/bucket/brain", {}),
        # however short they are, and whatever they are
        ("s3://bucket/brain", {"storage_options": {"key": "k", "secret": "s"}}),
        ("s3://bucket/brain", {"storage_options": {"s3": {"key": "k", "secret": "s"}}}),
        ("s3://bucket/brain", {"storage_options": {"profile": "lab"}}),
        ("s3://bucket/brain", {"storage_options": {"session": object()}}),
        ("s3://bucket/brain", {"storage_options": {"anon": False}}),
        ("s3://bucket/brain", {"storage_options": {"client_kwargs": {"aws_session_token": "t"}}}),
        ("s3://bucket/brain", {"anon": False}),
        ("gs://bucket/brain", {"storage_options": {"token": "cloud"}}),
        ("gs://bucket/brain", {"storage_options": {"token": object()}}),
        ("https://example.org/brain", {"storage_options": {"headers": {"Authorization": "a"}}}),
        ("https://example.org/brain", {"storage_options": {"client_kwargs": {"auth": ("a", "b")}}}),
        ("https://u:p@example.org/brain", {}),
        ("https://u@example.org/brain", {}),
        ("https://example.org/brain?", {"storage_options": {"client_kwargs": {"cookies": {"a": "b"}}}}),
        ("https://example.org/brain", {"storage_options": {"get_client": object()}}),
        ("https://example.org/brain", {"storage_options": {"https": {"headers": {"X-Api-Key": "k"}}}}),
        ("s3://bucket/brain", {"storage_options": {"client_kwargs": {"aws_access_key_id": "k"}}}),
        ("s3://bucket/brain", {"storage_options": {"requester_pays": True}}),
        ("s3://k:s@bucket/brain", {}),
        ("gs://bucket/brain", {"storage_options": {"requester_pays": "project"}}),
        ("gs://bucket/brain", {"storage_options": {"token": {"a": 1}}}),
        ("gs://bucket/brain", {"storage_options": {"session_kwargs": {"headers": {"Authorization": "x"}}}}),
    ],
)
def test_no_link_to_what_others_cannot_read(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"use view\(\) or precomputed_fs.serve") as caught:
        linked(url, **options).neuroglancer_url()
    assert not {"SECRETSECRET", "pw"} & set(re.split(r"\W", str(caught.value)))


@pytest.mark.parametrize(
    ("encoding", "dtype", "channels"),
    [("crackle", "uint32", 1), ("jxl", "uint8", 3), ("raw", "float64", 1), ("jpeg", "uint8", 2)],
)
def test_no_link_to_what_neuroglancer_does_not_decode(encoding: str, dtype: str, channels: int) -> None:
    info = {**raw_info(encoding=encoding), "data_type": dtype, "num_channels": channels}
    with pytest.raises(ValueError, match=rf"does not read {encoding} of {channels} x {dtype}: use view\(\)"):
        linked("gs://bucket/brain", info).neuroglancer_url()
