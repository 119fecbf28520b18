"""How stored coordinates become nanometres, and back."""

from __future__ import annotations

import numpy as np
import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.scene.transform import Transform

TURNED = (0, -8, 0, 100, 8, 0, 0, 0, 0, 0, 8, -0.5)


def test_the_identity_changes_nothing() -> None:
    assert Transform.of((1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1.0, 0)) is None


def test_vertices_are_turned_scaled_and_shifted_and_back() -> None:
    transform = Transform.of(TURNED)
    assert transform is not None
    stored = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    found = transform.applied(stored)
    np.testing.assert_array_equal(found, np.array([[84, 8, 23.5], [60, 32, 47.5]], np.float32))
    np.testing.assert_array_equal(transform.undone(found), stored)


@pytest.mark.parametrize(
    ("given", "scale"),
    [
        (TURNED, 8),
        ((-4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4, 0), 4),
        ((4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 4.00001, 0), 4),
        ((4, 0, 0, 0, 0, 4, 0, 0, 0, 0, 40, 0), None),
        ((1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0), None),
        ((0,) * 12, None),
    ],
)
def test_a_scale_is_uniform_if_it_is_the_same_in_all_directions(given: tuple[float, ...], scale: float | None) -> None:
    transform = Transform.of(given)
    assert transform is not None
    assert transform.uniform_scale == (None if scale is None else pytest.approx(scale, rel=1e-5))


def test_a_transform_without_an_inverse_cannot_be_written_through() -> None:
    transform = Transform.of((0,) * 12)
    assert transform is not None
    with pytest.raises(InvalidInfoError, match="transform: expected a matrix with an inverse"):
        transform.undone(np.zeros((1, 3), np.float32))


def test_what_float32_has_not_is_not_stored() -> None:
    transform = Transform.of([1e-30, 0, 0, 0, 0, 1e-30, 0, 0, 0, 0, 1e-30, 0])
    assert transform is not None
    with pytest.raises(ValueError, match="farther away than float32 and the folder's transform allow"):
        transform.undone(np.array([[1e30, 0, 0]], np.float32))
