"""Memory that a large read takes beside its result: of 1 GiB, in a fresh process for each way to read.

``python -m benchmarks.memory`` writes volumes of 1 GiB to a temporary folder and reads each whole, from local
disk and (where nginx is installed) over HTTP. It prints the peak of the process's resident memory less the
result, the interpreter and its libraries included, and fails where that is 150 MB or more. What is read is
compared with what was written.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from precomputed_fs import create_volume, open_volume
from tests import servers

LIMIT = 150  # MB
VOLUMES: dict[str, tuple[str, int, dict[str, Any]]] = {
    "raw uint8": ("uint8", 1024, {"gzip": False}),
    "gzip uint8": ("uint8", 1024, {}),
    "compressed_segmentation uint64": ("uint64", 512, {"encoding": "compressed_segmentation"}),
    "raw uint8 in shards": ("uint8", 1024, {"sharding": True}),
}


class Pattern:
    """A volume that is computed where it is sliced."""

    def __init__(self, dtype: str, side: int) -> None:
        self.shape = (side, side, side)
        self.dtype = np.dtype(dtype)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray[Any, Any]:
        x, y, z = (np.arange(*part.indices(side)) for part, side in zip(index, self.shape, strict=True))
        return (x[:, None, None] // 5 + y[None, :, None] // 3 + z // 2).astype(self.dtype)


def peak_over_result(url: str, dtype: str, side: int) -> float:
    """Read in this process; return MB."""
    volume = open_volume(url, progress=False)
    result = volume[0][...]
    status = Path("/proc/self/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    pattern = Pattern(dtype, side)
    for z in range(0, side, 64):
        part = (slice(0, side), slice(0, side), slice(z, z + 64))
        assert np.array_equal(result[part][..., 0], pattern[part])
    over: float = peak - result.nbytes / (1 << 20)
    return over


def measured(name: str, where: str, url: str, dtype: str, side: int) -> bool:
    script = f"from benchmarks.memory import peak_over_result; print(peak_over_result({url!r}, {dtype!r}, {side}))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    over = float(done.stdout)
    print(f"{name:>32} {where:>6} {over:>8.0f} MB", flush=True)
    return over < LIMIT


def main() -> int:
    good = True
    print("peak of resident memory over a result of 1 GiB")
    for name, (dtype, side, options) in VOLUMES.items():
        with tempfile.TemporaryDirectory() as folder:
            source: Any = Pattern(dtype, side)
            create_volume(folder, source, resolution=(8, 8, 8), scales=1, progress=False, **options)
            good &= measured(name, "local", folder, dtype, side)
            if servers.nginx_installed():
                with servers.nginx_server(Path(folder)) as nginx:
                    good &= measured(name, "HTTP", nginx.url, dtype, side)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
