"""Faults injected into a loaded stack, one after the other, and an account of what its clients saw."""
