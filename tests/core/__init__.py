"""The tests of `deployments/core`."""
