"""Which CA certificates count, and what messages say of them."""

from __future__ import annotations

import ssl
import sys
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs.errors import DataAccessError
from precomputed_fs.store.certificates import Trust, how_to_mend, trusted

if TYPE_CHECKING:
    from pathlib import Path

VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
"""In the order in which they count for S3."""

UNKNOWN = "SSL certificate OpenSSL verify result: unable to get local issuer certificate (20)"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*VARIABLES, "SSL_CERT_DIR", "AWS_PROFILE", "AWS_DEFAULT_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))


@pytest.fixture
def bundle(tmp_path: Path) -> str:
    path = tmp_path / "given.pem"
    path.touch()
    return str(path)


def set_all(monkeypatch: pytest.MonkeyPatch, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        path = folder / f"{name}.pem"
        path.touch()
        monkeypatch.setenv(name, str(path))


def write_profile(folder: Path, profile: str, path: Path) -> None:
    path.touch()
    section = profile if profile == "default" else f"profile {profile}"
    with (folder / "config").open("a") as config:
        config.write(f"[{section}]\nca_bundle = {path}\n")


@pytest.mark.parametrize("first", range(len(VARIABLES)))
def test_variables_count_in_the_order_of_their_kind(
    first: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, tmp_path, VARIABLES[first:])
    name = VARIABLES[first]
    assert trusted({}, is_s3=True) == Trust(str(tmp_path / f"{name}.pem"), source=name, is_s3=True)


def test_settings_of_aws_count_for_s3_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_all(monkeypatch, tmp_path, VARIABLES)
    write_profile(tmp_path, "default", tmp_path / "profile.pem")
    assert trusted({}).source == "REQUESTS_CA_BUNDLE"


def test_empty_variables_count_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "")
    write_profile(tmp_path, "default", tmp_path / "profile.pem")
    assert trusted({}, is_s3=True).path == str(tmp_path / "profile.pem")
    assert trusted({}).source not in VARIABLES


@pytest.mark.parametrize("how", ["default", "option", "AWS_PROFILE"])
def test_the_profile_of_aws_counts_after_its_variable(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, tmp_path, VARIABLES[1:])
    write_profile(tmp_path, "default", tmp_path / "default.pem")
    write_profile(tmp_path, "lab", tmp_path / "lab.pem")
    if how == "AWS_PROFILE":
        monkeypatch.setenv("AWS_PROFILE", "lab")
    options = {"profile": "lab"} if how == "option" else {}
    path = tmp_path / ("default.pem" if how == "default" else "lab.pem")
    assert trusted(options, is_s3=True) == Trust(str(path), source="ca_bundle of the AWS profile", is_s3=True)
    set_all(monkeypatch, tmp_path, VARIABLES[:1])
    assert trusted(options, is_s3=True).source == "AWS_CA_BUNDLE"


def test_a_profile_that_is_not_there_is_left_to_the_filesystem(bundle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    assert trusted({"profile": "nobody"}, is_s3=True).path == bundle


@pytest.mark.parametrize(
    ("is_s3", "option"), [(True, 'client_kwargs["verify"]'), (False, 'client_kwargs["verify"]'), (False, "verify")]
)
def test_an_option_counts_before_all_variables(
    is_s3: bool, option: str, bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, tmp_path, VARIABLES)

    def options(verify: Any) -> dict[str, Any]:
        return {"verify": verify} if option == "verify" else {"client_kwargs": {"verify": verify}}

    assert trusted(options(bundle), is_s3=is_s3) == Trust(bundle, source=option, is_s3=is_s3)
    assert trusted(options(tmp_path / "given.pem"), is_s3=is_s3).path == bundle
    assert trusted(options(False), is_s3=is_s3) == Trust(check=False, source=option, is_s3=is_s3)
    assert trusted(options(True), is_s3=is_s3).source == "REQUESTS_CA_BUNDLE"  # to boto3, too, no longer AWS's
    first = "AWS_CA_BUNDLE" if is_s3 else "REQUESTS_CA_BUNDLE"
    assert trusted(options(None), is_s3=is_s3).source == first


def test_aiohttp_says_it_in_its_own_way() -> None:
    assert trusted({"ssl": False}) == Trust(check=False, source="ssl=False")
    assert trusted({"ssl": True}).check
    assert trusted({"ssl": ssl.create_default_context()}).check


def test_a_bundle_may_be_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path))
    assert trusted({}) == Trust(directory=str(tmp_path), source="REQUESTS_CA_BUNDLE")


