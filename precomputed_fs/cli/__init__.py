"""The commands of ``precomputed-fs``: a module each, with the options and the output that they share."""
