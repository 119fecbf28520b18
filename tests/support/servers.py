"""Real servers for the tests, each a context manager on 127.0.0.1, on a free port, gone with its `with` block.

::

    s3_server        moto's S3, every request counted
    gcs_server       the GCS JSON API in memory, with generation matches and decompressive transcoding
    azure_server     npm's azurite
    http_server      files below a folder, with Range
    fault_server     whatever a handler answers: errors, truncations, resets, delays
    nginx_server     Debian's nginx, with gzip_static; with TLS, HTTP/2; with latency; as a read-only S3
    sftp_server      Debian's sshd

The helpers `put`, `get`, `keys`, `delete` go around the code under test, and their requests are not in `log`.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import itertools
import json
import os
import pwd
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode

import boto3
import google_crc32c
import psutil
import requests
from aiohttp import web
from moto.backends import get_backend
from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
from multidict import CIMultiDict
from werkzeug.datastructures import EnvironHeaders
from werkzeug.serving import ThreadedWSGIServer

from tests.support.certificates import certificate

LOOPBACK = "127.0.0.1"
DEADLINE = 60.0  # seconds that a server may take to start or to stop
_BYTES = "application/octet-stream"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


# ---------------------------------------------------------------------------------------------------------------- log


@dataclass(frozen=True, slots=True)
class Request:
    """One request as a server received it: `path` is percent-decoded, `query` is not, `headers` ignores case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


class RequestLog:
    """What a server was asked, in the order of arrival. Safe to use from any thread."""

    def __init__(self) -> None:
        self._entries: list[Request] = []
        self._lock = threading.Lock()

    def record(self, method: str, path: str, query: str, headers: Iterable[tuple[str, str]]) -> None:
        """Add one request."""
        entry = Request(method, path, query, CIMultiDict(headers))
        with self._lock:
            self._entries.append(entry)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def entries(self) -> list[Request]:
        """Return all requests, oldest first."""
        with self._lock:
            return list(self._entries)

    def methods(self) -> list[str]:
        """Return the methods alone: ``["GET", "PUT"]``."""
        return [entry.method for entry in self.entries()]

    def count(self, method: str | None = None) -> int:
        """Return how many requests came, of one method or of any."""
        return sum(method in {None, entry.method} for entry in self.entries())


# ------------------------------------------------------------------------------------------- aiohttp in its own thread


@contextmanager
def _serving(handler: Handler, log: RequestLog) -> Iterator[str]:
    """Answer every request with `handler`, in a thread with its own loop. Yields ``http://127.0.0.1:PORT``."""

    async def logged(request: web.Request) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        log.record(request.method, unquote(path), query, request.headers.items())
        return await handler(request)

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", logged)
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # of request bodies: a server stores them as they came
        shutdown_timeout=0.05,  # 0 would wait for ever
        handler_cancellation=True,
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-server", daemon=True)
    thread.start()
    listener = socket.create_server((LOOPBACK, 0), backlog=128)
    try:
        asyncio.run_coroutine_threadsafe(_listen(runner, listener), loop).result(DEADLINE)
        yield f"http://{LOOPBACK}:{listener.getsockname()[1]}"
    finally:
        asyncio.run_coroutine_threadsafe(_hang_up(runner, listener), loop).result(DEADLINE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()


async def _listen(runner: web.AppRunner, listener: socket.socket) -> None:
    await runner.setup()
    await web.SockSite(runner, listener).start()


async def _hang_up(runner: web.AppRunner, listener: socket.socket) -> None:
    """Close every connection. One that is accepted while asyncio's server closes would be left open for ever."""
    asyncio.get_running_loop().remove_reader(listener)  # accepts no more
    for _ in range(5):  # turns of the loop, in which the runner is told of the last that were accepted
        await asyncio.sleep(0)
    await runner.cleanup()


def _partial(request: web.Request, body: bytes, headers: Mapping[str, str]) -> web.Response:
    """Answer with `body` or, to a GET with Range, with that part of it (RFC 9110, section 14)."""
    headers = {"Accept-Ranges": "bytes", **headers}
    asked = _byte_range(request.headers.get("Range", ""), len(body)) if request.method == "GET" else None
    if asked is None:
        return web.Response(body=body, headers=headers)
    if asked.start >= asked.stop:
        return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {asked.start}-{asked.stop - 1}/{len(body)}"
    return web.Response(status=206, body=body[asked], headers=headers)


def _byte_range(header: str, size: int) -> slice | None:
    """Return what a Range header asks of `size` bytes: None for all of them, an empty slice for what cannot be met."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header)
    if match is None or match[0] == "bytes=-" or (match[1] and match[2] and int(match[1]) > int(match[2])):
        return None
    if not match[1]:
        return slice(max(0, size - int(match[2])), size)
    return slice(int(match[1]), min(size, int(match[2]) + 1) if match[2] else size)


# --------------------------------------------------------------------------------------------------- files and faults


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A running HTTP server: `url` has no slash at its end."""

    url: str
    log: RequestLog


@contextmanager
def http_server(root: Path) -> Iterator[HttpServer]:
    """Serve the files below `root` as they are stored: GET, HEAD and Range, no listing, no Content-Encoding."""
    with fault_server(files(root)) as server:
        yield server


@contextmanager
def fault_server(handler: Handler) -> Iterator[HttpServer]:
    """Answer every request with ``await handler(request)``; ready-made handlers follow."""
    log = RequestLog()
    with _serving(handler, log) as url:
        yield HttpServer(url, log)


def files(root: Path) -> Handler:
    """Answer with the file that the percent-decoded path names below `root`, else with 404."""

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405)
        name = unquote(request.raw_path.partition("?")[0])
        body = _read_below(root, name)
        if body is None:
            return web.Response(status=404)
        json_named = name.endswith(("/info", ".json"))
        return _partial(request, body, {"Content-Type": "application/json" if json_named else _BYTES})

    return handler


