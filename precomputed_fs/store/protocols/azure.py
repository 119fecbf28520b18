"""How Azure Blob Storage is read and written, through adlfs."""

import os
from types import MappingProxyType
from typing import Any

from precomputed_fs.store.protocols.base import Ask, Filesystem, Options, last_parts
from precomputed_fs.store.protocols.clouds import Cloud, metadata_service_answers, page_below
from precomputed_fs.store.requests import HttpRequest, Page

_SETTINGS = ("ACCOUNT_KEY", "ANON", "CLIENT_ID", "CONNECTION_STRING", "SAS_TOKEN")
"""Ends of the ``AZURE_STORAGE_...`` variables that give adlfs credentials, or say (ANON) that there are none."""


class Azure(Cloud):
    """Azure Blob Storage by way of adlfs."""

    package = "adlfs"
    anonymous = MappingProxyType({"anon": True})
    credential_options = frozenset({"anon", "account_key", "connection_string", "credential", "sas_token", "client_id"})
    credentials_hint = "storage_options={'account_key': ...} or {'sas_token': ...}"
    misnamed = MappingProxyType({"account": "'account_name'", "key": "'account_key'", "sas": "'sas_token'"})
    checks_versions = True
    version_members = ("etag",)

    def prepare(self, fs: Filesystem, timeout: float) -> None:
        client = fs.service_client
        client._config.retry_policy.total_retries = 0  # adlfs has no option for this
        connection = client._pipeline._transport.connection_config
        connection.timeout = connection.read_timeout = timeout

    def has_credentials(self, options: Options) -> bool:
        return (
            not os.environ.keys().isdisjoint(("AZURE_CLIENT_ID", *(f"AZURE_STORAGE_{name}" for name in _SETTINGS)))
            or os.path.isdir(os.path.expanduser("~/.azure"))
            or metadata_service_answers("/metadata/instance?api-version=2021-02-01", "Metadata", "true")
        )

    def http_requests(self, fs: Filesystem) -> Ask | None:
        """Request signed URLs, or plain ones if they are public."""
        if fs.version_aware:
            return None
        has_key = fs.account_key or "accountkey" in (fs.connection_string or "").lower()
        if not has_key and (fs.credential is not None or not (fs.sas_token or fs.anon)):
            return None

        async def request(method: str, path: str) -> HttpRequest:
            if has_key:
                return HttpRequest(await fs._url(path), method=method)  # the coroutine of fs.sign
            container, blob, _ = fs.split_path(path)
            async with fs.service_client.get_blob_client(container, blob) as client:
                return HttpRequest(client.url, method=method)

        return request

    def write_keywords(self, content_type: str, content_encoding: str) -> Options:
        encoding = {"content_encoding": content_encoding} if content_encoding else {}
        return {"content_settings": {"content_type": content_type} | encoding}

    def condition(self, fs: Filesystem, version: str) -> tuple[Filesystem, Options]:
        from azure.core import MatchConditions

        return fs, {"etag": version, "match_condition": MatchConditions.IfNotModified}

    async def list_names(self, fs: Filesystem, prefix: str, limit: int) -> list[str]:
        container, key, _ = fs.split_path(prefix)
        async with fs.service_client.get_container_client(container) as client:
            pages = client.walk_blobs(name_starts_with=key, delimiter="/", results_per_page=limit).by_page()
            async for page in pages:
                return last_parts([item.name async for item in page])
        return []

    async def walk(self, fs: Filesystem, prefix: str, more: Any) -> Page:  # noqa: ANN401
        container, key, _ = fs.split_path(prefix)
        async with fs.service_client.get_container_client(container) as client:
            pages = client.list_blobs(name_starts_with=key, include=["metadata"]).by_page(continuation_token=more)
            async for page in pages:
                blobs = [blob async for blob in page if (blob.metadata or {}).get("hdi_isfolder") != "true"]
                return page_below(key, ((blob.name, blob.size) for blob in blobs), pages.continuation_token)
        return Page((), None)
