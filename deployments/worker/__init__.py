"""Leases durable jobs and runs their handlers."""
