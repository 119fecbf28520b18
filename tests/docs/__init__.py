"""The site that `make docs` builds: README, guide, and the reference of all public names."""
