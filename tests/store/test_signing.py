"""Requests to S3 are signed as AWS's own library signs them."""

import datetime as dt
from typing import TYPE_CHECKING

import botocore.auth
import pytest
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from precomputed_fs.signing import Signer

if TYPE_CHECKING:
    from types import ModuleType

NOW = 1_790_000_000.0


@pytest.fixture
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the SDK sign at a known moment, by whichever of its functions tells the time."""
    moment = dt.datetime.fromtimestamp(NOW, dt.UTC).replace(tzinfo=None)
    module: ModuleType = botocore.auth
    assert hasattr(module, "get_current_datetime")
    monkeypatch.setattr(module, "get_current_datetime", lambda *_, **__: moment)


@pytest.mark.usefixtures("_now")
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("token", ["", "a+token/of=many"])
@pytest.mark.parametrize("path", ["/bucket/a/0-64_0-64_0-64", "/1e%2B06/%C3%A9%20%281%29~", "/"])
@pytest.mark.parametrize("host", ["bucket.s3.eu-west-1.amazonaws.com", "127.0.0.1:9000"])
def test_it_is_the_signature_of_the_sdk(method: str, token: str, path: str, host: str) -> None:
    request = AWSRequest(method, f"https://{host}{path}")
    credentials = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token or None)
    botocore.auth.S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    signer = Signer("AKIDEXAMPLE", "eu-west-1", "s3", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", token)
    ours = signer.headers(method, host, path, now=NOW)
    assert ours == {name.lower(): value for name, value in request.headers.items()}


def test_a_signer_shows_no_secret() -> None:
    signer = Signer("AKIDEXAMPLE", "eu-west-1", "s3", "hunter2secret", "hunter2token")
    assert "hunter2" not in repr(signer)
