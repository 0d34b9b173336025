"""How well passages are found and answers grounded, measured on public data: `make bench-retrieval`, `make bench-citations`."""
