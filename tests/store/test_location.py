"""Filesystems of URLs: storage options, credentials, and going without."""

from __future__ import annotations

import functools
import importlib
import json
import os
import pwd
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec.core
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from precomputed_fs import (
    DataAccessError,
    FsspecAccessor,
)
from precomputed_fs.store.location import resolve
from precomputed_fs.store.protocols import clouds, s3
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TIMEOUT = 5.0
USER = pwd.getpwuid(os.getuid()).pw_name
USERS_HOME = pwd.getpwuid(os.getuid()).pw_dir
FALLBACK_SECONDS = 1.5
AZURE_ACCOUNT = {"account_name": "acc"}
REFERENCES = {"fo": {"info": "{}", "sub/info": "{}"}}


# ------------------------------------------------------------------------------------------------------ storage options


def options_of(url: str, options: dict[str, Any], **others: Any) -> list[dict[str, Any]]:
    """Return the options of each filesystem of a chain, the outermost first."""
    fs, _ = resolve(url, storage_options=options, **others).open(TIMEOUT)
    found = []
    while fs is not None:
        found.append(dict(fs.storage_options))
        fs = getattr(fs, "fs", None)
    return found


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "nested"])
@pytest.mark.parametrize("scheme", ["s3", "gs", "gcs", "az", "abfs"])
def test_options_reach_the_filesystem(scheme: str, nested: bool) -> None:
    options: dict[str, dict[str, Any]] = {
        "s3": {"key": "k", "secret": "s", "client_kwargs": {"region_name": "eu-west-1"}},
        "az": {"account_name": "acc", "account_key": "a2V5"},
        "gs": {"token": "anon", "project": "mine"},
    }
    own = options[{"gcs": "gs", "abfs": "az"}.get(scheme, scheme)]
    (found,) = options_of(f"{scheme}://b/p", {scheme: own} if nested else own)
    assert {name: found.get(name) for name in own} == own


@pytest.mark.parametrize(("scheme", "name"), [("gs", "gcs"), ("gcs", "gs"), ("az", "abfs"), ("s3", "s3a")])
def test_options_may_be_nested_under_another_name_of_the_protocol(scheme: str, name: str) -> None:
    location = resolve(f"{scheme}://b/p", storage_options={name: {"token": "anon"}})
    assert location.links[0].options["token"] == "anon"


def test_nested_options_reach_each_filesystem_of_a_chain(tmp_path: Path) -> None:
    options = {"simplecache": {"cache_storage": str(tmp_path)}, "s3": {"key": "k", "secret": "s"}}
    cache, bucket = options_of("simplecache::s3://b/p", options)
    assert cache["cache_storage"] == str(tmp_path)
    assert (bucket["key"], bucket["secret"]) == ("k", "s")
    assert "cache_storage" not in bucket


def test_flat_options_of_a_chain_are_the_outermost_ones(tmp_path: Path) -> None:
    """As fsspec has it: ``url_to_fs(chain, **options)``."""
    options = {"cache_storage": str(tmp_path), "s3": {"key": "k", "secret": "s"}}
    cache, bucket = options_of("simplecache::s3://b/p", options)
    assert cache["cache_storage"] == str(tmp_path)
    assert "cache_storage" not in bucket
    expected, _ = fsspec.core.url_to_fs("simplecache::s3://b/p", **options)
    assert expected.storage_options["cache_storage"] == str(tmp_path)


def test_options_of_a_chain_may_be_nested_as_those_of_filesystems_are() -> None:
    options = {"same_names": True, "target_protocol": "s3", "target_options": {"key": "k", "secret": "s"}}
    cache, bucket = options_of("simplecache::s3://b/p", options)
    assert cache["same_names"]
    assert (bucket["key"], bucket["secret"]) == ("k", "s")


def test_the_callers_options_are_not_changed() -> None:
    options = {"simplecache": {"same_names": True}, "s3": {"key": "k", "config_kwargs": {"a": {"b": 1}}}}
    copy = json.loads(json.dumps(options))
    resolve("simplecache::s3+http://host/b/p", storage_options=options, anon=True).open(TIMEOUT)
    assert options == copy


