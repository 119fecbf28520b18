"""The names under which one chunk and one file may stand, as literals."""

from __future__ import annotations

KEY = "8_8_8"
COORDS = (0, 64, 0, 64, 0, 64)
FLAT, DEEP = f"{KEY}/0-64_0-64_0-64", f"{KEY}/0-64/0-64/0-64"
USUAL = (FLAT, f"{FLAT}.gz", DEEP, f"{DEEP}.gz")
SUFFIXES = (".br", ".zstd", ".xz", ".bz2")
CHUNK_NAMES = (*USUAL, *(f"{FLAT}{suffix}" for suffix in SUFFIXES), *(f"{DEEP}{suffix}" for suffix in SUFFIXES))
FILE_NAMES = tuple(f"mesh/1{suffix}" for suffix in ("", ".gz", *SUFFIXES))
