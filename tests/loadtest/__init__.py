"""Tests of the load tests and the benchmark."""
