"""How dask and xarray, and so other tools, read and write pyramids."""
