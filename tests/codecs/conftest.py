"""The decoders of labels that NumPy and the library are; tests/codecs/test_label_kernel.py has the compiled ones."""

from __future__ import annotations

import pytest

from precomputed_fs.codecs.compressed_segmentation import BOX_KERNELS, POINT_KERNELS


@pytest.fixture(autouse=True)
def _without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode labels as before the kernels are compiled."""
    for kernel in (*BOX_KERNELS.values(), *POINT_KERNELS.values()):
        monkeypatch.setattr(kernel, "_function", None)
