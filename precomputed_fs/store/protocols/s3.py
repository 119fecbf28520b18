"""How Amazon S3, and other servers of its protocol, are read and written, through s3fs."""

import functools
import re
import time
import urllib.parse
from collections.abc import Coroutine
from types import MappingProxyType
from typing import Any, NamedTuple

from precomputed_fs.store.protocols.base import Ask, Filesystem, Options, last_parts
from precomputed_fs.store.protocols.clouds import METADATA_TIMEOUT, Cloud, page_below
from precomputed_fs.store.requests import HttpRequest, Page, Signer

_ANY_KEY = "any-key"
_SIGNED_AS_IT_IS = re.compile("[A-Za-z0-9._~-]+")
"""Access keys that libcurl can sign with: it would quote other characters, such as the colon in Swift's keys."""

_LARGEST_PUT = 5 << 30  # bytes that S3 takes in one request
_CREDENTIALS_SECONDS = 60.0  # after which credentials are looked up again, as they may have changed


class S3(Cloud):
    """S3 by way of s3fs."""

    package = "s3fs"
    anonymous = MappingProxyType({"anon": True})
    credential_options = frozenset({"anon", "key", "secret", "token", "profile", "session"})
    credentials_hint = "storage_options={'key': ..., 'secret': ...} or {'profile': ...}, or set AWS_PROFILE"
    misnamed = MappingProxyType(
        {
            **dict.fromkeys(("access_key", "access_key_id", "aws_access_key_id"), "'key'"),
            **dict.fromkeys(("aws_secret_access_key", "secret_access_key", "secret_key"), "'secret'"),
            **dict.fromkeys(("aws_session_token", "session_token"), "'token'"),
            **dict.fromkeys(("endpoint", "url"), "'endpoint_url'"),
            **dict.fromkeys(("region", "region_name"), "'client_kwargs': {'region_name': ...}"),
            "anonymous": "'anon'",
        }
    )
    referred_statuses = frozenset({301, 307, 400})  # another region's bucket
    version_members = ("ETag",)

    def defaults(self, timeout: float) -> Options:
        from aiobotocore.httpsession import AIOHTTPSession

        class SendingOnce(AIOHTTPSession):  # type: ignore[misc]
            """Never repeats a request: after a lost answer, a repeated create would look refused."""

            async def _get_session(self, proxy_url: str | None) -> Any:  # noqa: ANN401 - an aiohttp.ClientSession
                session = await super()._get_session(proxy_url)
                session._retry_connection = False  # aiohttp has no public switch
                return session

        config = {
            "http_session_cls": SendingOnce,
            "retries": {"max_attempts": 0},
            "connect_timeout": timeout,
            "read_timeout": timeout,
            "max_pool_connections": 128,
        }
        return super().defaults(timeout) | {"config_kwargs": config}

    def prepare(self, fs: Filesystem, timeout: float) -> None:
        fs.retries = 1
        if not fs.anon:  # for signed URLs, which botocore still signs with version 2 by default
            fs.config_kwargs.setdefault("signature_version", "s3v4")

    def has_credentials(self, options: Options) -> bool:
        """Look in botocore's own order: environment, files, container, then the instance's role."""
        import botocore.session
        from botocore.exceptions import BotoCoreError

        session = botocore.session.Session(profile=options.get("profile"))
        resolver = session.get_component("credential_provider")
        resolver.remove("iam-role")
        try:
            return resolver.load_credentials() is not None or _has_instance_role()
        except BotoCoreError:
            return True  # there are some, but broken: let the filesystem report it

    def http_requests(self, fs: Filesystem) -> Ask | None:
        """Send requests to where the SDK says that the bucket is, signed unless anonymous."""
        own_session = fs.session is not None and not fs._session_is_owned  # no public way
        if fs.req_kw or fs.s3_additional_kwargs or fs.version_aware or own_session or "proxies" in fs.config_kwargs:
            return None
        buckets: dict[str, _Bucket] = {}

        def request(method: str, path: str) -> HttpRequest | Coroutine[Any, Any, HttpRequest | None]:
            name, key, _ = fs.split_path(path)
            bucket = buckets.get(name)
            if bucket is None or time.monotonic() > bucket.until:
                return found(method, name, key)
            return bucket.request(method, key)

        async def found(method: str, name: str, key: str) -> HttpRequest:
            bucket = await _find_bucket(fs, name)
            if bucket is None:  # the SDK signs in another way
                operation = "head_object" if method == "HEAD" else "get_object"
                return HttpRequest(await fs._url(f"{name}/{key}", client_method=operation), method=method)
            buckets[name] = bucket
            return bucket.request(method, key)

        return request

    async def read(self, fs: Filesystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
        keywords = {"max_concurrency": 1} if start is None else {}  # otherwise a HEAD goes before every GET
        return bytes(await fs._cat_file(path, start=start, end=end, **keywords))

    def write_keywords(self, content_type: str, content_encoding: str) -> Options:
        return {"ContentType": content_type} | ({"ContentEncoding": content_encoding} if content_encoding else {})

    def condition(self, fs: Filesystem, version: str) -> tuple[Filesystem, Options]:
        return fs, {"IfMatch": version, "chunksize": _LARGEST_PUT // 2 + 1}  # a condition holds for one PUT only

    async def list_names(self, fs: Filesystem, prefix: str, limit: int) -> list[str]:
        bucket, key, _ = fs.split_path(prefix)
        page = await fs._call_s3(  # public listings fetch every page
            "list_objects_v2", Bucket=bucket, Prefix=key, Delimiter="/", MaxKeys=limit, **fs.req_kw
        )
        names = [entry["Key"] for entry in page.get("Contents", ())]
        return last_parts([*names, *(entry["Prefix"] for entry in page.get("CommonPrefixes", ()))])

    async def walk(self, fs: Filesystem, prefix: str, more: Any) -> Page:  # noqa: ANN401
        bucket, key, _ = fs.split_path(prefix)
        token = {"ContinuationToken": more} if more else {}
        page = await fs._call_s3("list_objects_v2", Bucket=bucket, Prefix=key, **token, **fs.req_kw)
        objects = ((entry["Key"], entry["Size"]) for entry in page.get("Contents", ()))
        return page_below(key, objects, page.get("NextContinuationToken"))


class _Bucket(NamedTuple):
    """Where a bucket is, and with which credentials to ask."""

    base: str
    """The URL that keys are appended to."""

    until: float
    """When to look up the credentials again, by the monotonic clock."""

    signer: Signer | None = None
    """None: anonymous."""

    token: str = ""
    """The session token of temporary credentials."""

    def request(self, method: str, key: str) -> HttpRequest:
        headers = {"x-amz-security-token": self.token} if self.token else {}
        return HttpRequest(self.base + urllib.parse.quote(key, safe="/~"), headers, method, self.signer)


async def _find_bucket(fs: Filesystem, name: str) -> _Bucket | None:
    """Find out where a bucket is and how requests are signed, from a URL that the SDK has signed."""
    url = await fs._url(f"{name}/{_ANY_KEY}")  # the coroutine of fs.sign
    base, _, query = url.partition("?")
    if not base.endswith(f"/{_ANY_KEY}"):
        return None
    bucket = _Bucket(base.removesuffix(_ANY_KEY), time.monotonic() + _CREDENTIALS_SECONDS)
    if fs.anon:
        return bucket
    signed = dict(urllib.parse.parse_qsl(query))
    access_key, _, region, service, _ = signed.get("X-Amz-Credential", "////").rsplit("/", 4)
    client = await fs.get_s3(name)
    credentials = await client._request_signer._credentials.get_frozen_credentials()  # no public way
    if (signed.get("X-Amz-Algorithm"), service, access_key) != ("AWS4-HMAC-SHA256", "s3", credentials.access_key):
        return None
    if not (_SIGNED_AS_IT_IS.fullmatch(access_key) and credentials.secret_key.isascii()):
        return None
    return bucket._replace(signer=Signer(region, access_key, credentials.secret_key), token=credentials.token or "")


@functools.cache
def _has_instance_role() -> bool:
    """Ask EC2's metadata service, once per process, with a shorter timeout than the SDK's whole seconds."""
    import botocore.session
    from botocore.credentials import resolve_imds_endpoint_mode
    from botocore.exceptions import BotoCoreError
    from botocore.utils import InstanceMetadataFetcher

    session = botocore.session.Session()
    names = ("ec2_metadata_service_endpoint", "ec2_metadata_v1_disabled")
    config = {name: session.get_config_variable(name) for name in names}
    config["ec2_metadata_service_endpoint_mode"] = resolve_imds_endpoint_mode(session)
    try:
        fetcher = InstanceMetadataFetcher(timeout=METADATA_TIMEOUT, num_attempts=1, config=config)
        return bool(fetcher.retrieve_iam_role_credentials())
    except BotoCoreError:
        return False
