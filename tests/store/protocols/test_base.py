"""What is relied on of every filesystem: how it reads its URLs; and of those of coroutines, the coroutines."""

import inspect
from pathlib import Path
from typing import Any

import fsspec
import pytest

from precomputed_fs.store.protocols import PROTOCOLS, protocol_of
from precomputed_fs.store.protocols.base import Asynchronous, Synchronous
from tests.store.protocols.conftest import TIMEOUT, open_place

COROUTINES = [
    ("_info", (), {}),
    ("_cat_file", (), {"start": 0, "end": 1}),
    ("_pipe_file", (b"",), {"mode": "create"}),
    ("_rm_file", (), {}),
]


@pytest.mark.parametrize(
    "name", sorted(PROTOCOLS.keys() - {"libarchive", "git"})
)  # packages that are no extras of ours
def test_a_filesystem_reads_its_urls(name: str) -> None:
    kind = fsspec.get_filesystem_class(name)
    assert isinstance(kind._get_kwargs_from_urls(f"{name}://bucket/lab"), dict)
    assert isinstance(kind._strip_protocol(f"{name}://bucket/lab"), str)


@pytest.mark.parametrize("name", sorted(name for name in PROTOCOLS if PROTOCOLS[name].is_asynchronous))
@pytest.mark.parametrize(("coroutine", "given", "keywords"), COROUTINES)
def test_a_filesystem_of_coroutines_has_those_that_are_used(
    name: str, coroutine: str, given: tuple[Any, ...], keywords: dict[str, Any]
) -> None:
    method = getattr(fsspec.get_filesystem_class(name), coroutine)
    assert inspect.iscoroutinefunction(method)
    inspect.signature(method).bind(None, "path", *given, **keywords)


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_a_protocol_is_used_in_one_of_two_ways(name: str) -> None:
    protocol = protocol_of(name)
    assert isinstance(protocol, Asynchronous if protocol.is_asynchronous else Synchronous)
    assert protocol.defaults(TIMEOUT).get("use_listings_cache", False) is False


def test_a_protocol_that_is_not_in_the_table_assumes_nothing(tmp_path: Path) -> None:
    (tmp_path / "info").write_bytes(b"{}")
    protocol, fs, root = open_place("dir://", path=str(tmp_path), target_protocol="file")
    assert type(protocol) is type(protocol_of("nope")) is Synchronous
    assert protocol.read(fs, f"{root}info", 9) == b"{}"
    assert protocol.list_names(fs, f"{root}in", 9) == ["info"]
    assert protocol.state(fs, f"{root}info").size == 2
