"""Reference models that read weight-space elements."""
