"""Text to vectors, batched across requests."""