def test_an_endpoint_in_the_url_reaches_the_filesystem() -> None:
    fs, _ = resolve("s3+http://end.org:9000/bucket/brain", anon=True).open(TIMEOUT)
    assert fs.endpoint_url == "http://end.org:9000"
    fs, _ = resolve("s3+https://end.org/bucket", storage_options={"key": "k", "secret": "s"}).open(TIMEOUT)
    assert (fs.endpoint_url, fs.key) == ("https://end.org", "k")


@pytest.mark.parametrize("url", ["s3://b/p", "gs://b/p", "http://h/p", "az://c/p"])
def test_each_filesystem_is_our_own_without_listing_caches(url: str) -> None:
    options = AZURE_ACCOUNT if url.startswith("az") else {}
    first, second = (resolve(url, storage_options=options, anon=True).open(TIMEOUT)[0] for _ in range(2))
    assert first is not second
    assert first.dircache.use_listings_cache is False


# ----------------------------------------------------------------------------------------------------------- anonymous


def is_anonymous(fs: Any) -> bool:
    """Tell whether a filesystem of S3, GCS or Azure goes without credentials."""
    if "gs" in fs.protocol:
        return fs.credentials.credentials is None
    return bool(fs.anon)


CLOUDS = [("s3://b/p", {}), ("gs://b/p", {}), ("az://c/p", AZURE_ACCOUNT)]
each_cloud = pytest.mark.parametrize(("url", "options"), CLOUDS, ids=["S3", "GCS", "Azure"])


@each_cloud
def test_anon_means_the_same_everywhere(url: str, options: dict[str, Any]) -> None:
    fs, _ = resolve(url, storage_options=options, anon=True).open(TIMEOUT)
    assert is_anonymous(fs)


@each_cloud
def test_anon_reaches_through_a_chain(url: str, options: dict[str, Any]) -> None:
    nested = {url.partition(":")[0]: options}
    fs, _ = resolve(f"simplecache::{url}", storage_options=nested, anon=True).open(TIMEOUT)
    assert is_anonymous(fs.fs)


def test_anon_wins_over_credentials_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert is_anonymous(resolve("s3://b/p", anon=True).open(TIMEOUT)[0])


def test_anonymous_s3_requests_are_not_signed(s3_server: servers.S3Server) -> None:
    s3_server.create_bucket("anonymous")
    s3_server.put("anonymous", "brain/info", b"{}", ACL="public-read")
    url = f"s3+{s3_server.endpoint}/anonymous/brain"
    s3_server.log.clear()
    with FsspecAccessor(url, anon=True) as accessor:
        assert accessor.fetch_file("info") == b"{}"
    assert s3_server.log.count() > 0
    for request in s3_server.log.entries():
        assert "Authorization" not in request.headers
        assert "Signature" not in request.query


def test_anonymous_gcs_requests_carry_no_token(gcs_server: servers.GcsServer) -> None:
    gcs_server.create_bucket("anonymous")
    gcs_server.put("anonymous", "brain/info", b"{}")
    gcs_server.log.clear()
    options = {"endpoint_url": gcs_server.endpoint}
    with FsspecAccessor("gs://anonymous/brain", storage_options=options, anon=True) as accessor:
        assert accessor.fetch_file("info") == b"{}"
    assert gcs_server.log.count() > 0
    assert not any("Authorization" in request.headers for request in gcs_server.log.entries())


# --------------------------------------------------------------------------------------------------------- credentials


class Machine(NamedTuple):
    """A machine without credentials, whose metadata service accepts connections and never answers."""

    home: Path
    metadata: servers.HttpServer


@pytest.fixture(scope="module")
def black_hole() -> Iterator[servers.HttpServer]:
    with servers.fault_server(servers.latency(3600, servers.respond(200))) as server:
        yield server


