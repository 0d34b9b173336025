"""Hybrid search over one table per vector store; parsing and chunking."""
