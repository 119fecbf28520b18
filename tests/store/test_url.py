"""URLs: which filesystem and root they mean, how objects are joined to them, and what must not show."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pwd
import socket
import sys
import traceback
import urllib.parse
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec.core
import neuroglancer_scripts.accessor
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from upath import UPath

from precomputed_fs import (
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
    URLError,
    copy_pyramid,
    create_volume,
    doctor,
    get_accessor_for_url,
    open_volume,
    serve,
)
from precomputed_fs.store.foreign import SCHEMES
from precomputed_fs.store.location import resolve
from precomputed_fs.store.protocols import PROTOCOLS
from precomputed_fs.store.redaction import secrets_of
from precomputed_fs.store.requests import HttpRequest, Signer
from precomputed_fs.store.url import check_relative_path, convert_file_url_to_pathname, join
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TIMEOUT = 5.0
USER = pwd.getpwuid(os.getuid()).pw_name
USERS_HOME = pwd.getpwuid(os.getuid()).pw_dir
FALLBACK_SECONDS = 1.5
AZURE_ACCOUNT = {"account_name": "acc"}
REFERENCES = {"fo": {"info": "{}", "sub/info": "{}"}}


# ------------------------------------------------------------------------------------------------------ where they lead


class Case(NamedTuple):
    """`root` and `shown` are those that the URL should have; ``{here}`` and ``{home}`` are directories."""

    url: str | Path
    protocol: str
    root: str
    shown: str
    options: dict[str, Any] = {}  # noqa: RUF012 - read only


OPENED = [
    # plain paths, as they stand: nothing in them is a query, a fragment or percent-encoded
    Case("", "file", "{here}", "{here}/info"),
    Case("brain", "file", "{here}/brain", "{here}/brain/info"),
    Case("./brain/", "file", "{here}/brain", "{here}/brain/info"),
    Case("a brain/of mine", "file", "{here}/a brain/of mine", "{here}/a brain/of mine/info"),
    Case("/lab/brain/", "file", "/lab/brain", "/lab/brain/info"),
    Case("/lab/100%25?#é", "file", "/lab/100%25?#é", "/lab/100%25?#é/info"),
    Case("lab/s3:brain", "file", "{here}/lab/s3:brain", "{here}/lab/s3:brain/info"),
    Case("./s3:b", "file", "{here}/s3:b", "{here}/s3:b/info"),
    Case(Path("a brain"), "file", "{here}/a brain", "{here}/a brain/info"),
    Case(Path("/lab/brain"), "file", "/lab/brain", "/lab/brain/info"),
    # two colons in a path chain nothing
    Case("exp1::v2", "file", "{here}/exp1::v2", "{here}/exp1::v2/info"),
    Case("/lab/exp1::v2", "file", "/lab/exp1::v2", "/lab/exp1::v2/info"),
    Case("file:///lab/exp1::v2", "file", "/lab/exp1::v2", "/lab/exp1::v2/info"),
    Case("file::v2", "file", "{here}/file::v2", "{here}/file::v2/info"),
    Case("precomputed://exp1::v2", "file", "{here}/exp1::v2", "{here}/exp1::v2/info"),
    Case(Path("exp1::v2"), "file", "{here}/exp1::v2", "{here}/exp1::v2/info"),
    Case(Path("/lab/exp1::v2"), "file", "/lab/exp1::v2", "/lab/exp1::v2/info"),
    # a path that is no string is always one, whatever it looks like
    Case(Path("zip::all.zip"), "file", "{here}/zip::all.zip", "{here}/zip::all.zip/info"),
    Case(Path("zip:all.zip"), "file", "{here}/zip:all.zip", "{here}/zip:all.zip/info"),
    Case(Path("brain|zip:"), "file", "{here}/brain|zip:", "{here}/brain|zip:/info"),
    # home directories
    Case("~", "file", "{home}", "{home}/info"),
    Case("~/brain", "file", "{home}/brain", "{home}/brain/info"),
    Case(f"~{USER}/brain", "file", f"{USERS_HOME}/brain", f"{USERS_HOME}/brain/info"),
    Case("~nobody::knows/brain", "file", "{here}/~nobody::knows/brain", "{here}/~nobody::knows/brain/info"),
    Case("./~/brain", "file", "{here}/~/brain", "{here}/~/brain/info"),
    Case("lab/~", "file", "{here}/lab/~", "{here}/lab/~/info"),
    Case("file://~/a%20brain", "file", "{home}/a brain", "{home}/a brain/info"),
    Case("FILE://~", "file", "{home}", "{home}/info"),
    Case("file:///~/brain", "file", "/~/brain", "/~/brain/info"),
    Case("precomputed://~/brain", "file", "{home}/brain", "{home}/brain/info"),
    Case(Path("~/brain"), "file", "{home}/brain", "{home}/brain/info"),
    Case("simplecache::~/brain", "simplecache", "{home}/brain", "simplecache::{home}/brain/info"),
    Case("precomputed:///lab/brain", "file", "/lab/brain", "/lab/brain/info"),
    # local files, percent-encoded
    Case("file:///lab/brain", "file", "/lab/brain", "/lab/brain/info"),
    Case("file:///lab/a%20brain/100%25%3F%23%C3%A9", "file", "/lab/a brain/100%?#é", "/lab/a brain/100%?#é/info"),
    Case("file://localhost/lab/a%20brain", "file", "/lab/a brain", "/lab/a brain/info"),
    Case("FILE:///lab/brain", "file", "/lab/brain", "/lab/brain/info"),
    Case("precomputed://file:///lab/a%20brain/", "file", "/lab/a brain", "/lab/a brain/info"),
    Case("file:///lab/a%20brain|neuroglancer-precomputed:", "file", "/lab/a brain", "/lab/a brain/info"),
    # memory
    Case("memory://lab/brain", "memory", "/lab/brain", "memory://lab/brain/info"),
    Case("memory://", "memory", "", "memory://info"),
    # buckets
    Case("s3://bucket/lab/brain", "s3", "bucket/lab/brain", "s3://bucket/lab/brain/info"),
    Case("s3://bucket/lab/brain/", "s3", "bucket/lab/brain", "s3://bucket/lab/brain/info"),
    Case("s3://bucket", "s3", "bucket", "s3://bucket/info"),
    Case("S3://bucket/Lab", "s3", "bucket/Lab", "s3://bucket/Lab/info"),
    Case("s3://bucket/a b+c%20d", "s3", "bucket/a b+c%20d", "s3://bucket/a b+c%20d/info"),
    Case("gs://bucket/lab/brain", "gs", "bucket/lab/brain", "gs://bucket/lab/brain/info"),
    Case("gcs://bucket/lab/brain", "gcs", "bucket/lab/brain", "gcs://bucket/lab/brain/info"),
    Case("az://container/lab", "az", "container/lab", "az://container/lab/info", AZURE_ACCOUNT),
    Case("abfs://container/lab", "abfs", "container/lab", "abfs://container/lab/info", AZURE_ACCOUNT),
    Case("abfss://container/lab", "abfss", "container/lab", "abfss://container/lab/info", AZURE_ACCOUNT),
    Case("az://c@acc.blob.core.windows.net/p", "az", "c/p", "az://c@acc.blob.core.windows.net/p/info"),
    Case("abfs://c@acc.dfs.core.windows.net/p", "abfs", "c/p", "abfs://c@acc.dfs.core.windows.net/p/info"),
    Case("precomputed://gs://bucket/lab/brain", "gs", "bucket/lab/brain", "gs://bucket/lab/brain/info"),
    Case("gs://bucket/brain/|neuroglancer-precomputed:", "gs", "bucket/brain", "gs://bucket/brain/info"),
    Case("precomputed://s3://bucket/brain|neuroglancer-precomputed:", "s3", "bucket/brain", "s3://bucket/brain/info"),
    Case("Precomputed://S3://bucket/brain", "s3", "bucket/brain", "s3://bucket/brain/info"),
    Case("s3+https://end.org:9000/bucket/a%20brain", "s3", "bucket/a brain", "s3://bucket/a brain/info"),
    Case("s3+http://end.org/bucket/brain/", "s3", "bucket/brain", "s3://bucket/brain/info"),
    Case("precomputed://s3+http://end.org/bucket", "s3", "bucket", "s3://bucket/info"),
    # web servers: the root stays a URL
    Case("http://host/lab/brain", "http", "http://host/lab/brain", "http://host/lab/brain/info"),
    Case("HTTPS://host:8443/Lab/", "https", "https://host:8443/Lab/", "https://host:8443/Lab/info"),
    Case("http://host", "http", "http://host", "http://host/info"),
    Case("https://host/a?X-Sig=a%2Fb+c&x=/d/", "https", "https://host/a?X-Sig=a%2Fb+c&x=/d/", "https://host/a/info"),
    Case("https://host/a?sig=1|neuroglancer-precomputed:", "https", "https://host/a?sig=1", "https://host/a/info"),
    Case("http://host/a b/é", "http", "http://host/a%20b/%C3%A9", "http://host/a%20b/%C3%A9/info"),
    Case("http://host/a%20b/c+d%2Fe", "http", "http://host/a%20b/c+d%2Fe", "http://host/a%20b/c+d%2Fe/info"),
    Case("http://host/a#!view", "http", "http://host/a", "http://host/a/info"),
    Case("http://[::1]:80/a", "http", "http://[::1]:80/a", "http://[::1]:80/a/info"),
    Case("http://[2001:db8::a]/b", "http", "http://[2001:db8::a]/b", "http://[2001:db8::a]/b/info"),
    # archives, caches, references
    Case("zip://lab/brain::{here}/all.zip", "zip", "lab/brain", "zip://lab/brain/info::{here}/all.zip"),
    Case("zip:///lab/brain/::all.zip", "zip", "lab/brain", "zip:///lab/brain/info::{here}/all.zip"),
    Case("zip://::all.zip", "zip", "", "zip://info::{here}/all.zip"),
    Case("zip::all.zip", "zip", "", "zip://info::{here}/all.zip"),
    Case("zip://lab::file://{here}/all%2Ezip", "zip", "lab", "zip://lab/info::{here}/all.zip"),
    Case("precomputed://zip://lab::all.zip", "zip", "lab", "zip://lab/info::{here}/all.zip"),
    Case("simplecache::s3://bucket/lab", "simplecache", "bucket/lab", "simplecache::s3://bucket/lab/info"),
    Case("filecache::gs://bucket/lab", "filecache", "bucket/lab", "filecache::gs://bucket/lab/info"),
    Case("blockcache::http://host/a", "blockcache", "http://host/a", "blockcache::http://host/a/info"),
    Case("simplecache::{here}/brain", "simplecache", "{here}/brain", "simplecache::{here}/brain/info"),
    Case("reference://", "reference", "", "reference://info", REFERENCES),
    Case("reference://sub", "reference", "sub", "reference://sub/info", REFERENCES),
]
CONNECTING = [
    Case("sftp://host/lab/brain", "sftp", "", "sftp://host/lab/brain/info"),
    Case("sftp://me:hunter2pass@host:2222/lab", "sftp", "", "sftp://host:2222/lab/info"),
    Case("ssh://me@host/lab", "ssh", "", "ssh://host/lab/info"),
    Case("github://org:repo@main/lab", "github", "", "github://org:repo@main/lab/info"),
    Case("github://org:repo@/", "github", "", "github://org:repo@/info"),
    Case("zip://lab::s3://bucket/all.zip", "zip", "", "zip://lab/info::s3://bucket/all.zip"),
    Case("zip://lab::simplecache::http://h/all.zip?sig=1", "zip", "", "zip://lab/info::simplecache::http://h/all.zip"),
    Case("reference://::http://host/refs.json", "reference", "", "reference://info::http://host/refs.json"),
]
"""Those whose filesystem connects, or reads, when it is made."""


def here(case: Case, folder: Path) -> Case:
    """Fill the working directory in."""

    def filled(text: str) -> str:
        return text.replace("{here}", str(folder)).replace("{home}", str(folder / "home"))

    url = filled(case.url) if isinstance(case.url, str) else case.url
    return case._replace(url=url, root=filled(case.root), shown=filled(case.shown))


def case_id(case: Case) -> str:
    return f"{type(case.url).__name__} {case.url}" if isinstance(case.url, Path) else case.url


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with an archive."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("lab/brain/info", "{}")
    return tmp_path


@pytest.mark.parametrize("case", OPENED, ids=case_id)
def test_an_url_gives_its_filesystem_and_root(case: Case, folder: Path) -> None:
    case = here(case, folder)
    location = resolve(case.url, storage_options=case.options, anon=True)
    fs, root = location.open(TIMEOUT)
    assert location.links[0].protocol == case.protocol
    assert case.protocol in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)
    is_url = "://" in case.root
    assert root == case.root if is_url else root.rstrip("/") == case.root  # `join` does not mind


@pytest.mark.parametrize("case", [*OPENED, *CONNECTING], ids=case_id)
def test_an_url_is_shown(case: Case, folder: Path) -> None:
    case = here(case, folder)
    accessor = FsspecAccessor(case.url, storage_options=case.options, anon=True)
    location = resolve(case.url, storage_options=case.options)
    assert location.links[0].protocol == case.protocol
    assert location.display("info") == case.shown
    assert location.display() in {case.shown.replace("/info", "", 1), case.shown.replace("info", "", 1)}
    assert repr(accessor) == f"FsspecAccessor({location.display()!r})"


@pytest.mark.parametrize("case", [*OPENED, *CONNECTING], ids=case_id)
def test_the_constructor_does_not_touch_the_network(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def touch(*_: Any, **__: Any) -> None:
        pytest.fail("the network was touched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, touch)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, touch)
    case = here(case, folder)
    FsspecAccessor(case.url, storage_options=case.options)
    get_accessor_for_url(case.url, {"storage_options": case.options, "anon": False})


def test_sftp_opens_its_root() -> None:
    if not servers.sshd_installed():
        pytest.skip("sshd is not installed (apt-get install openssh-server)")
    with servers.sftp_server(Path("/")) as server:
        url = server.url.rstrip("/")
        fs, root = resolve(f"{url}/lab/a brain", storage_options=server.storage_options).open(TIMEOUT)
        fs.client.close()
        assert root == "/lab/a brain"


NAMES = [
    "brain",
    "a brain",
    "100%",
    "50%25",
    "what?",
    "no#1",
    "a+b",
    "é☃",
    "a[1]*",
    "a%20b",
    "x&y=z",
    "b~",
    "exp1::v2",
    "data",
    "zip",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["absolute", "relative", "Path", "file URL", "localhost URL", "precomputed URL"])
def test_a_local_folder_of_any_name_is_read(name: str, form: str, folder: Path) -> None:
    path = folder / name
    path.mkdir()
    (path / "info").write_bytes(name.encode())
    forms: dict[str, str | Path] = {
        "absolute": str(path),
        "relative": name,
        "Path": Path(name),
        "file URL": path.as_uri(),
        "localhost URL": path.as_uri().replace("file://", "file://localhost"),
        "precomputed URL": f"precomputed://{path.as_uri()}|neuroglancer-precomputed:",
    }
    with FsspecAccessor(forms[form]) as accessor:
        assert accessor.fetch_file("info") == name.encode()


@pytest.mark.parametrize("form", [str, Path, Path.as_uri], ids=["string", "Path", "file URL"])
def test_a_path_with_two_colons_does_not_replace_what_stands_before_them(
    form: Callable[[Path], str | Path], folder: Path
) -> None:
    create_volume(folder / "exp1", np.full((4, 4, 4), 1, np.uint8), resolution=(1, 1, 1))
    create_volume(form(folder / "exp1::v2"), np.full((4, 4, 4), 2, np.uint8), resolution=(1, 1, 1), overwrite=True)
    assert [open_volume(folder / name)[0][0, 0, 0, 0] for name in ("exp1", "exp1::v2")] == [1, 2]


def test_what_a_url_says_gives_way_to_an_option() -> None:
    fs, _ = resolve("az://c@acc.blob.core.windows.net/p", storage_options={"account_name": "other", "anon": True}).open(
        TIMEOUT
    )
    assert fs.account_name == "other"


@pytest.mark.parametrize("name", [*sorted(PROTOCOLS), "dir", "ftp", "hf", "precomputed"])
def test_a_plain_path_may_be_named_like_a_protocol(name: str, folder: Path) -> None:
    location = resolve(name)
    assert location.links[0].protocol == "file"
    assert location.display() == f"{folder}/{name}"


def test_a_finished_filesystem_is_used_as_it_is() -> None:
    fs = MemoryFileSystem()
    location = resolve("/lab/brain", fs=fs)
    assert location.open(TIMEOUT) == (fs, "/lab/brain")
    assert location.links[0].protocol == "memory"
    assert resolve("/lab/brain", fs=LocalFileSystem()).open(TIMEOUT)[1] == "/lab/brain"


@pytest.mark.parametrize("path", ["/lab/a::b", "/lab/a|zarr:b", "/lab/a|b:c", "/lab/ a "])
def test_a_path_in_a_finished_filesystem_may_have_any_name(path: str) -> None:
    fs = MemoryFileSystem()
    FsspecAccessor(path, fs=fs, gzip=False).store_file("info", b"{}")
    assert fs.cat_file(f"{path}/info") == b"{}"


@pytest.mark.parametrize("others", [{"anon": True}, {"anon": False}, {"storage_options": {"key": "k"}}], ids=str)
def test_a_finished_filesystem_takes_no_options(others: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fs is a finished filesystem"):
        FsspecAccessor("/lab/brain", fs=MemoryFileSystem(), **others)


UPATHS = {
    "memory": (UPath("memory://lab") / "brain", "memory://lab/brain/info", [{}]),
    "S3": (UPath("s3://b/a b#1", key="k", secret="s"), "s3://b/a b#1/info", [{"key": "k", "secret": "s"}]),
    "HTTP": (UPath("http://h/a?x=1", headers={"A": "b"}), "http://h/a/info", [{"headers": {"A": "b"}}]),
    "SFTP": (UPath("sftp://me:pw@host/a"), "sftp:///a/info", [{"host": "host", "username": "me", "password": "pw"}]),
    "Azure": (UPath("az://c@acc.blob.core.windows.net/p"), "az://c/p/info", [{"account_name": "acc"}]),
    "a cache": (
        UPath("simplecache::s3://b/p", simplecache={"same_names": True}, s3={"key": "k", "secret": "s"}),
        "simplecache::s3://b/p/info",
        [{"same_names": True}, {"key": "k", "secret": "s"}],
    ),
    "an archive in a cache": (
        UPath("zip://lab::simplecache::s3://b/all.zip", simplecache={"same_names": True}, s3={"anon": True}),
        "zip://lab/info::simplecache::s3://b/all.zip",
        [{}, {"same_names": True}, {"anon": True}],
    ),
    "a local archive": (UPath("zip://lab::/all.zip"), "zip://lab/info::/all.zip", [{}, {}]),
    "a local path": (UPath("/lab/exp1::v2"), "/lab/exp1::v2/info", [{}]),
    "a file URL": (UPath("file:///lab/a%20b"), "/lab/a%20b/info", [{}]),
}
"""What universal_pathlib makes of URLs; how they are shown, and the options of each filesystem."""


@pytest.mark.parametrize(("path", "shown", "options"), UPATHS.values(), ids=UPATHS)
def test_a_upath_has_its_options(path: UPath, shown: str, options: list[dict[str, Any]]) -> None:
    location = resolve(path)
    assert location.display("info") == shown
    assert [link.options for link in location.links] == [{"skip_instance_cache": True, **own} for own in options]


def test_options_win_over_those_of_a_upath() -> None:
    (link,) = resolve(UPath("s3://b/p", key="k", secret="s"), storage_options={"key": "other"}).links
    assert (link.options["key"], link.options["secret"]) == ("other", "s")


# ------------------------------------------------------------------------------------------------------ what is no URL


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("precomputed://", "names no pyramid"),
        ("|neuroglancer-precomputed:", "names no pyramid"),
        ("::", "names no pyramid"),
        ("zip://lab::", "names no pyramid"),
        ("zip://lab::::simplecache::all.zip", "names no pyramid"),
        ("nope://bucket/brain", "'nope'"),
        ("s3+ftp://host/bucket/brain", r"'s3\+ftp'"),
        ("precomputed://precomputed://s3://bucket/brain", "precomputed:// is left out, or stands once"),
        ("simplecache::precomputed://s3://bucket/brain", "precomputed:// is left out, or stands once"),
        ("simplecache::nope://bucket/brain", "'nope'"),
        ("s3:bucket/brain", "s3://"),
        ("s3:/bucket/brain", "s3://"),
        ("gs:bucket/brain", "gs://"),
        ("http:/host/brain", "http://"),
        ("memory:brain", "memory://"),
        ("zip://lab::s3:bucket/all.zip", "s3://"),
        ("C:\\brains\\mine", "Windows.* /mnt/c/brains/mine"),
        ("s3//bucket/brain", r"a colon is missing: s3://bucket/brain; .* write \./s3//bucket/brain"),
        ("https//me:hunter2@host/brain?sig=hunter2", r"^a colon is missing: https://host/brain; (?!.*hunter2)"),
        ("https://me:ab/hunter2@host/brain", r"^https://host/brain: in the user and password, write / as %2F"),
        ("http://h/a?s=hunter2|zip:x?s=hunter2", r"^http://h/a: the adapter 'zip' is written zip://x::http://h/a$"),
        ("file:///lab/%ff?hunter2", "^file:///lab/%ff: the percent-encoded"),
        ("https:/host/brain", "after its scheme: https://host/brain"),
        ("htps://host/brain", "did you mean 'https'"),
        ("aws://bucket/brain", "s3://bucket/path"),
        ("arn:aws:s3:::bucket/brain", "s3://bucket/path"),
        ("https://s3.console.aws.amazon.com/s3/buckets/lab?prefix=a/brain/&b=c", "data are at s3://lab/a/brain$"),
        ("https://console.cloud.google.com/storage/browser/lab/brain;tab=objects", "data are at gs://lab/brain$"),
        ("https://github.com/me/lab/tree/main/brain", "at https://raw.githubusercontent.com/me/lab/main/brain$"),
        ("C:/brains/mine", "Windows.* /mnt/c/brains/mine"),
        ("file://otherhost/lab/brain", "otherhost.*not a local file"),
        ("precomputed://file://lab/brain", "not a local file"),
        ("file:///lab/%ff", "UTF-8"),
        ("http:///lab/brain", "no host"),
        ("https://", "no host"),
        ("http://[/lab", "http"),
        ("s3+https://host", "endpoint/bucket"),
        ("s3+https:///bucket/brain", "endpoint/bucket"),
        ("precomputed://http://", "no host"),
        ("http://host:http/brain", "http://host:http/brain: Port"),
        ("https://host:99999/brain", "Port"),
        ("s3:///bucket/brain", "no bucket"),
        ("gs:///bucket", "no bucket"),
        (" s3://bucket/brain", "^s3://bucket/brain: there are spaces or quotes around"),
        ("s3://bucket/brain\n", "spaces or quotes"),
        ("'precomputed://https://host/brain'", "spaces or quotes"),
        ("<https://host/brain?sig=hunter2>", r"^https://host/brain: .*quotes(?!.*hunter2)"),
        ("zip://all.zip", r"^zip://all\.zip: .* write zip://folder::URL, or zip::URL"),
        ("simplecache://", "needs another URL after it"),
        ("reference://refs.json", "needs another URL after it"),
        ("zip://lab::simplecache://", "needs another URL after it"),
        ("brain|zarr:x", "'zarr'"),
        ("brain|v2:x", r"'v2' is not known.* pathlib\.Path"),
        ("/lab/all.zip|zip:brain/|neuroglancer-precomputed:", "'zip' is written zip://brain/::/lab/all.zip"),
        ("gs://bucket/info.gz|gzip:", "'gzip'"),
        ("s3://lab/a::b/v", "nothing can be chained to s3://"),
        ("s3::lab/a", "no bucket"),
        ("gs://lab/a::s3:b", "nothing can be chained to gs://"),
        ("http://host/a::b", "nothing can be chained to http://"),
        ("https://host/a?sig=x::y", "nothing can be chained to https://"),
        ("memory://a::b", "nothing can be chained to memory://"),
        ("simplecache::s3://lab/a::b/v", "nothing can be chained to s3://"),
        ("zip://lab::/data/exp1::v2/all.zip", "nothing can be chained to file://"),
        ("simplecache::http://[::1]/brain", "in full"),
        ("simplecach::s3://lab/brain", "misspelt"),
        ("exp1::s3://lab/brain", "nothing can be chained to a path"),
        ("graphene://https://host/table", "CAVEclient.*precomputed://"),
        ("graphene://middleauth+https://host/table", "CAVEclient"),
        ("precomputed://middleauth+https://host/brain", "cloud-volume"),
        ("simplecache::middleauth+https://host/brain", "cloud-volume"),
        ("n5://s3://bucket/brain", "xarray.*tensorstore"),
        ("zarr://gs://bucket/brain", "xarray and zarr"),
        ("zarr3://s3://bucket/brain", "xarray and zarr"),
        ("s3://bucket/brain|zarr3:", "'zarr3' .* xarray and zarr"),
        ("dvid://https://host/brain", "another of Neuroglancer's data sources"),
        ("mem://brain", "memory://path"),
        ("file://./brain", r"write \./brain"),
        ("file://../lab/brain", r"write \.\./lab/brain"),
        ("https+s3://host/bucket/brain", r"s3\+https://endpoint/bucket/path"),
        ("gs://bucket/mesh#type=mesh", "type=mesh is not supported.* leave it out"),
        ("https://host/mesh#type=mesh", "type=mesh is not supported"),
        ("precomputed://s3://bucket/brain#type=skeletons", "type=skeletons is not supported"),
        ("gs://bucket/brain|neuroglancer-precomputed:#type=annotations", "type=annotations is not supported"),
        ("https://neuroglancer-demo.appspot.com/#!gs://bucket/state.json", "link to Neuroglancer.*tab Source"),
        ("https://host/ng/?a=b#!middleauth+https://host/api/v1/123", "link to Neuroglancer.*tab Source"),
        ("https://host/#!%7B%22layers%22%3A%5B%5D%7D", "link to Neuroglancer.*tab Source"),
    ],
)
def test_what_cannot_be_opened_is_an_url_error(url: str, said: str) -> None:
    for make in (resolve, FsspecAccessor, get_accessor_for_url):
        with pytest.raises(URLError, match=said):
            make(url)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_for_others_is_known_to_none_of_ours(scheme: str) -> None:
    others = {*fsspec.available_protocols()} - {"precomputed"}  # our own view of pyramids, which is no place for one
    assert scheme not in {*PROTOCOLS, *others}


@pytest.mark.parametrize("form", ["percent-encoded", "plain", "with single quotes"])
def test_a_link_to_neuroglancer_says_what_to_open(form: str) -> None:
    sources = [
        "precomputed://gs://bucket/brain",
        {"url": "precomputed://https://user:hunter2@host/lab?sig=hunter2"},
        ["s3://b/a b/|neuroglancer-precomputed:", "zarr://s3://b/c", "precomputed://gs://bucket/brain"],
    ]
    state = json.dumps({"layers": [{"name": "a", "source": source} for source in sources]}, separators=(",", ":"))
    state = state.replace("a b", "a%20b").replace('"', "'") if form == "with single quotes" else state
    fragment = urllib.parse.quote(state) if form == "percent-encoded" else state
    with pytest.raises(URLError, match="link to Neuroglancer") as caught:
        resolve(f"https://neuroglancer-demo.appspot.com/#!{fragment}")
    assert "source: precomputed://gs://bucket/brain or precomputed://https://host/lab or " in str(caught.value)
    assert str(caught.value).endswith("b/|neuroglancer-precomputed:")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["/lab/brain#type=mesh", "https://host/brain#!view", "https://host/brain#type", "a#!://b"]
)
def test_a_fragment_that_says_nothing_is_none_of_neuroglancers(url: str) -> None:
    assert len(resolve(url).links) == 1


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("{here}/brain/info", "{here}/brain?"),
        ("{here}/brain/info/", "{here}/brain?"),
        ("file://{here}/brain/1_1_1", "open_volume('{here}/brain')['1_1_1']?"),
        ("{here}/brain/1_1_1/0-4_0-4_0-4", "open_volume('{here}/brain')['1_1_1']?"),
        ("memory://brain/info", "memory://brain?"),
        ("memory://lab/brain/1mm", "open_volume('memory://lab/brain')['1mm']?"),
        ("memory://lab/brain/1e+06_1e+06_2.5e+06", "open_volume('memory://lab/brain')['1e+06_1e+06_2.5e+06']?"),
        ("zip://lab/brain/info::all.zip", "zip://lab/brain::{here}/all.zip?"),
        ("{server}/brain/info?sig=hunter2", "{server}/brain?"),
        ("{server}/brain/1_1_1?sig=hunter2", "open_volume('{server}/brain')['1_1_1']?"),
        ("s3+{server}/bucket/brain/info", "s3://bucket/brain?"),
        ("s3+{server}/info", None),
        ("{server}/8_8_8", "open_volume('{server}')['8_8_8']?"),
        ("memory://8_8_8", None),
        ("memory://lab/info_of_mine", None),
    ],
)
def test_a_url_of_info_or_of_a_scale_leads_to_the_pyramids(url: str, meant: str | None, folder: Path) -> None:
    create_volume(folder / "brain", np.zeros((4, 4, 4), np.uint8), resolution=(1, 1, 1))
    with servers.http_server(folder) as server:
        places = {"here": str(folder), "server": server.url}
        with pytest.raises(NotFoundError) as caught:
            open_volume(url.format(**places), anon=True)
        assert (meant or "was all of it uploaded? (looked under").format(**places) in str(caught.value)


@pytest.mark.parametrize(
    "take",
    [
        open_volume,
        functools.partial(create_volume, source=np.zeros((4, 4, 4), np.uint8), resolution=(1, 1, 1)),
        lambda url, **options: copy_pyramid("memory://test_urls/brain", url, **options),
        doctor,
        serve,
    ],
    ids=["open_volume", "create_volume", "copy_pyramid", "doctor", "serve"],
)
def test_an_option_of_the_filesystem_is_told_where_to_go(take: Callable[..., Any]) -> None:
    create_volume("memory://test_urls/brain", np.zeros((4, 4, 4), np.uint8), resolution=(1, 1, 1), overwrite=True)
    with pytest.raises(TypeError, match=r" go into storage_options=\{'endpoint_url': \.\.\., 'key': \.\.\.\}"):
        take("s3://bucket/brain", endpoint_url="http://127.0.0.1:1", key="k")


@pytest.mark.parametrize("url", ["s3://bucket/brain", "precomputed://gs://b/p", "file:///lab", "S3://b", "zip://a"])
def test_a_path_that_was_a_url_is_an_url_error(url: str) -> None:
    with pytest.raises(URLError, match="lost one of its slashes"):
        FsspecAccessor(Path(url))


def test_a_path_of_bytes_says_what_to_pass(folder: Path) -> None:
    entries = [entry for entry in os.scandir(os.fsencode(folder)) if entry.name == b"all.zip"]
    for path in (os.fsencode(folder), entries[0]):
        with pytest.raises(TypeError, match=r"os\.fsdecode"):
            FsspecAccessor(path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "url",
    [
        "nope://user:hunter2pass@host/a?sig=hunter2sig",
        "s4://bucket/a?sig=hunter2sig",
        "https:/user:hunter2pass@host/a?sig=hunter2sig",
        "https:host/a?sig=hunter2sig",
        "http://user:hunter2pass@host/a?sig=hunter2sig|gzip:",
        "http://user:hunter2pass@/a?sig=hunter2sig",
        "s3+https://user:hunter2pass@host?sig=hunter2sig",
        "file://user:hunter2pass@otherhost/a?sig=hunter2sig",
        "zip://a::nope://user:hunter2pass@host/a.zip?sig=hunter2sig",
        "http://user:hunter2pass@host/a?sig=hunter2sig::b",
        "http://user:hunter2pass@host/a::http://user:hunter2pass@host/b?sig=hunter2sig",
        "nope://http://user:hunter2pass@host/a?sig=hunter2sig",
    ],
)
def test_an_url_error_shows_no_secret(url: str) -> None:
    with pytest.raises(URLError) as caught:
        resolve(url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "missing", "module", "hint"),
    [
        ("s3://b/p", "s3fs", "s3fs", "pip install s3fs"),
        ("s3+http://host/b/p", "s3fs", "s3fs", "pip install s3fs"),
        ("gs://b/p", "gcsfs", "gcsfs", "pip install gcsfs"),
        ("az://c/p", "adlfs", "adlfs", "pip install adlfs"),
        ("abfs://c/p", "adlfs", "adlfs", "pip install adlfs"),
        ("sftp://host/p", "paramiko", "fsspec.implementations.sftp", "pip install paramiko"),
        ("github://org:repo@main/p", "requests", "fsspec.implementations.github", "pip install requests"),
        ("hf://org/repo", "huggingface_hub", "huggingface_hub", "huggingface_hub"),
        ("simplecache::s3://b/p", "s3fs", "s3fs", "pip install s3fs"),
    ],
)
def test_a_missing_driver_is_an_url_error_that_says_what_to_install(
    url: str, missing: str, module: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = importlib.import_module("fsspec.registry")
    monkeypatch.setattr(registry, "_registry", {})  # forget the classes that were imported before
    monkeypatch.setattr(registry, "registry", registry._registry)
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)  # so its import fails
    scheme = "s3" if "s3" in url else url.partition(":")[0]
    with pytest.raises(URLError, match=f"{scheme}://.*{hint}") as caught:
        FsspecAccessor(url)
    assert isinstance(caught.value.__cause__, ImportError)


# ------------------------------------------------------------------------------------------------------------- secrets


class Secret(NamedTuple):
    url: str
    options: dict[str, Any]
    secrets: tuple[str, ...]
    """What must not show, and must be among `Location.secrets`, to be taken out of foreign messages."""


SECRETS = {
    "query": Secret("https://host/a?X-Sig=hunter2%2Fsig", {}, ("X-Sig=hunter2%2Fsig",)),
    "query and suffix": Secret("http://host/a?sig=hunter2|neuroglancer-precomputed:", {}, ("sig=hunter2",)),
    "password": Secret("http://user:hunter2pass@host/a", {}, ("hunter2pass",)),
    "password with @": Secret("http://user:hunter2@hunter2@host/a", {}, ("hunter2@hunter2",)),
    "quoted password": Secret("sftp://user:hunter2%2Fpass@host/a", {}, ("hunter2%2Fpass", "hunter2/pass")),
    "password of an endpoint": Secret("s3+http://user:hunter2pass@host/b/p", {}, ("hunter2pass",)),
    "endpoint option": Secret("s3://b/p", {"endpoint_url": "http://u:hunter2pass@host"}, ("hunter2pass",)),
    "behind a cache": Secret("simplecache::http://u:hunter2pass@h/a?s=hunter2", {}, ("hunter2pass", "s=hunter2")),
    "behind an archive": Secret("zip://a::https://host/a.zip?sig=hunter2", {}, ("sig=hunter2",)),
    "s3 keys": Secret("s3://b/p", {"key": "hunter2key", "secret": "hunter2s"}, ("hunter2key", "hunter2s")),
    "s3 token": Secret("s3://b/p", {"token": "hunter2token"}, ("hunter2token",)),
    "nested": Secret("simplecache::s3://b/p", {"s3": {"secret": "hunter2secret"}}, ("hunter2secret",)),
    "deeper": Secret("s3://b/p", {"client_kwargs": {"aws_session_token": "hunter2t"}}, ("hunter2t",)),
    "gcs token": Secret("gs://b/p", {"token": {"private_key": "hunter2key"}}, ("hunter2key",)),
    "azure key": Secret("az://c/p", {"account_name": "acc", "account_key": "aHVudGVyMg=="}, ("aHVudGVyMg==",)),
    "azure sas": Secret("az://c/p", {"account_name": "acc", "sas_token": "sig=hunter2"}, ("sig=hunter2",)),
    "azure string": Secret("az://c/p", {"connection_string": "AccountKey=hunter2"}, ("AccountKey=hunter2",)),
    "sftp password": Secret("sftp://host/p", {"password": "hunter2pass"}, ("hunter2pass",)),
    "headers": Secret("http://h/p", {"headers": {"Authorization": "Bearer hunter2"}}, ("Bearer hunter2",)),
    "basic auth": Secret("http://h/p", {"client_kwargs": {"auth": ("me", "hunter2pass")}}, ("hunter2pass",)),
    "references": Secret("reference://", {"fo": "https://host/refs.json?sig=hunter2"}, ("sig=hunter2",)),
    "proxy": Secret("s3://b/p", {"config_kwargs": {"proxies": {"http": "http://u:hunter2pass@p"}}}, ("hunter2pass",)),
    "adapter": Secret("precomputed://http://u:hunter2pass@h/a?sig=hunter2#hunter2", {}, ("hunter2pass", "sig=hunter2")),
}
each_secret = pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)


@each_secret
def test_secrets_do_not_show(secret: Secret) -> None:
    location = resolve(secret.url, storage_options=secret.options)
    accessor = FsspecAccessor(secret.url, storage_options=secret.options)
    shown = [repr(location), str(location), location.display(), location.display("info"), repr(accessor), str(accessor)]
    for text in shown:
        assert "hunter2" not in text
        assert "aHVudGVyMg" not in text


@each_secret
def test_secrets_are_known_to_be_taken_out_of_messages(secret: Secret) -> None:
    known = resolve(secret.url, storage_options=secret.options).secrets
    for text in secret.secrets:
        assert any(other in text for other in known), f"{text!r} would stay in a message"


@pytest.mark.parametrize(
    ("request_", "secrets"),
    [
        (HttpRequest("https://host/a?sig=hunter2sig"), ("sig=hunter2sig", "hunter2sig")),
        (HttpRequest("https://me:hunter2@host/a"), ("bWU6aHVudGVyMg==", "hunter2")),
        (HttpRequest("https://host/a", {"Authorization": "Bearer hunter2hunter2hunter2"}), ("hunter2" * 3,)),
        (HttpRequest("https://host/a", {"x-amz-security-token": "hunter2token"}), ("hunter2token",)),
        (HttpRequest("https://host/a", signer=Signer("eu", "hunter2key", "hunter2s")), ("hunter2key", "hunter2s")),
    ],
    ids=["query", "password", "header", "token", "signer"],
)
def test_secrets_of_a_request_are_taken_out_of_what_a_server_repeats(
    request_: HttpRequest, secrets: tuple[str, ...]
) -> None:
    assert {*secrets} <= {*secrets_of(request_)}


def test_what_everybody_sends_is_no_secret() -> None:
    assert secrets_of(HttpRequest("https://host/a", {"Accept": "application/json", "Range": "bytes=0-9"})) == ()


@pytest.mark.parametrize("options", [{"anon": True}, {"token": "anon"}, {"use_ssl": False, "default_block_size": 5}])
def test_what_is_no_secret_is_not_taken_for_one(options: dict[str, Any]) -> None:
    assert resolve("gs://bucket/brain", storage_options=options).secrets == ()


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2pass@{refused}/brain?sig=hunter2sig",
        "s3+http://user:hunter2pass@{refused}/bucket/brain",
        "simplecache::http://user:hunter2pass@{refused}/brain?sig=hunter2sig",
        "zip://brain::http://user:hunter2pass@{refused}/all.zip?sig=hunter2sig",
    ],
    ids=lambda url: url.partition("//")[0],
)
def test_a_failed_read_shows_no_secret(url: str) -> None:
    refused = servers.refused_url().removeprefix("http://")
    accessor = FsspecAccessor(url.format(refused=refused), anon=True, attempts=1, timeout=TIMEOUT)
    with accessor, pytest.raises(DataAccessError) as caught:
        accessor.fetch_file("info")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


# ------------------------------------------------------------------------------------------------------------- joining

segments = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)
paths = st.lists(segments | st.sampled_from(["a+b", "50%", "%2B", "x?y", "n#1", "a b", "é☃", "1e+06"]), min_size=1).map(
    "/".join
)


def is_inside(path: str) -> bool:
    with contextlib.suppress(ValueError):
        return check_relative_path(path) == path
    return False


objects = paths.filter(is_inside)


@pytest.mark.parametrize(
    ("root", "path", "joined"),
    [
        ("", "info", "info"),
        ("bucket/brain", "info", "bucket/brain/info"),
        ("bucket/brain/", "info", "bucket/brain/info"),
        ("/lab/a brain", "1e+06/0-1_0-1_0-1", "/lab/a brain/1e+06/0-1_0-1_0-1"),
        ("bucket/what?", "info", "bucket/what?/info"),
        ("http://host", "info", "http://host/info"),
        ("http://host/", "info", "http://host/info"),
        ("http://host/a%20b", "info", "http://host/a%20b/info"),
        ("http://host?sig=1", "info", "http://host/info?sig=1"),
        ("http://host/a/?sig=a%2Fb&x=/c/?d", "e/info", "http://host/a/e/info?sig=a%2Fb&x=/c/?d"),
        ("http://host/a?", "info", "http://host/a/info?"),
        ("http://host/a", "1e+06/0-1", "http://host/a/1e%2B06/0-1"),
        ("http://host/a", "x?y#z%2F é", "http://host/a/x%3Fy%23z%252F%20%C3%A9"),
        ("http://host/a", "mesh/1:0:0-1_2-3", "http://host/a/mesh/1:0:0-1_2-3"),
    ],
)
def test_join(root: str, path: str, joined: str) -> None:
    assert join(root, path) == joined


@given(objects, st.sampled_from(["bucket", "bucket/lab/", "/lab/a brain", "a?b"]))
def test_a_path_goes_behind_a_root_as_it_is(path: str, root: str) -> None:
    assert join(root, path) == f"{root.rstrip('/')}/{path}"


@given(objects, st.text("abc=&%2F+/?", min_size=1))
def test_an_http_root_keeps_its_query_on_every_object(path: str, query: str) -> None:
    joined = join(f"http://host/lab/brain?{query}", path)
    before, _, after = joined.partition("?")
    assert after == query
    assert urllib.parse.unquote(before) == f"http://host/lab/brain/{path}"
    assert before.isascii()
    assert "#" not in before


@pytest.fixture(scope="module")
def echo() -> Iterator[servers.HttpServer]:
    """Serve something under every name."""
    with servers.fault_server(servers.respond(200, b"x")) as server:
        yield server


@pytest.fixture(scope="module")
def echoed(echo: servers.HttpServer) -> Iterator[FsspecAccessor]:
    with FsspecAccessor(f"{echo.url}/a brain/50%25?sig=a%2Fb+c&x=/d/?") as accessor:
        yield accessor


@given(path=objects.filter(lambda path: "\n" not in path))  # which the test's server has no route for
@settings(max_examples=100)
def test_an_object_is_asked_for_by_its_name(path: str, echoed: FsspecAccessor, echo: servers.HttpServer) -> None:
    echo.log.clear()
    assert echoed.fetch_file(path) == b"x"
    (request,) = echo.log.entries()
    assert request.path == f"/a brain/50%/{path}"
    assert request.query == "sig=a%2Fb+c&x=/d/?"


# ----------------------------------------------------------------------------------------------------------- confining


@pytest.mark.parametrize(
    "path",
    [
        "",
        ".",
        "./",
        "./.",
        "/",
        "/info",
        "//info",
        "..",
        "../info",
        "a/..",
        "a/../b",
        "a/../../b",
        "./../a",
        "a//b",
        "a/",
        "%2e%2e",
        "%2E%2e/info",
        ".%2e/info",
        "%2e./info",
        "a/%2e%2e/b",
        "a%2f..%2fb",
        "..%2finfo",
        "..%5cinfo",
        "..\\info",
        "a\\..\\..\\info",
        "a/..\\b",
        "\0",
        "a\0b",
        "a%00b",
        "%00",
    ],
)
def test_a_path_that_leaves_the_pyramid_is_a_value_error(path: str) -> None:
    with pytest.raises(ValueError, match="pyramid") as caught:
        check_relative_path(path)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize(
    "path", ["info", "8_8_40/0-64_0-64_0-64", "mesh/1:0", "..a", "a..", "...", "a/...b/c", ".a", "%2e"]
)
def test_a_path_inside_the_pyramid_stays(path: str) -> None:
    assert check_relative_path(path) == path


@pytest.mark.parametrize(("path", "inside"), [("./info", "info"), ("a/./b", "a/b"), ("././a/.", "a")])
def test_dots_that_lead_nowhere_are_dropped(path: str, inside: str) -> None:
    assert check_relative_path(path) == inside


def test_a_path_object_is_a_path() -> None:
    assert check_relative_path(Path("mesh/info")) == "mesh/info"  # type: ignore[arg-type]


@given(st.text())
def test_what_passes_stays_below_the_root(path: str) -> None:
    try:
        inside = check_relative_path(path)
    except ValueError:
        return
    for decoded in (inside, urllib.parse.unquote(inside)):
        assert os.path.normpath(f"/root/{decoded}").startswith("/root/")


@pytest.mark.parametrize("path", ["../info", "a/%2e%2e/%2e%2e/info", "/info", "a//b", "a\0b"])
def test_nothing_is_sent_for_a_path_that_leaves(path: str, echoed: FsspecAccessor, echo: servers.HttpServer) -> None:
    echo.log.clear()
    for verb in (echoed.fetch_file, echoed.file_exists, lambda key: echoed.fetch_chunk(key, (0, 1, 0, 1, 0, 1))):
        with pytest.raises(ValueError, match="pyramid"):
            verb(path)
    assert echo.log.count() == 0


# ------------------------------------------------------------------------------------------------------- file pathnames

PATHNAMES = [
    "",
    "/lab/brain",
    "lab/brain",
    "a brain",
    "./lab/../brain/",
    "file:///lab/brain",
    "file:///lab/a%20brain/",
    "file:///lab/%C3%A9+%2B%25",
    "file://localhost/lab/a%20brain",
    "precomputed:///lab/brain",
    "precomputed://lab/brain",
    "precomputed://file:///lab/a%20brain",
    "precomputed://file://localhost/lab",
    "FILE:///lab",
]
NO_PATHNAMES = [
    "http://host/lab",
    "https://host/lab",
    "s3://bucket/lab",
    "gs://bucket",
    "memory://lab",
    "file://otherhost/lab",
    "file://lab/brain",
    "file:///lab/%ff",
    "precomputed://http://host/lab",
    "precomputed://file://otherhost/lab",
    "s3:bucket/lab",
]


@pytest.mark.parametrize("url", PATHNAMES)
def test_a_pathname_is_that_of_neuroglancer_scripts(url: str) -> None:
    expected = neuroglancer_scripts.accessor.convert_file_url_to_pathname(url)
    assert convert_file_url_to_pathname(url) == expected


@pytest.mark.parametrize("url", NO_PATHNAMES)
def test_what_is_no_pathname_is_an_url_error_as_in_neuroglancer_scripts(url: str) -> None:
    with pytest.raises(neuroglancer_scripts.accessor.URLError):
        neuroglancer_scripts.accessor.convert_file_url_to_pathname(url)
    with pytest.raises(URLError):
        convert_file_url_to_pathname(url)


@pytest.mark.parametrize("path", ["/lab/what?", "/lab/no#1", "/lab/50%25"])
def test_a_plain_pathname_comes_back_whole(path: str) -> None:
    """neuroglancer-scripts cuts it at ``?`` and ``#``."""
    assert convert_file_url_to_pathname(path) == path


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\t"), min_size=1))
def test_a_pathname_survives_its_url(name: str) -> None:
    path = f"/lab/{name}"
    assert convert_file_url_to_pathname(f"file://{urllib.parse.quote(path)}") == path
