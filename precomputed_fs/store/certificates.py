"""Which CA certificates a server's certificate is checked against, and which setting decides.

boto3, requests and OpenSSL each have their own settings; libcurl, as pycurl ships it, reads none of them. The first of
these that is set decides:

1. the option ``verify``, as in boto3 and requests (for S3 in ``client_kwargs``), or aiohttp's ``ssl=False``;
2. for S3, ``AWS_CA_BUNDLE``, then ``ca_bundle`` of the AWS profile;
3. ``REQUESTS_CA_BUNDLE``, then ``CURL_CA_BUNDLE``;
4. ``SSL_CERT_FILE`` and ``SSL_CERT_DIR``;
5. the system's certificates, as OpenSSL finds them; certifi's, if the system has none.

An empty variable counts as not set.
"""

import contextlib
import dataclasses
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from precomputed_fs.errors import DataAccessError

_AT_FAULT = {
    "expired": "the server's certificate has expired (or this machine's clock is wrong)",
    "not yet valid": "the server's certificate is not valid yet (or this machine's clock is wrong)",
    "subject name": "the server's certificate is for another host name",
}
"""Faults that no other bundle would mend, by words of libcurl's and OpenSSL's messages."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How to check a server's certificate."""

    path: str | None = None
    """A file of CA certificates."""

    directory: str | None = None
    """A folder of hashed CA certificates (``openssl rehash``), or several, in the format of ``SSL_CERT_DIR``.

    With neither a file nor a folder, libcurl's default is used.
    """

    check: bool = True
    """Whether to check the certificate at all."""

    source: str = "libcurl's own certificates"
    """The setting that decided, in words for messages."""

    is_s3: bool = False

    def __str__(self) -> str:
        """Name the bundle and the setting that decided."""
        where = " and ".join(filter(None, (self.path, self.directory)))
        return f"{where} ({self.source})" if where else self.source


def trusted(options: Mapping[str, Any], *, is_s3: bool = False) -> Trust:
    """Find the CA certificates to trust.

    Parameters
    ----------
    options : mapping
        The filesystem's storage options. An ``ssl.SSLContext`` among them is for the filesystem's own session and is
        ignored here.
    is_s3 : bool
        Whether AWS settings apply.

    Raises
    ------
    DataAccessError
        If a setting names a file or folder that does not exist; the message names the setting.
    """
    verify, option = _verify_option(options, is_s3=is_s3)
    if verify is False:
        return Trust(check=False, source=option, is_s3=is_s3)
    settings = _settings(options, is_aws=is_s3 and verify is None)  # boto3: True overrides AWS's settings
    path, source = next(settings, ("", "")) if verify in (None, True) else (os.fspath(verify), option)
    if path and not Path(path).exists():
        raise _missing(source, path)
    trust = _trust_in(path, source) if path else _openssl() or _system()
    return dataclasses.replace(trust, is_s3=is_s3)


def how_to_mend(trust: Trust, reason: str) -> str:
    """Say which bundle a certificate was checked against, and what to do.

    Parameters
    ----------
    trust : Trust
    reason : str
        The message of libcurl or OpenSSL.
    """
    if fault := next((fault for words, fault in _AT_FAULT.items() if words in reason), ""):
        return fault
    option = 'client_kwargs={"verify": PATH}' if trust.is_s3 else "verify=PATH"
    variables = f"{'AWS_CA_BUNDLE, ' if trust.is_s3 else ''}REQUESTS_CA_BUNDLE or SSL_CERT_FILE"
    return (
        f"the server's certificate was checked against {trust}; to trust another authority, give the path of its "
        f"certificate as the storage option {option}, or in {variables}"
    )


def _verify_option(options: Mapping[str, Any], *, is_s3: bool) -> tuple[Any, str]:
    """Return the value that the options give (None: none), and the name of the option."""
    client = options.get("client_kwargs") or {}
    if client.get("verify") is not None:
        return client["verify"], 'client_kwargs["verify"]'
    if not is_s3 and options.get("verify") is not None:
        return options["verify"], "verify"
    return (False, "ssl=False") if not is_s3 and options.get("ssl") is False else (None, "")


def _settings(options: Mapping[str, Any], *, is_aws: bool) -> Iterator[tuple[str, str]]:
    """Yield the paths that are set, with the names of their settings, in order of precedence."""
    if is_aws:
        if path := os.environ.get("AWS_CA_BUNDLE"):
            yield path, "AWS_CA_BUNDLE"
        elif path := _ca_bundle_of_profile(options.get("profile")):
            yield path, "ca_bundle of the AWS profile"
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(name):
            yield path, name


def _ca_bundle_of_profile(profile: str | None) -> str:
    import botocore.session  # noqa: PLC0415 - only where S3 is used
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    with contextlib.suppress(BotoCoreError):  # the filesystem reports a missing or broken profile
        # The handlers take 20 ms to register, and only requests use them.
        session = botocore.session.Session(include_builtin_handlers=False, profile=profile)
        return str(session.get_scoped_config().get("ca_bundle", ""))
    return ""


def _trust_in(path: str, source: str) -> Trust:
    return Trust(directory=path, source=source) if Path(path).is_dir() else Trust(path, source=source)


def _openssl() -> Trust | None:
    """Read OpenSSL's variables; each of them replaces one of its two defaults."""
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file and not Path(file).is_file():
        raise _missing("SSL_CERT_FILE", file)
    if folders and not any(Path(folder).is_dir() for folder in folders.split(os.pathsep) if folder):
        raise _missing("SSL_CERT_DIR", folders)
    if not file and not folders:
        return None
    source = " and ".join(name for name, value in (("SSL_CERT_FILE", file), ("SSL_CERT_DIR", folders)) if value)
    return Trust(file or None, folders or None, source=source)


def _system() -> Trust:
    paths = ssl.get_default_verify_paths()
    for path in (paths.openssl_cafile, paths.openssl_capath):
        if Path(path).is_file() or any(Path(path).glob("*.0")):
            return _trust_in(path, "the system's certificates")
    with contextlib.suppress(ImportError):
        import certifi  # noqa: PLC0415 - not a dependency of ours, but often installed

        return Trust(certifi.where(), source="certifi")
    return Trust()


def _missing(source: str, path: str) -> DataAccessError:
    return DataAccessError(f"{source} names the CA certificates to trust, {path}, but there is no such file or folder")