def _read_below(root: Path, name: str) -> bytes | None:
    """Return the content of a file, None if there is no such file below `root`."""
    path = Path(os.path.normpath(f"{root}/{name}"))
    found = not name.endswith("/") and "\0" not in name and path.is_relative_to(root) and path.is_file()
    return path.read_bytes() if found else None


def respond(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Handler:
    """Answer always the same; Range is not looked at."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers=headers)

    return handler


def ignoring_range(body: bytes) -> Handler:
    """Answer 200 with the whole `body`, whatever Range was asked for."""
    return respond(200, body)


def fail_then(n: int, status: int, handler: Handler) -> Handler:
    """Answer the first `n` requests of each path with `status`, the later ones with `handler`."""
    seen: Counter[str] = Counter()

    async def failing(request: web.Request) -> web.StreamResponse:
        seen[request.raw_path] += 1
        return web.Response(status=status) if seen[request.raw_path] <= n else await handler(request)

    return failing


def truncated(body: bytes, declared_length: int) -> Handler:
    """Declare `declared_length` bytes, send `body`, which is shorter, and close the connection."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(declared_length)})
        await response.prepare(request)
        if request.method != "HEAD":
            await response.write(body)
            _transport(request).close()
        return response

    return handler


def latency(seconds: float, handler: Handler) -> Handler:
    """Wait, then answer: n requests at once still take one latency."""

    async def late(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await handler(request)

    return late


def slow(seconds: float, handler: Handler) -> Handler:
    """Answer at once with the headers and the first half of the body, and `seconds` later with the rest."""

    async def stalling(request: web.Request) -> web.StreamResponse:
        whole = await handler(request)
        body = whole.body if isinstance(whole, web.Response) else None
        if not isinstance(body, bytes) or request.method == "HEAD":
            return whole
        response = web.StreamResponse(status=whole.status, headers=whole.headers)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        await asyncio.sleep(seconds)
        await response.write(body[len(body) // 2 :])
        return response

    return stalling


def resetting() -> Handler:
    """Read the request and reset the connection: the client sees ECONNRESET."""

    async def handler(request: web.Request) -> web.StreamResponse:
        transport = _transport(request)
        # A zero linger time turns the close into a reset.
        linger = struct.pack("ii", 1, 0)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        transport.abort()
        return web.Response()

    return handler


def _transport(request: web.Request) -> asyncio.Transport:
    if request.transport is None:
        message = f"{request.method} {request.path}: the client has gone"
        raise ConnectionResetError(message)
    return request.transport


def refused_url() -> str:
    """Return an http URL at which connections are refused."""
    return f"http://{LOOPBACK}:{_deaf_socket().getsockname()[1]}"


@cache
def _deaf_socket() -> socket.socket:
    """Bind a port and never listen: nobody else gets the port, and every connection to it is refused."""
    deaf = socket.socket()
    deaf.bind((LOOPBACK, 0))
    return deaf


# ---------------------------------------------------------------------------------------------------------------- GCS

# What a client may set of an object: https://cloud.google.com/storage/docs/json_api/v1/objects
_GCS_WRITABLE = (
    "cacheControl",
    "contentDisposition",
    "contentEncoding",
    "contentLanguage",
    "contentType",
    "customTime",
    "metadata",
)


@dataclass(frozen=True, slots=True)
class _GcsObject:
    body: bytes
    fields: Mapping[str, Any]
    generation: int
    metageneration: int = 1
    created: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def etag(self) -> str:
        return _base64(f"{self.generation}/{self.metageneration}".encode())

    @property
    def md5(self) -> str:
        return _base64(hashlib.md5(self.body, usedforsecurity=False).digest())

    @property
    def crc32c(self) -> str:
        return _base64(google_crc32c.value(self.body).to_bytes(4, "big"))

    def resource(self, bucket: str, name: str) -> dict[str, Any]:
        """Return the object resource, as GCS describes an object in JSON."""
        created = self.created.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{self.generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(self.generation),
            "metageneration": str(self.metageneration),
            "storageClass": "STANDARD",
            "size": str(len(self.body)),
            "md5Hash": self.md5,
            "crc32c": self.crc32c,
            "etag": self.etag,
            "timeCreated": created,
            "updated": created,
            **self.fields,
        }

    def headers(self) -> dict[str, str]:
        """Return the headers of a media answer with the stored bytes."""
        encoding = self.fields.get("contentEncoding", "")
        headers = {
            "Content-Type": self.fields.get("contentType", _BYTES),
            "ETag": self.etag,
            "X-Goog-Generation": str(self.generation),
            "X-Goog-Metageneration": str(self.metageneration),
            "X-Goog-Hash": f"crc32c={self.crc32c},md5={self.md5}",
            "X-Goog-Stored-Content-Encoding": encoding or "identity",
            "X-Goog-Stored-Content-Length": str(len(self.body)),
        }
        return headers | ({"Content-Encoding": encoding} if encoding else {})


@dataclass(slots=True)
class _GcsUpload:
    """A resumable upload under way."""

    bucket: str
    name: str
    fields: Mapping[str, Any]
    query: Mapping[str, str]
    body: bytearray = field(default_factory=bytearray)


@dataclass(frozen=True, slots=True)
class _GcsCall:
    """One request with its body read, so that the answer is found without waiting: each call is atomic."""

    request: web.Request
    query: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body or b"{}")
        return found


class _GcsError(Exception):
    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status, self.reason = status, reason

    def response(self, *, media: bool) -> web.Response:
        """Return the answer: GCS explains itself in JSON, and in plain text where media was asked for."""
        if media:
            return web.Response(status=self.status, text=str(self))
        detail = {"message": str(self), "domain": "global", "reason": self.reason}
        error = {"code": self.status, "message": str(self), "errors": [detail]}
        return web.json_response({"error": error}, status=self.status)


class _GcsApi:
    """The JSON API over objects in memory: https://cloud.google.com/storage/docs/json_api/v1."""

    def __init__(self, *, honours_generation_match: bool) -> None:
        self.buckets: dict[str, dict[str, _GcsObject]] = {}
        self._honours_generation_match = honours_generation_match
        self._uploads: dict[str, _GcsUpload] = {}
        self._generations = itertools.count(time.time_ns() // 1000)
        # An object's name is one segment of the path: its slashes must come percent-encoded, as at Google.
        bucket, thing = r"/storage/v1/b/([^/]+)", r"/storage/v1/b/([^/]+)/o/([^/]+)"
        routes: list[tuple[str, str, Callable[..., web.Response]]] = [
            ("GET", "/storage/v1/b", self._list_buckets),
            ("POST", "/storage/v1/b", self._create_bucket),
            ("GET", bucket, self._get_bucket),
            ("DELETE", bucket, self._delete_bucket),
            ("GET", f"{bucket}/o", self._list),
            ("GET|HEAD", thing, self._get),
            ("GET|HEAD", f"/download{thing}", self._media),
            ("PATCH", thing, self._patch),
            ("DELETE", thing, self._delete),
            ("POST|PUT|DELETE", f"(?:/resumable)?/upload{bucket}/o", self._upload),
            ("POST", "/batch/storage/v1", self._batch),
        ]
        self._routes = [(re.compile(method), re.compile(path), answer) for method, path, answer in routes]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        path, _, query = request.raw_path.partition("?")
        call = _GcsCall(request, dict(parse_qsl(query, keep_blank_values=True)), await request.read())
        try:
            return self._answer(call, request.method, path)
        except _GcsError as error:
            return error.response(media=call.query.get("alt") == "media")

    def _answer(self, call: _GcsCall, method: str, path: str) -> web.Response:
        for methods, pattern, answer in self._routes:
            match = pattern.fullmatch(path)
            if match and methods.fullmatch(method):
                return answer(call, *map(unquote, match.groups()))
        raise _GcsError(400, "invalid", f"tests/support/servers.py does not imitate {method} {path}")

    def insert(self, bucket: str, name: str, body: bytes, fields: Mapping[str, Any]) -> _GcsObject:
        """Store an object, in place of any other of its name."""
        kept = {key: fields[key] for key in _GCS_WRITABLE if fields.get(key) is not None}
        stored = _GcsObject(bytes(body), kept, next(self._generations))
        self.objects(bucket)[name] = stored
        return stored

    def objects(self, bucket: str) -> dict[str, _GcsObject]:
        """Return a bucket's objects by name."""
        if bucket not in self.buckets:
            raise _GcsError(404, "notFound", "The specified bucket does not exist.")
        return self.buckets[bucket]

    def _find(self, call: _GcsCall, bucket: str, name: str) -> _GcsObject:
        """Return the object that a call means; its preconditions hold."""
        found = self.objects(bucket).get(name)
        if found is None or call.query.get("generation") not in {None, str(found.generation)}:
            raise _GcsError(404, "notFound", f"No such object: {bucket}/{name}")
        self._check(call.query, bucket, name, unless=304 if call.request.method in {"GET", "HEAD"} else 412)
        return found

    def _check(self, query: Mapping[str, str], bucket: str, name: str, *, unless: int = 412) -> None:
        """Raise if a precondition does not hold; generation 0 means that there is no live object."""
        found = self.objects(bucket).get(name)
        generation = str(found.generation if found else 0)
        message = "At least one of the pre-conditions you specified did not hold."
        if not self._honours_generation_match:
            return
        if query.get("ifGenerationMatch", generation) != generation:
            raise _GcsError(412, "conditionNotMet", message)
        if query.get("ifGenerationNotMatch") == generation:
            raise _GcsError(unless, "conditionNotMet", message)

    # Buckets

    def _list_buckets(self, _: _GcsCall) -> web.Response:
        return web.json_response({"kind": "storage#buckets", "items": [_gcs_bucket(name) for name in self.buckets]})

    def _create_bucket(self, call: _GcsCall) -> web.Response:
        name = call.json()["name"]
        if name in self.buckets:
            message = "Your previous request to create the named bucket succeeded and you already own it."
            raise _GcsError(409, "conflict", message)
        self.buckets[name] = {}
        return web.json_response(_gcs_bucket(name))

    def _get_bucket(self, _: _GcsCall, bucket: str) -> web.Response:
        self.objects(bucket)
        return web.json_response(_gcs_bucket(bucket))

    def _delete_bucket(self, _: _GcsCall, bucket: str) -> web.Response:
        if self.objects(bucket):
            raise _GcsError(409, "conflict", "The bucket you tried to delete is not empty.")
        del self.buckets[bucket]
        return web.Response(status=204)

    # Objects

    def _list(self, call: _GcsCall, bucket: str) -> web.Response:
        """List names, and the prefixes up to `delimiter` in place of what lies below them, in the order of UTF-8."""
        objects = self.objects(bucket)
        prefix, delimiter = call.query.get("prefix", ""), call.query.get("delimiter", "")
        entries: dict[str, bool] = {}  # name or prefix -> is it a prefix
        for name in objects:
            if name.startswith(prefix) and _within(name, call.query):
                cut = name.find(delimiter, len(prefix)) if delimiter else -1
                entries[name if cut < 0 else name[: cut + len(delimiter)]] = cut >= 0
        after = base64.urlsafe_b64decode(call.query.get("pageToken", ""))
        rest = sorted(entry.encode() for entry in entries if entry.encode() > after)
        page = rest[: int(call.query.get("maxResults", 1000))]
        names = [entry.decode() for entry in page]
        answer: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [objects[name].resource(bucket, name) for name in names if not entries[name]],
            "prefixes": [name for name in names if entries[name]],
        }
        if len(page) < len(rest):
            answer["nextPageToken"] = base64.urlsafe_b64encode(page[-1]).decode()
        # GCS leaves empty lists out.
        return web.json_response({key: value for key, value in answer.items() if value})

    def _get(self, call: _GcsCall, bucket: str, name: str) -> web.Response:
        if call.query.get("alt") == "media":
            return self._media(call, bucket, name)
        return web.json_response(self._find(call, bucket, name).resource(bucket, name))

    def _media(self, call: _GcsCall, bucket: str, name: str) -> web.Response:
        """Answer with the content: https://cloud.google.com/storage/docs/transcoding."""
        found = self._find(call, bucket, name)
        stored_gzip = found.fields.get("contentEncoding") == "gzip"
        fixed = "no-transform" in found.fields.get("cacheControl", "")
        if not stored_gzip or fixed or "gzip" in call.request.headers.get("Accept-Encoding", ""):
            return _partial(call.request, found.body, found.headers())
        headers = found.headers() | {"Warning": "214 UploadServer gunzipped"}
        del headers["Content-Encoding"]
        response = web.Response(body=gzip.decompress(found.body), headers=headers)
        response.enable_chunked_encoding()  # GCS does not know the length before the end either
        return response

    def _patch(self, call: _GcsCall, bucket: str, name: str) -> web.Response:
        found = self._find(call, bucket, name)
        fields = {**found.fields, **{key: value for key, value in call.json().items() if key in _GCS_WRITABLE}}
        kept = {key: value for key, value in fields.items() if value is not None}
        patched = replace(found, fields=kept, metageneration=found.metageneration + 1)
        self.objects(bucket)[name] = patched
        return web.json_response(patched.resource(bucket, name))

    def _delete(self, call: _GcsCall, bucket: str, name: str) -> web.Response:
        self._find(call, bucket, name)
        del self.objects(bucket)[name]
        return web.Response(status=204)

    def _batch(self, call: _GcsCall) -> web.Response:
        """Run the DELETE requests of a batch: https://cloud.google.com/storage/docs/batch."""
        boundary, parts = "batch_tests", []
        for path in re.findall(rb"^DELETE ([^ ?]+)\S* HTTP/1.1", call.body, re.MULTILINE):
            try:
                status, text = self._answer(call, "DELETE", path.decode()).status, ""
            except _GcsError as error:
                status, text = error.status, error.response(media=False).text or ""
            parts.append(f"--{boundary}\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} -\r\n\r\n{text}\r\n")
        headers = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
        return web.Response(body=f"{''.join(parts)}--{boundary}--".encode(), headers=headers)

    # Uploads: https://cloud.google.com/storage/docs/uploads-downloads

    def _upload(self, call: _GcsCall, bucket: str) -> web.Response:
        if "upload_id" in call.query:
            return self._resume(call)
        self.objects(bucket)
        kind = call.query.get("uploadType")
        if call.request.method != "POST" or kind not in {"media", "multipart", "resumable"}:
            raise _GcsError(400, "invalid", f"tests/support/servers.py does not imitate uploadType={kind}")
        if kind == "resumable":
            return self._begin(call, bucket)
        if kind == "multipart":
            fields, body = _multipart(call.request.headers["Content-Type"], call.body)
        else:
            content_type = call.request.headers.get("Content-Type")
            fields, body = {"contentType": content_type, **call.query}, call.body
        return self._commit(bucket, call.query, {**call.query, **fields}, body)

    def _commit(self, bucket: str, query: Mapping[str, str], fields: Mapping[str, Any], body: bytes) -> web.Response:
        name = fields.get("name")
        if not name:
            raise _GcsError(400, "required", "Required object name is missing.")
        self._check(query, bucket, name)
        return web.json_response(self.insert(bucket, name, body, fields).resource(bucket, name))

    def _begin(self, call: _GcsCall, bucket: str) -> web.Response:
        headers = call.request.headers
        fields = {"contentType": headers.get("X-Upload-Content-Type"), **call.query, **call.json()}
        self._check(call.query, bucket, fields["name"])
        upload_id = f"upload-{next(self._generations)}"
        self._uploads[upload_id] = _GcsUpload(bucket, fields["name"], fields, call.query)
        query = urlencode({**call.query, "upload_id": upload_id})
        location = f"http://{call.request.host}/upload/storage/v1/b/{quote(bucket)}/o?{query}"
        return web.Response(headers={"Location": location, "X-GUploader-UploadID": upload_id})

    def _resume(self, call: _GcsCall) -> web.Response:
        """Take the next bytes of a resumable upload; the last ones make the object."""
        upload = self._uploads.get(call.query["upload_id"])
        if upload is None:
            raise _GcsError(404, "notFound", "No such upload.")
        if call.request.method == "DELETE":
            del self._uploads[call.query["upload_id"]]
            return web.Response(status=499)
        default = f"bytes 0-{len(call.body) - 1}/{len(call.body)}"
        match = re.fullmatch(r"bytes (?:\*|(\d+)-\d+)/(\*|\d+)", call.request.headers.get("Content-Range", default))
        if match is None or (match[1] and int(match[1]) != len(upload.body)):
            raise _GcsError(400, "invalid", f"Content-Range does not continue at byte {len(upload.body)}.")
        upload.body += call.body
        if match[2] != str(len(upload.body)):
            received = {"Range": f"bytes=0-{len(upload.body) - 1}"} if upload.body else {}
            return web.Response(status=308, headers=received)
        del self._uploads[call.query["upload_id"]]
        return self._commit(upload.bucket, upload.query, upload.fields, bytes(upload.body))


def _gcs_bucket(name: str) -> dict[str, Any]:
    return {"kind": "storage#bucket", "id": name, "name": name, "location": "US", "storageClass": "STANDARD"}


def _within(name: str, query: Mapping[str, str]) -> bool:
    start, end = query.get("startOffset", "").encode(), query.get("endOffset", "").encode()
    return start <= name.encode() and (not end or name.encode() < end)


def _multipart(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON and the content of a multipart/related body; gcsfs ends lines with a bare newline."""
    boundary = content_type.partition("boundary=")[2].strip("\"'")
    delimiter = f"--{boundary}".encode()
    _, described, rest = body.split(delimiter, 2)
    newline = b"\r\n" if described.startswith(b"\r\n") else b"\n"
    content = rest[: rest.rindex(newline + delimiter)]
    head, _, content = content.partition(newline * 2)
    fields: dict[str, Any] = json.loads(described.partition(newline * 2)[2])
    own_type = re.search(rb"content-type: *([^\r\n]+)", head, re.IGNORECASE)
    return ({"contentType": own_type[1].decode()} if own_type else {}) | fields, content


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class GcsServer:
    """A running GCS server; `storage_options` are gcsfs's."""

    def __init__(self, endpoint: str, log: RequestLog, api: _GcsApi) -> None:
        self.endpoint = endpoint
        self.log = log
        self.storage_options = {"endpoint_url": endpoint, "token": "anon", "project": "test"}
        self._api = api

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._api.buckets[name] = {}

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        content_encoding: str | None = None,
        content_type: str | None = None,
    ) -> None:
        """Store `body` as it is."""
        self._api.insert(bucket, key, body, {"contentEncoding": content_encoding, "contentType": content_type})

    def get(self, bucket: str, key: str) -> tuple[bytes, dict[str, Any]]:
        """Return the stored bytes and the object resource, with ContentEncoding and ContentType (or None)."""
        found = self._api.objects(bucket)[key]
        common = _common_fields(found.fields.get("contentEncoding"), found.fields.get("contentType"))
        return found.body, found.resource(bucket, key) | common

    def keys(self, bucket: str) -> list[str]:
        """Return the sorted names of a bucket."""
        return sorted(self._api.objects(bucket))

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        del self._api.objects(bucket)[key]

    def reset(self) -> None:
        """Remove all buckets."""
        self._api.buckets.clear()


@contextmanager
def gcs_server(*, honours_generation_match: bool = True) -> Iterator[GcsServer]:
    """Serve the GCS JSON API; set GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT=false before gcsfs is imported.

    Parameters
    ----------
    honours_generation_match
        False: ifGenerationMatch is not looked at, as in PyPI's gcp-storage-emulator.
    """
    api, log = _GcsApi(honours_generation_match=honours_generation_match), RequestLog()
    with _serving(api.handle, log) as endpoint:
        yield GcsServer(endpoint, log, api)


def _common_fields(encoding: str | None, content_type: str | None) -> dict[str, str | None]:
    """Return the two fields that `get` names alike for every store."""
    return {"ContentEncoding": encoding or None, "ContentType": content_type or None}


# ----------------------------------------------------------------------------------------------------------------- S3

_HELPER = "X-Tests-Helper"  # the header that keeps a helper's request out of the log


class _MotoHandler(MotoRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:  # noqa: A002
        """Say nothing: the log of a test is `RequestLog`."""


class _MotoServer(ThreadedWSGIServer):
    """moto's S3 as one WSGI server which, unlike `ThreadedMotoServer`, hangs up and closes its port at the end."""

    daemon_threads = False  # server_close waits for the threads of the connections

    def __init__(self, log: RequestLog, *, honours_if_none_match: bool, refuses_conditions: int) -> None:
        self._connections: set[socket.socket] = set()
        self._log = log
        self._honours_if_none_match = honours_if_none_match
        self._refuses_conditions = refuses_conditions
        self._moto = create_backend_app("s3")  # moto's dispatcher lists the services on disk, twice a request
        self._creating = threading.Lock()
        super().__init__(LOOPBACK, 0, self._answer, _MotoHandler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Any:
        headers = EnvironHeaders(environ)
        if _HELPER not in headers:
            path = environ["PATH_INFO"].encode("latin-1").decode()
            self._log.record(environ["REQUEST_METHOD"], path, environ.get("QUERY_STRING", ""), headers.items())
        condition = next((name for name in ("If-None-Match", "If-Match") if name in headers), None)
        if self._refuses_conditions and condition and environ["REQUEST_METHOD"] in {"PUT", "POST"}:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return _refused_condition(self._refuses_conditions, condition, start_response)
        if not self._honours_if_none_match:
            environ.pop("HTTP_IF_NONE_MATCH", None)
        if "HTTP_IF_NONE_MATCH" not in environ:
            return self._moto(environ, start_response)
        with self._creating:  # moto looks and then writes, which is two steps
            return self._moto(environ, start_response)


def _refused_condition(status: int, header: str, start_response: Any) -> list[bytes]:
    """Answer as stores do that know no conditional writes: some by S3's own words, some by their own."""
    code, told = "InvalidArgument", f"<Message>Unsupported header: {header}</Message>"
    if status == 501:
        message = "A header you provided implies functionality that is not implemented"
        code, told = "NotImplemented", f"<Message>{message}</Message><Header>{header}</Header>"
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code>{told}</Error>".encode()
    start_response(f"{status} -", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


class S3Server:
    """A running S3 server; `storage_options` are s3fs's."""

    def __init__(self, endpoint: str, log: RequestLog) -> None:
        self.endpoint = endpoint
        self.log = log
        self.storage_options: dict[str, Any] = {
            "key": "test",
            "secret": "test",
            "endpoint_url": endpoint,
            "client_kwargs": {"region_name": "us-east-1"},
        }
        self._client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        self._client.meta.events.register("before-send.s3", _mark_helper)

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket."""
        self._client.create_bucket(Bucket=name)

    def put(
        self,
        bucket: str,
        key: str,
        body: bytes,
        *,
        content_encoding: str | None = None,
        content_type: str | None = None,
        **extra: Any,
    ) -> None:
        """Store `body` as it is; `extra` are further arguments of boto3's `put_object`, such as ``Metadata``."""
        common = _common_fields(content_encoding, content_type)
        given = {name: value for name, value in common.items() if value is not None}
        self._client.put_object(Bucket=bucket, Key=key, Body=body, **given, **extra)

    def get(self, bucket: str, key: str) -> tuple[bytes, dict[str, Any]]:
        """Return the stored bytes and boto3's fields, always with ContentEncoding and ContentType (or None)."""
        answer = self._client.get_object(Bucket=bucket, Key=key)
        with answer.pop("Body") as stream:
            body: bytes = stream.read()
        return body, answer | _common_fields(answer.get("ContentEncoding"), answer.get("ContentType"))

    def keys(self, bucket: str) -> list[str]:
        """Return the sorted names of a bucket."""
        return sorted(self.sizes(bucket))

    def sizes(self, bucket: str) -> dict[str, int]:
        """Return the names of a bucket, with how many bytes each has."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {entry["Key"]: entry["Size"] for page in pages for entry in page.get("Contents", [])}

    def delete(self, bucket: str, key: str) -> None:
        """Remove an object."""
        self._client.delete_object(Bucket=bucket, Key=key)

    def reset(self) -> None:
        """Remove all buckets, also those of other moto servers in this process: moto's state is one."""
        get_backend("s3").reset()

    def close(self) -> None:
        """Drop the helpers' connections."""
        self._client.close()


def _mark_helper(request: Any, **_: Any) -> None:
    request.headers[_HELPER] = "1"


_running_s3: list[S3Server] = []


@contextmanager
def s3_server(*, honours_if_none_match: bool = True, refuses_conditions: int = 0) -> Iterator[S3Server]:
    """Serve S3 by moto. The last server to end in a process empties moto's state, which all of them share.

    Parameters
    ----------
    honours_if_none_match
        False: the header is taken away before moto sees it, as if the server did not know conditional writes.
    refuses_conditions
        501 or 400: what answers every write that has If-None-Match or If-Match.
    """
    log = RequestLog()
    moto = _MotoServer(log, honours_if_none_match=honours_if_none_match, refuses_conditions=refuses_conditions)
    thread = threading.Thread(target=moto.serve_forever, args=(0.02,), name="test-s3", daemon=True)
    thread.start()
    server = S3Server(f"http://{LOOPBACK}:{moto.server_port}", log)
    _running_s3.append(server)
    try:
        yield server
    finally:
        _running_s3.remove(server)
        if not _running_s3:
            server.reset()
        server.close()
        moto.shutdown()
        thread.join(DEADLINE)
        moto.server_close()


# ---------------------------------------------------------------------------------------------------- child processes


@contextmanager
def child(command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command beside a block, and wait for its end; if the block fails, kill it: it might never end."""
    with subprocess.Popen(command, **options) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


@contextmanager
def server_process(command: list[str], port: int, folder: Path) -> Iterator[None]:
    """Run a server until the end of the block, which begins when `port` accepts connections."""
    output = folder / "output.txt"
    with output.open("wb") as sink:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT)
    try:
        _wait_for_port(process, port, output)
        yield
    finally:
        _end(process)


def _wait_for_port(process: subprocess.Popen[bytes], port: int, output: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1):
            return
        time.sleep(0.02)
    state = "is still running" if process.poll() is None else f"ended with code {process.returncode}"
    said = output.read_text(errors="replace")
    message = f"{process.args!r} does not answer on port {port} and {state}; it said:\n{said}"
    raise RuntimeError(message)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a child, and first its own children: sshd's sessions would outlive it."""
    with suppress(psutil.NoSuchProcess):
        for member in reversed(psutil.Process(process.pid).children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                member.kill()
                member.wait(1)  # for its parent to reap it
    process.terminate()
    try:
        process.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def _scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="precomputed_fs-") as folder:
        yield Path(folder)


def _system_command(name: str) -> str | None:
    """Return the path of a command, also of one that only root's PATH has."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/sbin")


# -------------------------------------------------------------------------------------------------------------- nginx

_NGINX_CONFIG = """
{modules}
daemon off;
master_process off;
user root;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    log_format probe escape=json
        '["$request_method", "$uri", "$args", $body_bytes_sent, "$server_protocol", {{{headers}}}]';
    access_log {folder}/access.log probe;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    default_type application/octet-stream;
    types {{ application/json json; }}
    gzip {gzip};
    gzip_types *;
    sendfile on;
    keepalive_requests 1000000;
    server {{
        listen {host}:{port}{listens};
        {certificate}
        location / {{ root "{root}"; gzip_static {static}; {waiting} }}
        location = {probe} {{ return 204; }}
        {absent}
    }}
}}
"""
_NGINX_S3_ABSENT = """
        etag off;
        add_header ETag '"1-"';
        error_page 404 @absent;
        location @absent { default_type application/xml; return 404 "<Error><Code>NoSuchKey</Code></Error>"; }
"""
_NGINX_TLS = "ssl_certificate {made.chain}; ssl_certificate_key {made.key}; ssl_protocols TLSv1.2 TLSv1.3;"
_NGINX_PROBE = "/.tests-probe"
_NGINX_HEADERS = ("Range", "Accept-Encoding", "If-Range", "If-None-Match", "User-Agent")
_NGINX_LUA = ("ndk_http_module.so", "ngx_http_lua_module.so")  # Debian's libnginx-mod-http-lua


class Traffic(NamedTuple):
    """What a server has answered."""

    requests: int
    sent: int | None = None
    """Bytes of bodies; None: unknown."""

    protocols: tuple[str, ...] = ()
    """Such as "HTTP/1.1"."""


class NginxServer:
    """A running nginx; `log` is read from its access log."""

    def __init__(self, url: str, access_log: Path) -> None:
        self.url = url
        self._access_log = access_log
        self._forgotten = 0  # bytes of it

    @property
    def log(self) -> RequestLog:
        """All requests answered since `clear`, in the order of their ends, with the headers that matter to caches."""
        log = RequestLog()
        for method, path, query, _, _, headers in self._lines():
            log.record(method, path, query, [(name, value) for name, value in headers.items() if value])
        return log

    def requests(self) -> list[str]:
        """Return the methods alone."""
        return self.log.methods()

    def traffic(self) -> Traffic:
        """Return what was answered since `clear`."""
        lines = self._lines()
        return Traffic(len(lines), sum(line[3] for line in lines), tuple(sorted({line[4] for line in lines})))

    def clear(self) -> None:
        """Forget what came until now."""
        self._probe()
        self._forgotten = self._access_log.stat().st_size

    def _lines(self) -> list[list[Any]]:
        self._probe()
        with self._access_log.open() as log:
            log.seek(self._forgotten)
            lines = [json.loads(line) for line in log]
        return [line for line in lines if line[1] != _NGINX_PROBE]

    def _probe(self) -> None:
        """Make sure that all that was answered before is in the log: nginx, one process, writes it in order."""
        requests.get(self.url + _NGINX_PROBE, timeout=DEADLINE, verify=str(certificate().chain))


def nginx_installed() -> bool:
    """Return whether `nginx_server` can work here."""
    return _system_command("nginx") is not None


def nginx_waits() -> bool:
    """Return whether `nginx_server` can have a latency here: by the lua module, which waits without blocking."""
    return nginx_installed() and all((_nginx_modules() / name).exists() for name in _NGINX_LUA)


@cache
def _nginx_modules() -> Path:
    """Return the folder of nginx's modules, as it was configured when it was built."""
    shown = subprocess.run([_system_command("nginx") or "nginx", "-V"], capture_output=True, text=True, check=True)
    match = re.search(r"--modules-path=(\S+)", shown.stderr)
    return Path(match[1] if match else "/usr/lib/nginx/modules")


@contextmanager
def nginx_server(
    root: Path,
    *,
    gzip: bool = False,
    latency: float = 0.0,
    as_s3: bool = False,
    tls: bool = False,
    http2: bool = False,
) -> Iterator[NginxServer]:
    """Serve the files below `root` by nginx, with ``gzip_static on``: ``name.gz`` answers for ``name``.

    Parameters
    ----------
    gzip
        True: nginx also compresses by itself, and then ignores Range for clients that accept gzip.
    latency
        Seconds that each request waits, many of them at once; needs `nginx_waits`.
    as_s3
        True: the folders below `root` are buckets. ``name.gz`` is the object ``name`` with Content-Encoding, whatever
        a client accepts; what is absent is S3's NoSuchKey; signatures are not looked at.
    tls
        True: HTTPS, with `certificate`.
    http2
        True: HTTP/2, too, for clients that ask for it; needs `tls`.
    """
    port = _free_port()
    modules = [f"load_module {_nginx_modules() / name};" for name in _NGINX_LUA] if latency else []
    waiting = f"access_by_lua_block {{ ngx.sleep({latency}) }}" if latency else ""
    headers = ", ".join(f'"{name}": "$http_{name.lower().replace("-", "_")}"' for name in _NGINX_HEADERS)
    with _scratch() as folder:
        config = folder / "nginx.conf"
        config.write_text(
            _NGINX_CONFIG.format(
                modules="\n".join(modules),
                folder=folder,
                headers=headers,
                gzip="on" if gzip else "off",
                host=LOOPBACK,
                port=port,
                listens=(" ssl" if tls else "") + (" http2" if http2 else ""),
                certificate=_NGINX_TLS.format(made=certificate()) if tls else "",
                root=root,
                static="always" if as_s3 else "on",
                waiting=waiting,
                absent=_NGINX_S3_ABSENT if as_s3 else "",
                probe=_NGINX_PROBE,
            )
        )
        command = [_system_command("nginx") or "nginx", "-p", str(folder), "-e", "stderr", "-c", str(config)]
        with server_process(command, port, folder):
            yield NginxServer(f"{'https' if tls else 'http'}://{LOOPBACK}:{port}", folder / "access.log")


# --------------------------------------------------------------------------------------------------------------- sftp

_SSHD_CONFIG = """
Port {port}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
MaxStartups 500:30:1000
MaxSessions 500
Subsystem sftp internal-sftp
"""


@dataclass(frozen=True, slots=True)
class SftpServer:
    """A running sshd: `url` is ``sftp://user@127.0.0.1:PORT/root``, `storage_options` are fsspec's sftp's."""

    url: str
    storage_options: dict[str, Any]


def sshd_installed() -> bool:
    """Return whether `sftp_server` can work here."""
    return _system_command("sshd") is not None and shutil.which("ssh-keygen") is not None


@contextmanager
def sftp_server(root: Path) -> Iterator[SftpServer]:
    """Serve the whole file system over SFTP, as the user of the tests; `url` points at `root`."""
    port, user = _free_port(), pwd.getpwuid(os.getuid()).pw_name
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd's privilege separation directory
    with _scratch() as folder:
        for name in ("host_key", "user_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        config = folder / "sshd_config"
        config.write_text(_SSHD_CONFIG.format(port=port, host=LOOPBACK, folder=folder))
        with server_process([_system_command("sshd") or "sshd", "-D", "-e", "-f", str(config)], port, folder):
            options = {
                "username": user,
                "port": port,
                "key_filename": str(folder / "user_key"),
                "look_for_keys": False,
                "allow_agent": False,
            }
            yield SftpServer(f"sftp://{user}@{LOOPBACK}:{port}{root.resolve()}", options)


# -------------------------------------------------------------------------------------------------------------- Azure

# Azurite's published account and key: https://learn.microsoft.com/azure/storage/common/storage-use-azurite
_AZURITE_ACCOUNT = "devstoreaccount1"
_AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class AzureServer:
    """A running azurite; `storage_options` are adlfs's."""

    def __init__(self, endpoint: str) -> None:
        from azure.storage.blob import BlobServiceClient  # the demo goes without

        self.endpoint = endpoint
        fields = {
            "DefaultEndpointsProtocol": "http",
            "AccountName": _AZURITE_ACCOUNT,
            "AccountKey": _AZURITE_KEY,
            "BlobEndpoint": endpoint,
        }
        connection = ";".join(f"{name}={value}" for name, value in fields.items())
        self.storage_options = {"connection_string": connection}
        self._client = BlobServiceClient.from_connection_string(connection)

    def create_container(self, name: str) -> None:
        """Make an empty container."""
        self._client.create_container(name)

    def put(
        self,
        container: str,
        key: str,
        body: bytes,
        *,
        content_encoding: str | None = None,
        content_type: str | None = None,
    ) -> None:
        """Store `body` as it is."""
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_type=content_type, content_encoding=content_encoding)
        blob = self._client.get_blob_client(container, key)
        blob.upload_blob(body, overwrite=True, content_settings=settings)

    def get(self, container: str, key: str) -> tuple[bytes, dict[str, Any]]:
        """Return the stored bytes and the blob's properties, always with ContentEncoding and ContentType (or None)."""
        stream = self._client.get_blob_client(container, key).download_blob(decompress=False)
        settings = stream.properties.content_settings
        common = _common_fields(settings.content_encoding, settings.content_type)
        return stream.readall(), dict(stream.properties) | common

    def keys(self, container: str) -> list[str]:
        """Return the sorted names of a container."""
        return sorted(self._client.get_container_client(container).list_blob_names())

    def delete(self, container: str, key: str) -> None:
        """Remove a blob."""
        self._client.get_blob_client(container, key).delete_blob()

    def close(self) -> None:
        """Drop the helpers' connections."""
        self._client.close()


def azurite_command() -> list[str] | None:
    """Return how azurite is started here, by $AZURITE, the PATH or ``.azurite/`` in the repo, or None."""
    local = Path(__file__).parents[2] / ".azurite" / "node_modules" / ".bin" / "azurite-blob"
    candidates = (os.environ.get("AZURITE"), "azurite-blob", str(local))
    found = next((path for name in candidates if name and (path := shutil.which(name))), None)
    return [found] if found and shutil.which("node") else None


@contextmanager
def azure_server() -> Iterator[AzureServer]:
    """Serve Azure blobs by azurite, in memory; raises RuntimeError where `azurite_command` finds none."""
    command, port = azurite_command(), _free_port()
    if command is None:
        message = "azurite is not installed: npm install azurite, or set AZURITE to its azurite-blob"
        raise RuntimeError(message)
    flags = ["--silent", "--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    with ExitStack() as stack:
        folder = stack.enter_context(_scratch())
        stack.enter_context(
            server_process([*command, "--blobHost", LOOPBACK, "--blobPort", str(port), *flags], port, folder)
        )
        server = AzureServer(f"http://{LOOPBACK}:{port}/{_AZURITE_ACCOUNT}")
        stack.callback(server.close)
        yield server
