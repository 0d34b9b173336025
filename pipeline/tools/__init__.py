"""Tools that headrace runs for a model: which there are, which may be called, and how they are."""