@pytest.fixture
def machine(black_hole: servers.HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    for name in ("s3fs", "gcsfs", "adlfs", "botocore.session", "google.auth"):
        importlib.import_module(name)  # the drivers' imports are not what is measured
    for name in [name for name in os.environ if name.startswith(("AWS_", "GCE_", "NO_GCE_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", black_hole.url)
    monkeypatch.setenv("GCE_METADATA_HOST", black_hole.url.removeprefix("http://"))
    forget_probes()
    black_hole.log.clear()
    yield Machine(tmp_path, black_hole)
    forget_probes()


def forget_probes() -> None:
    """Let the metadata services be asked again: otherwise they are once per process."""
    s3._has_instance_role.cache_clear()
    clouds.metadata_service_answers.cache_clear()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@each_cloud
def test_without_credentials_it_is_anonymous_soon(url: str, options: dict[str, Any], machine: Machine) -> None:
    began = time.monotonic()
    fs, _ = resolve(url, storage_options=options).open(TIMEOUT)
    seconds = time.monotonic() - began
    assert is_anonymous(fs)
    assert seconds < FALLBACK_SECONDS
    assert machine.metadata.log.count() > 0, "the metadata service was not asked"


@each_cloud
def test_the_metadata_service_is_asked_once_per_process(url: str, options: dict[str, Any], machine: Machine) -> None:
    resolve(url, storage_options=options).open(TIMEOUT)
    machine.metadata.log.clear()
    assert is_anonymous(resolve(url, storage_options=options).open(TIMEOUT)[0])
    assert machine.metadata.log.count() == 0


@each_cloud
def test_a_refusing_metadata_service_is_not_waited_for(
    url: str, options: dict[str, Any], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", servers.refused_url())
    monkeypatch.setenv("GCE_METADATA_HOST", servers.refused_url().removeprefix("http://"))
    began = time.monotonic()
    assert is_anonymous(resolve(url, storage_options=options).open(TIMEOUT)[0])
    assert time.monotonic() - began < FALLBACK_SECONDS


def test_the_first_read_falls_back_too(machine: Machine, s3_server: servers.S3Server) -> None:
    s3_server.create_bucket("fallback")
    s3_server.put("fallback", "brain/info", b"{}", ACL="public-read")
    url = f"s3+{s3_server.endpoint}/fallback/brain"
    with FsspecAccessor(url, anon=True) as accessor:  # let the SDK load its models
        accessor.fetch_file("info")
    s3_server.log.clear()
    began = time.monotonic()
    with FsspecAccessor(url) as accessor:
        assert accessor.fetch_file("info") == b"{}"
    assert time.monotonic() - began < FALLBACK_SECONDS
    assert not any("Authorization" in request.headers for request in s3_server.log.entries())
    assert not any("Signature" in request.query for request in s3_server.log.entries())


KEYS = "aws_access_key_id = k\naws_secret_access_key = s\n"


def s3_environment(home: Path) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}


def s3_credentials_file(home: Path) -> dict[str, str]:
    write(home / ".aws" / "credentials", f"[default]\n{KEYS}")
    return {}


def s3_credentials_file_elsewhere(home: Path) -> dict[str, str]:
    write(home / "elsewhere", f"[default]\n{KEYS}")
    return {"AWS_SHARED_CREDENTIALS_FILE": str(home / "elsewhere")}


def s3_profile(home: Path) -> dict[str, str]:
    write(home / ".aws" / "credentials", f"[lab]\n{KEYS}")
    return {"AWS_PROFILE": "lab"}


def s3_config_file(home: Path) -> dict[str, str]:
    write(home / ".aws" / "config", f"[default]\n{KEYS}")
    return {}


def s3_process(home: Path) -> dict[str, str]:
    answer = json.dumps({"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s"})
    write(home / "answer.json", answer)
    write(home / ".aws" / "config", f"[default]\ncredential_process = cat {home}/answer.json\n")
    return {}


@pytest.mark.parametrize(
    "provide",
    [s3_environment, s3_credentials_file, s3_credentials_file_elsewhere, s3_profile, s3_config_file, s3_process],
)
def test_s3_credentials_are_found_without_the_metadata_service(
    provide: Callable[[Path], dict[str, str]], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in provide(machine.home).items():
        monkeypatch.setenv(name, value)
    fs, _ = resolve("s3://b/p").open(TIMEOUT)
    assert not is_anonymous(fs)
    assert machine.metadata.log.count() == 0


def test_a_profile_among_the_options_is_looked_up(machine: Machine) -> None:
    write(machine.home / ".aws" / "credentials", f"[lab]\n{KEYS}")
    assert not is_anonymous(resolve("s3://b/p", storage_options={"profile": "lab"}).open(TIMEOUT)[0])
    assert machine.metadata.log.count() == 0


@pytest.fixture
def container(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.HttpServer]:
    """Run in a container that gives credentials."""
    answer = {"AccessKeyId": "k", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}
    with servers.fault_server(servers.respond(200, json.dumps(answer).encode())) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.url}/credentials")
        yield server


def test_a_container_is_asked_before_the_metadata_service(machine: Machine, container: servers.HttpServer) -> None:
    assert not is_anonymous(resolve("s3://b/p").open(TIMEOUT)[0])
    assert container.log.methods() == ["GET"]
    assert machine.metadata.log.count() == 0


@pytest.mark.parametrize("provide", [s3_environment, s3_credentials_file, s3_config_file])
def test_environment_and_files_come_before_a_container(
    provide: Callable[[Path], dict[str, str]],
    machine: Machine,
    container: servers.HttpServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in provide(machine.home).items():
        monkeypatch.setenv(name, value)
    assert not is_anonymous(resolve("s3://b/p").open(TIMEOUT)[0])
    assert container.log.count() == 0
    assert machine.metadata.log.count() == 0


def test_the_environment_comes_before_files(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that would run a command is not even followed."""
    trace = machine.home / "was-run"
    write(machine.home / ".aws" / "config", f"[default]\ncredential_process = touch {trace}\n")
    for name, value in s3_environment(machine.home).items():
        monkeypatch.setenv(name, value)
    assert not is_anonymous(resolve("s3://b/p").open(TIMEOUT)[0])
    assert not trace.exists()


def test_an_instance_with_a_role_is_not_anonymous(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    role = {"Code": "Success", "AccessKeyId": "k", "SecretAccessKey": "s", "Token": "t"}
    role["Expiration"] = "2099-01-01T00:00:00Z"
    answers = {"PUT": b"token", "/latest/meta-data/iam/security-credentials/": b"my-role"}

    async def instance(request: web.Request) -> web.StreamResponse:
        body = answers.get(request.method) or answers.get(request.path) or json.dumps(role).encode()
        return web.Response(body=body)

    with servers.fault_server(instance) as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url)
        assert not is_anonymous(resolve("s3://b/p").open(TIMEOUT)[0])


def test_a_broken_profile_is_an_error_not_anonymous(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "misspelt")
    accessor = FsspecAccessor(f"s3+{servers.refused_url()}/b/p")
    with accessor, pytest.raises(DataAccessError, match="misspelt"):
        accessor.fetch_file("info")
    assert machine.metadata.log.count() == 0


@functools.cache
def service_account() -> str:
    """Make a service account's key file."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    kind, form = serialization.PrivateFormat.PKCS8, serialization.Encoding.PEM
    return json.dumps(
        {
            "type": "service_account",
            "project_id": "mine",
            "private_key": key.private_bytes(form, kind, serialization.NoEncryption()).decode(),
            "client_email": "me@mine.example",
            "token_uri": "http://127.0.0.1:9/token",
        }
    )


def gcs_named_file(home: Path) -> dict[str, str]:
    write(home / "account.json", service_account())
    return {"GOOGLE_APPLICATION_CREDENTIALS": str(home / "account.json")}


def gcs_default_file(home: Path) -> dict[str, str]:
    write(home / ".config" / "gcloud" / "application_default_credentials.json", service_account())
    return {}


def gcs_default_file_elsewhere(home: Path) -> dict[str, str]:
    write(home / "elsewhere" / "application_default_credentials.json", service_account())
    return {"CLOUDSDK_CONFIG": str(home / "elsewhere")}


each_gcs_way = pytest.mark.parametrize("provide", [gcs_named_file, gcs_default_file, gcs_default_file_elsewhere])


@each_gcs_way
@pytest.mark.parametrize("anon", [None, False])
def test_gcs_credentials_are_found_without_the_metadata_service(
    provide: Callable[[Path], dict[str, str]], anon: bool | None, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in provide(machine.home).items():
        monkeypatch.setenv(name, value)
    fs, _ = resolve("gs://b/p", anon=anon).open(TIMEOUT)
    assert not is_anonymous(fs)
    assert fs.credentials.credentials.service_account_email == "me@mine.example"
    assert machine.metadata.log.count() == 0


@pytest.mark.parametrize(
    "environment",
    [
        {"AZURE_STORAGE_ACCOUNT_KEY": "a2V5"},
        {"AZURE_STORAGE_CONNECTION_STRING": "AccountName=acc;AccountKey=a2V5"},
        {"AZURE_STORAGE_SAS_TOKEN": "sv=1&sig=2"},
        {"AZURE_STORAGE_CLIENT_ID": "i", "AZURE_STORAGE_CLIENT_SECRET": "s", "AZURE_STORAGE_TENANT_ID": "t"},
        {"AZURE_CLIENT_ID": "i", "AZURE_CLIENT_SECRET": "s", "AZURE_TENANT_ID": "t"},
    ],
    ids="+".join,
)
def test_azure_credentials_are_found_without_the_metadata_service(
    environment: dict[str, str], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    fs, _ = resolve("az://c/p", storage_options=AZURE_ACCOUNT).open(TIMEOUT)
    assert not is_anonymous(fs)
    assert machine.metadata.log.count() == 0


def test_an_account_name_alone_is_no_credential(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where a public container is."""
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "acc")
    assert is_anonymous(resolve("az://c/p").open(TIMEOUT)[0])


@each_cloud
def test_who_asks_for_no_credentials_sends_no_probe(url: str, options: dict[str, Any], machine: Machine) -> None:
    assert is_anonymous(resolve(url, storage_options=options, anon=True).open(TIMEOUT)[0])
    assert machine.metadata.log.count() == 0


@pytest.mark.parametrize(("url", "options"), [CLOUDS[0], CLOUDS[2]], ids=["S3", "Azure"])
def test_who_asks_for_credentials_sends_no_probe(url: str, options: dict[str, Any], machine: Machine) -> None:
    """For GCS see `test_gcs_credentials_are_found_without_the_metadata_service`: gcsfs asks by itself."""
    assert not is_anonymous(resolve(url, storage_options=options, anon=False).open(TIMEOUT)[0])
    assert machine.metadata.log.count() == 0


@pytest.mark.parametrize(
    ("url", "options", "anonymous"),
    [
        ("s3://b/p", {"key": "k", "secret": "s"}, False),
        ("s3://b/p", {"anon": False}, False),
        ("s3://b/p", {"anon": True}, True),
        ("gs://b/p", {"token": "anon"}, True),
        ("az://c/p", {"account_name": "acc", "account_key": "a2V5"}, False),
        ("az://c/p", {"connection_string": "AccountName=acc;AccountKey=a2V5"}, False),
        ("az://c/p", {"account_name": "acc", "sas_token": "sv=1&sig=2"}, False),
        ("az://c/p", {"account_name": "acc", "anon": True}, True),
    ],
)
def test_options_that_settle_it_send_no_probe(
    url: str, options: dict[str, Any], anonymous: bool, machine: Machine
) -> None:
    assert is_anonymous(resolve(url, storage_options=options).open(TIMEOUT)[0]) is anonymous
    assert machine.metadata.log.count() == 0


@pytest.mark.parametrize(
    ("url", "expected", "shown"),
    [
        ("/data/a brain", "file:///data/a brain/mesh/a#1", "/data/a brain/mesh/a#1"),
        ("s3://bucket/lab/", "s3://bucket/lab/mesh/a#1", "s3://bucket/lab/mesh/a#1"),
        ("https://host/lab?sig=x", "https://host/lab/mesh/a%231?sig=x", "https://host/lab/mesh/a#1"),
        ("zip://brain::/data/a.zip", "zip://brain/mesh/a#1", "zip://brain/mesh/a#1::/data/a.zip"),
        ("simplecache::https://host/lab", "simplecache://", "simplecache::https://host/lab/mesh/a#1"),
    ],
)
def test_a_folder_is_below(url: str, expected: str, shown: str) -> None:
    below = resolve(url).below("mesh/a#1")
    assert (below.links[0].url, below.display()) == (expected, shown)
    assert below.above(2).display() == resolve(url).display().rstrip("/")
