"""What is written in a pyramid's files: `info`, chunk names, compression, shards. Pure: no I/O, no fsspec, no NumPy."""
