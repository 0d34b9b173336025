"""Load tests and benchmarks: they speak HTTP only and import nothing else of this repository."""
