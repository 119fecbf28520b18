"""Methods that packages above implement: where they are, and that they are told what the caller says."""

import importlib
import inspect
from typing import Any

import pytest

from precomputed_fs import Scale, Volume
from precomputed_fs.volume import extensions


@pytest.mark.parametrize("target", extensions._IMPLEMENTED_BY.values())
def test_each_method_is_implemented(target: str) -> None:
    module, _, function = target.partition(":")
    assert callable(getattr(importlib.import_module(module), function))


@pytest.mark.parametrize("name", ["show", "plot", "view", "neuroglancer_url", "to_dask", "to_xarray", "store"])
def test_each_method_shows_its_signature_and_documentation(name: str) -> None:
    method: Any = getattr(Volume if name in ("view", "neuroglancer_url") else Scale, name)
    assert next(iter(inspect.signature(method).parameters)) == "self"
    assert "Raises" in method.__doc__
    assert method.__name__ == name
