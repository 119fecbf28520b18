"""Storage options: a misspelt one is refused before anything is sent, others are left to the driver."""

from __future__ import annotations

from typing import Any

import pytest

from precomputed_fs import open_volume
from precomputed_fs.errors import OptionError
from precomputed_fs.store.location import resolve
from precomputed_fs.store.storage_options import check_options

MISSPELT: dict[str, tuple[str, dict[str, Any], str]] = {
    "nearly": ("s3://b/p", {"endpont_url": "x"}, "s3:// has no option 'endpont_url'; did you mean 'endpoint_url'"),
    "nested": ("s3://b/p", {"s3": {"requester_pay": True}}, "did you mean 'requester_pays'"),
    "another tool's": ("s3://b/p", {"aws_access_key_id": "x"}, "no option 'aws_access_key_id'; it is 'key'"),
    "elsewhere": ("s3://b/p", {"region": "x"}, r"it is 'client_kwargs': \{'region_name'"),
    "ignored by its driver": ("gs://b/p", {"tokn": "anon"}, "did you mean 'token'"),
    "azure": ("az://c/p", {"acount_name": "a"}, "did you mean 'account_name'"),
    "http": ("http://127.0.0.1:9/p", {"header": {}}, "it is 'headers'"),
    "in a chain": ("simplecache::memory://p", {"simplecache": {"cache_storag": "x"}}, "did you mean 'cache_storage'"),
}


@pytest.mark.parametrize(("url", "options", "said"), MISSPELT.values(), ids=MISSPELT)
def test_a_misspelt_option_names_the_one_meant(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        open_volume(url, storage_options=options)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "by a session": ("s3://b/p", {"unheard": 1}, "s3:// has no option 'unheard'$"),
    "in client_kwargs": ("s3://b/p", {"client_kwargs": {"region": "x"}}, "client_kwargs has no 'region'; it is"),
}


@pytest.mark.parametrize(("url", "options", "said"), REFUSED.values(), ids=REFUSED)
def test_what_the_driver_refuses_is_an_option_error(url: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        open_volume(url, storage_options={"key": "k", "secret": "s", **options})


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("s3://b/p", {"key": "k", "secret": "s", "client_kwargs": {}, "config_kwargs": {}, "max_concurrency": 2}),
        ("gs://b/p", {"token": "anon", "project": "p", "endpoint_url": "x", "asynchronous": False}),
        ("sftp://host/p", {"username": "me", "port": 22, "key_filename": "k", "look_for_keys": False}),
        ("http://host/p", {"headers": {}, "ssl": False, "client_kwargs": {}, "use_listings_cache": True}),
        ("memory://p", {"anon": True}),
    ],
)
def test_others_pass(url: str, options: dict[str, Any]) -> None:
    (link,) = resolve(url, storage_options=options).links
    check_options(link)
