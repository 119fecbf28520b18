"""How an `info` of any kind is parsed."""

from __future__ import annotations

from typing import Any

import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.info_members import IDENTITY, read_transform
from precomputed_fs.format.info_objects import check_type, parse_typed


def test_a_type_is_read_in_any_case() -> None:
    parsed = parse_typed(b'{"@type": "Neuroglancer_Skeletons"}', "info", 100)
    check_type(parsed, "neuroglancer_skeletons", "info", "these are no skeletons")
    assert parsed == {"@type": "neuroglancer_skeletons"}


@pytest.mark.parametrize("given", [None, 7, "neuroglancer_meshes"])
def test_another_type_is_refused(given: Any) -> None:
    with pytest.raises(
        InvalidInfoError, match=r"^s3://b/info: @type: expected 'neuroglancer_skeletons', got .*: these"
    ):
        check_type({"@type": given}, "neuroglancer_skeletons", "s3://b/info", "these are no skeletons")


def test_a_transform_is_twelve_finite_numbers() -> None:
    assert read_transform([8, 0, 0, 0.5, 0, 8, 0, 0, 0, 0, 40, -1]) == (8, 0, 0, 0.5, 0, 8, 0, 0, 0, 0, 40, -1)


@pytest.mark.parametrize("last", [None, True, "0", float("nan"), float("inf"), 10**400])
def test_a_transform_of_anything_but_finite_numbers_is_refused(last: Any) -> None:
    with pytest.raises(InvalidInfoError, match=r"^: expected 12 finite numbers, got "):
        read_transform([*IDENTITY[:-1], last])


@pytest.mark.parametrize("given", [None, "x", [], [*IDENTITY, 1], [list(IDENTITY[:4])] * 3])
def test_a_transform_of_another_shape_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInfoError, match=r"^: expected 12 finite numbers, got "):
        read_transform(given)