def test_openssl_takes_a_file_and_folders(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = f"{tmp_path / 'absent'}:{tmp_path}" if sys.platform != "win32" else str(tmp_path)
    monkeypatch.setenv("SSL_CERT_DIR", folders)
    assert trusted({}) == Trust(directory=folders, source="SSL_CERT_DIR")
    monkeypatch.setenv("SSL_CERT_FILE", bundle)
    assert trusted({}) == Trust(bundle, folders, source="SSL_CERT_FILE and SSL_CERT_DIR")


@pytest.mark.parametrize("name", [*VARIABLES, "SSL_CERT_DIR"])
def test_a_variable_that_names_nothing_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "absent.pem")
    monkeypatch.setenv(name, path)
    with pytest.raises(DataAccessError) as caught:
        trusted({}, is_s3=True)
    assert type(caught.value) is DataAccessError  # in particular, it does not say that an object is absent
    assert str(caught.value).startswith(f"{name} names ")
    assert path in str(caught.value)


def test_an_option_or_profile_that_names_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataAccessError, match=r'^client_kwargs\["verify"\] names .*/absent\.pem'):
        trusted({"client_kwargs": {"verify": "/absent.pem"}}, is_s3=True)
    write_profile(tmp_path, "default", tmp_path / "profile.pem")
    (tmp_path / "profile.pem").unlink()
    with pytest.raises(DataAccessError, match=r"^ca_bundle of the AWS profile names .*/profile\.pem"):
        trusted({}, is_s3=True)


def system(monkeypatch: pytest.MonkeyPatch, file: Path, folder: Path) -> None:
    """Have OpenSSL look for its defaults there."""
    paths = ssl.DefaultVerifyPaths("", "", "SSL_CERT_FILE", str(file), "SSL_CERT_DIR", str(folder))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)


def test_else_the_systems_count(bundle: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(monkeypatch, tmp_path / "given.pem", tmp_path)
    assert trusted({}) == Trust(bundle, source="the system's certificates")
    (tmp_path / "3f2a8c1b.0").touch()
    system(monkeypatch, tmp_path / "absent.pem", tmp_path)
    assert trusted({}) == Trust(directory=str(tmp_path), source="the system's certificates")


def test_certifi_counts_where_the_system_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certifi = pytest.importorskip("certifi")
    system(monkeypatch, tmp_path / "absent.pem", tmp_path)  # a folder without hashes is of no use
    assert trusted({}) == Trust(certifi.where(), source="certifi")
    monkeypatch.setitem(sys.modules, "certifi", None)
    assert trusted({}) == Trust(source="libcurl's own certificates")
    assert str(trusted({})) == "libcurl's own certificates"


@pytest.mark.parametrize(
    ("is_s3", "option", "variables"),
    [
        (True, 'client_kwargs={"verify": PATH}', "in AWS_CA_BUNDLE, REQUESTS_CA_BUNDLE or SSL_CERT_FILE"),
        (False, "option verify=PATH", "in REQUESTS_CA_BUNDLE or SSL_CERT_FILE"),
    ],
)
def test_advice_names_the_bundle_and_how_to_give_another(is_s3: bool, option: str, variables: str) -> None:
    said = how_to_mend(Trust("/a.pem", "/b", source="SSL_CERT_FILE and SSL_CERT_DIR", is_s3=is_s3), UNKNOWN)
    assert "checked against /a.pem and /b (SSL_CERT_FILE and SSL_CERT_DIR)" in said
    assert option in said
    assert said.endswith(variables)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("SSL certificate OpenSSL verify result: certificate has expired (10)", "has expired"),
        ("SSL certificate OpenSSL verify result: certificate is not yet valid (9)", "is not valid yet"),
        ("SSL: no alternative certificate subject name matches target hostname 'a.example'", "another host name"),
    ],
)
def test_advice_gives_no_bundle_where_none_would_help(reason: str, advice: str) -> None:
    said = how_to_mend(Trust("/a.pem", source="SSL_CERT_FILE"), reason)
    assert advice in said
    assert "PATH" not in said
