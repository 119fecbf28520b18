"""How bytes move between us and any filesystem that fsspec knows."""
