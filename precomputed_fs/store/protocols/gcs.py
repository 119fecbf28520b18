"""How Google Cloud Storage is read and written, through gcsfs."""

import os
import urllib.parse
import warnings
from types import MappingProxyType
from typing import Any

from precomputed_fs.store.protocols.base import Ask, Filesystem, Options, last_parts
from precomputed_fs.store.protocols.clouds import Cloud, metadata_service_answers, page_below
from precomputed_fs.store.requests import HttpRequest, Page


class Gcs(Cloud):
    """Google Cloud Storage by way of gcsfs."""

    package = "gcsfs"
    anonymous = MappingProxyType({"token": "anon"})
    credential_options = frozenset({"token"})
    credentials_hint = "storage_options={'token': 'key.json'}, or log in: gcloud auth application-default login"
    misnamed = MappingProxyType(dict.fromkeys(("credential", "credentials", "key", "key_file"), "'token'"))
    checks_versions = True
    version_header = "x-goog-generation"
    version_members = ("generation",)

    def before_import(self) -> None:
        # Otherwise gcsfs asks for the bucket's layout before each operation, which stalls for a minute on servers that
        # do not know this request.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

    def defaults(self, timeout: float) -> Options:
        return super().defaults(timeout) | {"requests_timeout": timeout}

    def prepare(self, fs: Filesystem, timeout: float) -> None:
        # gcsfs passes request bodies as bytes, and aiohttp warns that large ones should be files.
        warnings.filterwarnings("ignore", message="Sending a large body directly", category=ResourceWarning)
        request = getattr(type(fs)._request, "__wrapped__", None)  # without its 6 tries
        if request is not None:
            fs._request = request.__get__(fs)

    def has_credentials(self, options: Options) -> bool:
        config = os.environ.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")
        return (
            "GOOGLE_APPLICATION_CREDENTIALS" in os.environ
            or os.path.exists(os.path.join(config, "application_default_credentials.json"))
            or os.path.exists(os.path.expanduser("~/.gcs_tokens"))
            or metadata_service_answers("/", "Metadata-Flavor", "Google")
        )

    def http_requests(self, fs: Filesystem) -> Ask | None:
        if fs.requester_pays or getattr(fs, "_use_client_cert", False):
            return None

        def request(method: str, path: str) -> HttpRequest:
            headers = fs._get_headers(None)  # where the token is
            if method == "GET":
                return HttpRequest(fs.url(path), headers)
            bucket, key, _ = fs.split_path(path)
            return HttpRequest(f"{fs.base}b/{bucket}/o/{urllib.parse.quote(key, safe='')}?fields=name", headers)

        return request

    def write_keywords(self, content_type: str, content_encoding: str) -> Options:
        encoding = {"fixed_key_metadata": {"content_encoding": content_encoding}} if content_encoding else {}
        return {"content_type": content_type} | encoding

    def condition(self, fs: Filesystem, version: str) -> tuple[Filesystem, Options]:
        return _MatchingGeneration(fs, version), {}

    async def list_names(self, fs: Filesystem, prefix: str, limit: int) -> list[str]:
        bucket, key, _ = fs.split_path(prefix)
        page = await fs._call(  # public listings fetch every page
            "GET", "b/{}/o", bucket, prefix=key, delimiter="/", maxResults=limit, json_out=True
        )
        return last_parts([*(item["name"] for item in page.get("items", ())), *page.get("prefixes", ())])

    async def walk(self, fs: Filesystem, prefix: str, more: Any) -> Page:  # noqa: ANN401
        bucket, key, _ = fs.split_path(prefix)
        token = {"pageToken": more} if more else {}
        page = await fs._call("GET", "b/{}/o", bucket, prefix=key, **token, json_out=True)
        objects = ((item["name"], int(item["size"])) for item in page.get("items", ()))
        return page_below(key, objects, page.get("nextPageToken"))


class _MatchingGeneration:
    """A `gcsfs.GCSFileSystem` whose uploads replace only one generation of an object; gcsfs has no keyword for it."""

    def __init__(self, fs: Filesystem, generation: str) -> None:
        self._fs = fs
        self._generation = generation

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._fs, name)

    async def _call(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        begins = {"ifGenerationMatch": self._generation} if "uploadType" in options else {}
        return await self._fs._call(*args, **options, **begins)
