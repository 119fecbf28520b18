"""What is relied on of adlfs and Azure's SDK."""

import urllib.parse
from types import SimpleNamespace

import pytest

from tests.store.protocols.conftest import TIMEOUT, Place, open_place
from tests.support import servers

pytestmark = pytest.mark.skipif(servers.azurite_command() is None, reason="needs azurite")


def test_a_request_has_a_signed_url(on_azure: Place) -> None:
    request = on_azure.run(on_azure.protocol.http_requests(on_azure.fs)("GET", f"{on_azure.root}/a"))
    url, _, query = request.url.partition("?")
    assert url.endswith(f"/{on_azure.root}/a")
    assert "sig" in urllib.parse.parse_qs(query)


@pytest.mark.parametrize("own", [{"anon": True}, {"sas_token": "sv=1&sig=hunter2", "anon": False}], ids=["anon", "SAS"])
def test_a_url_that_need_not_be_signed(own: dict[str, object]) -> None:
    place = open_place("az://container/lab", account_name="acc", **own)
    request = place.run(place.protocol.http_requests(place.fs)("HEAD", "container/lab/a"))
    assert request.url.partition("?")[0] == "https://acc.blob.core.windows.net/container/lab/a"
    assert ("sig=hunter2" in request.url) is ("sas_token" in own)
    assert request.method == "HEAD"


def test_other_credentials_and_versions_are_left_to_adlfs(azure_server: servers.AzureServer) -> None:
    place = open_place("az://container/lab", **azure_server.storage_options, version_aware=True)
    assert place.protocol.http_requests(place.fs) is None
    place = open_place("az://container/lab", account_name="acc", credential=SimpleNamespace(get_token=None))
    assert place.protocol.http_requests(place.fs) is None


def test_each_request_is_sent_once_and_not_waited_for(on_azure: Place) -> None:
    client = on_azure.fs.service_client
    assert client._config.retry_policy.total_retries == 0
    connection = client._pipeline._transport.connection_config
    assert connection.timeout == connection.read_timeout == TIMEOUT
