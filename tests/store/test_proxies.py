"""Which proxy counts for a server."""

from __future__ import annotations

import urllib.request

import pytest

from precomputed_fs.store.proxies import Proxy, proxy_for


@pytest.fixture(autouse=True)
def _no_settings_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the environment on macOS and Windows, too."""
    monkeypatch.setattr(urllib.request, "getproxies", urllib.request.getproxies_environment)
    environments = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    monkeypatch.setattr(urllib.request, "proxy_bypass", environments)


@pytest.mark.parametrize(
    ("variables", "http", "https"),
    [
        ({}, "", ""),
        ({"http_proxy": "http://p:1"}, "http://p:1", ""),
        ({"HTTPS_PROXY": "http://p:1"}, "", "http://p:1"),
        ({"ALL_PROXY": "socks5h://p:1"}, "socks5h://p:1", "socks5h://p:1"),
        ({"all_proxy": "http://p:1", "https_proxy": "http://p:2"}, "http://p:1", "http://p:2"),
        ({"HTTP_PROXY": "http://upper:1", "http_proxy": "http://lower:1"}, "http://lower:1", ""),
        ({"HTTP_PROXY": "http://p:1", "http_proxy": ""}, "", ""),
    ],
)
def test_variables_in_either_case(
    variables: dict[str, str], http: str, https: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_for("http://a.example/x").url == http
    assert proxy_for("https://a.example/x").url == https


@pytest.mark.parametrize(
    ("no_proxy", "direct", "not_direct"),
    [
        ("*", "http://a.example/", None),
        ("a.example, b.example", "http://b.example:8080/x", "http://c.example/"),
        ("example", "http://a.example/", "http://anexample/"),
        (".a.example", "http://A.EXAMPLE/", "http://b.example/"),
        ("localhost:9000", "http://key:secret@localhost:9000/x", "http://localhost:9001/"),
        ("[::1]", "http://[::1]:9000/x", "http://[::2]/"),
    ],
)
def test_hosts_that_python_asks_directly(
    no_proxy: str, direct: str, not_direct: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://p:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert proxy_for(direct) == Proxy()
    if not_direct:
        assert proxy_for(not_direct) == Proxy("http://p:1", no_proxy)


def test_a_proxys_password_is_not_shown() -> None:
    assert "hunter2" not in repr(Proxy("http://user:hunter2@p:1", "a.example"))
