"""How dask and xarray, and the tools that use them, read and write pyramids."""
