"""How well passages are found, measured on public data: `make bench-retrieval`."""
